"""VMs' networks: there on their host while a VM is plugged in, their addresses told by DHCP.

What a network is on a host goes with the last VM that claims it there, as its host's copy of an
image does. A DHCP server is told of all VMs of an operation at once: each change of what it knows
costs as much as a thousand.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit
from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Conflict
from adapters.lan import Guard, Link, LinkKind
from adapters.types import Value
from flows.cloud import cloud
from flows.running import running
from flows.steps import Effect, step


class Need(Value):
    """A network that a host is to have for these VMs."""

    link: Link
    vms: tuple[UUID, ...]


def join_networks(vms: Sequence[VmRecord]) -> None:
    """Let hosts have the networks of these VMs, and DHCP servers know their addresses."""
    for host in dict.fromkeys(vm.host for vm in vms if vm.links):
        here = [vm for vm in vms if vm.host == host]
        hold_links(host, needs_of(here))
        if guards := [guard for vm in here for guard in vm.guards]:
            guard_cards(host, [vm.id for vm in here], guards)
    for server, some in served(vms).items():
        reserve_addresses(server, [vm.id for vm in some], nics_of(some, server))


def needs_of(vms: Iterable[VmRecord]) -> list[Need]:
    """The networks that VMs of one host need there."""
    users: dict[UUID, list[UUID]] = {}
    links: dict[UUID, Link] = {}
    for vm in vms:
        for link in vm.links:
            links[link.network] = link
            users.setdefault(link.network, []).append(vm.id)
    return [Need(link=link, vms=tuple(users[key])) for key, link in links.items()]


def served(vms: Iterable[VmRecord]) -> dict[UUID, list[VmRecord]]:
    """Those of these VMs that are told addresses, by DHCP server."""
    found: dict[UUID, list[VmRecord]] = {}
    for vm in (each for each in vms if each.host_id):
        for server in vm.served:
            found.setdefault(server, []).append(vm)
    return found


def nics_of(vms: Iterable[VmRecord], server: UUID) -> list[UUID]:
    """The NICs of these VMs that are told their addresses by this server."""
    return [nic for vm in vms for nic in vm.served.get(server, ())]


@step("hold-links")
def hold_links(host: UUID, needs: list[Need]) -> None:
    """Claim the networks for as long as the VMs are there; let the host have them."""
    for each in needs:
        for thing in link_claims(each.link, host):
            cloud.claims.claim(thing, *_holders(each))
        cloud.switch(host).ensure_link(each.link)


@hold_links.undo
def release_links(host: UUID, needs: list[Need]) -> None:
    """Release the networks; the host has each of them until its last VM is gone."""
    remover = running()
    for each in needs:
        *along, thing = link_claims(each.link, host)
        for other in along:
            if cloud.claims.release(other, _holders(each), remover):
                cloud.claims.removed(other, remover)
        if cloud.claims.release(thing, _holders(each), remover):
            with suppress(Conflict):  # it is another's, and never was the VMs'
                cloud.switch(host).delete_link(each.link)
            cloud.claims.removed(thing, remover)


@hold_links.look
def links_held(host: UUID, needs: list[Need]) -> bool:
    """Whether these VMs have any of the networks there, or one is there that no VM explains."""
    for each in needs:
        holders = {
            x for claim in link_claims(each.link, host) for x in cloud.claims.holders(claim)
        }
        if holders & {*_holders(each)}:
            return True
        if not holders and cloud.switch(host).has_link(each.link):
            return True
    return False


def link_claims(link: Link, host: UUID) -> list[str]:
    """What its VMs claim: the network on their host; and last, what goes with the last of them.

    That is a port group of all hosts, where their switch is distributed; else the same.
    """
    claims = [f"link:{host}:{link.network}"]
    if link.kind is LinkKind.DISTRIBUTED:
        where = urlsplit(cloud.inventory.host(host).address).netloc
        claims.append(f"group:{where}:{link.switch}:{link.network}")
    return claims


def holder_of(vm: UUID) -> str:
    """As what a VM claims links."""
    return f"vm:{vm}"


def _holders(need: Need) -> list[str]:
    return [holder_of(vm) for vm in need.vms]


@step("guard-cards")
def guard_cards(host: UUID, vms: list[UUID], guards: list[Guard]) -> None:
    """Let cards be heard as themselves only."""
    cloud.switch(host).ensure_guards(guards)


@guard_cards.undo
def forget_guards(host: UUID, vms: list[UUID], guards: list[Guard]) -> None:
    """Guard these cards no more."""
    cloud.switch(host).delete_guards(guards)


@guard_cards.look
def guarded(host: UUID, vms: list[UUID], guards: list[Guard]) -> bool:
    """Whether these cards are guarded."""
    return cloud.switch(host).has_guards(guards)


def ready_cards(vm: UUID) -> None:
    """Let a VM that is to start have its ports of Open vSwitch, which go when it is off."""
    record = cloud.inventory.vm(vm)
    if record.guards and record.uplink and record.uplink.kind is LinkKind.OVS:
        cloud.switch(record.host).ensure_guards(record.guards)


@step("reserve-addresses")
def reserve_addresses(server: UUID, vms: list[UUID], nics: list[UUID]) -> None:
    """Let the DHCP server tell these NICs their addresses, and no others."""
    subnets, reservations = cloud.lans.of_vms(server, vms)
    cloud.dhcp(server).ensure_reservations(reservations, subnets)


@reserve_addresses.undo
def free_addresses(server: UUID, vms: list[UUID], nics: list[UUID]) -> None:
    """Let the DHCP server forget them, and subnets of which it knows no address any more.

    It is asked which it knows: ours may be written down no more.
    """
    subnets, _ = cloud.lans.of_vms(server, vms)
    dhcp = cloud.dhcp(server)
    _, known = dhcp.content()
    theirs = [known[nic] for nic in nics if nic in known]
    used = {*(each.id for each in subnets), *(each.subnet for each in theirs)}
    dhcp.delete_reservations(theirs, used)


@reserve_addresses.look
def are_reserved(server: UUID, vms: list[UUID], nics: list[UUID]) -> bool:
    """Whether the DHCP server would tell any of them."""
    _, known = cloud.dhcp(server).content()
    return not known.keys().isdisjoint(nics)


def leave_host(vm: VmRecord) -> None:
    """Let the VM's host be without its networks, once it is off."""
    if vm.guards:
        unguard_cards(vm.id, vm.host, list(vm.guards))
    if vm.links:
        leave_links(vm.id, vm.host, needs_of([vm]))


