"""Persist a VM: its boot disk becomes an iSCSI volume that outlives its deployment."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VolumeRecord
from adapters.types import Connection, Role, Vm
from flows.abilities import require_readable
from flows.attach_volume import (
    assign_volume,
    connection_of,
    export_for,
    export_volume,
)
from flows.charges import charge_volume, refund_disk
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume, carve, enter_volume
from flows.definitions import is_defined, write_definition
from flows.fetch_disk import fetch_disks
from flows.fill_volume import fill_volume
from flows.operation import operation
from flows.places import at_host
from flows.steps import step
from flows.survey import survey_connection, survey_vm
from flows.undeploy_vm import leave_base, remove_disk


@operation("vm", role=Role.IMAGES, planned=True)
def persist_vm(request: Operation) -> None:
    """Carve a volume, copy the disk onto it, boot from it from now on; then remove the disk."""
    require_readable(request.target_id)
    vm = survey_vm(request.target_id)
    boot = next(disk for disk in vm.local_disks if disk.position == 0)
    volume = VolumeRecord.model_validate(request.arguments["volume"])
    charge_volume(volume, request.force)
    enter_volume(volume)
    carve(volume)
    with at_host(vm.host):
        fetch_disks([vm.disk(boot)], vm.host)
        fill_volume(as_volume(volume), volume.pool_id, vm.disk(boot), vm.host)
    assign_volume(volume.id, vm.id, boot.position)
    export = export_for(volume.id, vm)
    target = export_volume(export, volume.pool_id, vm.id)
    mark_persistent(boot.id, volume.id)
    boots_from = connection_of(volume, vm, export.initiator, target)
    data = [survey_connection(each, vm) for each in vm.volumes]
    redefine_vm(vm.definition(), vm.without(boot.id).definition(), [boots_from, *data], vm.host)
    remove_disk(vm.disk(boot), vm.host)
    if boot.base:
        leave_base(boot.id, vm.id, boot.base, vm.host)
    refund_disk(boot.id, vm.id)


@step("mark-persistent")
def mark_persistent(disk: UUID, volume: UUID) -> None:
    cloud.inventory.set_persistent(disk, volume)


@mark_persistent.undo
def _(disk: UUID, volume: UUID) -> None:
    cloud.inventory.set_persistent(disk, None)


@mark_persistent.look
def _(disk: UUID, volume: UUID) -> bool:
    return cloud.inventory.persistent_on(disk) == volume


@step("redefine-vm")
def redefine_vm(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> None:
    """Replace the definition of a VM that is off; the first connection is the disk that moved."""
    write_definition(vm, connections, host)


@redefine_vm.undo
def _(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> None:
    if is_defined(vm, connections, host) or not is_defined(former, connections[1:], host):
        write_definition(former, connections[1:], host)


@redefine_vm.look
def _(former: Vm, vm: Vm, connections: list[Connection], host: UUID) -> bool:
    return is_defined(vm, connections, host)
