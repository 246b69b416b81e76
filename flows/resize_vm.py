"""Resize a VM: more or less CPUs and memory, where it is; more, while it is on.

What it is to have more of is charged and reserved first; what it is to have less of is given back
last, when nothing can fail any more: until then nobody else takes what undoing would need.
"""

from uuid import UUID

from adapters.amounts import Amounts
from adapters.database.operations import Operation
from adapters.types import Vm, VmState
from flows.cloud import cloud
from flows.definitions import is_defined, redefine
from flows.growth import charge_growth, grown
from flows.operation import operation
from flows.planning import planning
from flows.reserve_host import room_at
from flows.steps import Effect, step
from flows.survey import survey_vm


@operation("vm", planned=True)
def resize_vm(request: Operation) -> None:
    """Charge and reserve what is more; let the VM have it, or define it so; give back the rest."""
    vm = survey_vm(request.target_id)
    former = vm.uses
    size = former.model_copy(update=request.arguments["size"])
    most = former + size.beyond(former)
    if vm.host_id and most != former:
        charge_growth(vm.id, most, former, request.force)
    if most != former:
        reserve_size(vm.id, most, former)
    now = vm.model_copy(update={"cpu": size.cpu, "ram_mib": size.ram_mib})
    if vm.host_id and vm.state is VmState.ON and size != former:
        set_size(vm.definition(), now.definition(), vm.host)
    elif vm.host_id and size != former:
        redefine(vm, now)
    if size != most:
        give_back(vm.id, size)


@step("reserve-size")
def reserve_size(vm: UUID, size: Amounts, former: Amounts) -> None:
    """Record the size, if the VM's host has room for it."""
    record = cloud.inventory.vm(vm)
    cloud.hardware.reserve(vm, record.datacenter_id, size, room_at(record))


@reserve_size.plan
def _(vm: UUID, size: Amounts, former: Amounts) -> None:
    record = cloud.inventory.vm(vm)
    if record.host_id:
        room_at(record)(size.beyond(former), cloud.inventory.situation(record.datacenter_id))


@reserve_size.undo
def _(vm: UUID, size: Amounts, former: Amounts) -> None:
    cloud.hardware.give_back(vm, former)


@reserve_size.look
def _(vm: UUID, size: Amounts, former: Amounts) -> bool:
    return cloud.hardware.of_vm(vm).has_grown(former, size)


@step("set-size")
def set_size(former: Vm, vm: Vm, host: UUID) -> None:
    """Give it more while it is on, and at its next start."""
    cloud.hypervisor(host).set_size(former, vm)


@set_size.undo
def _(former: Vm, vm: Vm, host: UUID) -> None:
    if not is_defined(former, [], host):
        cloud.hypervisor(host).set_size(vm, former)


@set_size.look
def _(former: Vm, vm: Vm, host: UUID) -> bool:
    return is_defined(vm, [], host)


@step("give-back", Effect.REMOVES)
def give_back(vm: UUID, size: Amounts) -> None:
    """Reserve and charge no more than the size."""
    cloud.hardware.give_back(vm, size)
    cloud.ledger.lower(cloud.ledger.of_vms([vm]))


@give_back.plan
def _(vm: UUID, size: Amounts) -> None:
    if cloud.ledger.has("vm", [vm]):
        planning().lower(grown(vm, size))


@give_back.look
def _(vm: UUID, size: Amounts) -> bool:
    """Whether more is reserved or charged."""
    now, uses = cloud.hardware.of_vm(vm), cloud.ledger.of_vms([vm])
    charged = cloud.ledger.charged(uses)
    return (now.cpu, now.ram_mib) != (size.cpu, size.ram_mib) or any(
        each not in uses for each in charged
    )
