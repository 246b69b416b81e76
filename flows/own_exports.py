"""Exports of an attempt's own, by which it copies to a volume or from it, and nobody else."""

from uuid import UUID, uuid5

from adapters.types import Chap, Export, Target, Volume
from flows.cloud import cloud
from flows.running import epoch


def open_export(volume: Volume, pool: UUID, whose: str) -> tuple[Target, str, Chap]:
    """Export a volume to this attempt: where, to which initiator, by which password."""
    export = _own_export(volume, whose, epoch())
    chap = cloud.secrets.ensure(export.id)
    return cloud.storage(pool).ensure_export(export, chap), export.initiator, chap


def close_exports(volume: Volume, pool: UUID, whose: str) -> None:
    """End what this attempt and those before it may still read and write through."""
    for export in _exports_so_far(volume, whose):
        cloud.storage(pool).delete_export(export)
        cloud.secrets.forget(export.id)


def are_open(volume: Volume, pool: UUID, whose: str) -> bool:
    """Whether any of these exports is there."""
    return any(map(cloud.storage(pool).has_export, _exports_so_far(volume, whose)))


def _exports_so_far(volume: Volume, whose: str) -> list[Export]:
    return [_own_export(volume, whose, attempt) for attempt in range(1, epoch() + 1)]


def _own_export(volume: Volume, whose: str, attempt: int) -> Export:
    """One attempt's: its own initiator, known to nobody else."""
    return Export(
        id=uuid5(volume.id, f"{whose}-{attempt}"),
        volume=volume.id,
        initiator=f"iqn.2026-11.org.cloudloom:{whose}-{volume.id}-{attempt}",
        installation=volume.installation,
    )
