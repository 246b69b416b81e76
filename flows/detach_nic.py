"""Detach a NIC from a VM that is off. Forward-only once its address goes: it may be another's."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_vm
from flows.vm_networks import leave_links, leave_servers, needs_of, unguard_cards


@operation("vm")
def detach_nic(request: Operation) -> None:
    """Define the VM without it; then nothing tells its address, and no host keeps its network."""
    vm, nic = survey_vm(request.target_id), UUID(request.arguments["nic"])
    if vm.host_id:
        left = vm.without_nic(nic)
        redefine(vm, left)
        unplug(vm.in_networks_of([nic]), left)
    strike_nic(nic, vm.id)


def unplug(gone: VmRecord, left: VmRecord) -> None:
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
