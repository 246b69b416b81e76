"""Delete a disk of a VM. Forward-only once the disk goes: its bytes do not come back."""

from uuid import UUID

from adapters.database.operations import Operation
from flows.charges import refund_disk
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_vm
from flows.undeploy_vm import remove_disk


@operation("vm")
def delete_disk(request: Operation) -> None:
    """Define the VM without it, remove it from its datastore, and charge it no more."""
    vm, wanted = survey_vm(request.target_id), UUID(request.arguments["disk"])
    for disk in (each for each in vm.disks if each.id == wanted):
        if vm.host_id:
            redefine(vm, vm.without(wanted))
            remove_disk(vm.disk(disk), vm.host)
        strike_disk(wanted, vm.id)
        if vm.host_id:
            refund_disk(wanted, vm.id)


@step("strike-disk", Effect.REMOVES)
def strike_disk(disk: UUID, vm: UUID) -> None:
    cloud.hardware.strike_disk(disk)


@strike_disk.look
def _(disk: UUID, vm: UUID) -> bool:
    return cloud.hardware.has_disk(disk)
