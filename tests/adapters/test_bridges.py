"""Bridges of hosts that are network namespaces: packets, reboots, and what is the operator's."""

import fcntl
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.errors import Conflict, Transient, Unsupported
from adapters.lan import Guard, Link, LinkKind
from adapters.nodes import guards
from adapters.nodes.bridges import Bridges
from adapters.nodes.ifupdown import stanza
from adapters.nodes.interfaces import Way, address_of
from deployments.lab.wired_host import UPLINK, WiredHost

pytestmark = pytest.mark.lab

MINE, OTHER = "52:54:00:00:00:05", "52:54:00:00:00:06"


class Equipped:
    """A host with bridges of ours."""

    def __init__(self, host: WiredHost, folder: Path) -> None:
        self.host, self.etc = host, folder / "etc" / "netns" / host.namespace
        files = self.etc / "network" / "interfaces.d"
        files.mkdir(parents=True)
        self.bridges = Bridges(host.namespace, folder)
        (folder / "interfaces").write_text(f"source {files}/*\n")
        (folder / "ifstate").mkdir()
        self.folder = folder

    def by_systemd(self) -> None:
        """Let the host have no ifupdown."""
        shutil.rmtree(self.etc / "network")
        (self.etc / "systemd" / "system").mkdir(parents=True)
        self.bridges = Bridges(self.host.namespace, self.folder)

    def reboot(self) -> None:
        wanted = self.etc / "systemd" / "system" / "multi-user.target.wants"
        if wanted.exists():
            (unit,) = wanted.iterdir()
            verify = ["systemd-analyze", "verify", "--man=no", str(unit.resolve())]
            subprocess.run(verify, check=True)
            (command,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
            self.host.reboot(*shlex.split(command))
            return
        (self.folder / "ifstate" / "ifstate").unlink(missing_ok=True)
        state = ("--state-dir", str(self.folder / "ifstate"))
        self.host.reboot("ifup", "-a", "-i", str(self.folder / "interfaces"), *state)


@pytest.fixture
def host(wired_host: WiredHost, tmp_path: Path) -> Equipped:
    return Equipped(wired_host, tmp_path / "first")


@pytest.fixture
def hosts(
    host: Equipped, another_wired_host: WiredHost, tmp_path: Path
) -> tuple[Equipped, Equipped]:
    return host, Equipped(another_wired_host, tmp_path / "second")


def link_of(tag: int | None = 101, **more: Any) -> Link:
    said: dict[str, Any] = {"uplink": UPLINK, "tag": tag} | more
    return Link(network=uuid4(), installation=more.get("installation", uuid4()), **said)


# --- packets -----------------------------------------------------------------------------------


def test_guests_on_two_hosts_hear_their_own_vlan_only(hosts):
    blue, red = link_of(101), link_of(102)
    for host in hosts:
        host.bridges.ensure_link(blue)
        host.bridges.ensure_link(red)
    one, two = (host.host for host in hosts)
    near = one.guest(blue.name, "card1", MINE, "10.0.0.5/24")
    far = two.guest(blue.name, "card1", OTHER, "10.0.0.6/24")
    other = two.guest(red.name, "card2", "52:54:00:00:00:07", "10.0.0.7/24")
    same = one.guest(red.name, "card2", "52:54:00:00:00:08", "10.0.0.8/24")
    assert near.hears("10.0.0.6", tries=5)
    assert same.hears("10.0.0.7", tries=5)
    assert not near.hears("10.0.0.7")
    assert not near.hears("10.0.0.8")
    assert not other.hears("10.0.0.6")
    assert far.hears("10.0.0.5")


def test_a_network_without_an_uplink_is_for_the_guests_of_one_host(hosts):
    link = link_of(None, uplink="")
    for host in hosts:
        host.bridges.ensure_link(link)
        assert host.bridges.has_link(link)
    one, two = (host.host for host in hosts)
    near = one.guest(link.name, "card1", MINE, "10.0.0.5/24")
    one.guest(link.name, "card2", OTHER, "10.0.0.6/24")
    two.guest(link.name, "card1", "52:54:00:00:00:07", "10.0.0.7/24")
    assert near.hears("10.0.0.6", tries=5)
    assert not near.hears("10.0.0.7")


def test_a_host_has_no_address_in_its_guests_networks(host):
    link = link_of()
    host.bridges.ensure_link(link)
    (bridge,) = host.host.network.ask("address", "show", "dev", link.name)
    assert bridge["addr_info"] == []


def test_a_runner_that_was_stopped_holds_nobody_up_for_ever(host, monkeypatch):
    monkeypatch.setattr(guards, "_PATIENCE_S", 0.1)
    guard = Guard(nic=uuid4(), mac=MINE, installation=uuid4())
    place = host.etc / "cloudloom"
    place.mkdir()
    with (place / f"guards-{guard.installation}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Transient):
            host.bridges.ensure_guards([guard])
    host.bridges.ensure_guards([guard])


# --- what lasts --------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["ifupdown", "systemd"])
def test_a_host_that_was_off_has_its_links_and_guards_again(hosts, init):
    if init == "systemd":
        hosts[0].by_systemd()
    link, alone = link_of(101), link_of(None, uplink="")
    for host in hosts:
        host.bridges.ensure_link(link)
    host = hosts[0]
    host.bridges.ensure_link(alone)
    guard = Guard(nic=uuid4(), mac=MINE, addresses=("10.0.0.5",), installation=link.installation)
    host.bridges.ensure_guards([guard])
    host.reboot()
    assert host.bridges.has_link(link)
    assert host.bridges.has_link(alone)
    assert host.bridges.has_guards([guard])
    guest = host.host.guest(link.name, guard.card, MINE, "10.0.0.5/24")
    peer = hosts[1].host.guest(link.name, "peer", OTHER, "10.0.0.6/24")
    assert peer.hears("10.0.0.5", tries=5)
    guest.network.ip("address", "add", "10.0.0.9/24", "dev", "eth0")
    assert not peer.hears("10.0.0.9")


def test_what_was_deleted_does_not_come_back(host):
    link = link_of()
    guard = Guard(nic=uuid4(), mac=MINE, installation=link.installation)
    host.bridges.ensure_link(link)
    host.bridges.ensure_guards([guard])
    host.bridges.delete_guards([guard])
    host.bridges.delete_link(link)
    host.reboot()
    assert not host.bridges.has_link(link)
    assert host.bridges.links(link.installation) == []
    assert host.bridges.guards(link.installation) == []


def test_a_link_that_did_not_come_back_is_ours_to_make_or_take_away(host):
    link, other = link_of(101), link_of(102)
    for each in (link, other):
        host.bridges.ensure_link(each)
    host.host.stop()
    host.host.start()
    assert not host.bridges.has_link(link)
    assert host.bridges.links(link.installation) == [link]
    host.bridges.ensure_link(link)
    assert host.bridges.has_link(link)
    host.bridges.delete_link(other)
    assert host.bridges.links(other.installation) == []


def test_what_a_killed_attempt_left_is_made_whole(host):
    link = link_of()
    host.bridges.ensure_link(link)
    for undone in (
        ("link", "set", "dev", link.name, "alias", ""),
        ("link", "set", "dev", link.name, "down"),
        ("link", "set", "dev", f"{UPLINK}.101", "nomaster"),
    ):
        host.host.network.ip(*undone)
        assert not host.bridges.has_link(link)
        host.bridges.ensure_link(link)
        assert host.bridges.has_link(link)
    host.host.network.ip("link", "set", "dev", link.name, "alias", "")
    host.bridges.delete_link(link)
    assert not host.bridges.has_link(link)


MADE = UUID("11111111-1111-4111-8111-111111111111")


def test_a_stanza_of_a_tagged_uplink_of_ours():
    """As Debian reads it; no kernel without 8021q can run it."""
    link = Link(network=MADE, installation=MADE, tag=101, uplink="eth0", mtu=1400)
    text = stanza(link, Way("cv101-x", is_made=True), Path("/state/guards.nft"))
    assert text == (
        f"# cloudloom:{MADE}:{MADE}:101:1400:eth0\n"
        "# Written by Cloudloom, and removed by it.\n"
        f"auto {link.name}\n"
        f"iface {link.name} inet manual\n"
        "    pre-up ip link show dev eth0 >/dev/null 2>&1 || ifup eth0\n"
        "    pre-up [ ! -e /state/guards.nft ] || nft -f /state/guards.nft\n"
        "    pre-up ip link set dev eth0 up\n"
        f"    pre-up ip link show dev {link.name} >/dev/null 2>&1 || ip link add name {link.name}"
        f" address {address_of(link)} type bridge forward_delay 0 stp_state 0\n"
        f"    pre-up ip link set dev {link.name} alias cloudloom:{MADE}:{MADE}:101:1400:eth0\n"
        f"    pre-up ip link set dev {link.name} mtu 1400 addrgenmode none\n"
        f"    pre-up ip link set dev {link.name} up\n"
        "    pre-up ip link show dev cv101-x >/dev/null 2>&1 || ip link add link eth0 name cv101-x"
        " type vlan id 101\n"
        "    pre-up ip link set dev cv101-x mtu 1400 addrgenmode none\n"
        f"    pre-up ip link set dev cv101-x master {link.name}\n"
        "    pre-up ip link set dev cv101-x up\n"
        "    post-down ip link delete dev cv101-x || true\n"
        f"    post-down ip link delete dev {link.name} || true\n"
    )


# --- what is the operator's, and what a host cannot do -------------------------------------------


def test_a_host_where_nothing_lasts_says_so_and_has_its_links_all_the_same(wired_host, tmp_path):
    bare = Bridges(wired_host.namespace, tmp_path)
    assert "neither ifupdown nor systemd" in bare.abilities().unlasting
    link = link_of()
    assert not bare.has_link(link)
    bare.ensure_link(link)
    assert bare.has_link(link)
    bare.delete_link(link)
    assert not bare.has_link(link)
    assert bare.links(link.installation) == []


def test_a_host_without_8021q_says_so_beforehand(host):
    """Where the kernel has it, this is told by nothing."""
    able = host.bridges.abilities()
    link = link_of(103)
    if not able.untagged_only:
        host.bridges.ensure_link(link)
        host.bridges.delete_link(link)
        return
    assert "8021q" in able.untagged_only
    with pytest.raises(Unsupported, match="8021q"):
        host.bridges.ensure_link(link)
    assert host.bridges.links(link.installation) == []
    assert link.name not in {each["ifname"] for each in host.host.network.ask("link", "show")}


def test_a_tagged_uplink_in_anothers_bridge_is_left_there(host):
    host.host.network.ip("link", "add", "name", "theirs", "type", "bridge")
    host.host.network.ip("link", "set", "dev", f"{UPLINK}.101", "master", "theirs")
    link = link_of()
    with pytest.raises(Conflict) as refusal:
        host.bridges.ensure_link(link)
    assert refusal.value.code == "link-conflict"
    (uplink,) = host.host.network.ask("link", "show", "dev", f"{UPLINK}.101")
    assert uplink["master"] == "theirs"
    assert host.bridges.links(link.installation) == []


def test_two_networks_do_not_share_a_vlan(host):
    first, second = link_of(101), link_of(101)
    host.bridges.ensure_link(first)
    with pytest.raises(Conflict):
        host.bridges.ensure_link(second)
    host.bridges.delete_link(second)
    assert host.bridges.has_link(first)


def test_packets_larger_than_the_uplinks_are_refused(host):
    with pytest.raises(Unsupported, match="1500 bytes, not 9000"):
        host.bridges.ensure_link(link_of(mtu=9000))
    smaller = link_of(mtu=1400)
    host.bridges.ensure_link(smaller)
    (bridge,) = host.host.network.ask("link", "show", "dev", smaller.name)
    assert bridge["mtu"] == 1400


def test_a_host_is_not_cut_off(host):
    host.host.network.ip("address", "add", "192.0.2.1/24", "dev", UPLINK)
    with pytest.raises(Unsupported, match="how the host itself is reached"):
        host.bridges.ensure_link(link_of(None))
    host.host.network.ip("address", "delete", "192.0.2.1/24", "dev", UPLINK)
    link = link_of(None)
    host.bridges.ensure_link(link)
    assert host.bridges.has_link(link)
    host.bridges.delete_link(link)
    (uplink,) = host.host.network.ask("link", "show", "dev", UPLINK)
    assert "master" not in uplink


@pytest.mark.parametrize("name", ["..", "../../etc", "a/b", ".hidden", "a b"])
def test_a_namespace_is_a_name_and_no_path(name):
    with pytest.raises(Unsupported):
        Bridges(name)


def test_bridges_are_no_other_kind_of_link(host):
    for kind in (LinkKind.OVS, LinkKind.PORT_GROUP):
        for call in (host.bridges.ensure_link, host.bridges.has_link, host.bridges.delete_link):
            with pytest.raises(Unsupported):
                call(link_of(kind=kind))
