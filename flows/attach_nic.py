"""Attach a NIC to a VM: in a network of its host, once it has a host; to a running one at once."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from adapters.lan import NetworkKind
from adapters.plugs import NewNic
from adapters.types import Nic, Vm, VmState
from flows.abilities import require_hot_nic
from flows.addresses import reserve
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.planning import planning
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_networks import join_networks


@operation("vm", planned=True)
def attach_nic(request: Operation) -> None:
    """Write it down, with its address; let the VM's host have the network; plug it in."""
    nic = NewNic.model_validate(request.arguments["nic"])
    former = survey_vm(request.target_id)
    require_hot_nic(former, restricted=is_restricted(nic.network))
    enter_nic(nic, former.id)
    if former.host_id:
        now = survey_nic(nic.id, former.id)
        join_networks([now.in_networks_of([nic.id])])
        if former.state is VmState.ON:
            plug_nic(now.card(nic.id), former.definition(), now.definition(), former.host)
        else:
            redefine(former, now)


def is_restricted(network: UUID) -> bool:
    """Whether cards in it are none of their host's."""
    return cloud.networks.network(network).kind is NetworkKind.RESTRICTED


@step("enter-nic")
def enter_nic(nic: NewNic, vm: UUID) -> None:
    cloud.cards.enter(nic, vm, reserve)


@enter_nic.undo
def _(nic: NewNic, vm: UUID) -> None:
    cloud.cards.strike(nic.id)


@enter_nic.look
def _(nic: NewNic, vm: UUID) -> bool:
    return cloud.cards.has(nic.id)


@enter_nic.plan
def _(nic: NewNic, vm: UUID) -> None:
    now = cloud.cards.foreseen(nic, vm, reserve, cloud.inventory.installation)
    address = next((x.address for x in now.plugs if x.nic == nic.id), None)
    planning().notice(f"NIC of {now.name}", address=address or "none", state=now.state)
    planning().foresee(nic.id, now)


@step("survey-nic")
def survey_nic(nic: UUID, vm: UUID) -> VmRecord:
    """Tell the VM as it is with the NIC."""
    return cloud.inventory.vm(vm)


@survey_nic.plan
def _(nic: UUID, vm: UUID) -> VmRecord:
    found: VmRecord = planning().foreseen(nic)
    return found


@step("plug-nic")
def plug_nic(nic: Nic, former: Vm, vm: Vm, host: UUID) -> None:
    """Give the VM the card while it is on, and at its next start."""
    cloud.hypervisor(host).set_nics(former, vm)


@plug_nic.undo
def _(nic: Nic, former: Vm, vm: Vm, host: UUID) -> None:
    cloud.hypervisor(host).set_nics(vm, former)


@plug_nic.look
def _(nic: Nic, former: Vm, vm: Vm, host: UUID) -> bool:
    return cloud.hypervisor(host).has_nic(vm.id, nic)
