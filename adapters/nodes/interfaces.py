"""A host's interfaces, as `ip` tells them, and how ours are told from others'."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from adapters.lan import Link, LinkKind
from adapters.nodes.commands import Commands

_MARK = re.compile(r"cloudloom:([0-9a-f-]{36}):([0-9a-f-]{36}):(\d+):(\d+):(\S*)")


@dataclass(frozen=True)
class Interface:
    """One of them."""

    name: str
    kind: str  # bridge, vlan, veth, ...; empty: a card
    mtu: int
    is_up: bool
    address: str
    alias: str
    master: str  # the bridge that it is in
    parent: str  # of a VLAN: what it is on
    tag: int
    has_addresses: bool


@dataclass(frozen=True)
class Way:
    """How a bridge's packets leave the host."""

    device: str
    is_made: bool  # by us; else it is the operator's


def interfaces(commands: Commands) -> dict[str, Interface]:
    """All of them, by name."""
    said = json.loads(commands.run("ip", "-json", "-details", "address", "show") or "[]")
    return {each["ifname"]: _interface(each) for each in said if each.get("ifname")}


def _interface(said: dict[str, Any]) -> Interface:
    info = said.get("linkinfo", {})
    return Interface(
        name=said["ifname"],
        kind=info.get("info_kind", ""),
        mtu=said.get("mtu", 0),
        is_up="UP" in said.get("flags", ()),
        address=said.get("address", ""),
        alias=said.get("ifalias", ""),
        master=said.get("master", ""),
        parent=said.get("link") or "",
        tag=(info.get("info_data") or {}).get("id", 0) if info.get("info_kind") == "vlan" else 0,
        has_addresses=any(each.get("scope") == "global" for each in said.get("addr_info", ())),
    )


def mark(link: Link) -> str:
    """What stands in the alias of a bridge of ours, and in its file."""
    tag, said = link.tag or 0, f"{link.installation}:{link.network}"
    return f"cloudloom:{said}:{tag}:{link.mtu}:{link.uplink}"


def marked(text: str) -> Link | None:
    """The link that a text has the mark of."""
    found = _MARK.search(text)
    if found is None:
        return None
    installation, network, tag, mtu, uplink = found.groups()
    return Link(
        network=UUID(network),
        tag=int(tag) or None,
        uplink=uplink,
        mtu=int(mtu),
        kind=LinkKind.BRIDGE,
        installation=UUID(installation),
    )


def address_of(link: Link) -> str:
    """A bridge's MAC: its mark from the moment on that it is there, which an alias is not."""
    whose = hashlib.sha256(b"bridge" + link.installation.bytes + link.network.bytes).hexdigest()
    return ":".join(["02", *(whose[n : n + 2] for n in range(0, 10, 2))])


def device_of(link: Link) -> str:
    """Its uplink's name, without the namespace that it is in."""
    return link.uplink.rpartition("/")[2]


def own_device(link: Link) -> str:
    """What the tagged uplink that we make for a link is called."""
    return f"cv{link.name.removeprefix('cl')}"


def recipe(link: Link, way: Way | None) -> Iterator[list[str]]:
    """What makes a link, as arguments of `ip`; what is there already is not added."""
    name = link.name
    bridge = ["type", "bridge", "forward_delay", "0", "stp_state", "0"]
    plain = ["mtu", str(link.mtu), "addrgenmode", "none"]
    yield ["link", "add", "name", name, "address", address_of(link), *bridge]
    yield ["link", "set", "dev", name, "alias", mark(link)]
    yield ["link", "set", "dev", name, *plain]
    yield ["link", "set", "dev", name, "up"]
    if way is None:
        return
    device = way.device
    if way.is_made:
        vlan = ["type", "vlan", "id", str(link.tag)]
        yield ["link", "add", "link", device_of(link), "name", device, *vlan]
        yield ["link", "set", "dev", device, *plain]
    yield ["link", "set", "dev", device, "master", name]
    yield ["link", "set", "dev", device, "up"]


def added(arguments: list[str]) -> str:
    """The interface that this step of a recipe adds, if it adds one."""
    return arguments[arguments.index("name") + 1] if arguments[1] == "add" else ""
