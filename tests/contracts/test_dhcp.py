"""The laws of DHCP servers, run over every adapter that claims the port."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from adapters.errors import Conflict, InUse, NotFound, Refused
from adapters.lan import Lease, Reservation, Route, Subnet
from adapters.networks.base import DhcpServer
from adapters.networks.dnsmasq import Dnsmasq
from adapters.networks.kea import Kea, KeaSocket
from adapters.networks.kea_json import in_order
from adapters.networks.memory import MemoryDhcp
from adapters.world import World
from deployments.lab.dnsmasq import Dnsmasq as LabDnsmasq
from deployments.lab.kea import Kea as LabKea
from deployments.lab.relay import Relay
from deployments.lab.vlans import Vlans
from tests.labs import started

OURS, THEIRS = uuid4(), uuid4()
VLANS = (101, 102)


class Counterpart(Protocol):
    """A server, and guests that ask it."""

    server: DhcpServer
    theirs: DhcpServer  # the same one, as another installation uses it

    def ask(self, mac: str, vlan: int) -> IPv4Address | None:
        """A guest with this card starts in that VLAN: the address that it is told."""

    def restart(self) -> None:
        """End the server and start it; it has what it had written down."""

    def changes(self) -> int:
        """How often its configuration was changed."""

    def lose_everything(self) -> None:
        """End the server, and start it with neither leases nor what it was told."""

    def photograph(self) -> object:
        """All that it was told, and has told."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.id = uuid4()
        self.server = MemoryDhcp(self.world, self.id, OURS)
        self.theirs = MemoryDhcp(self.world, self.id, THEIRS)

    def ask(self, mac: str, vlan: int) -> IPv4Address | None:
        lease = self.server.offer(mac, IPv4Address(f"10.77.{vlan}.1"))
        return lease.address if lease else None

    def restart(self) -> None:
        self.server = MemoryDhcp(World(self.world.path), self.id, OURS)

    def changes(self) -> int:
        changing = ("ensure_subnet", "ensure_reservations", "delete_reservations", "replace")
        return sum(len(self.world.calls(f"dhcp.{each}")) for each in changing)

    def lose_everything(self) -> None:
        for kind in ("subnet", "reservation", "lease"):
            for key in self.world.all(kind):
                self.world.remove(kind, key)

    def photograph(self) -> object:
        return self.world.everything()


class Guests:
    def __init__(self, vlans: Vlans) -> None:
        self.vlans = vlans

    def ask(self, mac: str, vlan: int) -> IPv4Address | None:
        told = self.vlans.ask(mac, vlan)
        return IPv4Address(told["ip"]) if told else None


class KeaServer(Guests):
    def __init__(self, vlans: Vlans, lab: LabKea) -> None:
        super().__init__(vlans)
        self.lab = lab
        self.server = Kea(KeaSocket(lab.socket), OURS)
        self.theirs = Kea(KeaSocket(lab.socket), THEIRS)

    def restart(self) -> None:
        self.lab.stop()
        self.lab.start()

    def changes(self) -> int:
        return self.lab.changes()

    def lose_everything(self) -> None:
        self.lab.forget()
        self.lab.start()

    def photograph(self) -> object:
        channel = KeaSocket(self.lab.socket)
        told = in_order(channel.ask({"command": "config-get"})["arguments"]["Dhcp4"])
        written = in_order(json.loads(self.lab.configuration.read_text())["Dhcp4"])
        assert told["subnet4"] == written["subnet4"]
        return told["subnet4"], channel.ask({"command": "lease4-get-all"}).get("arguments")


