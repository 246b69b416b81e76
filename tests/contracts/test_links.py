"""The laws of links, run over every switch that claims the port."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import AdapterError, Conflict, InUse, NotFound, Refused, Unsupported
from adapters.hypervisors.vsphere_spec import card
from adapters.lan import Guard, Link, LinkKind, card_of
from adapters.nodes.base import Switch
from adapters.nodes.bridges import Bridges
from adapters.nodes.interfaces import mark
from adapters.nodes.memory_links import MemorySwitch
from adapters.nodes.openvswitch import OpenVswitch
from adapters.nodes.vsphere_links import VsphereSwitch
from adapters.types import Chap, Nic
from adapters.vsphere.distributed import DistributedGroups
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session
from adapters.world import World
from deployments.lab.ovs import Ovs
from deployments.lab.vcsim import Vcsim
from deployments.lab.wired_host import UPLINK, WiredHost
from tests.labs import started


class Counterpart(Protocol):
    """A host's layer 2."""

    switch: Switch
    kind: LinkKind
    uplink: str
    name: str  # of the OVS bridge, or the vSwitch
    tags: list[int]  # that the host can carry

    def other(self) -> Switch:
        """The same host, as another process has it."""

    def foreign(self, link: Link) -> None:
        """Let somebody else have the link's name."""

    def plug(self, link: Link) -> str:
        """Put a card into a link."""

    def unplug(self, link: Link, card: str) -> None:
        """Take it out."""

    def loosen(self, link: Link, nic: UUID) -> None:
        """Let a NIC's card be on the host, in no link."""

    def photograph(self) -> Any:
        """All that the host has in layer 2."""


class Memory:
    kind = LinkKind.BRIDGE
    uplink = "eth0"
    name = ""
    tags = [101, 102]  # noqa: RUF012 - a test's

    def __init__(self, folder: Path) -> None:
        self.world, self.host = World(folder / "world.sqlite"), uuid4()
        self.switch = MemorySwitch(self.world, self.host)
        self.world.put("uplink", f"{self.host}:missing", {"missing": True})

    def other(self) -> Switch:
        return MemorySwitch(World(self.world.path), self.host)

    def foreign(self, link: Link) -> None:
        other = link.model_copy(update={"installation": uuid4()})
        self.world.put("link", f"{self.host}:{link.name}", other.model_dump(mode="json"))

    def plug(self, link: Link) -> str:
        self.world.put("plugged", f"{self.host}:{link.name}", {"cards": ["card"]})
        return "card"

    def unplug(self, link: Link, card: str) -> None:
        self.world.remove("plugged", f"{self.host}:{link.name}")

    def loosen(self, link: Link, nic: UUID) -> None:
        self.world.put("loose", f"{self.host}:{nic}", {"card": card_of(nic)})

    def photograph(self) -> Any:
        return self.world.everything()


class Bridged:
    """Linux bridges of a host that is a network namespace."""

    kind = LinkKind.BRIDGE
    uplink = UPLINK
    name = ""
    tags = [101, 102]  # noqa: RUF012 - a test's

    def __init__(self, folder: Path, host: WiredHost) -> None:
        self.folder, self.host = folder, host
        (folder / "etc" / "netns" / host.namespace / "network" / "interfaces.d").mkdir(
            parents=True
        )
        self.switch = self.other()

    def other(self) -> Switch:
        return Bridges(self.host.namespace, self.folder)

    def foreign(self, link: Link) -> None:
        self.host.network.ip("link", "add", "name", link.name, "type", "bridge")

    def plug(self, link: Link) -> str:
        self.host.network.ip("link", "add", "card", "type", "veth", "peer", "name", "far-end")
        self.host.network.ip("link", "set", "dev", "card", "master", link.name)
        return "card"

    def unplug(self, link: Link, card: str) -> None:
        self.host.network.ip("link", "delete", "dev", card)

    def loosen(self, link: Link, nic: UUID) -> None:
        card = card_of(nic)
        self.host.network.ip("link", "add", card, "type", "veth", "peer", "name", "far-end")

    def photograph(self) -> Any:
        told = ("ifname", "mtu", "master", "ifalias", "address", "linkinfo", "addr_info")
        words = self.host.network.ask("address", "show")
        links = [
            {name: each.get(name) for name in told} | {"up": "UP" in each["flags"]}
            for each in words
        ]
        for each in links:
            info = (each["linkinfo"] or {}).get("info_data") or {}
            for name in [name for name in info if name.endswith("timer")]:
                del info[name]
        paths = [path for path in (self.folder / "etc").rglob("*") if path.is_file()]
        paths = [path for path in paths if path.suffix != ".lock"]
        return (
            links,
            {path: path.read_text() for path in paths},
            self.host.network.run("nft", "list", "ruleset"),
        )


