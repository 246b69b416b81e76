"""Networks as Linux bridges, one for each: with a tagged uplink, marked by its alias.

A tagged interface of that uplink and VLAN that is there already is the operator's, and used;
else it is made, where the kernel can. A link without a tag takes the uplink itself, unless the
host has an address on it; one without an uplink is for the VMs of this host alone.
"""

from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound, Transient, Unsupported
from adapters.lan import Guard, Link, LinkAbilities, LinkKind, card_of
from adapters.nodes.boot_unit import BootUnit
from adapters.nodes.commands import Commands, sorted_out
from adapters.nodes.guards import Guards
from adapters.nodes.ifupdown import stanza
from adapters.nodes.interfaces import (
    Interface,
    Way,
    added,
    address_of,
    device_of,
    interfaces,
    mark,
    marked,
    own_device,
    recipe,
)
from adapters.nodes.written import Written
from adapters.programs import ProgramFailed

_TRIES = 5  # of lanes that make the same link at once
_BRIDGE = "link add name probe type bridge\n"
_VLAN = f"{_BRIDGE}link add link probe name probe.1 type vlan id 1\n"  # none is on `lo`


class Bridges:
    """One host's bridges: this machine's, or those of a network namespace of it.

    What lasts is below `root`: for a namespace, in the folder that is `/etc` for its programs.
    """

    def __init__(
        self, namespace: str = "", root: Path = Path("/"), commands: Commands | None = None
    ) -> None:
        self._commands = commands or Commands(namespace)
        etc = root / "etc" / "netns" / namespace if namespace else root / "etc"
        self._files = _written(etc)
        self._guards = Guards(self._commands, etc / "cloudloom")

    def abilities(self) -> LinkAbilities:
        without = self._cannot(_BRIDGE, "bridges") or self._guards.cannot()
        there = {} if without else self._interfaces()
        return LinkAbilities(
            kind=LinkKind.BRIDGE,
            without=without,
            untagged_only=self._cannot(_VLAN, "tagged interfaces (8021q)"),
            tags=frozenset(tag for each in there.values() if (tag := _tag_of(each))),
            unlasting=self._files.cannot(),
        )

    def ensure_link(self, link: Link) -> None:
        _require_bridge(link)
        for _ in range(_TRIES):
            try:
                self._make(link)
            except ProgramFailed as error:
                if "exists" not in error.stderr:
                    raise sorted_out(error) from error
            else:
                return
        raise Transient(f"{link.name} is being made by others")

    def has_link(self, link: Link) -> bool:
        _require_bridge(link)
        there = self._interfaces()
        bridge = _own(there, link)
        if bridge is None or not bridge.is_up:
            return False
        if (bridge.alias, bridge.mtu) != (mark(link), link.mtu):
            return False
        try:
            way = _way(there, link)
        except (NotFound, Unsupported, Transient):  # its uplink has changed since
            return False
        if way and not (way.device in there and there[way.device].master == link.name):
            return False
        return self._files.has(link, way, self._guards.file(link.installation))

    def delete_link(self, link: Link) -> None:
        _require_bridge(link)
        there = self._interfaces()
        _own(there, link)
        made, name = own_device(link), link.name
        inside = [each.name for each in there.values() if each.master == name]
        if cards := _cards(there, link):
            raise InUse(f"{name} has cards in it: {', '.join(cards)}", users=cards)
        self._files.delete(link)
        lines = [["link", "set", "dev", each, "nomaster"] for each in inside if each != made]
        lines += [["link", "delete", "dev", each] for each in (made, name) if each in there]
        if not lines:
            return
        try:
            self._ip(lines)
        except ProgramFailed as error:
            raise sorted_out(error) from error

    def cards(self, link: Link) -> list[str]:
        return _cards(self._interfaces(), link)

    def loose(self, link: Link, nics: Collection[UUID]) -> list[UUID]:
        there = self._interfaces()
        return [
            nic
            for nic in nics
            if (card := there.get(card_of(nic))) is not None and card.master != link.name
        ]

    def plug(self, link: Link, nics: Collection[UUID]) -> None:
        cards = map(card_of, self.loose(link, nics))
        try:
            self._ip([["link", "set", "dev", card, "master", link.name] for card in cards])
        except ProgramFailed as error:
            raise sorted_out(error) from error

    def links(self, installation: UUID) -> list[Link]:
        there = [marked(each.alias) for each in self._interfaces().values()]
        every = {link.name: link for link in [*there, *self._files.links()] if link}
        return [link for link in every.values() if link.installation == installation]

    def ensure_guards(self, guards: Collection[Guard]) -> None:
        self._guards.ensure(guards)

    def has_guards(self, guards: Collection[Guard]) -> bool:
        return self._guards.has(guards)

    def delete_guards(self, guards: Collection[Guard]) -> None:
        self._guards.delete(guards)

    def guards(self, installation: UUID) -> list[Guard]:
        return self._guards.all(installation)

    def _make(self, link: Link) -> None:
        there = self._interfaces()
        _own(there, link)
        way = _way(there, link)
        if way and way.is_made and way.device not in there:
            cannot = self._cannot(_VLAN, "tagged interfaces (8021q)")
            if cannot:
                raise Unsupported(cannot, code="link-unsupported")
        self._ip([each for each in recipe(link, way) if added(each) not in there])
        self._files.write(link, way, self._guards.file(link.installation))

    def _interfaces(self) -> dict[str, Interface]:
        try:
            return interfaces(self._commands)
        except ProgramFailed as error:
            raise sorted_out(error) from error

    def _ip(self, lines: list[list[str]]) -> None:
        """Run them in order, up to the first that fails."""
        self._commands.run("ip", "-batch", "-", stdin="\n".join(map(" ".join, lines)) + "\n")

    def _cannot(self, lines: str, what: str) -> str:
        reason = self._commands.attempt("ip", "-batch", "-", stdin=lines)
        return f"the host has no {what}: {reason}" if reason else ""


