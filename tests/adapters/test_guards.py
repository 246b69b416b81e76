"""Guarded cards of a host's switches, by packets: what is heard of them, and what is not."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.lan import Guard, Link, LinkKind
from adapters.nodes.base import Switch
from adapters.nodes.bridges import Bridges
from adapters.nodes.openvswitch import OpenVswitch
from deployments.lab.ovs import Ovs
from deployments.lab.wired_host import UPLINK, Guest, WiredHost
from tests.labs import started

pytestmark = pytest.mark.lab

MINE, OTHER = "52:54:00:00:00:05", "52:54:00:00:00:06"


class Bridged:
    """A VLAN's bridge."""

    def __init__(self, host: WiredHost, folder: Path) -> None:
        (folder / "etc" / "netns" / host.namespace / "network" / "interfaces.d").mkdir(
            parents=True
        )
        self.host = host
        self.switch: Switch = Bridges(host.namespace, folder)
        self.link = Link(network=uuid4(), tag=101, uplink=UPLINK, installation=uuid4())

    def guard(self, mac: str = MINE, *addresses: str, **more: Any) -> Guard:
        said = {"addresses": addresses} | more
        return Guard(nic=uuid4(), mac=mac, installation=self.link.installation, **said)

    def guest(self, card: str, mac: str, *addresses: str) -> Guest:
        return self.host.guest(self.link.name, card, mac, *addresses)


class Switched:
    """A VLAN of Open vSwitch."""

    def __init__(self, host: WiredHost, ovs: Ovs) -> None:
        self.host, self.ovs = host, ovs
        self.switch: Switch = OpenVswitch(host.namespace, ovs.database)
        said: dict[str, Any] = {"kind": LinkKind.OVS, "switch": "br0"}
        self.link = Link(network=uuid4(), tag=101, uplink="", installation=uuid4(), **said)

    def guard(self, mac: str = MINE, *addresses: str, **more: Any) -> Guard:
        said = {"addresses": addresses, "switch": "br0", "tag": 101} | more
        return Guard(nic=uuid4(), mac=mac, installation=self.link.installation, **said)

    def guest(self, card: str, mac: str, *addresses: str) -> Guest:
        """As libvirt plugs its card in; another's is in the VLAN, too."""
        tag = ("trunk=4095",) if card.startswith("ct") else ("tag=101",)
        guest = self.host.guest("", card, mac, *addresses)
        noted = ("set", "Interface", card, "external-ids:attached-mac=here")
        self.ovs.vsctl("--", "--may-exist", "add-port", "br0", card, *tag, "--", *noted)
        return guest


Place = Bridged | Switched


@pytest.fixture
def bridged(wired_host: WiredHost, tmp_path: Path) -> Bridged:
    return Bridged(wired_host, tmp_path / "first")


@pytest.fixture
def switched(wired_host: WiredHost, tmp_path: Path) -> Iterator[Switched]:
    with started(Ovs(tmp_path / "ovs", wired_host.namespace)) as ovs:
        ovs.add_bridge("br0")
        yield Switched(wired_host, ovs)