class DnsmasqServer(Guests):
    def __init__(self, vlans: Vlans, lab: LabDnsmasq) -> None:
        super().__init__(vlans)
        self.lab = lab
        self.server = Dnsmasq(lab.folder, OURS)
        self.theirs = Dnsmasq(lab.folder, THEIRS)

    def restart(self) -> None:
        self.lab.stop()
        self.lab.start()

    def changes(self) -> int:
        return self.lab.starts()

    def lose_everything(self) -> None:
        self.lab.stop()
        self.lab.forget()
        self.lab.start()

    def photograph(self) -> object:
        leases = self.lab.folder / "dnsmasq.leases"
        folders = ("ranges", "hosts", "options", "names")
        files = [path for each in folders for path in (self.lab.folder / each).iterdir()]
        told = sorted((str(path), path.read_text()) for path in files)
        return told, leases.read_text() if leases.exists() else ""


REAL = {"kea": (LabKea, KeaServer), "dnsmasq": (LabDnsmasq, DnsmasqServer)}


@pytest.fixture(params=["memory", *(pytest.param(x, marks=pytest.mark.lab) for x in REAL)])
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counterpart]:
    if request.param == "memory":
        yield Memory(tmp_path)
        return
    relays = {vlan: f"10.77.{vlan}.1/24" for vlan in VLANS}
    with started(Vlans(tmp_path / "vlans", relays)) as vlans, ExitStack() as servers:
        lab, real = REAL[request.param]
        server = servers.enter_context(started(lab(tmp_path / "server", vlans.servers[0])))
        servers.enter_context(started(Relay(tmp_path, vlans)))
        yield real(vlans, server)


@pytest.fixture
def server(counterpart: Counterpart) -> DhcpServer:
    return counterpart.server


def subnet(vlan: int, **said: object) -> Subnet:
    fields: dict[str, object] = {
        "id": uuid4(),
        "number": vlan,
        "range": IPv4Network(f"10.77.{vlan}.0/24"),
        "gateway": IPv4Address(f"10.77.{vlan}.1"),
        "installation": OURS,
    }
    return Subnet(**{**fields, **said})


def card(of: Subnet, last: int, **said: object) -> Reservation:
    fields: dict[str, object] = {
        "id": uuid4(),
        "subnet": of.id,
        "mac": "52:54:00:" + ":".join(uuid4().hex[n : n + 2] for n in (0, 2, 4)),
        "address": of.range.network_address + last,
    }
    return Reservation(**{**fields, **said})


def changed(value, **fields):
    return value.model_copy(update=fields)


def addresses(leases: list[Lease]) -> list[str]:
    return [str(lease.address) for lease in leases]


# --- subnets -----------------------------------------------------------------------------------


def test_a_server_that_can_be_used_says_so_and_is_left_as_it_is(counterpart):
    before, changes = counterpart.photograph(), counterpart.changes()
    counterpart.server.verify()
    if isinstance(counterpart, Memory):
        return  # its photograph has that it was asked
    assert (counterpart.photograph(), counterpart.changes()) == (before, changes)


def test_a_subnet_is_as_it_was_said(server: DhcpServer) -> None:
    said = subnet(
        101,
        dns=(IPv4Address("10.77.101.2"), IPv4Address("9.9.9.9")),
        suffix="tenant.example",
        routes=(
            Route(to=IPv4Network("10.88.0.0/16"), by=IPv4Address("10.77.101.254")),
            Route(to=IPv4Network("10.99.0.0/17"), by=IPv4Address("10.77.101.253")),
        ),
        relay=IPv4Address("10.77.101.1"),
        mtu=1400,
    )
    assert not server.has_subnet(said)
    server.ensure_subnet(said)
    server.ensure_subnet(said)
    assert server.has_subnet(said)
    assert server.content() == ({said.id: said}, {})


def test_a_subnet_becomes_what_is_said_of_it(server: DhcpServer) -> None:
    first = subnet(101, dns=(IPv4Address("9.9.9.9"),), suffix="a.example")
    nic = card(first, 5)
    server.ensure_subnet(first)
    server.ensure_reservations([nic])
    other = changed(first, dns=(), suffix="b.example", gateway=None, mtu=9000)
    server.ensure_subnet(other)
    assert server.has_subnet(other)
    assert not server.has_subnet(first)
    assert server.content() == ({first.id: other}, {nic.id: nic})