def _written(etc: Path) -> Written:
    """How the host's distribution has interfaces come back."""
    ifupdown = Written(etc / "network" / "interfaces.d", stanza)
    return BootUnit(etc) if ifupdown.cannot() else ifupdown


def _require_bridge(link: Link) -> None:
    if link.kind is not LinkKind.BRIDGE:
        raise Unsupported(f"bridges are no links of kind {link.kind}", code="link-unsupported")


def _cards(there: dict[str, Interface], link: Link) -> list[str]:
    """What is in its bridge, but what leads out of it."""
    outside = {own_device(link), *(each.name for each in _tagged(there, link))}
    if link.tag is None:
        outside.add(device_of(link))
    inside = {each.name for each in there.values() if each.master == link.name}
    return sorted(inside - outside)


def _own(there: dict[str, Interface], link: Link) -> Interface | None:
    """Its bridge. Raises `Conflict` when somebody else has that name."""
    found = there.get(link.name)
    if found is None:
        return None
    begun = not found.alias and found.address == address_of(link)
    if found.kind != "bridge" or not (begun or found.alias == mark(link)):
        text = f"{link.name} is another's, or another link: {found.alias or found.kind}"
        raise Conflict(text, code="link-conflict")
    return found


def _way(there: dict[str, Interface], link: Link) -> Way | None:
    """Its way out of the host, whether it is there yet or not."""
    if not link.uplink:
        return None
    uplink = there.get(device_of(link))
    if uplink is None:
        raise NotFound(f"the host has no interface {device_of(link)}")
    if link.tag is None:
        device = uplink
        if uplink.has_addresses or uplink.kind == "bridge":
            text = f"{uplink.name} is how the host itself is reached: it cannot be a VM's, too"
            raise Unsupported(text, code="link-unsupported")
    else:
        ready = _tagged(there, link)
        if not ready:
            return _made(uplink, link)
        device = ready[0]
        if device.name == own_device(link):
            return Way(device.name, is_made=True)
    if device.master not in {"", link.name}:
        text = f"{device.name} is in {device.master} already"
        raise Conflict(text, code="link-conflict")
    if device.mtu < link.mtu:
        text = f"{device.name} carries {device.mtu} bytes, not {link.mtu}"
        raise Unsupported(text, code="link-unsupported")
    return Way(device.name, is_made=False)


def _made(uplink: Interface, link: Link) -> Way:
    if uplink.mtu < link.mtu:
        text = f"{uplink.name} carries {uplink.mtu} bytes, not {link.mtu}"
        raise Unsupported(text, code="link-unsupported")
    if not uplink.is_up:
        raise Transient(f"{uplink.name} is down")
    return Way(own_device(link), is_made=True)


def _tag_of(interface: Interface) -> int:
    """The VLAN that an interface is, or is called like; 0 is none."""
    name, _, tag = interface.name.rpartition(".")
    return interface.tag or (int(tag) if name and tag.isdecimal() else 0)


def _tagged(there: dict[str, Interface], link: Link) -> list[Interface]:
    """What carries that VLAN on that uplink: a VLAN's interface, or one that is called like it."""
    uplink = device_of(link)
    return [
        each
        for each in there.values()
        if (link.tag and each.parent == uplink and each.tag == link.tag)
        or each.name == f"{uplink}.{link.tag}"
    ]
