"""Create an iSCSI volume: carved here, exported when a VM is to use it."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VolumeRecord
from adapters.types import Role, Volume
from flows.charges import charge_volume
from flows.choose_pool import require_more
from flows.cloud import cloud
from flows.operation import operation
from flows.steps import step


@operation("volume", role=Role.STORAGE)
def create_iscsi_volume(request: Operation) -> None:
    """Charge the volume, write it down, carve it in its pool, and record that it is there."""
    record = VolumeRecord.model_validate(request.arguments["volume"])
    charge_volume(record, request.force)
    enter_volume(record)
    carve(record)


def carve(record: VolumeRecord) -> None:
    """Carve a volume that is written down."""
    carve_volume(as_volume(record), record.pool_id)
    record_carved(record.id)


def as_volume(record: VolumeRecord) -> Volume:
    """The volume as its pool is to hold it."""
    return Volume(
        id=record.id, size_mib=record.size_mib, installation=cloud.inventory.installation
    )


@step("enter-volume")
def enter_volume(record: VolumeRecord) -> None:
    cloud.inventory.enter_volume(record)


@enter_volume.undo
def _(record: VolumeRecord) -> None:
    cloud.inventory.forget_volume(record.id)


@enter_volume.look
def _(record: VolumeRecord) -> bool:
    return cloud.inventory.has_volume(record.id)


@step("carve-volume")
def carve_volume(volume: Volume, pool: UUID) -> None:
    cloud.storage(pool).ensure_volume(volume)


@carve_volume.plan
def _(volume: Volume, pool: UUID) -> None:
    require_more(pool, volume.size_mib)


@carve_volume.undo
def return_volume(volume: Volume, pool: UUID) -> None:
    cloud.storage(pool).discard_volume(volume)


@carve_volume.look
def _(volume: Volume, pool: UUID) -> bool:
    return cloud.storage(pool).has_volume(volume)


@step("record-carved")
def record_carved(volume: UUID) -> None:
    cloud.inventory.set_carved(volume, carved=True)


@record_carved.undo
def _(volume: UUID) -> None:
    if cloud.inventory.has_volume(volume):
        cloud.inventory.set_carved(volume, carved=False)


@record_carved.look
def _(volume: UUID) -> bool:
    return cloud.inventory.has_volume(volume) and cloud.inventory.volume(volume).carved
