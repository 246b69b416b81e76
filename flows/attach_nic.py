"""Attach a NIC to a VM: in a network of its host, once it has a host; to a running one at once."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.lan import NetworkKind
from adapters.plugs import NewNic
from adapters.types import Nic, Vm, VmState
from flows.abilities import require_hot_nic
from flows.addresses import reserve
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_networks import join_networks


@operation("vm")
def attach_nic(request: Operation) -> None:
    """Write it down, with its address; let the VM's host have the network; plug it in."""
    nic = NewNic.model_validate(request.arguments["nic"])
    former = survey_vm(request.target_id)
    require_hot_nic(former, restricted=is_restricted(nic.network))
    enter_nic(nic, former.id)
    if former.host_id:
        now = cloud.inventory.vm(former.id)
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
