"""The laws of links, run over every switch that claims the port."""

import threading
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

from adapters.errors import AdapterError, Conflict, InUse, NotFound, Refused, Unsupported
from adapters.lan import Guard, Link, LinkKind
from adapters.nodes.base import Switch
from adapters.nodes.memory_links import MemorySwitch
from adapters.world import World


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

    def photograph(self) -> Any:
        return self.world.everything()


@pytest.fixture(params=[Memory])
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Counterpart:
    return request.param(tmp_path)


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
    card = counterpart.plug(link)
    with pytest.raises(InUse) as refusal:
        switch.delete_link(link)
    assert refusal.value.users == (card,)
    assert switch.has_link(link)
    counterpart.unplug(link, card)
    switch.delete_link(link)
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


# --- guards ------------------------------------------------------------------------------------


def guard_of(installation: UUID, last: int = 5, **more: Any) -> Guard:
    said = {"mac": f"52:54:00:00:00:{last:02x}", "addresses": (f"10.77.101.{last}",)} | more
    return Guard(nic=uuid4(), installation=installation, **said)


@pytest.fixture
def guarded(switch: Switch, link: Link) -> Switch:
    if reason := switch.abilities().unguarded:
        with pytest.raises(Unsupported):
            switch.ensure_guards([guard_of(link.installation)])
        assert switch.guards(link.installation) == []
        pytest.skip(reason)
    return switch


def test_guards_are_there_once_set_and_gone_once_forgotten(counterpart, guarded, installation):
    before = counterpart.photograph()
    guards = [guard_of(installation, 5), guard_of(installation, 6, addresses=None)]
    assert not guarded.has_guards(guards)
    guarded.ensure_guards(guards)
    guarded.ensure_guards(guards)
    assert guarded.has_guards(guards)
    assert counterpart.other().has_guards(guards)
    assert not guarded.has_guards([*guards, guard_of(installation, 7)])
    guarded.delete_guards(guards)
    guarded.delete_guards(guards)
    assert not guarded.has_guards(guards[:1])
    assert counterpart.photograph() == before


def test_a_new_guard_takes_the_place_of_a_nics_former(guarded, installation):
    former = guard_of(installation)
    other = guard_of(installation, 9)
    guarded.ensure_guards([former, other])
    later = former.model_copy(update={"mac": "52:54:00:00:00:99", "addresses": ()})
    guarded.ensure_guards([later])
    assert not guarded.has_guards([former])
    assert guarded.has_guards([later, other])


def test_lists_the_guards_of_an_installation_only(guarded, installation):
    def by_nic(guard: Guard) -> str:
        return str(guard.nic)

    mine = [
        guard_of(installation, 5),
        guard_of(installation, 6, addresses=None),
        guard_of(installation, 7, addresses=()),
        guard_of(installation, 8, addresses=("10.77.101.8", "10.77.101.9")),
    ]
    theirs = guard_of(uuid4(), 5)
    guarded.ensure_guards(mine)
    guarded.ensure_guards([theirs])
    assert sorted(guarded.guards(installation), key=by_nic) == sorted(mine, key=by_nic)
    guarded.delete_guards(mine)
    assert guarded.guards(installation) == []
    assert guarded.guards(theirs.installation) == [theirs]
    guarded.delete_guards([theirs])


# --- a pretended host's ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cannot", [{"without": "no bridges here"}, {"untagged_only": "no 8021q here"}]
)
def test_what_a_host_cannot_do_is_refused_for_that_reason(tmp_path, installation, cannot):
    memory = Memory(tmp_path)
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
