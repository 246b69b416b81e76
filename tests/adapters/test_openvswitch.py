"""VLANs of a real Open vSwitch: packets, what lasts, and what its uplink does not carry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.errors import Conflict, Unsupported
from adapters.lan import Link, LinkKind
from adapters.nodes.openvswitch import OpenVswitch
from deployments.lab.ovs import Ovs
from deployments.lab.wired_host import UPLINK, WiredHost

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
def switch(wired_host: WiredHost, ovs: Ovs) -> OpenVswitch:
    return OpenVswitch(wired_host.namespace, ovs.database)


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
