"""Stills: an ability of some hypervisors, held to its laws by `tests/contracts/test_stills.py`.

1. They never change what a VM's disks are: it has the same files while they are there, and
   afterwards, whatever dies.
2. All disks are of one moment. Opening again is another moment; closing what is not there, or has
   ended with its VM, is success.
3. A guest that was asked to hold still goes on at once. Where whoever asked was killed in between,
   closing lets it go on.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from adapters.stills import Stills


class Stilling(Protocol):
    """What a host has that has `STILLS`."""

    def open_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> Stills:
        """Let disks and volumes of a VM that is not off be read as they are now.

        What the guest overwrites meanwhile is kept in the datastore. Where an agent in it
        answers, it has written everything first. Again is another moment. Raises `NotFound`,
        `Conflict` when off, `OutOfSpace` where the datastore could fill up.
        """

    def has_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> bool:
        """Whether anything is left of them, be it that the guest holds still."""

    def close_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> None:
        """End them; they may have ended with their VM. Raises `Transient` while it holds still."""
