"""The node-access port: what a host needs besides its hypervisor's API; agentless.

Laws, held for every adapter by `tests/contracts/test_node.py`:

1. Ensure, absent, and errors as for storage. Paths are absolute, as the host sees them.
2. A copy is there whole, with the digest it was asked for, or not at all.
3. `delete_copy` removes only copies that `ensure_copy` made (see `Base.copied_to`).
"""

from typing import Protocol
from uuid import UUID

from adapters.types import Base, Capacity

MARKER = ".cloudloom-repository"  # the file in an image repository that proves it


class Node(Protocol):
    """One host's files."""

    def sees(self, repository: str, marker: UUID) -> bool:
        """Whether the host has that very image repository under that path (its marker tells)."""

    def capacity(self, directory: str) -> Capacity:
        """Room in a datastore. Raises `NotFound`."""

    def ensure_copy(self, source: str, copy: Base) -> None:
        """Copy an image file to `copy.path`. Raises `OutOfSpace`, `Refused` on another digest."""

    def has_copy(self, copy: Base) -> bool:
        """Whether that copy is there (by size and name; the digest was checked when made)."""

    def copies(self, directory: str, installation: UUID) -> list[Base]:
        """The installation's copies in a datastore. Raises `NotFound` without it."""

    def delete_copy(self, copy: Base) -> None:
        """Remove the copy."""
