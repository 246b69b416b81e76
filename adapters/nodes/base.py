"""The node-access ports: what a host needs besides its hypervisor's API; agentless.

Laws of files, held for every adapter by `tests/contracts/test_node.py`:

1. Ensure, absent, and errors as for storage. Paths are absolute, as the host sees them.
2. A copy is there whole, with the digest it was asked for, or not at all.
3. `delete_copy` removes only copies that `ensure_copy` made (see `Base.copied_to`).

Laws of links, by `tests/contracts/test_links.py`:

1. Ensure, absent, and errors as for storage. What has a link's name and is not the installation's,
   or is another than was asked for: `Conflict`, and it is not touched, neither by deleting.
2. A link is there when it is whole: joined to its uplink, up, and written down, so that the host
   has it again when it has been off. What a killed attempt left is made whole, or deleted.
3. `delete_link` raises `InUse` while other cards than its uplink are in it.
4. What is the operator's stays his: an uplink, a tagged interface that was there before, a switch.
   It is used, and never changed, owned, or taken away.
5. What a host cannot do is known beforehand (`abilities`); trying is `Unsupported`, for the reason
   that was told. macvtap is no kind of link: a host and its guests do not hear each other over it,
   and nothing of it could be guarded, or last without its guest.
6. A guarded card is heard by its own MAC and addresses only, and gives no addresses to others. It
   is guarded before it is there, and again when the host has been off. Guards are set all at once.
   What cannot guard cards is no host for bridges; other kinds may leave it to their operator.
7. A card that has fallen out of its link, which somebody has deleted under it, is put back as it
   is. Where cards are ports of a switch, they are made by hypervisors alone, and none is loose.
8. VLANs do not hear each other. A host has no address in them.
"""

from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from adapters.lan import Guard, Link, LinkAbilities
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


class Switch(Protocol):
    """One host's layer 2: the networks that its VMs are plugged into."""

    def abilities(self) -> LinkAbilities:
        """What the host can do; asking changes nothing there."""

    def ensure_link(self, link: Link) -> None:
        """Have the network there.

        Raises `NotFound` without uplink or switch, `Conflict`, `Unsupported`.
        """

    def has_link(self, link: Link) -> bool:
        """Whether it is there, whole. Raises `Conflict`."""

    def delete_link(self, link: Link) -> None:
        """Take it away, whatever there is of it. Raises `InUse`, `Conflict`."""

    def cards(self, link: Link) -> list[str]:
        """What is plugged into it but its uplink; nothing, where it is not there."""

    def loose(self, link: Link, nics: Collection[UUID]) -> list[UUID]:
        """Those of these NICs whose cards are on the host, and not in the link."""

    def plug(self, link: Link, nics: Collection[UUID]) -> None:
        """Put those cards back into the link; of what is not there nothing is made."""

    def links(self, installation: UUID) -> list[Link]:
        """Every link of the installation on this host, half-made ones included."""

    def ensure_guards(self, guards: Collection[Guard]) -> None:
        """Let these cards be heard as themselves only; those of the same NICs are replaced."""

    def has_guards(self, guards: Collection[Guard]) -> bool:
        """Whether all of them are there, as they are."""

    def delete_guards(self, guards: Collection[Guard]) -> None:
        """Forget these NICs' cards."""

    def guards(self, installation: UUID) -> list[Guard]:
        """Every guard of the installation on this host."""
