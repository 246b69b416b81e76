"""Networks on an Open vSwitch bridge of the operator's: VLANs of it, in one database.

A card is a port with the network's tag, which libvirt takes away with it; so a link is the right
to a tag, written into the bridge's `external_ids`, where it lasts. Ports without a tag hear every
VLAN: there are none of ours. Ports that no hypervisor has plugged in are the operator's.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import AdapterError, Conflict, InUse, NotFound, Unsupported
from adapters.lan import MTU, Guard, Link, LinkAbilities, LinkKind
from adapters.nodes.boot_unit import BootUnit
from adapters.nodes.commands import Commands
from adapters.nodes.flow_guards import FlowGuards
from adapters.nodes.interfaces import device_of, mark, marked
from adapters.nodes.ovsdb import Ovsdb

_KEY = "cloudloom-"
_GUESTS = "attached-mac"  # what libvirt says of a port that it has made


class OpenVswitch:
    """One host's switch, by its database; what it is to do at its start is below `root`."""

    def __init__(self, namespace: str = "", database: str = "", root: Path = Path("/")) -> None:
        etc = root / "etc" / "netns" / namespace if namespace else root / "etc"
        self._ovsdb = Ovsdb(Commands(namespace), database)
        self._start = BootUnit(etc)
        self._guards = FlowGuards(self._ovsdb, self._start)

    def abilities(self) -> LinkAbilities:
        try:
            self._ovsdb.table("Bridge", "name")
        except AdapterError as error:
            reason = f"the host has no Open vSwitch: {error}"
        else:
            reason = ""
        return LinkAbilities(
            kind=LinkKind.OVS,
            without=reason,
            unguarded=self._ovsdb.flows_cannot(),
            unlasting=self._start.cannot(),
        )

    def ensure_link(self, link: Link) -> None:
        self._require_way(link)
        if self.has_link(link):
            return
        # What is there already stays as it is: then it is another's, and told so.
        said = f"{_key(link)}={json.dumps(mark(link))}"
        self._ovsdb.run("add", "Bridge", link.switch, "external_ids", said)
        if not self.has_link(link):
            raise Conflict(f"{link.switch} does not keep {link.name}", code="link-conflict")

    def has_link(self, link: Link) -> bool:
        _require_ovs(link)
        return self._own(link)

    def delete_link(self, link: Link) -> None:
        _require_ovs(link)
        if not self._own(link):
            return
        if cards := self.cards(link):
            raise InUse(f"{link.name} has cards in it: {', '.join(cards)}", users=cards)
        self._ovsdb.run("remove", "Bridge", link.switch, "external_ids", _key(link))

    def cards(self, link: Link) -> list[str]:
        if link.switch not in {row["name"] for row in self._ovsdb.table("Bridge", "name")}:
            return []
        inside = set(self._ovsdb.run("list-ports", link.switch).split())
        rows = self._ovsdb.table("Interface", "name,external_ids")
        guests = {row["name"] for row in rows if _GUESTS in row["external_ids"]}
        tagged = {r["name"] for r in self._ovsdb.table("Port", "name,tag") if r["tag"] == link.tag}
        return sorted(inside & tagged & guests)

    def loose(self, link: Link, nics: Collection[UUID]) -> list[UUID]:  # noqa: ARG002 - as the port
        return []

    def plug(self, link: Link, nics: Collection[UUID]) -> None:
        """There are none."""

    def links(self, installation: UUID) -> list[Link]:
        return [
            link
            for row in self._ovsdb.table("Bridge", "name,external_ids")
            for link in _links(row)
            if link.installation == installation
        ]

    def ensure_guards(self, guards: Collection[Guard]) -> None:
        self._guards.ensure(guards)

    def has_guards(self, guards: Collection[Guard]) -> bool:
        return self._guards.has(guards)

    def delete_guards(self, guards: Collection[Guard]) -> None:
        self._guards.delete(guards)

    def guards(self, installation: UUID) -> list[Guard]:
        return self._guards.all(installation)

    def _own(self, link: Link) -> bool:
        """Whether the link is there. Raises `Conflict` where its name or its tag is another's."""
        rows = self._ovsdb.table("Bridge", "name,external_ids")
        row = next((row for row in rows if row["name"] == link.switch), None)
        if row is None:
            return False
        said = row["external_ids"].get(_key(link))
        if said is not None and said != mark(link):
            raise Conflict(f"{link.name} is another link: {said}", code="link-conflict")
        for other in _links(row):
            if other.tag == link.tag and other.name != link.name:
                text = f"VLAN {link.tag} of {link.switch} is the network {other.network}"
                raise Conflict(text, code="link-conflict")
        return said is not None

    def _require_way(self, link: Link) -> None:
        """Raises `NotFound` and `Unsupported` where packets of the link do not leave the host."""
        _require_ovs(link)
        if link.tag is None:
            text = f"a card of {link.switch} without a tag would hear every VLAN"
            raise Unsupported(text, code="link-unsupported")
        if link.switch not in {row["name"] for row in self._ovsdb.table("Bridge", "name")}:
            raise NotFound(f"the host has no Open vSwitch bridge {link.switch}")
        uplink = device_of(link)
        if not uplink:
            return
        if uplink not in self._ovsdb.run("list-ports", link.switch).split():
            raise NotFound(f"{link.switch} has no port {uplink}")
        ports = {row["name"]: row for row in self._ovsdb.table("Port", "name,tag,trunks")}
        cards = {row["name"]: row for row in self._ovsdb.table("Interface", "name,mtu")}
        tag, trunks = ports[uplink]["tag"], ports[uplink]["trunks"]
        carried = {tag, *(trunks if isinstance(trunks, list) else [trunks])} - {None}
        if carried and link.tag not in carried:
            text = f"{uplink} of {link.switch} does not carry VLAN {link.tag}"
            raise Unsupported(text, code="link-unsupported")
        mtu = (cards.get(uplink) or {}).get("mtu") or MTU
        if mtu < link.mtu:
            text = f"{uplink} carries {mtu} bytes, not {link.mtu}"
            raise Unsupported(text, code="link-unsupported")


def _require_ovs(link: Link) -> None:
    if link.kind is not LinkKind.OVS:
        text = f"Open vSwitch has no links of kind {link.kind}"
        raise Unsupported(text, code="link-unsupported")


def _key(link: Link) -> str:
    return f"{_KEY}{link.name}"


def _links(row: dict[str, Any]) -> list[Link]:
    """Those that a bridge's row tells."""
    every = [marked(said) for key, said in row["external_ids"].items() if key.startswith(_KEY)]
    more = {"kind": LinkKind.OVS, "switch": row["name"]}
    return [link.model_copy(update=more) for link in every if link]
