"""Fill a volume with a disk's content, through an export of the attempt's own."""

from pathlib import Path
from uuid import UUID

from adapters.errors import Refused
from adapters.types import Disk, Format, Volume
from flows.cloud import cloud
from flows.fetch_disk import disk_file
from flows.own_exports import are_open, close_exports, open_export
from flows.planning import planning
from flows.running import telling
from flows.steps import Effect, step

FILLER = "fill"  # whose exports they are


@step("fill-volume", Effect.TEMPORARY)
def fill_volume(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    """Copy and compare. What is temporary is the export: it is closed before a guest may write."""
    fill(volume, pool, *disk_file(disk, host))


@fill_volume.plan
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    planning().copy(f"volume:{volume.id}", volume.size_mib * 2**20)


@fill_volume.undo
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> None:
    close_exports(volume, pool, FILLER)


@fill_volume.look
def _(volume: Volume, pool: UUID, disk: Disk, host: UUID) -> bool:
    return are_open(volume, pool, FILLER)


def fill(volume: Volume, pool: UUID, source: Path, format_: Format) -> None:
    """Let a volume that no guest has written hold what an image does, and be sealed."""
    storage, images = cloud.storage(pool), cloud.images
    close_exports(volume, pool, FILLER)
    storage.open_for_filling(volume)
    opened = open_export(volume, pool, FILLER)
    images.fill_target(source, format_, *opened, telling())
    same = images.equals_target(source, format_, *opened)
    close_exports(volume, pool, FILLER)
    if not same:
        raise Refused("the volume does not equal the disk it was filled from", code="copy-differs")
    storage.seal(volume)