def test_deleting_leaves_nothing(counterpart: Counterpart) -> None:
    before = counterpart.photograph()
    said = subnet(101)
    nics = [card(said, 5), card(said, 6)]
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations(nics)
    assert counterpart.photograph() != before
    for _ in range(2):
        counterpart.server.delete_reservations(nics)
        counterpart.server.delete_subnet(said.id)
    assert counterpart.photograph() == before


def test_a_subnet_with_reservations_stays(server: DhcpServer) -> None:
    said = subnet(101)
    nic = card(said, 200)
    server.ensure_subnet(said)
    server.ensure_reservations([nic])
    with pytest.raises(InUse) as refusal:
        server.delete_subnet(said.id)
    assert refusal.value.users == (nic.mac,)
    with pytest.raises(InUse):
        server.ensure_subnet(changed(said, range=IPv4Network("10.77.101.0/25")))
    with pytest.raises(InUse):
        server.ensure_subnet(changed(said, gateway=nic.address))
    assert server.content() == ({said.id: said}, {nic.id: nic})


@pytest.mark.parametrize(
    "said",
    [
        {"range": IPv4Network("10.77.101.128/25"), "gateway": None},
        {"range": IPv4Network("10.77.0.0/16"), "gateway": None},
        {"number": 101},
        {"relay": IPv4Address("10.77.101.1")},
    ],
    ids=lambda said: next(iter(said)),
)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_what_is_in_the_way_stays(counterpart: Counterpart, said, whose: str) -> None:
    first = subnet(101, relay=IPv4Address("10.77.101.1"))
    if whose == "ours":
        counterpart.server.ensure_subnet(first)
    else:
        counterpart.theirs.ensure_subnet(changed(first, installation=THEIRS))
    before = counterpart.photograph()
    with pytest.raises(Conflict):
        counterpart.server.ensure_subnet(subnet(102, **said))
    assert counterpart.photograph() == before


# --- reservations ------------------------------------------------------------------------------


def test_reservations_are_as_they_were_said(server: DhcpServer) -> None:
    routed = subnet(
        101, routes=[Route(to=IPv4Network("0.0.0.0/1"), by=IPv4Address("10.77.101.9"))]
    )
    plain = subnet(102, gateway=None)
    for each in (routed, plain):
        server.ensure_subnet(each)
    nics = [
        card(routed, 5, hostname="web"),
        card(routed, 6, is_default=False),
        card(plain, 5, hostname="web"),
        card(plain, 6, is_default=False),
    ]
    missing = card(plain, 7)
    assert server.has_reservations(nics) == set()
    for _ in range(2):
        server.ensure_reservations(nics)
        assert server.has_reservations([*nics, missing]) == {nic.id for nic in nics}
    assert server.content()[1] == {nic.id: nic for nic in nics}
    assert server.has_reservations([changed(nics[0], is_default=False)]) == set()


def test_a_subnet_that_changes_takes_its_reservations_along(server: DhcpServer) -> None:
    said = subnet(101)
    nics = [card(said, 5), card(said, 6, is_default=False)]
    server.ensure_subnet(said)
    server.ensure_reservations(nics)
    moved = changed(
        said,
        gateway=IPv4Address("10.77.101.254"),
        routes=(Route(to=IPv4Network("10.0.0.0/8"), by=IPv4Address("10.77.101.9")),),
    )
    server.ensure_subnet(moved)
    assert server.has_subnet(moved)
    assert server.has_reservations(nics) == {nic.id for nic in nics}


