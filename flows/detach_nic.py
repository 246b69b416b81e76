"""Detach a card from a VM that is off, or not deployed. Forward-only once its network is left."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from flows import cards
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_vm
from flows.vm_networks import leave_host, leave_servers, unguard_cards


@operation("vm")
def detach_nic(request: Operation) -> None:
    """Define the VM without it, leave its network, and strike it with its address."""
    vm, nic = survey_vm(request.target_id), UUID(request.arguments["nic"])
    if vm.host_id:
        left = cards.without(vm, nic)
        redefine(vm, left)
        leave_network(cards.only(vm, nic), left)
    strike_nic(nic, vm.id)


def leave_network(vm: VmRecord, left: VmRecord) -> None:
    """Let the host be without the network, unless another card of the VM is in it."""
    if {each.network for each in vm.plugs} <= {each.network for each in left.plugs}:
        if vm.guards:
            unguard_cards(vm.id, vm.host, list(vm.guards))
    else:
        leave_host(vm)
    leave_servers([vm])


@step("strike-nic", Effect.REMOVES)
def strike_nic(nic: UUID, vm: UUID) -> None:
    cards.strike(nic, vm)


@strike_nic.look
def _(nic: UUID, vm: UUID) -> bool:
    return cards.is_there(nic)
