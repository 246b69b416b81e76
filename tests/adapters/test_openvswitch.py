"""VLANs of a real Open vSwitch: packets, what lasts, and what its uplink does not carry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.errors import Conflict, Transient, Unsupported
from adapters.lan import Guard, Link, LinkKind
from adapters.nodes.boot_unit import UNIT
from adapters.nodes.openvswitch import OpenVswitch
from deployments.lab.ovs import Ovs
from deployments.lab.process import wait_for
from deployments.lab.wired_host import UPLINK, Guest, WiredHost

pytestmark = pytest.mark.lab


@pytest.fixture
def ovs(wired_host: WiredHost, tmp_path: Path) -> Iterator[Ovs]:
    server = Ovs(tmp_path / "ovs", wired_host.namespace)
    try:
        server.start()
        server.add_bridge("br0")
        server.vsctl("add-port", "br0", UPLINK)
        yield server
    finally:
        server.stop()


@pytest.fixture
def etc(wired_host: WiredHost, tmp_path: Path) -> Path:
    """The host's, which has systemd."""
    place = tmp_path / "etc" / "netns" / wired_host.namespace
    (place / "systemd" / "system").mkdir(parents=True)
    return place


@pytest.fixture
def switch(wired_host: WiredHost, ovs: Ovs, etc: Path, tmp_path: Path) -> OpenVswitch:
    assert etc.is_dir()
    return OpenVswitch(wired_host.namespace, ovs.database, tmp_path)


def link_of(tag: int | None, **more: Any) -> Link:
    said = {"uplink": UPLINK, "switch": "br0", "kind": LinkKind.OVS, "tag": tag} | more
    return Link(network=uuid4(), installation=uuid4(), **said)


def test_guests_hear_their_own_vlan_only(wired_host, ovs, switch):
    blue, red = link_of(101), link_of(102)
    for link in (blue, red):
        switch.ensure_link(link)
    guests = []
    for last, link in ((5, blue), (6, blue), (7, red)):
        card = f"card{last}"
        mac, address = f"52:54:00:00:00:{last:02x}", f"10.0.0.{last}/24"
        guests.append(wired_host.guest("", card, mac, address))
        ovs.vsctl("add-port", "br0", card, f"tag={link.tag}")
    near, far, other = guests
    assert near.hears("10.0.0.6", tries=5)
    assert far.hears("10.0.0.5", tries=5)
    assert not near.hears("10.0.0.7")
    assert not other.hears("10.0.0.6")


def test_links_are_there_again_when_the_switch_was_off(ovs, switch):
    link = link_of(101)
    switch.ensure_link(link)
    ovs.stop()
    assert "no Open vSwitch" in switch.abilities().without
    ovs.start()
    assert switch.has_link(link)
    assert switch.links(link.installation) == [link]


def test_two_networks_do_not_share_a_tag(switch):
    first, second = link_of(101), link_of(101)
    switch.ensure_link(first)
    with pytest.raises(Conflict) as refusal:
        switch.ensure_link(second)
    assert refusal.value.code == "link-conflict"
    assert switch.has_link(first)
    assert switch.links(second.installation) == []


@pytest.mark.parametrize("carries", ["trunks=102,103", "tag=102"])
def test_an_uplink_that_does_not_carry_the_tag_is_left_as_it_is(ovs, switch, carries):
    ovs.vsctl("set", "port", UPLINK, carries)
    with pytest.raises(Unsupported, match="does not carry VLAN 101"):
        switch.ensure_link(link_of(101))
    switch.ensure_link(link_of(102))


def test_a_card_that_would_hear_every_vlan_is_refused(switch):
    with pytest.raises(Unsupported, match="would hear every VLAN"):
        switch.ensure_link(link_of(None))


def test_packets_larger_than_the_uplinks_are_refused(switch):
    with pytest.raises(Unsupported, match="1500 bytes, not 9000"):
        switch.ensure_link(link_of(101, mtu=9000))


def test_a_port_of_the_operators_is_no_guests_card(ovs, switch):
    """As a gateway or a relay in the VLAN has it."""
    link = link_of(101)
    switch.ensure_link(link)
    own = ("set", "interface", "svi101", "type=internal")
    ovs.vsctl("add-port", "br0", "svi101", "tag=101", "--", *own)
    switch.delete_link(link)
    assert not switch.has_link(link)


# --- guards ------------------------------------------------------------------------------------

MINE, OTHER = "52:54:00:00:00:05", "52:54:00:00:00:06"


def guard_of(**more: Any) -> Guard:
    said = {"mac": MINE, "addresses": ("10.0.0.5",), "switch": "br0", "tag": 101} | more
    return Guard(nic=uuid4(), installation=more.get("installation", uuid4()), **said)


def plugged(wired_host: WiredHost, ovs: Ovs, card: str, mac: str = MINE) -> Guest:
    """A guest, as libvirt plugs its card in: it changes nothing of a port that is there."""
    guest = wired_host.guest("", card, mac, f"10.0.0.{int(mac[-2:], 16)}/24")
    noted = ("set", "Interface", card, "external-ids:attached-mac=here")
    tag = "tag=101" if card == "peer" else "trunk=4095"
    ovs.vsctl("--", "--may-exist", "add-port", "br0", card, tag, "--", *noted)
    return guest


def unplugged(wired_host: WiredHost, ovs: Ovs, card: str) -> None:
    """As libvirt does it when the guest is off."""
    wired_host.network.ip("link", "delete", "dev", card)
    ovs.vsctl("--if-exists", "del-port", card)


