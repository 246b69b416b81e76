"""Add a disk to a VM: empty, on its host's datastore, once it has a host."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import DiskRecord
from flows.cloud import cloud
from flows.definitions import redefine
from flows.growth import charge_growth
from flows.operation import operation
from flows.reserve_host import room_at
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_disks import make_disk


@operation("vm")
def add_disk(request: Operation) -> None:
    """Charge it, write it down; where the VM is deployed, make it, and define the VM with it."""
    vm = survey_vm(request.target_id)
    disk = DiskRecord.model_validate(request.arguments["disk"])
    now = vm.plus(disk)
    if vm.host_id:
        charge_growth(vm.id, now.uses, vm.uses, request.force)
    enter_disk(disk, vm.id)
    if vm.host_id:
        make_disk(now.disk(disk), vm.host)
        redefine(vm, now)


@step("enter-disk")
def enter_disk(disk: DiskRecord, vm: UUID) -> None:
    """Write the disk down, if its host's datastore has room for it."""
    record = cloud.inventory.vm(vm)
    cloud.hardware.enter_disk(disk, vm, record.datacenter_id, room_at(record))


@enter_disk.undo
def _(disk: DiskRecord, vm: UUID) -> None:
    cloud.hardware.strike_disk(disk.id)


@enter_disk.look
def _(disk: DiskRecord, vm: UUID) -> bool:
    return cloud.hardware.has_disk(disk.id)