def leave_servers(vms: Sequence[VmRecord]) -> None:
    """Let DHCP servers forget these VMs, which are gone."""
    for server, some in served(vms).items():
        release_addresses(server, [vm.id for vm in some], nics_of(some, server))


def give_networks_up(vm: VmRecord) -> None:
    """Take all that a VM has of its networks away, as a part of a step."""
    for server, nics in vm.served.items():
        free_addresses(server, [vm.id], nics)
    if vm.links:
        forget_guards(vm.host, [vm.id], list(vm.guards))
        release_links(vm.host, needs_of([vm]))


@step("unguard-cards", Effect.REMOVES)
def unguard_cards(vm: UUID, host: UUID, guards: list[Guard]) -> None:
    forget_guards(host, [vm], guards)


@unguard_cards.look
def _(vm: UUID, host: UUID, guards: list[Guard]) -> bool:
    return guarded(host, [vm], guards)


@step("leave-links", Effect.REMOVES)
def leave_links(vm: UUID, host: UUID, needs: list[Need]) -> None:
    release_links(host, needs)


@leave_links.look
def _(vm: UUID, host: UUID, needs: list[Need]) -> bool:
    return links_held(host, needs)


@step("release-addresses", Effect.REMOVES)
def release_addresses(server: UUID, vms: list[UUID], nics: list[UUID]) -> None:
    free_addresses(server, vms, nics)


@release_addresses.look
def _(server: UUID, vms: list[UUID], nics: list[UUID]) -> bool:
    return are_reserved(server, vms, nics)
