"""Hosts compared with what VMs claim there: links and guards that are lost, cards fallen out."""

from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Conflict
from adapters.lan import Guard, Link, card_of
from adapters.nodes.base import Switch
from adapters.types import Finding, Value
from flows.cloud import cloud
from flows.vm_networks import holder_of, link_claims


class Loose(Value):
    """Cards of a VM that are on its host, but not in the link that they are to be in."""

    link: Link
    nics: tuple[UUID, ...]


class Lost(Value):
    """What a VM lacks on its host."""

    vm: UUID
    name: str
    links: tuple[Link, ...] = ()
    guards: tuple[Guard, ...] = ()
    loose: tuple[Loose, ...] = ()

    @property
    def any(self) -> bool:
        """Whether it lacks anything."""
        return bool(self.links or self.guards or self.loose)


class HostDifference(Value):
    """What VMs lack on a host; `others` says what is there in place of it, and is not ours."""

    host: UUID
    name: str
    lost: tuple[Lost, ...] = ()
    others: tuple[str, ...] = ()
    away: str = ""

    @property
    def id(self) -> UUID:
        """The host's."""
        return self.host

    def of(self, vms: Collection[UUID]) -> "HostDifference":
        """What of it these VMs lack."""
        return self.model_copy(update={"lost": tuple(x for x in self.lost if x.vm in vms)})


def difference(host: UUID, vms: Sequence[VmRecord]) -> HostDifference:
    """What these VMs lack on their host of what they claim there."""
    switch, installation = cloud.switch(host), cloud.inventory.installation
    claimed = {vm.id: [*_claimed(vm, host)] for vm in vms}
    links = {x.network: x for each in claimed.values() for x in each}
    gone, others = _gone(switch, links.values())
    nics = {network: [*_nics(vms, network)] for network in links}
    loose = {key: {*switch.loose(links[key], nics[key])} for key in links if key not in others}
    there = {*switch.guards(installation)} if any(vm.guards for vm in vms) else set()

    def lost(vm: VmRecord) -> Lost:
        its = {x.network: x for x in claimed[vm.id]}
        cards = {plug.nic: plug.network for plug in vm.plugs if plug.network in its}
        fallen = {
            key: tuple(nic for nic, network in cards.items() if network == key and nic in some)
            for key, some in loose.items()
        }
        return Lost(
            vm=vm.id,
            name=vm.name,
            links=tuple(link for key, link in its.items() if key in gone),
            guards=tuple(x for x in vm.guards if x.nic in cards and x not in there),
            loose=tuple(Loose(link=links[key], nics=some) for key, some in fallen.items() if some),
        )

    return HostDifference(
        host=host,
        name=cloud.inventory.host(host).name,
        lost=tuple(each for vm in vms if (each := lost(vm)).any),
        others=tuple(others.values()),
    )


def told(found: HostDifference) -> Iterator[Finding]:
    """The lines of the report about one host: how it is, then each thing once."""
    if found.away:
        yield Finding(what="host", name=found.name, state="away", detail=found.away)
        return
    differs = found.lost or found.others
    yield Finding(what="host", name=found.name, state="differs" if differs else "in line")
    for said in found.others:
        yield Finding(what="link", name=found.name, state="another's", detail=said)
    for link in dict.fromkeys(link for each in found.lost for link in each.links):
        yield Finding(what="link", name=link.name, state="lost", detail=str(link.network))
    for each in found.lost:
        for guard in each.guards:
            yield Finding(what="guard", name=guard.card, state="lost", detail=each.name)
        for nic in (nic for some in each.loose for nic in some.nics):
            yield Finding(what="card", name=card_of(nic), state="loose", detail=each.name)


def _claimed(vm: VmRecord, host: UUID) -> Iterator[Link]:
    for link in vm.links:
        if cloud.claims.has(link_claims(link, host)[0], holder_of(vm.id)):
            yield link


def _gone(switch: Switch, links: Collection[Link]) -> tuple[set[UUID], dict[UUID, str]]:
    """The networks that are not there, or not whole; and those whose name is another's."""
    gone: set[UUID] = set()
    others: dict[UUID, str] = {}
    for link in links:
        try:
            if not switch.has_link(link):
                gone.add(link.network)
        except Conflict as error:
            others[link.network] = str(error)
    return gone, others


def _nics(vms: Sequence[VmRecord], network: UUID) -> Iterator[UUID]:
    return (plug.nic for vm in vms for plug in vm.plugs if plug.network == network)
