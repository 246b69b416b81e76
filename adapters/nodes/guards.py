"""Guards of cards on a host's bridges: one nftables table for each installation.

A table is replaced whole, in one transaction of the kernel, and its file is the same text: a
link's own file loads it when the host starts, before any guest does. Names of cards are matched,
which need not be there yet.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import Unsupported
from adapters.lan import Guard
from adapters.nodes.commands import Commands, sorted_out
from adapters.nodes.local import locked, speaking_files
from adapters.nodes.written import publish
from adapters.programs import ProgramFailed

_PATIENCE_S = 20.0  # for another lane, or a runner that has been stopped
_TABLE = """\
add table bridge {table}
delete table bridge {table}
table bridge {table} {{
    set cards {{ type ifname; {cards} }}
    set free {{ type ifname; {free} }}
    set macs {{ type ifname . ether_addr; {macs} }}
    set addresses {{ type ifname . ether_addr . ipv4_addr; {addresses} }}
    set addresses6 {{ type ifname . ether_addr . ipv6_addr; {addresses6} }}
    set told6 {{ typeof iifname . @th,64,128; {told6} }}
    chain heard {{
        type filter hook prerouting priority -300; policy accept;
        iifname != @cards accept
        iifname . ether saddr != @macs drop
        iifname @free accept
        ether type arp arp operation request arp saddr ip 0.0.0.0 accept
        ether type arp iifname . arp saddr ether . arp saddr ip @addresses accept
        ether type ip udp sport 67 drop
        ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        ether type ip iifname . ether saddr . ip saddr @addresses accept
        ether type ip6 icmpv6 type nd-router-advert drop
        ether type ip6 udp sport 547 drop
        ether type ip6 icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @told6 drop
        ether type ip6 ip6 saddr :: accept
        ether type ip6 iifname . ether saddr . ip6 saddr @addresses6 accept
        drop
    }}
}}
"""


class Guards:
    """Those of one host."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self._commands = commands
        self._folder = folder

    def cannot(self) -> str:
        """Why there are none; nothing: there are."""
        reason = self._commands.attempt("nft", "--file", "-", stdin=_script(UUID(int=0), []))
        return f"the host has no nftables for bridges: {reason}" if reason else ""

    def file(self, installation: UUID) -> Path:
        """Where the guards of an installation are written down."""
        return self._folder / f"guards-{installation}.nft"

    def ensure(self, guards: Collection[Guard]) -> None:
        """Set these, in place of others of the same NICs."""
        if reason := self.cannot():
            raise Unsupported(reason, code="guard-unsupported")
        self._change(guards, lambda known, guard: known.update({guard.nic: guard}))

    def has(self, guards: Collection[Guard]) -> bool:
        """Whether all of these are set, and written down."""
        for installation in {guard.installation for guard in guards}:
            known = self.all(installation)
            mine = [guard for guard in guards if guard.installation == installation]
            if not all(guard in known for guard in mine):
                return False
            if self._written(installation) != _script(installation, known):
                return False
        return True

    def delete(self, guards: Collection[Guard]) -> None:
        """Forget those of these NICs."""
        self._change(guards, lambda known, guard: known.pop(guard.nic, None))

    def all(self, installation: UUID) -> list[Guard]:
        """Those of an installation, as the kernel has them."""
        try:
            said = self._commands.run(
                "nft", "--json", "list", "table", "bridge", _name(installation)
            )
        except ProgramFailed as error:
            if "No such file" in error.stderr:
                return []
            raise sorted_out(error) from error
        return _read(json.loads(said)["nftables"], installation)

    def _change(
        self, guards: Collection[Guard], change: Callable[[dict[UUID, Guard], Guard], object]
    ) -> None:
        for installation in sorted({guard.installation for guard in guards}):
            with self._alone(installation):
                known = {guard.nic: guard for guard in self.all(installation)}
                for guard in guards:
                    if guard.installation == installation:
                        change(known, guard)
                self._replace(installation, list(known.values()))

    def _replace(self, installation: UUID, guards: list[Guard]) -> None:
        name, path = _name(installation), self.file(installation)
        text = _script(installation, guards)
        if guards:
            publish(path, text)
        else:
            text = f"add table bridge {name}\ndelete table bridge {name}\n"
            with speaking_files(path):
                path.unlink(missing_ok=True)
        try:
            self._commands.run("nft", "--file", "-", stdin=text)
        except ProgramFailed as error:
            raise sorted_out(error) from error

    def _written(self, installation: UUID) -> str:
        path = self.file(installation)
        with speaking_files(path):
            return path.read_text() if path.is_file() else ""

    @contextmanager
    def _alone(self, installation: UUID) -> Iterator[None]:
        """What is read stays true until it has been replaced."""
        path = self._folder / f"guards-{installation}.lock"
        with speaking_files(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("w") as lock:
                locked(lock, time.monotonic() + _PATIENCE_S)
                yield


def _name(installation: UUID) -> str:
    return f"cloudloom_{installation.hex}"


def _script(installation: UUID, guards: Collection[Guard]) -> str:
    """The table, as a host reads it."""
    told = sorted(guards, key=lambda guard: guard.card)
    return _TABLE.format(
        table=_name(installation),
        cards=_elements(f'"{each.card}" comment "{each.nic}"' for each in told),
        free=_elements(f'"{each.card}"' for each in told if each.addresses is None),
        macs=_elements(f'"{each.card}" . {each.mac}' for each in told),
        addresses=_elements(
            f'"{each.card}" . {each.mac} . {address}'
            for each in told
            for address in each.addresses or ()
            if isinstance(address, IPv4Address)
        ),
        addresses6=_elements(f'"{x.card}" . {x.mac} . {own}' for x, own in _addressed6(told)),
        told6=_elements(f'"{x.card}" . {int(own):#x}' for x, own in _addressed6(told)),
    )


def _addressed6(guards: Collection[Guard]) -> Iterator[tuple[Guard, IPv6Address]]:
    return ((x, own) for x in guards if x.addresses is not None for own in x.addresses6)


def _elements(each: Iterator[str]) -> str:
    said = ", ".join(each)
    return f"elements = {{ {said} }}" if said else ""


def _read(said: list[dict[str, Any]], installation: UUID) -> list[Guard]:
    sets = {each["set"]["name"]: each["set"].get("elem", []) for each in said if "set" in each}
    macs = dict(each["concat"] for each in sets["macs"])
    addresses: dict[str, list[IPv4Address | IPv6Address]] = {}
    for each in (*sets["addresses"], *sets.get("addresses6", ())):
        card, _, word = each["concat"]
        address = ip_address(word)
        if isinstance(address, IPv4Address) or not address.is_link_local:
            addresses.setdefault(card, []).append(address)
    return [
        Guard(
            nic=UUID(each["elem"]["comment"]),
            mac=macs[card := each["elem"]["val"]],
            addresses=None if card in sets["free"] else tuple(addresses.get(card, ())),
            installation=installation,
        )
        for each in sets["cards"]
    ]