class Switched:
    """VLANs of an Open vSwitch bridge."""

    kind = LinkKind.OVS
    uplink = UPLINK
    name = "br0"
    tags = [101, 102]  # noqa: RUF012 - a test's

    def __init__(self, host: WiredHost, ovs: Ovs) -> None:
        self.host, self.ovs = host, ovs
        self.switch = self.other()
        self.cards = 0

    def other(self) -> Switch:
        return OpenVswitch(self.host.namespace, self.ovs.database)

    def foreign(self, link: Link) -> None:
        other = link.model_copy(update={"installation": uuid4()})
        said = f'cloudloom-{link.name}="{mark(other)}"'
        self.ovs.vsctl("add", "Bridge", self.name, "external_ids", said)

    def plug(self, link: Link) -> str:
        self.cards += 1
        card = f"card{self.cards}"
        self.host.network.ip(
            "link", "add", card, "type", "veth", "peer", "name", f"far{self.cards}"
        )
        by_libvirt = ("set", "interface", card, "external_ids:attached-mac=52\\:54\\:00")
        self.ovs.vsctl("add-port", self.name, card, f"tag={link.tag}", "--", *by_libvirt)
        return card

    def unplug(self, link: Link, card: str) -> None:
        self.ovs.vsctl("del-port", self.name, card)
        self.host.network.ip("link", "delete", "dev", card)

    def photograph(self) -> Any:
        columns = "--columns=name,external_ids,ports"
        ports = "--columns=name,tag,trunks,external_ids"
        return [
            self.ovs.vsctl(columns, "list", "Bridge"),
            self.ovs.vsctl(ports, "list", "Port"),
            self.ovs.flows(self.name),
        ]


class Grouped:
    """Port groups of a simulated ESXi."""

    kind = LinkKind.PORT_GROUP
    uplink = ""
    name = "vSwitch0"
    tags = [101, 102]  # noqa: RUF012 - a test's

    def __init__(self, vcsim: Vcsim) -> None:
        login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
        self.session = Session(vcsim.address, lambda: login)
        self.switch = self.other()
        self.groups: PortGroups | DistributedGroups = PortGroups(self.session)

    def other(self) -> Switch:
        return VsphereSwitch(self.session, self.kind)

    def foreign(self, link: Link) -> None:
        with self.session.speaking():
            self.groups.ensure(link.name, self.name, 103)

    def plug(self, link: Link) -> str:
        with self.session.speaking():
            config = vim.vm.ConfigSpec(
                name=f"vm-{uuid4()}",
                numCPUs=1,
                memoryMB=32,
                guestId="otherGuest64",
                files=vim.vm.FileInfo(vmPathName="[LocalDS_0]"),
                deviceChange=[self.card(link)],
            )
            self.vm = self.session.create(config)
        return config.name

    def card(self, link: Link) -> Any:
        nic = Nic(id=uuid4(), mac="52:54:00:00:00:01")
        there = {each.name: each for each in self.session.datacenter.networkFolder.childEntity}
        return card(0, nic, there[link.name], link.name)

    def unplug(self, link: Link, card: str) -> None:
        with self.session.speaking():
            self.session.wait(self.vm.Destroy_Task())

    def photograph(self) -> Any:
        with self.session.speaking():
            return sorted(self.groups.all())