def test_one_reservation_that_cannot_be_keeps_all_from_being(counterpart: Counterpart) -> None:
    said = subnet(101)
    taken = card(said, 5)
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations([taken])
    before = counterpart.photograph()
    fit = card(said, 6)
    for unfit, error in (
        (card(said, 5), Conflict),
        (card(said, 7, mac=taken.mac), Conflict),
        (card(said, 6), Conflict),
        (card(said, 1), Refused),
        (card(said, 0), Refused),
        (card(said, 255), Refused),
        (card(said, 300), Refused),
        (card(subnet(102), 5), NotFound),
    ):
        with pytest.raises(error):
            counterpart.server.ensure_reservations([fit, unfit])
    assert counterpart.photograph() == before


def test_subnets_come_and_go_with_what_is_reserved_in_them(counterpart: Counterpart) -> None:
    one, two = subnet(101), subnet(102)
    nics = [card(one, 5), card(one, 6), card(two, 5)]
    empty, before = counterpart.photograph(), counterpart.changes()
    counterpart.server.ensure_reservations(nics, [one, two])
    assert counterpart.changes() == before + 1
    assert counterpart.server.content()[0] == {one.id: one, two.id: two}
    assert counterpart.ask(nics[1].mac, 101) == nics[1].address
    counterpart.server.delete_reservations(nics[1:], [one.id, two.id])
    assert counterpart.changes() == before + 2
    assert counterpart.server.content() == ({one.id: one}, {nics[0].id: nics[0]})
    counterpart.server.delete_reservations(nics, [one.id, two.id])
    assert counterpart.photograph() == empty


def test_two_cards_can_change_places(server: DhcpServer) -> None:
    said = subnet(101)
    one, two = card(said, 5), card(said, 6)
    server.ensure_subnet(said)
    server.ensure_reservations([one, two])
    swapped = [changed(one, address=two.address), changed(two, address=one.address)]
    server.ensure_reservations(swapped)
    assert server.content()[1] == {each.id: each for each in swapped}


def test_others_are_left_alone(counterpart: Counterpart) -> None:
    theirs = changed(subnet(102), installation=THEIRS)
    nic = card(theirs, 5)
    counterpart.theirs.ensure_subnet(theirs)
    counterpart.theirs.ensure_reservations([nic])
    assert counterpart.ask(nic.mac, 102) == nic.address
    assert counterpart.server.content() == ({}, {})
    assert counterpart.server.leases() == []
    with pytest.raises(NotFound):
        counterpart.server.ensure_reservations([card(theirs, 6)])
    counterpart.server.delete_reservations([nic])
    counterpart.server.delete_subnet(theirs.id)
    ours = subnet(101)
    counterpart.server.replace([ours], [card(ours, 5)])
    counterpart.server.replace([], [])
    assert counterpart.theirs.content() == ({theirs.id: theirs}, {nic.id: nic})
    assert addresses(counterpart.theirs.leases()) == ["10.77.102.5"]


# --- guests ------------------------------------------------------------------------------------


def test_only_who_has_a_reservation_gets_an_address(counterpart: Counterpart) -> None:
    one, two = subnet(101), subnet(102)
    nic = card(one, 55, hostname="web")
    for each in (one, two):
        counterpart.server.ensure_subnet(each)
    counterpart.server.ensure_reservations([nic])
    assert counterpart.server.leases() == []
    assert counterpart.ask(nic.mac, 101) == nic.address
    assert counterpart.ask(nic.mac, 102) is None
    assert counterpart.ask("52:54:00:00:00:99", 101) is None
    (lease,) = counterpart.server.leases()
    assert (lease.mac, lease.address, lease.hostname) == (nic.mac, nic.address, "web")
    assert counterpart.server.leases(one.id) == [lease]
    assert counterpart.server.leases(two.id) == []


def test_a_card_has_an_address_in_each_network(counterpart: Counterpart) -> None:
    one, two = subnet(101), subnet(102)
    nics = [card(one, 55), card(two, 66)]
    nics[1] = changed(nics[1], mac=nics[0].mac)
    for each in (one, two):
        counterpart.server.ensure_subnet(each)
    counterpart.server.ensure_reservations(nics)
    assert counterpart.ask(nics[0].mac, 101) == nics[0].address
    assert counterpart.ask(nics[0].mac, 102) == nics[1].address


