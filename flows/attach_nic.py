"""Attach a NIC to a VM that is off: in a network of its host, once it has a host."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.plugs import NewNic
from flows.addresses import reserve
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_networks import join_networks


@operation("vm")
def attach_nic(request: Operation) -> None:
    """Write it down, with its address; where the VM is deployed, let its host have the network."""
    former = survey_vm(request.target_id)
    nic = NewNic.model_validate(request.arguments["nic"])
    enter_nic(nic, former.id)
    if former.host_id:
        now = cloud.inventory.vm(former.id)
        join_networks([now.in_networks_of([nic.id])])
        redefine(former, now)


@step("enter-nic")
def enter_nic(nic: NewNic, vm: UUID) -> None:
    cloud.cards.enter(nic, vm, reserve)


@enter_nic.undo
def _(nic: NewNic, vm: UUID) -> None:
    cloud.cards.strike(nic.id)


@enter_nic.look
def _(nic: NewNic, vm: UUID) -> bool:
    return cloud.cards.has(nic.id)