class Distributed(Grouped):
    """Port groups of a simulated vCenter's distributed switch."""

    kind = LinkKind.DISTRIBUTED
    name = "DVS0"

    def __init__(self, vcsim: Vcsim) -> None:
        super().__init__(vcsim)
        self.groups = DistributedGroups(self.session)

    def card(self, link: Link) -> Any:
        nic = Nic(id=uuid4(), mac="52:54:00:00:00:01")
        port = DistributedGroups(self.session).port(link.name)
        return card(0, nic, None, link.name, port)


@pytest.fixture
def switched(wired_host: WiredHost, tmp_path: Path) -> Iterator[Switched]:
    with started(Ovs(tmp_path / "ovs", wired_host.namespace)) as ovs:
        ovs.add_bridge("br0")
        ovs.vsctl("add-port", "br0", UPLINK)
        yield Switched(wired_host, ovs)


@pytest.fixture
def grouped_vcenter(vcenter: Vcsim) -> Grouped:
    return Grouped(vcenter)


@pytest.fixture
def grouped_esxi(esxi: Vcsim) -> Grouped:
    return Grouped(esxi)


@pytest.fixture
def distributed(vcenter: Vcsim) -> Distributed:
    return Distributed(vcenter)


@pytest.fixture
def bridged(wired_host: WiredHost, tmp_path: Path) -> Bridged:
    return Bridged(tmp_path, wired_host)


REAL = ("bridged", "switched", "grouped_vcenter", "grouped_esxi", "distributed")


@pytest.fixture(params=["memory", *(pytest.param(x, marks=pytest.mark.lab) for x in REAL)])
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    return request.getfixturevalue(request.param)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path)


@pytest.fixture
def switch(counterpart: Counterpart) -> Switch:
    return counterpart.switch


@pytest.fixture
def installation() -> UUID:
    return uuid4()


@pytest.fixture
def link(counterpart: Counterpart, installation: UUID) -> Link:
    return link_of(counterpart, installation)


def link_of(counterpart: Counterpart, installation: UUID, index: int = 0, **more: Any) -> Link:
    said = {"tag": counterpart.tags[index], "uplink": counterpart.uplink} | more
    return Link(
        network=uuid4(),
        kind=counterpart.kind,
        switch=counterpart.name,
        installation=installation,
        **said,
    )


# --- links -------------------------------------------------------------------------------------


def test_a_host_says_what_it_can_do(counterpart, switch):
    before = counterpart.photograph()
    able = switch.abilities()
    assert (able.kind, able.without) == (counterpart.kind, "")
    assert counterpart.photograph() == before


def test_a_link_is_there_once_made_and_gone_once_deleted(counterpart, switch, link):
    before = counterpart.photograph()
    assert not switch.has_link(link)
    switch.ensure_link(link)
    assert switch.has_link(link)
    assert counterpart.other().has_link(link)
    switch.delete_link(link)
    switch.delete_link(link)
    assert not switch.has_link(link)
    assert counterpart.photograph() == before


def test_ensuring_again_changes_nothing(counterpart, switch, link):
    switch.ensure_link(link)
    before = counterpart.photograph()
    switch.ensure_link(link)
    assert counterpart.photograph() == before


def test_anothers_of_that_name_is_left_alone(counterpart, switch, link):
    counterpart.foreign(link)
    before = counterpart.photograph()
    for call in (switch.ensure_link, switch.has_link, switch.delete_link):
        with pytest.raises(Conflict) as refusal:
            call(link)
        assert refusal.value.code == "link-conflict"
    assert counterpart.photograph() == before


def test_a_link_with_a_card_stays_until_that_is_gone(counterpart, switch, link):
    before = counterpart.photograph()
    switch.ensure_link(link)
    assert switch.cards(link) == []
    card = counterpart.plug(link)
    assert switch.cards(link) == [card]
    with pytest.raises(InUse) as refusal:
        switch.delete_link(link)
    assert refusal.value.users == (card,)
    assert switch.has_link(link)
    counterpart.unplug(link, card)
    switch.delete_link(link)
    assert switch.cards(link) == []
    assert counterpart.photograph() == before


