"""Resize a volume: it grows, whoever has it being off.

A target daemon tells initiators the size that a volume had when it was told of it: the volume's
exports are made anew, which nobody uses meanwhile.
"""

from uuid import UUID

from adapters.amounts import Force
from adapters.database.operations import Operation
from adapters.database.records import VolumeRecord
from adapters.errors import Conflict
from adapters.types import Export, Role, Volume
from flows.charges import charge
from flows.choose_pool import require_more
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume
from flows.operation import operation
from flows.planning import planning
from flows.steps import step
from flows.survey import survey_volume


@operation("volume", role=Role.STORAGE, planned=True)
def resize_volume(request: Operation) -> None:
    """Charge what is more, let the volume grow in its pool, and record its size."""
    volume = survey_volume(request.target_id)
    grown = volume.model_copy(update={"size_mib": request.arguments["size_mib"]})
    if grown == volume:
        return
    if volume.carved:
        charge_more(grown, volume.size_mib, request.force)
        exports = cloud.inventory.exports_of(volume.pool_id, volume.id)
        grow_volume(as_volume(grown), volume.size_mib, exports, volume.pool_id)
    record_size(volume.id, grown.size_mib, volume.size_mib)


@step("charge-more")
def charge_more(volume: VolumeRecord, former_mib: int, force: Force | None) -> None:
    """Charge the storage of a volume that is to grow."""
    charge(cloud.ledger.of_volumes([volume]), force)


@charge_more.plan
def _(volume: VolumeRecord, former_mib: int, force: Force | None) -> None:
    planning().charge(cloud.ledger.of_volumes([volume]), force)


@charge_more.undo
def _(volume: VolumeRecord, former_mib: int, force: Force | None) -> None:
    former = volume.model_copy(update={"size_mib": former_mib})
    cloud.ledger.lower(cloud.ledger.of_volumes([former]))


@charge_more.look
def _(volume: VolumeRecord, former_mib: int, force: Force | None) -> bool:
    uses = cloud.ledger.of_volumes([volume])
    return cloud.ledger.charged(uses) == uses


@step("grow-volume")
def grow_volume(volume: Volume, former_mib: int, exports: list[Export], pool: UUID) -> None:
    former = volume.model_copy(update={"size_mib": former_mib})
    _resize(former, volume.size_mib, exports, pool)


@grow_volume.plan
def _(volume: Volume, former_mib: int, exports: list[Export], pool: UUID) -> None:
    require_more(pool, volume.size_mib - former_mib)


@grow_volume.undo
def _(volume: Volume, former_mib: int, exports: list[Export], pool: UUID) -> None:
    _resize(volume, former_mib, exports, pool)


@grow_volume.look
def _(volume: Volume, former_mib: int, exports: list[Export], pool: UUID) -> bool:
    try:
        return cloud.storage(pool).has_volume(volume)
    except Conflict:  # it has its former size
        return False


def _resize(volume: Volume, size_mib: int, exports: list[Export], pool: UUID) -> None:
    storage = cloud.storage(pool)
    storage.resize_volume(volume, size_mib)
    for export in exports:
        storage.delete_export(export)
        storage.ensure_export(export, cloud.secrets.read(export.id))


@step("record-size")
def record_size(volume: UUID, size_mib: int, former_mib: int) -> None:
    cloud.hardware.set_volume(volume, size_mib)


@record_size.undo
def _(volume: UUID, size_mib: int, former_mib: int) -> None:
    cloud.hardware.set_volume(volume, former_mib)


@record_size.look
def _(volume: UUID, size_mib: int, former_mib: int) -> bool:
    return cloud.inventory.volume(volume).size_mib == size_mib
