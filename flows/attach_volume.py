"""Attach a volume to a VM: exported to its initiator, and connected, to a running one at once.

Undoing that asks a running guest to release the volume. One that keeps it is not robbed of what
it has not written yet: the operation is stuck, `in-use`, until the guest lets go or is off.
"""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord, VolumeRecord
from adapters.types import Connection, Export, Role, Target
from flows.abilities import require_sockets
from flows.cloud import cloud
from flows.operation import operation
from flows.running import running
from flows.steps import step


@operation("volume", role=Role.STORAGE)
def attach_volume(request: Operation) -> None:
    """Assign the volume to the VM; where that is deployed, export it and connect it."""
    vm_id, position = UUID(request.arguments["vm"]), int(request.arguments["position"])
    require_sockets(vm_id)
    assign_volume(request.target_id, vm_id, position)
    vm = cloud.inventory.vm(vm_id)
    if vm.host_id:
        plug_in(cloud.inventory.volume(request.target_id), vm)


def plug_in(volume: VolumeRecord, vm: VmRecord) -> Connection:
    """Export a volume to a VM's initiator, and connect it."""
    export = export_for(volume.id, vm)
    target = export_volume(export, volume.pool_id, vm.id)
    connection = connection_of(volume, vm, export.initiator, target)
    connect_volume(connection, vm.host)
    return connection


def export_for(volume: UUID, vm: VmRecord) -> Export:
    """The VM's right to use the volume."""
    return vm.export(volume, cloud.hypervisor(vm.host).initiator(vm.id))


def connection_of(
    volume: VolumeRecord, vm: VmRecord, initiator: str, target: Target
) -> Connection:
    """The volume as a disk of the VM."""
    return Connection(
        volume=volume.id, vm=vm.id, initiator=initiator, target=target,
        position=volume.position, bus=vm.settings.bus,
    )  # fmt: skip


@step("assign-volume")
def assign_volume(volume: UUID, vm: UUID, position: int) -> None:
    cloud.inventory.assign(volume, vm, position)


@assign_volume.undo
def _(volume: UUID, vm: UUID, position: int) -> None:
    if assigned(volume, vm, position):
        cloud.inventory.unassign(volume)


@assign_volume.look
def assigned(volume: UUID, vm: UUID, position: int) -> bool:
    """Whether the VM has the volume, there."""
    record = cloud.inventory.volume(volume)
    return (record.vm_id, record.position) == (vm, position)


@step("export-volume")
def export_volume(export: Export, pool: UUID, vm: UUID) -> Target:
    cloud.claims.claim(f"export:{export.id}", f"vm:{vm}")
    chap = cloud.secrets.ensure(export.id)
    target = cloud.storage(pool).ensure_export(export, chap)
    cloud.inventory.enter_export(export, target)
    return target


@export_volume.plan
def _(export: Export, pool: UUID, vm: UUID) -> Target:
    """Nobody knows yet where, but that it is this one."""
    return Target(host="", port=0, iqn=f"{export.id}")


@export_volume.undo
def withdraw_export(export: Export, pool: UUID, vm: UUID) -> None:
    """End the VM's right; with the last claim on it, the export and its password go."""
    remover = running()
    if cloud.claims.release(f"export:{export.id}", f"vm:{vm}", remover):
        cloud.storage(pool).delete_export(export)
        cloud.inventory.forget_export(export.id)
        cloud.secrets.forget(export.id)
        cloud.claims.removed(f"export:{export.id}", remover)


@export_volume.look
def exported(export: Export, pool: UUID, vm: UUID) -> bool:
    """Whether the export is there for this VM: no other's claim explains it."""
    others = set(cloud.claims.holders(f"export:{export.id}")) - {f"vm:{vm}"}
    return not others and cloud.storage(pool).has_export(export)


@step("connect-volume")
def connect_volume(connection: Connection, host: UUID) -> None:
    cloud.hypervisor(host).connect(connection, cloud.secrets.read(connection.export))


@connect_volume.undo
def disconnect(connection: Connection, host: UUID) -> None:
    """Take the volume away from the VM, a running guest being asked to release it."""
    cloud.hypervisor(host).disconnect(connection)


@connect_volume.look
def connected(connection: Connection, host: UUID) -> bool:
    """Whether the VM has the volume, as it runs or as it will start."""
    return cloud.hypervisor(host).has_connection(connection)
