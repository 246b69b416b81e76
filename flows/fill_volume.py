"""Fill a volume with a disk's content, through an export of the attempt's own."""

from uuid import UUID, uuid5

from adapters.errors import Refused
from adapters.types import Disk, Export, Volume
from flows.cloud import cloud
from flows.fetch_disk import disk_file
from flows.planning import planning
from flows.running import epoch, telling
from flows.steps import Effect, step


@step("fill-volume", Effect.TEMPORARY)
def fill_volume(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    """Copy and compare. What is temporary is the export: it is closed before a guest may write."""
    storage = cloud.storage(pool)
    close_exports(volume, pool)
    storage.open_for_filling(volume)
    export = own_export(volume, epoch())
    chap = cloud.secrets.ensure(export.id)
    target = storage.ensure_export(export, chap)
    source, form = disk_file(disk, host)
    cloud.images.fill_target(source, form, target, export.initiator, chap, telling())
    same = cloud.images.equals_target(source, form, target, export.initiator, chap)
    close_exports(volume, pool)
    if not same:
        raise Refused("the volume does not equal the disk it was filled from", code="copy-differs")
    storage.seal(volume)


@fill_volume.plan
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    planning().copy(f"volume:{volume.id}", volume.size_mib * 2**20)


@fill_volume.undo
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    close_exports(volume, pool)


@fill_volume.look
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> bool:
    return any(map(cloud.storage(pool).has_export, exports_so_far(volume)))


def close_exports(volume: Volume, pool: UUID) -> None:
    """End what this attempt and those before it may still write through."""
    for export in exports_so_far(volume):
        cloud.storage(pool).delete_export(export)
        cloud.secrets.forget(export.id)


def exports_so_far(volume: Volume) -> list[Export]:
    """The exports of all attempts up to this one."""
    return [own_export(volume, attempt) for attempt in range(1, epoch() + 1)]


def own_export(volume: Volume, attempt: int) -> Export:
    """What one attempt copies through: its own initiator, known to nobody else."""
    return Export(
        id=uuid5(volume.id, f"fill-{attempt}"),
        volume=volume.id,
        initiator=f"iqn.2026-11.org.cloudloom:fill-{volume.id}-{attempt}",
        installation=volume.installation,
    )
