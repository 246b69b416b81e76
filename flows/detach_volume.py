"""Detach a volume from a VM. Its bytes stay; it can be attached again.

A running guest is asked to release it. One that keeps it leaves the operation stuck, `in-use`:
resume asks again, also once the VM is off.
"""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VolumeRecord
from adapters.types import Connection, Export, Role
from flows.abilities import require_sockets
from flows.attach_volume import (
    assigned,
    connected,
    disconnect,
    export_for,
    exported,
    withdraw_export,
)
from flows.cloud import cloud
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_connection, survey_vm, survey_volume


@operation("volume", role=Role.STORAGE)
def detach_volume(request: Operation) -> None:
    """Where the VM is deployed, disconnect the volume and end its export; then unassign it."""
    vm_id = UUID(request.arguments["vm"])
    require_sockets(vm_id)
    volume, vm = survey_volume(request.target_id), survey_vm(vm_id)
    if vm.host_id:
        unplug_volume(survey_connection(volume, vm), vm.host)
        end_export(export_for(volume.id, vm), volume.pool_id, vm.id)
    unassign_volume(volume, vm.id)


@step("unplug-volume", Effect.REMOVES)
def unplug_volume(connection: Connection, host: UUID) -> None:
    disconnect(connection, host)


@unplug_volume.look
def _(connection: Connection, host: UUID) -> bool:
    return connected(connection, host)


@step("end-export", Effect.REMOVES)
def end_export(export: Export, pool: UUID, vm: UUID) -> None:
    withdraw_export(export, pool, vm)


@end_export.look
def _(export: Export, pool: UUID, vm: UUID) -> bool:
    return exported(export, pool, vm)


@step("unassign-volume", Effect.REMOVES)
def unassign_volume(volume: VolumeRecord, vm: UUID) -> None:
    if assigned(volume.id, vm, volume.position):
        cloud.inventory.unassign(volume.id)


@unassign_volume.look
def _(volume: VolumeRecord, vm: UUID) -> bool:
    return assigned(volume.id, vm, volume.position)
