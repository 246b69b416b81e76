"""DHCP servers compared with the database: what they lack, and what no VM needs there."""

from collections.abc import Iterable
from uuid import UUID

from adapters.lan import Reservation, Subnet
from adapters.types import Finding, Value
from flows.cloud import cloud


class Difference(Value):
    """What a server lacks or has otherwise, and what it has that no VM needs."""

    server: UUID
    name: str
    subnets: tuple[Subnet, ...] = ()
    lacking: tuple[Reservation, ...] = ()
    unneeded: tuple[Reservation, ...] = ()
    idle: tuple[Subnet, ...] = ()
    away: str = ""

    @property
    def id(self) -> UUID:
        """The server's."""
        return self.server

    @property
    def any(self) -> bool:
        """Whether there is something to mend."""
        return bool(self.subnets or self.lacking or self.unneeded or self.idle)


def difference(server: UUID) -> Difference:
    """How a server differs from what it is to know, but for what operations have by now."""
    subnets, known = cloud.dhcp(server).content()
    wanted_subnets, wanted = cloud.lans.of_server(server)
    busy = cloud.lans.under_way([*known, *(each.id for each in wanted)])
    lacking = [x for x in wanted if known.get(x.id) != x and x.id not in busy]
    needed = {each.id for each in wanted} | busy
    unneeded = [each for key, each in known.items() if key not in needed]
    kept = {each.subnet for each in known.values() if each.id in needed}
    in_use = {each.id for each in wanted_subnets} | kept
    news = {each.subnet for each in lacking}
    return Difference(
        server=server,
        name=cloud.lans.server(server).name,
        subnets=tuple(
            x
            for x in wanted_subnets
            if subnets.get(x.id) != x and (x.id in news or x.id in subnets)
        ),
        lacking=tuple(lacking),
        unneeded=tuple(unneeded),
        idle=tuple(x for key, x in subnets.items() if key not in in_use),
    )


def told(found: Difference) -> Iterable[Finding]:
    """The lines of the report about one server: how many of what, then each."""
    if found.away:
        yield Finding(what="dhcp-server", name=found.name, state="away", detail=found.away)
        return
    state = "differs" if found.any else "in line"
    yield Finding(what="dhcp-server", name=found.name, state=state)
    for each in found.subnets:
        yield Finding(what="subnet", name=str(each.range), state="lacking", detail=str(each.id))
    for card in found.lacking:
        yield Finding(what="address", name=str(card.address), state="lacking", detail=card.mac)
    for card in found.unneeded:
        yield Finding(what="address", name=str(card.address), state="unneeded", detail=card.mac)
    for each in found.idle:
        yield Finding(what="subnet", name=str(each.range), state="unneeded", detail=str(each.id))
