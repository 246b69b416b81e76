"""Attach a card to a VM that is off, or not deployed."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from flows import cards
from flows.cards import WrittenNic
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_networks import join_networks


@operation("vm")
def attach_nic(request: Operation) -> None:
    """Write the card down; where the VM is deployed, join the network, and define it with it."""
    vm = survey_vm(request.target_id)
    nic = WrittenNic.model_validate(request.arguments["nic"])
    enter_nic(nic, vm.id)
    if vm.host_id:
        now = survey_with_nic(vm.id, nic.id)
        join_networks([cards.only(now, nic.id)])
        redefine(vm, now)


@step("enter-nic")
def enter_nic(nic: WrittenNic, vm: UUID) -> None:
    cards.enter(nic, vm)


@enter_nic.undo
def _(nic: WrittenNic, vm: UUID) -> None:
    cards.strike(nic.id, vm)


@enter_nic.look
def _(nic: WrittenNic, vm: UUID) -> bool:
    return cards.is_there(nic.id)


@step("survey-with-nic")
def survey_with_nic(vm: UUID, nic: UUID) -> VmRecord:
    return cloud.inventory.vm(vm)