def test_a_missing_uplink_is_not_found(counterpart, switch, installation):
    field = "uplink" if counterpart.kind is LinkKind.BRIDGE else "switch"
    before = counterpart.photograph()
    link = link_of(counterpart, installation).model_copy(update={field: "missing"})
    with pytest.raises(NotFound):
        switch.ensure_link(link)
    assert counterpart.photograph() == before


def test_lists_the_links_of_an_installation_only(counterpart, switch, installation):
    mine = link_of(counterpart, installation)
    theirs = link_of(counterpart, uuid4(), index=1)
    switch.ensure_link(mine)
    switch.ensure_link(theirs)
    assert switch.links(installation) == [mine]
    assert switch.links(theirs.installation) == [theirs]
    switch.delete_link(mine)
    assert switch.links(installation) == []
    assert switch.has_link(theirs)


def test_lanes_may_want_the_same_link_at_once(counterpart, switch, link):
    before = counterpart.photograph()
    failures: list[AdapterError] = []

    def lane(each: Switch) -> None:
        try:
            each.ensure_link(link)
        except AdapterError as error:
            failures.append(error)

    lanes = [threading.Thread(target=lane, args=[counterpart.other()]) for _ in range(4)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    assert (failures, switch.has_link(link)) == ([], True)
    switch.delete_link(link)
    assert counterpart.photograph() == before


def test_another_link_of_ours_by_that_name_is_left_alone(counterpart, switch, link):
    other = link.model_copy(update={"mtu": 1400})
    if counterpart.kind in {LinkKind.PORT_GROUP, LinkKind.DISTRIBUTED}:
        other = link.model_copy(update={"tag": counterpart.tags[1]})
    assert other.name == link.name
    switch.ensure_link(link)
    before = counterpart.photograph()
    for call in (switch.ensure_link, switch.has_link, switch.delete_link):
        with pytest.raises(Conflict):
            call(other)
    assert counterpart.photograph() == before


# --- guards ------------------------------------------------------------------------------------


def guard_of(counterpart: Counterpart, installation: UUID, last: int = 5, **more: Any) -> Guard:
    said = {
        "mac": f"52:54:00:00:00:{last:02x}",
        "addresses": (f"10.77.101.{last}", f"fd00::{last}"),
    } | more
    if counterpart.kind is LinkKind.OVS:
        said |= {"switch": counterpart.name, "tag": counterpart.tags[0]}
    return Guard(nic=uuid4(), installation=installation, **said)


GUARDING = pytest.mark.parametrize(
    "counterpart",
    ["memory", *(pytest.param(x, marks=pytest.mark.lab) for x in REAL[:2])],
    indirect=True,
)
UNGUARDED = pytest.mark.parametrize(
    "counterpart", [pytest.param(x, marks=pytest.mark.lab) for x in REAL[2:]], indirect=True
)

JOINING = pytest.mark.parametrize(
    "counterpart", ["memory", pytest.param("bridged", marks=pytest.mark.lab)], indirect=True
)
PORTED = pytest.mark.parametrize(
    "counterpart", [pytest.param(x, marks=pytest.mark.lab) for x in REAL[1:]], indirect=True
)


@UNGUARDED
def test_a_host_that_guards_no_cards_says_so(counterpart, switch, installation):
    guards = [guard_of(counterpart, installation)]
    assert switch.abilities().unguarded
    with pytest.raises(Unsupported) as refusal:
        switch.ensure_guards(guards)
    assert refusal.value.code == "guard-unsupported"
    assert not switch.has_guards(guards)
    switch.delete_guards(guards)
    assert switch.guards(installation) == []


@JOINING
def test_a_card_that_fell_out_is_put_back(counterpart, switch, link):
    fallen, absent = uuid4(), uuid4()
    switch.ensure_link(link)
    assert switch.loose(link, [fallen, absent]) == []
    counterpart.loosen(link, fallen)
    assert switch.loose(link, [fallen, absent]) == [fallen]
    assert counterpart.other().loose(link, [absent]) == []
    switch.plug(link, [fallen, absent])
    assert switch.loose(link, [fallen, absent]) == []
    switch.plug(link, [fallen, absent])


@JOINING
def test_no_card_is_put_into_a_link_that_is_not_there(counterpart, switch, link):
    nic = uuid4()
    counterpart.loosen(link, nic)
    with pytest.raises(AdapterError):
        switch.plug(link, [nic])
    assert switch.loose(link, [nic]) == [nic]


@PORTED
def test_where_cards_are_ports_none_is_loose(counterpart, switch, link):
    switch.ensure_link(link)
    nic = uuid4()
    assert switch.loose(link, [nic]) == []
    switch.plug(link, [nic])
    switch.delete_link(link)


@GUARDING
def test_guards_are_there_once_set_and_gone_once_forgotten(counterpart, switch, installation):
    before = counterpart.photograph()
    guards = [
        guard_of(counterpart, installation, 5),
        guard_of(counterpart, installation, 6, addresses=None),
    ]
    assert not switch.has_guards(guards)
    switch.ensure_guards(guards)
    switch.ensure_guards(guards)
    assert switch.has_guards(guards)
    assert counterpart.other().has_guards(guards)
    assert not switch.has_guards([*guards, guard_of(counterpart, installation, 7)])
    switch.delete_guards(guards)
    switch.delete_guards(guards)
    assert not switch.has_guards(guards[:1])
    assert counterpart.photograph() == before


@GUARDING
def test_a_new_guard_takes_the_place_of_a_nics_former(counterpart, switch, installation):
    former = guard_of(counterpart, installation)
    other = guard_of(counterpart, installation, 9)
    switch.ensure_guards([former, other])
    later = former.model_copy(update={"mac": "52:54:00:00:00:99", "addresses": ()})
    switch.ensure_guards([later])
    assert not switch.has_guards([former])
    assert switch.has_guards([later, other])


@GUARDING
def test_lists_the_guards_of_an_installation_only(counterpart, switch, installation):
    def by_nic(guard: Guard) -> str:
        return str(guard.nic)

    mine = [
        guard_of(counterpart, installation, 5),
        guard_of(counterpart, installation, 6, addresses=None),
        guard_of(counterpart, installation, 7, addresses=()),
        guard_of(counterpart, installation, 8, addresses=("10.77.101.8", "10.77.101.9")),
    ]
    theirs = guard_of(counterpart, uuid4(), 5)
    switch.ensure_guards(mine)
    switch.ensure_guards([theirs])
    assert sorted(switch.guards(installation), key=by_nic) == sorted(mine, key=by_nic)
    switch.delete_guards(mine)
    assert switch.guards(installation) == []
    assert switch.guards(theirs.installation) == [theirs]
    switch.delete_guards([theirs])


@GUARDING
def test_lanes_may_guard_cards_at_once(counterpart, installation):
    """All of them are set, also where their NICs would have the same number."""
    before = counterpart.photograph()
    guards = [
        guard_of(counterpart, installation, last).model_copy(update={"nic": UUID(int=last << 100)})
        for last in range(4)
    ]
    lanes = [
        threading.Thread(target=counterpart.other().ensure_guards, args=[[each]])
        for each in guards
    ]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    assert counterpart.other().has_guards(guards)
    counterpart.other().delete_guards(guards)
    assert counterpart.photograph() == before


# --- a pretended host's ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cannot", [{"without": "no bridges here"}, {"untagged_only": "no 8021q here"}]
)
def test_what_a_host_cannot_do_is_refused_for_that_reason(memory, installation, cannot):
    memory.world.put("layer2", memory.host, cannot)
    reason = next(iter(cannot.values()))
    assert reason in memory.switch.abilities().model_dump().values()
    with pytest.raises(Refused, match=reason) as refusal:
        memory.switch.ensure_link(link_of(memory, installation))
    assert refusal.value.code == "link-unsupported"


def test_names_are_short_and_nobody_elses():
    links = [
        Link(network=network, tag=tag, uplink="eth0", installation=installation)
        for installation in (uuid4(), uuid4())
        for network in (uuid4(), uuid4())
        for tag in (None, 2, 4094)
    ]
    names = {link.name for link in links}
    assert len(names) == len(links)
    assert max(map(len, names)) == 15
    group = links[0].model_copy(update={"kind": LinkKind.PORT_GROUP})
    assert len(group.name) <= 80