def test_an_address_can_be_given_to_another_at_once(counterpart: Counterpart) -> None:
    said = subnet(101)
    former, other = card(said, 55), card(said, 55)
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations([former])
    assert counterpart.ask(former.mac, 101) == former.address
    counterpart.server.delete_reservations([former])
    assert counterpart.server.leases() == []
    counterpart.server.ensure_reservations([other])
    assert counterpart.ask(former.mac, 101) is None
    assert counterpart.ask(other.mac, 101) == other.address


def test_who_moves_leaves_the_address_behind(counterpart: Counterpart) -> None:
    said = subnet(101)
    nic, other = card(said, 55), card(said, 55)
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations([nic])
    assert counterpart.ask(nic.mac, 101) == nic.address
    moved = changed(nic, address=IPv4Address("10.77.101.66"))
    counterpart.server.ensure_reservations([moved, other])
    assert counterpart.server.leases() == []
    assert counterpart.ask(other.mac, 101) == other.address
    assert counterpart.ask(nic.mac, 101) == moved.address


def test_a_change_leaves_the_leases_of_others_alone(counterpart: Counterpart) -> None:
    said = subnet(101)
    nic = card(said, 55)
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations([nic])
    assert counterpart.ask(nic.mac, 101) == nic.address
    counterpart.server.ensure_subnet(changed(said, suffix="new.example"))
    counterpart.server.ensure_reservations([card(said, 56)])
    counterpart.server.delete_reservations([card(said, 57)])
    assert addresses(counterpart.server.leases()) == ["10.77.101.55"]


# --- what happens to servers --------------------------------------------------------------------


def test_a_restart_loses_nothing(counterpart: Counterpart) -> None:
    said = subnet(101)
    nic = card(said, 55)
    counterpart.server.ensure_subnet(said)
    counterpart.server.ensure_reservations([nic])
    assert counterpart.ask(nic.mac, 101) == nic.address
    counterpart.restart()
    assert counterpart.server.content() == ({said.id: said}, {nic.id: nic})
    assert addresses(counterpart.server.leases()) == ["10.77.101.55"]
    assert counterpart.ask(nic.mac, 101) == nic.address


def test_what_was_lost_is_made_again_by_one_change(counterpart: Counterpart) -> None:
    one, two = subnet(101), subnet(102)
    nics = [card(one, 55), card(two, 66)]
    counterpart.server.replace([one, two], nics)
    assert counterpart.ask(nics[0].mac, 101) == nics[0].address
    counterpart.lose_everything()
    assert counterpart.server.content() == ({}, {})
    assert counterpart.ask(nics[0].mac, 101) is None
    before = counterpart.changes()
    counterpart.server.replace([one, two], nics)
    assert counterpart.changes() == before + 1
    assert counterpart.server.content() == ({one.id: one, two.id: two}, {n.id: n for n in nics})
    assert counterpart.ask(nics[0].mac, 101) == nics[0].address
    counterpart.server.replace([two], nics[1:])
    assert counterpart.server.content() == ({two.id: two}, {nics[1].id: nics[1]})
    assert counterpart.server.leases() == []


def test_a_thousand_cards_are_one_change(counterpart: Counterpart) -> None:
    said = subnet(101, range=IPv4Network("10.77.96.0/20"), gateway=IPv4Address("10.77.101.1"))
    counterpart.server.ensure_subnet(said)
    nics = [card(said, 256 + n) for n in range(1000)]
    before = counterpart.changes()
    counterpart.server.ensure_reservations(nics)
    assert counterpart.changes() == before + 1
    assert len(counterpart.server.has_reservations(nics)) == 1000
    counterpart.server.delete_reservations(nics)
    assert counterpart.changes() == before + 2
    assert counterpart.server.content()[1] == {}
