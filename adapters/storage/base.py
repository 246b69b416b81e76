"""The block-storage port: one storage pool that carves volumes and exports them over iSCSI.

Laws, held for every adapter by `tests/contracts/test_block_storage.py`:

1. Ensure: making what already is, ours and equal, is success. There under that name with
   another size, installation or initiator: `Conflict`, and it is not touched.
2. Absent: deleting what is not there is success.
3. Names come from the caller (`vol-<uuid>`, the export's iqn): a lost answer is found by asking.
4. `has_*` asks the backend, never a table of ours; it raises `Conflict` as ensuring would.
5. Failures are `Transient` or `Refused`, never the vendor's own exceptions.
6. A new volume reads as zeros. Nothing but its exports' initiators can write to it.
7. A guest's bytes are sacred: `discard_volume` (an undo) and `open_for_filling` raise `InUse`
   when the volume was written after it was carved or sealed; only `delete_volume`, which
   somebody asked for, removes them. While open for filling it is nobody's but the filler's.
8. An export ends at once: after `delete_export` no initiator of it can write any more.
9. A volume that grows keeps its bytes, reads as zeros beyond them, and is written or not as it
   was. It is cut back only where nobody has written. An export may tell the size that the volume
   had when it was made.
"""

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from adapters.types import Capacity, Chap, Export, Target, Volume


class BlockStorage(Protocol):
    """A pool of volumes."""

    def capacity(self) -> Capacity:
        """The pool's size and its room, counting what is promised, not what is used."""

    def volumes(self, installation: UUID) -> dict[UUID, Volume]:
        """Every volume of the installation in this pool, half-made ones included."""

    def exports(self, installation: UUID) -> dict[UUID, tuple[Export, bool]]:
        """Every export of the installation's volumes here, and whether its initiator uses it.

        One that is half made may not know its initiator yet; `delete_export` takes it, too.
        """

    def ensure_volume(self, volume: Volume) -> None:
        """Carve the volume. Raises `OutOfSpace` before anything is made, `Conflict`."""

    def has_volume(self, volume: Volume) -> bool:
        """Whether this very volume is there. Raises `Conflict` when it differs or is another's."""

    def resize_volume(self, volume: Volume, size_mib: int) -> None:
        """Let a volume of that size, or of the other one by now, have this size.

        Raises `OutOfSpace`, `NotFound`, `Conflict`, and `InUse` where bytes would be cut off.
        """

    def delete_volume(self, volume: Volume) -> None:
        """Remove the volume and its bytes. Raises `InUse` while exported, `Conflict`."""

    def discard_volume(self, volume: Volume) -> None:
        """Remove a volume that nobody has written. Raises `InUse` when a guest has, `Conflict`."""

    def open_for_filling(self, volume: Volume) -> None:
        """Allow one filler to write. Raises `InUse` when a guest has written; may be repeated."""

    def seal(self, volume: Volume) -> None:
        """Filling ended: from now on every write is a guest's. May be repeated before that."""

    def written(self, volume: Volume) -> bool:
        """Whether a guest has written since the volume was carved or sealed (False if absent)."""

    def ensure_export(self, export: Export, chap: Chap) -> Target:
        """Export the volume to one initiator, which logs in as `export.account`.

        Raises `NotFound` without volume, `Conflict`, `Refused` when `chap` is for another account.
        """

    def has_export(self, export: Export) -> bool:
        """Whether this very export is there. Raises `Conflict`."""

    def delete_export(self, export: Export) -> None:
        """End the export, and the sessions that use it."""

    def restore(self, exports: Iterable[tuple[Export, Chap]]) -> tuple[UUID, ...]:
        """Make the exports that a restarted target daemon has lost; answers those made anew.

        What one export meets keeps no other from being made; the first refusal is raised then.
        """
