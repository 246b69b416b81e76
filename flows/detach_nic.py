"""Detach a NIC from a VM. Forward-only once its address goes: it may be another's.

A running guest is asked to release it. One that keeps it has it as before: nothing else was
touched by then.
"""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from adapters.types import Nic, Vm, VmState
from flows.abilities import require_hot_nic
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_vm
from flows.vm_networks import leave_links, leave_servers, needs_of, ready_cards, unguard_cards


@operation("vm", planned=True)
def detach_nic(request: Operation) -> None:
    """Let the VM be without it; then nothing tells its address, and no host keeps its network."""
    vm, nic = survey_vm(request.target_id), UUID(request.arguments["nic"])
    require_hot_nic(vm, restricted=vm.is_restricted(nic))
    if vm.host_id:
        left = vm.without_nic(nic)
        if vm.state is VmState.ON:
            pull_nic(vm.card(nic), vm.definition(), left.definition(), vm.host)
        else:
            redefine(vm, left)
        leave(vm.in_networks_of([nic]), left)
    strike_nic(nic, vm.id)


@step("pull-nic")
def pull_nic(nic: Nic, former: Vm, vm: Vm, host: UUID) -> None:
    """Take the card away from the VM while it is on, its guest being asked to release it."""
    cloud.hypervisor(host).set_nics(former, vm)


@pull_nic.undo
def _(nic: Nic, former: Vm, vm: Vm, host: UUID) -> None:
    ready_cards(vm.id)
    cloud.hypervisor(host).set_nics(vm, former)


@pull_nic.look
def _(nic: Nic, former: Vm, vm: Vm, host: UUID) -> bool:
    """Whether the VM lacks it, as it runs or as it will start: a guest may let go late."""
    return not cloud.hypervisor(host).has_nic(vm.id, nic, whole=True)


def leave(gone: VmRecord, left: VmRecord) -> None:
    """Take away what was the NIC's alone; the VM may have another one in the same network."""
    leave_servers([gone])
    if gone.guards:
        unguard_cards(gone.id, gone.host, list(gone.guards))
    kept = {link.network for link in left.links}
    if needs := [each for each in needs_of([gone]) if each.link.network not in kept]:
        leave_links(gone.id, gone.host, needs)


@step("strike-nic", Effect.REMOVES)
def strike_nic(nic: UUID, vm: UUID) -> None:
    cloud.cards.strike(nic)


@strike_nic.look
def _(nic: UUID, vm: UUID) -> bool:
    return cloud.cards.has(nic)