@pytest.fixture(params=["bridged", "switched"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    found.switch.ensure_link(found.link)
    return found


@pytest.fixture
def guarded(place: Place) -> tuple[Guest, Guest]:
    """A guest whose card is guarded, and a peer."""
    guard = place.guard(MINE, "10.0.0.5")
    place.switch.ensure_guards([guard])
    guest = place.guest(guard.card, MINE, "10.0.0.5/24")
    return guest, place.guest("peer", OTHER, "10.0.0.6/24", "fd00::6/64")


def test_a_guarded_card_is_heard_as_itself(guarded):
    guest, peer = guarded
    assert guest.hears("10.0.0.6", tries=5)
    assert peer.hears("10.0.0.5", tries=5)


def test_a_guarded_card_is_not_heard_by_another_mac(guarded):
    guest, peer = guarded
    guest.network.ip("link", "set", "dev", "eth0", "down")
    guest.network.ip("link", "set", "dev", "eth0", "address", "52:54:00:00:00:99", "up")
    assert not guest.hears("10.0.0.6")
    assert not peer.hears("10.0.0.5")


def test_a_guarded_card_is_not_heard_by_another_address(guarded):
    guest, peer = guarded
    guest.network.ip("address", "add", "10.0.0.9/24", "dev", "eth0")
    guest.network.ip("address", "delete", "10.0.0.5/24", "dev", "eth0")
    assert not guest.hears("10.0.0.6")
    assert not peer.hears("10.0.0.9")


def test_a_guarded_card_is_not_believed_to_have_a_peers_address(guarded, place):
    """ARP tells MACs by itself, whoever sends it."""
    guest, peer = guarded
    third = place.guest("third", "52:54:00:00:00:07", "10.0.0.7/24")
    assert third.hears("10.0.0.6", tries=5)
    guest.network.ip("address", "add", "10.0.0.6/32", "dev", "eth0")
    claim = ("busybox", "arping", "-U", "-c", "2", "-I", "eth0", "10.0.0.6")
    with suppress(RuntimeError):  # as it is where nobody answers
        guest.network.run(*claim)
    (known,) = third.network.ask("neighbour", "show", "10.0.0.6")
    assert known["lladdr"] == OTHER
    assert peer.hears("10.0.0.7", tries=5)


def test_a_guarded_card_has_no_other_ipv6(guarded):
    guest, _ = guarded
    guest.network.ip("address", "add", "fd00::5/64", "dev", "eth0", "nodad")
    assert not guest.hears("fd00::6")


def test_a_guarded_card_has_the_ipv6_that_it_gives_itself(place):
    guard = place.guard(MINE, "10.0.0.5", "fd00::5")
    place.switch.ensure_guards([guard])
    assert place.switch.has_guards([guard])
    guest = place.guest(guard.card, MINE, "fd00::5/64")
    place.guest("peer", OTHER, "fd00::6/64")
    assert guest.hears("fd00::6", tries=5)
    guest.network.ip("address", "add", "fd00::9/64", "dev", "eth0", "nodad")
    guest.network.ip("address", "delete", "fd00::5/64", "dev", "eth0")
    assert not guest.hears("fd00::6")


CLAIM = """
import socket, sys
kind, mac, source, target = int(sys.argv[1]), *sys.argv[2:5]
out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
out.bind((source, 0, 0, socket.if_nametoindex("eth0")))
about = socket.inet_pton(socket.AF_INET6, "fd00::7" if kind == 135 else target)
told = bytes([1 if kind == 135 else 2, 1]) + bytes.fromhex(mac.replace(":", ""))
head = bytes([kind, 0, 0, 0, 0x20 if kind == 136 else 0, 0, 0, 0])
for _ in range(2):
    out.sendto(head + about + told, ("fd00::7", 0))
"""
ASKS, ANSWERS = "135", "136"  # of neighbours, who tell their MACs by both


@pytest.mark.parametrize(
    ("kind", "victim"), [(ANSWERS, "fd00::6"), (ANSWERS, "fe80::6"), (ASKS, "fe80::6")]
)
def test_a_guarded_card_is_not_believed_to_have_a_peers_ipv6(place, kind, victim):
    """Also not the address by which its router is known."""
    guard = place.guard(MINE, "10.0.0.5", "fd00::5")
    place.switch.ensure_guards([guard])
    guest = place.guest(guard.card, MINE, "fd00::5/64")
    third = place.guest("third", "52:54:00:00:00:07", "fd00::7/64")
    known = ("neighbour", "replace", victim, "lladdr", OTHER, "dev", "eth0", "nud", "stale")
    third.network.ip(*known)
    assert guest.hears("fd00::7", tries=9)
    source = "fd00::5"
    if kind == ASKS:
        guest.network.ip("address", "add", f"{victim}/128", "dev", "eth0", "nodad")
        source = victim
    guest.network.run(sys.executable, "-c", CLAIM, kind, MINE, source, victim)
    (told,) = third.network.ask("neighbour", "show", victim)
    assert told["lladdr"] == OTHER


def test_a_card_with_any_address_still_has_its_own_mac(place):
    guard = place.guard(addresses=None)
    place.switch.ensure_guards([guard])
    guest = place.guest(guard.card, MINE, "10.9.0.5/24")
    place.guest("peer", OTHER, "10.9.0.6/24")
    assert guest.hears("10.9.0.6", tries=5)
    guest.network.ip("link", "set", "dev", "eth0", "down")
    guest.network.ip("link", "set", "dev", "eth0", "address", "52:54:00:00:00:99", "up")
    assert not guest.hears("10.9.0.6")


SERVER = """start 10.0.0.100
end 10.0.0.100
interface eth0
lease_file {folder}/leases
pidfile {folder}/pid
"""


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_guarded_guest_asks_for_an_address_and_gives_none(place, tmp_path, is_guarded):
    mine, theirs = place.guard(MINE, "10.0.0.5"), place.guard(OTHER, "10.0.0.6")
    place.switch.ensure_guards([mine, theirs] if is_guarded else [mine])
    client = place.guest(mine.card, MINE)
    server = place.guest(theirs.card if is_guarded else "server", OTHER, "10.0.0.6/24")
    (tmp_path / "leases").touch()
    (tmp_path / "udhcpd.conf").write_text(SERVER.format(folder=tmp_path))
    server.network.run("busybox", "udhcpd", "-S", str(tmp_path / "udhcpd.conf"))
    try:
        ask = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", "/bin/true")
        told = ""
        try:
            told = client.network.run(*ask, "-t", "3", "-T", "1")
        except RuntimeError as error:
            told = str(error)
        assert ("no lease" in told) == is_guarded
    finally:
        server.network.run("kill", (tmp_path / "pid").read_text().strip())
