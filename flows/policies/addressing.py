"""Addressing: which address, tag, range and DHCP server is next; what may never be given.

Addresses are places in their range: how far they are from its beginning.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from uuid import UUID

from adapters.errors import Conflict, OutOfSpace, Refused
from adapters.types import Value

SMALLEST, LARGEST = 30, 8  # prefixes of a range that has addresses to give
USUAL = 24
_OWN = (IPv4Network("192.168.0.0/16"), IPv4Network("172.16.0.0/12"), IPv4Network("10.0.0.0/8"))


class Space(Value):
    """A range, and what of it is given to nobody: addresses, or spans of them in either order."""

    range: IPv4Network
    excluded: tuple[str, ...] = ()

    def place(self, address: IPv4Address) -> int:
        """How far into the range an address is."""
        return int(address) - int(self.range.network_address)

    def address(self, place: int) -> IPv4Address:
        """The address at a place."""
        return self.range.network_address + place

    def may_give(self, place: int) -> bool:
        """Whether an address there is for NICs."""
        return any(first <= place <= last for first, last in self.spans())

    def spans(self) -> Iterator[tuple[int, int]]:
        """The first and last places of what may be given, in order."""
        first, last = 1, self.range.num_addresses - 2  # neither the network's own, nor broadcast
        for start, end in sorted((self.place(a), self.place(b)) for a, b in self._shut()):
            if first < start:
                yield first, min(start - 1, last)
            first = max(first, end + 1)
        if first <= last:
            yield first, last

    @property
    def capacity(self) -> int:
        """How many addresses may be given."""
        return sum(last - first + 1 for first, last in self.spans())

    def _shut(self) -> Iterator[tuple[IPv4Address, IPv4Address]]:
        for each in self.excluded:
            first, last = span(each)
            first = max(first, self.range.network_address)
            last = min(last, self.range.broadcast_address)
            if first <= last:
                yield first, last


class Server(Value):
    """A DHCP server, and the ranges that it knows."""

    id: UUID
    name: str
    ranges: tuple[IPv4Network, ...] = ()


def span(said: str) -> tuple[IPv4Address, IPv4Address]:
    """`10.0.0.9` or `10.0.0.2-10.0.0.9`, in either order. Raises `Refused`."""
    try:
        ends = sorted(IPv4Address(each.strip()) for each in said.split("-"))
    except ValueError as error:
        raise Refused(f"{said!r} is no IPv4 address, nor two", code="invalid-range") from error
    if len(ends) > 2:  # noqa: PLR2004 - a span has two ends
        raise Refused(f"{said!r} is no IPv4 address, nor two", code="invalid-range")
    return ends[0], ends[-1]


def free(space: Space, taken: Collection[int]) -> Iterator[int]:
    """The places that may be given and are not taken, in order."""
    for first, last in space.spans():
        for place in range(first, last + 1):
            if place not in taken:
                yield place


def next_places(space: Space, taken: Collection[int], count: int, network: str) -> list[int]:
    """The first free places, as many as are asked for. Raises `OutOfSpace`."""
    found = list(islice(free(space, taken), count))
    if len(found) < count:
        text = f"network {network} ({space.range}) has {len(found)} addresses left, not {count}"
        refusal = OutOfSpace(text, code="range-exhausted")
        refusal.details = {"network": network, "free": len(found), "asked": count}
        raise refusal
    return found


def picked(space: Space, taken: Collection[int], address: IPv4Address, network: str) -> int:
    """The place of an address that somebody has picked. Raises `Conflict`, `Refused`."""
    if address not in space.range or not space.may_give(space.place(address)):
        text = f"{address} is none that network {network} ({space.range}) gives"
        raise Refused(text, code="address-not-given")
    if space.place(address) in taken:
        raise Conflict(f"{address} of network {network} is taken", code="address-taken")
    return space.place(address)


def server_for(wanted: IPv4Network, servers: Sequence[Server]) -> UUID:
    """The first DHCP server that knows no range which overlaps this one. Raises `Conflict`."""
    for each in servers:
        if not any(wanted.overlaps(known) for known in each.ranges):
            return each.id
    text = f"no DHCP server of the datacenter is without a range that overlaps {wanted}"
    raise Conflict(text, code="no-dhcp-server")


def new_range(
    servers: Sequence[Server], beside: Sequence[IPv4Network] = (), prefix: int = USUAL
) -> tuple[IPv4Network, UUID] | None:
    """A range of that size that overlaps nothing on some server, and the server; else None.

    Nor does it overlap what it is to be beside.
    """
    for each in servers:
        for whole in _OWN:
            if (found := _gap(whole, prefix, (*each.ranges, *beside))) is not None:
                return found, each.id
    return None


def _gap(whole: IPv4Network, prefix: int, known: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first part of that size that overlaps none of these."""
    if prefix < whole.prefixlen:
        return None
    size, first = 2 ** (32 - prefix), int(whole.network_address)
    for each in sorted(each for each in known if each.overlaps(whole)):
        if int(each.network_address) >= first + size:
            break
        end = int(each.broadcast_address) + 1
        first = max(first, -(-end // size) * size)
    if first + size - 1 > int(whole.broadcast_address):
        return None
    return IPv4Network((first, prefix))
