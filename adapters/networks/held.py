"""What a DHCP server holds, and what it would hold after a change: the laws as far as no I/O is.

Every adapter reads what there is, asks for what shall be, and writes the difference.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound, Refused
from adapters.lan import Lease, Reservation, Subnet


@dataclass(frozen=True)
class OtherSubnet:
    """A subnet that is not ours; a field is None where the server has no such thing."""

    range: IPv4Network
    number: int | None = None
    relay: IPv4Address | None = None


@dataclass(frozen=True)
class OtherReservation:
    """A reservation that is not ours, in a subnet of ours or in another."""

    subnet: UUID | None
    mac: str
    address: IPv4Address | None = None


@dataclass(frozen=True)
class Held:
    """All that a server has; what is ours by id."""

    subnets: dict[UUID, Subnet] = field(default_factory=dict)
    reservations: dict[UUID, Reservation] = field(default_factory=dict)
    other_subnets: tuple[OtherSubnet, ...] = ()
    other_reservations: tuple[OtherReservation, ...] = ()

    def with_subnet(self, subnet: Subnet) -> "Held":
        """What it has with this subnet. Raises `Conflict`, `InUse`."""
        for other in self.other_subnets:
            _refuse_in_the_way(subnet, other, "somebody else's")
        for mine in self.subnets.values():
            if mine.id != subnet.id:
                _refuse_in_the_way(subnet, mine, f"network {mine.id}'s")
        former = self.subnets.get(subnet.id, subnet)
        members = [each for each in self.reservations.values() if each.subnet == subnet.id]
        if members and former.number != subnet.number:
            raise InUse(f"network {subnet.id} has reservations: its number stays")
        if out := [each for each in members if not _is_free(each.address, subnet)]:
            users = [str(each.address) for each in out]
            raise InUse(f"{subnet.range} has no room for reserved addresses", users=users)
        return replace(self, subnets={**self.subnets, subnet.id: subnet})

    def without_subnet(self, subnet: UUID) -> "Held":
        """What it has without that subnet. Raises `InUse`."""
        if subnet not in self.subnets:
            return self
        every: list[Reservation | OtherReservation] = list(self.reservations.values())
        every += self.other_reservations
        if users := [each.mac for each in every if each.subnet == subnet]:
            raise InUse(f"network {subnet} has reservations", users=users)
        rest = {key: value for key, value in self.subnets.items() if key != subnet}
        return replace(self, subnets=rest)

    def with_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[Subnet] = ()
    ) -> "Held":
        """What it has with all these. Raises `NotFound`, `Refused`, `Conflict`, `InUse`."""
        for subnet in subnets:
            self = self.with_subnet(subnet)  # noqa: PLW0642 - it is a value
        new = {each.id: each for each in reservations}
        for each in new.values():
            if (its := self.subnets.get(each.subnet)) is None:
                raise NotFound(f"the DHCP server has no network {each.subnet}")
            if not _is_free(each.address, its):
                raise Refused(f"{each.address} is no address for a guest of {its.range}")
        after = {**self.reservations, **new}
        speakers: dict[object, UUID | None] = {}
        for other in self.other_reservations:
            speakers[other.subnet, other.mac] = speakers[other.address] = None
        for each in after.values():
            for word in ((each.subnet, each.mac), each.address):
                if (said := speakers.setdefault(word, each.id)) != each.id:
                    whose = f"card {said}" if said else "somebody else's"
                    text = f"{each.address} or {each.mac} is reserved already: {whose}"
                    raise Conflict(text)
        return replace(self, reservations=after)

    def without_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[UUID] = ()
    ) -> "Held":
        """What it has without these, and without those of the subnets that nobody needs then."""
        gone = {each.id for each in reservations}
        rest = {key: value for key, value in self.reservations.items() if key not in gone}
        after = replace(self, reservations=rest)
        for subnet in subnets:
            with suppress(InUse):
                after = after.without_subnet(subnet)
        return after

    def replaced(self, subnets: Iterable[Subnet], reservations: Iterable[Reservation]) -> "Held":
        """What it has with these of ours only. Raises `Conflict`, and more."""
        return replace(self, subnets={}, reservations={}).with_reservations(reservations, subnets)

    def touched_by(self, after: "Held") -> set[UUID]:
        """The networks whose leases a change may end."""
        were, are = self.reservations, after.reservations
        every = (*were.values(), *are.values())
        moved = {each.subnet for each in every if were.get(each.id) != are.get(each.id)}
        return moved | (self.subnets.keys() ^ after.subnets.keys())

    def ended_by(self, after: "Held", leases: Iterable[Lease]) -> list[Lease]:
        """Those in networks of ours, before or after, that nobody has a right to any more."""
        rights = {each.address: each.mac for each in after.reservations.values()}
        rights |= {each.address: each.mac for each in after.other_reservations if each.address}
        ranges = {each.range for held in (self, after) for each in held.subnets.values()}
        return [
            lease
            for lease in leases
            if rights.get(lease.address) != lease.mac
            and any(lease.address in each for each in ranges)
        ]


def _is_free(address: IPv4Address, subnet: Subnet) -> bool:
    """Whether a guest may have it."""
    ends = {subnet.range.network_address, subnet.range.broadcast_address}
    has_ends = subnet.range.num_addresses > len(ends) + 1  # smaller ones are only two guests
    return address in subnet.range and address not in {subnet.gateway, *(ends if has_ends else ())}


def _refuse_in_the_way(subnet: Subnet, other: Subnet | OtherSubnet, whose: str) -> None:
    if subnet.range.overlaps(other.range):
        raise Conflict(f"{subnet.range} overlaps {other.range}, {whose}")
    if subnet.number == other.number:
        raise Conflict(f"subnet {subnet.number} is {whose}")
    if subnet.relay is not None and subnet.relay == other.relay:
        raise Conflict(f"relay {subnet.relay} is {whose}")
