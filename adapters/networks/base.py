"""The DHCP port: a server that tells guests the addresses that are reserved for them.

Laws, held for every adapter by `tests/contracts/test_dhcp.py`:

1. Ensure: afterwards subnets and reservations of ours are as they were said, whatever they were.
   Which subnet or reservation is ours its id says, and that of the installation; others' are
   never touched. One in the way (a range that overlaps, a subnet's number, an address or a card
   that is spoken for) is a `Conflict`, ours too, if the call does not move it: nothing is changed.
2. Absent: deleting what is not there is success.
3. A call is one change of the server's configuration, however much is in it: done whole or not
   at all, and written to where the server reads it when it starts. What changes nothing is none.
4. Questions ask the server, never a table of ours. Failures are `Transient` or `Refused`.
5. A card without a reservation gets no address. One with several reservations gets the one of
   the subnet that its request comes from.
6. Whose reservation is deleted, or moved to another address, has no lease of it any more: the
   address may be another's at once, even if the guest still believes that it has it.
7. A server knows a range, and each address, once: networks whose ranges overlap need several
   servers, and a relay that knows which of its interfaces asks which.
8. Several of our runners may change a server at the same time, and none loses what another did.
   Against changes by others at the very same moment there is no help but `replace`.
"""

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from adapters.lan import Lease, Reservation, Subnet


class DhcpServer(Protocol):
    """One server, as far as it serves one installation."""

    def verify(self) -> None:
        """Ask whether it can do all that follows; nothing is changed. Raises `Refused`."""

    def ensure_subnet(self, subnet: Subnet) -> None:
        """Have a subnet like this. Raises `Conflict`, `InUse` where its range loses addresses."""

    def has_subnet(self, subnet: Subnet) -> bool:
        """Whether it is there, and just like this."""

    def delete_subnet(self, subnet: UUID) -> None:
        """Remove a subnet. Raises `InUse` while it has reservations, whoever's."""

    def ensure_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[Subnet] = ()
    ) -> None:
        """Reserve these addresses, and have these subnets for them, in one change.

        Raises `NotFound` without the subnet, and what `ensure_subnet` raises.
        """

    def has_reservations(self, reservations: Iterable[Reservation]) -> set[UUID]:
        """Those of them that are there, and just like this."""

    def delete_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[UUID] = ()
    ) -> None:
        """Reserve these no more, and end the leases that their cards have.

        In the same change go those of `subnets` that have no reservations any more.
        """

    def replace(self, subnets: Iterable[Subnet], reservations: Iterable[Reservation]) -> None:
        """Have these of ours and no others: for a server that has lost what it knew."""

    def content(self) -> tuple[dict[UUID, Subnet], dict[UUID, Reservation]]:
        """All that is ours, by id."""

    def leases(self, subnet: UUID | None = None) -> list[Lease]:
        """Who has been told an address in that subnet of ours, or in any, by address."""
