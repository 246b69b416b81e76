"""Bridges on a kernel that makes tagged uplinks itself: all of the adapter, but in a guest."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.errors import AdapterError, Conflict, InUse
from adapters.lan import Guard, Link
from adapters.nodes.bridges import Bridges
from adapters.nodes.commands import Commands
from adapters.nodes.interfaces import interfaces, own_device
from adapters.programs import ProgramFailed
from deployments.lab.vlan_guest import VlanGuest
from tests.labs import started

pytestmark = pytest.mark.lab

# `up0` leads to `far` in another network, which has 10.0.<tag>.1 in each VLAN.
WIRING = """set -e
ip netns add wire
ip link add up0 type veth peer name far netns wire
ip link set up0 up
ip -n wire link set far up
for tag in 101 102; do
    ip -n wire link add link far name far.$tag type vlan id $tag
    ip -n wire address add 10.0.$tag.1/24 dev far.$tag
    ip -n wire link set far.$tag up
done
"""


class InGuest(Commands):
    """Commands for the guest's network."""

    def __init__(self, guest: VlanGuest) -> None:
        super().__init__()
        self.guest = guest

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        script = f"printf %s {shlex.quote(stdin)} | {shlex.join([program, *arguments])}"
        code, said, errors = self.guest.shell(script)
        if code:
            raise ProgramFailed(program, code, errors)
        return said

    def attempt(self, program: str, *arguments: str, stdin: str = "") -> str:
        try:
            self.run("unshare", "-n", program, *arguments, stdin=stdin)
        except AdapterError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlanGuest]:
    with started(VlanGuest(tmp_path_factory.mktemp("vlan"))) as running:
        yield running


@pytest.fixture
def commands(guest: VlanGuest) -> Iterator[InGuest]:
    told = InGuest(guest)
    told.run("sh", "-c", WIRING)
    yield told
    for each in interfaces(told).values():
        if each.kind in {"bridge", "vlan", "veth"}:
            guest.shell(f"ip link delete dev {each.name}")
    guest.shell("for each in $(ip netns list | cut -d' ' -f1); do ip netns delete $each; done")


@pytest.fixture
def bridges(commands: InGuest, tmp_path: Path) -> Bridges:
    (tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    return Bridges(root=tmp_path, commands=commands)


def link_of(tag: int) -> Link:
    return Link(network=uuid4(), installation=uuid4(), uplink="up0", tag=tag)


def plug(commands: InGuest, link: Link, card: str, last: int) -> None:
    """A namespace of the card's name, with 10.0.<tag>.<last>."""
    commands.run(
        *("sh", "-c"),
        f"set -e; ip netns add {card}; ip link add {card} type veth peer name eth0 netns {card}\n"
        f"ip link set {card} master {link.name} up; ip -n {card} link set eth0"
        f" address 52:54:00:00:00:{last:02x} up\n"
        f"ip -n {card} address add 10.0.{link.tag}.{last}/24 dev eth0",
    )


def hears(commands: InGuest, card: str, address: str, tries: int = 1) -> bool:
    ping = f"ip netns exec {card} ping -c 1 -W 1 {address}"
    return any(commands.guest.shell(ping)[0] == 0 for _ in range(tries))


def test_a_kernel_with_8021q_can_do_everything(bridges):
    able = bridges.abilities()
    assert (able.without, able.untagged_only, able.unguarded, able.unlasting) == ("", "", "", "")


def test_a_tagged_uplink_is_made_and_goes_with_its_bridge(bridges, commands):
    before = interfaces(commands).keys()
    link = link_of(101)
    bridges.ensure_link(link)
    bridges.ensure_link(link)
    assert bridges.has_link(link)
    device = interfaces(commands)[own_device(link)]
    assert (device.kind, device.tag, device.parent) == ("vlan", 101, "up0")
    assert (device.master, device.is_up) == (link.name, True)
    assert bridges.links(link.installation) == [link]
    bridges.delete_link(link)
    assert not bridges.has_link(link)
    assert interfaces(commands).keys() == before


def test_guests_are_in_the_vlan_of_the_tag(bridges, commands):
    blue, red = link_of(101), link_of(102)
    for link, card in ((blue, "blue"), (red, "red")):
        bridges.ensure_link(link)
        plug(commands, link, card, 5)
    assert hears(commands, "blue", "10.0.101.1", tries=5)
    assert hears(commands, "red", "10.0.102.1", tries=5)
    commands.run("ip", "-n", "blue", "address", "add", "10.0.102.6/24", "dev", "eth0")
    assert not hears(commands, "blue", "10.0.102.1")
    with pytest.raises(InUse) as refusal:
        bridges.delete_link(blue)
    assert refusal.value.users == ("blue",)


def test_a_card_is_guarded_there_too(bridges, commands):
    link = link_of(101)
    bridges.ensure_link(link)
    guard = Guard(
        nic=uuid4(),
        mac="52:54:00:00:00:05",
        addresses=("10.0.101.5",),
        installation=link.installation,
    )
    bridges.ensure_guards([guard])
    assert bridges.has_guards([guard])
    plug(commands, link, guard.card, 5)
    assert hears(commands, guard.card, "10.0.101.1", tries=5)
    commands.run("ip", "-n", guard.card, "address", "add", "10.0.101.9/24", "dev", "eth0")
    commands.run("ip", "-n", guard.card, "address", "delete", "10.0.101.5/24", "dev", "eth0")
    assert not hears(commands, guard.card, "10.0.101.1")
    bridges.delete_guards([guard])
    assert bridges.guards(link.installation) == []


def test_what_is_written_down_brings_the_link_back(bridges, commands, tmp_path):
    link = link_of(101)
    bridges.ensure_link(link)
    for name in (own_device(link), link.name):
        commands.run("ip", "link", "delete", "dev", name)
    assert not bridges.has_link(link)
    (written,) = (tmp_path / "etc" / "cloudloom" / "links").iterdir()
    commands.run("sh", "-e", "-c", written.read_text())
    assert bridges.has_link(link)


def test_the_operators_tagged_interface_is_used_whatever_it_is_called(bridges, commands):
    commands.run("ip", "link", "add", "link", "up0", "name", "blue", "type", "vlan", "id", "101")
    commands.run("ip", "link", "set", "dev", "blue", "up")
    before = interfaces(commands).keys()
    link = link_of(101)
    bridges.ensure_link(link)
    assert interfaces(commands)["blue"].master == link.name
    with pytest.raises(Conflict):
        bridges.ensure_link(link_of(101))
    bridges.delete_link(link)
    assert interfaces(commands).keys() == before


def test_a_half_made_uplink_is_made_whole(bridges, commands):
    link = link_of(101)
    device = own_device(link)
    commands.run("ip", "link", "add", "link", "up0", "name", device, "type", "vlan", "id", "101")
    assert not bridges.has_link(link)
    bridges.ensure_link(link)
    assert bridges.has_link(link)
    bridges.delete_link(link)
    assert device not in interfaces(commands)