def spoofs(guest: Guest, peer: Guest) -> bool:
    """Whether the guest is heard by an address that is not its own."""
    guest.network.ip("address", "add", "10.0.0.9/24", "dev", "eth0")
    heard = peer.hears("10.0.0.9")
    guest.network.ip("address", "delete", "10.0.0.9/24", "dev", "eth0")
    return heard


def test_a_card_that_is_not_guarded_is_in_no_vlan(wired_host, ovs, switch):
    guard = guard_of()
    peer = plugged(wired_host, ovs, "peer", OTHER)
    guest = plugged(wired_host, ovs, guard.card)
    assert not guest.hears("10.0.0.6")
    switch.ensure_guards([guard])
    assert switch.has_guards([guard])
    assert guest.hears("10.0.0.6", tries=5)
    assert not spoofs(guest, peer)


def test_a_guest_that_was_off_is_guarded_when_it_starts(wired_host, ovs, switch):
    guard = guard_of()
    switch.ensure_guards([guard])
    peer = plugged(wired_host, ovs, "peer", OTHER)
    for _ in range(2):
        guest = plugged(wired_host, ovs, guard.card)
        assert guest.hears("10.0.0.6", tries=5)
        assert not spoofs(guest, peer)
        unplugged(wired_host, ovs, guard.card)
        assert switch.has_guards([guard])
        switch.ensure_guards([guard])


def test_a_guest_that_was_started_by_others_lacks_its_guard(wired_host, ovs, switch):
    guard = guard_of()
    switch.ensure_guards([guard])
    plugged(wired_host, ovs, "peer", OTHER)
    unplugged(wired_host, ovs, plugged(wired_host, ovs, guard.card) and guard.card)
    guest = plugged(wired_host, ovs, guard.card)
    assert not guest.hears("10.0.0.6")
    assert not switch.has_guards([guard])
    assert switch.guards(guard.installation) == []


def test_guards_are_there_again_when_the_switch_was_off(wired_host, ovs, switch, etc):
    """It loses its flows; what systemd runs then sets them."""
    guard, other = guard_of(), guard_of(mac="52:54:00:00:00:07", addresses=None)
    switch.ensure_guards([guard, other])
    plugged(wired_host, ovs, "peer", OTHER)
    guest = plugged(wired_host, ovs, guard.card)
    ovs.stop()
    (ovs.run / "br0.mgmt").unlink(missing_ok=True)
    ovs.start()
    wait_for((ovs.run / "br0.mgmt").exists, 60, "the bridge")
    assert not switch.has_guards([guard])
    assert switch.guards(guard.installation) == []
    wanted = etc / "systemd" / "system" / "multi-user.target.wants"
    (unit,) = wanted.iterdir()
    assert "PartOf=ovs-vswitchd.service" in unit.read_text()
    wired_host.network.run("sh", str(etc / "cloudloom" / "networks.sh"))
    assert switch.has_guards([guard, other])
    assert guest.hears("10.0.0.6", tries=5)


def test_what_does_not_stay_written_down_is_no_endless_task(switch, etc):
    wanted = etc / "systemd" / "system" / "multi-user.target.wants"
    wanted.mkdir()
    (wanted / UNIT).symlink_to("/nowhere")
    with pytest.raises(Transient, match="does not stay written down"):
        switch.ensure_guards([guard_of()])


def test_lost_guards_come_back_with_the_next(ovs, switch):
    lost, other = guard_of(), guard_of(mac=OTHER)
    switch.ensure_guards([lost])
    ovs.ofctl("del-flows", "br0", "table=221")
    assert not switch.has_guards([lost])
    switch.ensure_guards([other])
    assert switch.has_guards([lost, other])


def test_flows_of_others_are_left_alone_and_decide_what_passes(wired_host, ovs, switch):
    guard = guard_of()
    ovs.ofctl("add-flow", "br0", "cookie=0x77,priority=70,icmp,actions=drop")
    before = ovs.flows("br0")
    switch.ensure_guards([guard])
    plugged(wired_host, ovs, "peer", OTHER)
    guest = plugged(wired_host, ovs, guard.card)
    assert not guest.hears("10.0.0.6", tries=2)
    ovs.ofctl("del-flows", "br0", "cookie=0x77/-1")
    assert guest.hears("10.0.0.6", tries=5)
    ovs.ofctl("add-flow", "br0", "cookie=0x77,priority=70,icmp,actions=drop")
    switch.delete_guards([guard])
    assert ovs.flows("br0") == before


def test_nothing_of_guards_is_left_when_they_are_gone(ovs, switch, etc):
    guards = [guard_of(), guard_of(mac=OTHER)]
    switch.ensure_guards(guards)
    switch.delete_guards(guards)
    assert switch.guards(guards[0].installation) == []
    assert "ct" not in ovs.vsctl("list-ports", "br0")
    assert not list((etc / "cloudloom" / "links").iterdir())


def test_ports_have_numbers_that_nobody_else_has(ovs, switch, wired_host):
    guard = guard_of().model_copy(update={"nic": UUID(int=7 << 100)})
    wired_host.guest("", "theirs", OTHER)
    number = ("set", "Interface", "theirs", "ofport_request=16384")
    ovs.vsctl("add-port", "br0", "theirs", "--", *number)
    switch.ensure_guards([guard])
    plugged(wired_host, ovs, guard.card)
    assert ovs.vsctl("get", "Interface", guard.card, "ofport").strip() == "16385"


def test_a_database_elsewhere_has_no_flows_to_change(wired_host):
    far = OpenVswitch(wired_host.namespace, "tcp:127.0.0.1:1")
    with pytest.raises(Unsupported) as refusal:
        far.ensure_guards([guard_of()])
    assert refusal.value.code == "guard-unsupported"
    assert "own socket" in far.abilities().unguarded
