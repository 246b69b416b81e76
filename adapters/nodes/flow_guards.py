"""Guards of cards in an Open vSwitch: flows for the numbers of their ports.

A card has its port, with its number and tag, before libvirt plugs it in, which changes nothing of
what is there; a port that libvirt adds by itself is in no VLAN. libvirt takes ports away with
their cards, so they are made again before a guest starts. Numbers are taken in the bridge's
`external_ids`, where what is there stays as it is; so two that take the same at once do not both
have it. What passes is left to the flows of the operator, which are not touched.
"""

import json
import shlex
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

from adapters.errors import Transient, Unsupported
from adapters.lan import Guard
from adapters.nodes.boot_unit import BootUnit
from adapters.nodes.ovsdb import Ovsdb

_KEY = "cloudloom-port-"
_NUMBERS = range(0x4000, 0xC000)  # of ports; a bridge itself counts from 1
_TRIES = 10  # of lanes that take the same number, or write the same file, at once
_WHOSE = 0xC10D << 48
_OURS = f"cookie={_WHOSE:#x}/0xffff000000000000"
_TABLE = 221
_ON = "load:1->NXM_NX_REG15[],resubmit(,0)"  # to the operator's flows, as if from nowhere else
_HEARD = (
    "priority=9,{card},{own},arp,arp_op=1,arp_sha={mac},arp_spa=0.0.0.0,actions={ok}",
    "priority=8,{card},{own},udp,tp_src=67,actions=drop",
    "priority=7,{card},{own},udp,nw_src=0.0.0.0,tp_src=68,tp_dst=67,actions={ok}",
    "priority=8,{card},{own},icmp6,icmp_type=134,actions=drop",
    "priority=8,{card},{own},udp6,tp_src=547,actions=drop",
    "priority=7,{card},{own},ipv6,ipv6_src=::,actions={ok}",
    "priority=8,{card},{own},icmp6,icmp_type=136,actions=drop",
)
_HEARD_AT = (
    "priority=7,{card},{own},arp,arp_sha={mac},arp_spa={address},actions={ok}",
    "priority=7,{card},{own},ip,nw_src={address},actions={ok}",
)
_HEARD_AT6 = "priority=7,{card},{own},ipv6,ipv6_src={address},actions={ok}"
_TOLD6 = "priority=9,{card},{own},icmp6,ipv6_src={address},icmp_type=136,icmp_code=0,nd_target="


@dataclass(frozen=True)
class Place:
    """A guard, and the number of its card's port."""

    number: int
    guard: Guard

    @property
    def key(self) -> str:
        """Its name in the bridge's `external_ids`."""
        return f"{_KEY}{self.number}"

    @property
    def cookie(self) -> int:
        """Ours, of this port, and of what is said of it."""
        said = zlib.crc32(self.guard.model_dump_json().encode())
        return _WHOSE | self.number << 32 | said

    def flows(self) -> Iterator[str]:
        """What is heard of it; all else of its port is dropped."""
        card, mac, ours = f"in_port={self.number}", self.guard.mac, f"cookie={self.cookie:#x}"
        yield f"table=0,{ours},priority=65000,{card},reg15=0,actions=resubmit(,{_TABLE})"
        heard = f"table={_TABLE},{ours},"
        words = {"card": card, "mac": mac, "own": f"vlan_tci=0/0x1fff,dl_src={mac}", "ok": _ON}
        if self.guard.addresses is None:
            yield f"{heard}{card},dl_src={mac},actions={_ON}"
            return
        yield from (heard + each.format(**words) for each in _HEARD)
        for address in self.guard.addresses:
            if isinstance(address, IPv4Address):
                yield from (heard + each.format(**words, address=address) for each in _HEARD_AT)
        for address6 in self.guard.addresses6:
            yield heard + _HEARD_AT6.format(**words, address=address6)
            told = heard + _TOLD6.format(**words, address=address6)
            yield from (f"{told}{each},actions={_ON}" for each in self.guard.addresses6)

    def changes(self) -> Iterator[str]:
        """What makes the port's flows these, for `ovs-ofctl`."""
        yield f"delete cookie={_WHOSE | self.number << 32:#x}/0xffffffff00000000"
        yield from (f"add {flow}" for flow in self.flows())


class FlowGuards:
    """Those of one host's bridges."""

    def __init__(self, ovsdb: Ovsdb, start: BootUnit) -> None:
        self._ovsdb = ovsdb
        self._start = start

    def ensure(self, guards: Collection[Guard]) -> None:
        """Set these, in place of others of the same NICs; mend what their bridges have lost."""
        if guards and (reason := self._ovsdb.flows_cannot()):
            raise Unsupported(reason, code="guard-unsupported")
        for bridge in sorted({guard.switch for guard in guards}):
            here = [guard for guard in guards if guard.switch == bridge]
            self._enter(bridge, here)
            places = self._places(bridge)
            there = self._flows(bridge)
            lost = [each for each in places if not _is_whole(each, there)]
            if lines := [line for each in lost for line in each.changes()]:
                self._ovsdb.change_flows(bridge, lines)
            self._plug(bridge, [each for each in places if each.guard in here])
            self._write_down(bridge)

    def has(self, guards: Collection[Guard]) -> bool:
        """Whether all of these are set, and written down."""
        bridges = {guard.switch for guard in guards}
        whole = {x.guard.nic: x.guard for bridge in bridges for x in self._whole(bridge)}
        return all(whole.get(guard.nic) == guard for guard in guards) and all(
            self._is_written(bridge) for bridge in bridges
        )

    def delete(self, guards: Collection[Guard]) -> None:
        """Forget those of these NICs: their ports go first."""
        nics = {guard.nic for guard in guards}
        for bridge in self._bridges() if nics else ():
            gone = [each for each in self._places(bridge) if each.guard.nic in nics]
            if not gone:
                continue
            ports = [("--", "--if-exists", "del-port", each.guard.card) for each in gone]
            self._ovsdb.run(*(word for words in ports for word in words))
            self._ovsdb.change_flows(bridge, [next(each.changes()) for each in gone])
            self._ovsdb.run("remove", "Bridge", bridge, "external_ids", *(x.key for x in gone))
            self._write_down(bridge)

    def all(self, installation: UUID) -> list[Guard]:
        """Those of an installation that are whole."""
        whole = (each.guard for bridge in self._bridges() for each in self._whole(bridge))
        return [guard for guard in whole if guard.installation == installation]

    def _bridges(self) -> list[str]:
        return sorted(row["name"] for row in self._ovsdb.table("Bridge", "name"))

    def _places(self, bridge: str) -> list[Place]:
        rows = self._ovsdb.table("Bridge", "name,external_ids")
        every = [row["external_ids"] for row in rows if row["name"] == bridge]
        return [
            Place(int(key.removeprefix(_KEY)), Guard.model_validate_json(said[key]))
            for said in every
            for key in sorted(said)
            if key.startswith(_KEY)
        ]

    def _enter(self, bridge: str, guards: Collection[Guard]) -> None:
        """Let each of them have a number of its own."""
        for _ in range(_TRIES):
            places = {each.guard.nic: each for each in self._places(bridge)}
            taken = {each.number for each in places.values()} | self._numbers()
            words: list[str] = []
            for guard in guards:
                place, said = places.get(guard.nic), json.dumps(guard.model_dump_json())
                if place is None:
                    number = _free(guard, taken)
                    taken.add(number)
                    said = f"{_KEY}{number}={said}"
                    words += ["--", "add", "Bridge", bridge, "external_ids", said]
                elif place.guard != guard:
                    said = f"external_ids:{place.key}={said}"
                    words += ["--", "set", "Bridge", bridge, said]
            if not words:
                return
            self._ovsdb.run(*words)
        raise Transient(f"ports of {bridge} are being numbered by others")

    def _numbers(self) -> set[int]:
        """The numbers of ports that are there."""
        return {row["ofport"] for row in self._ovsdb.table("Interface", "ofport")} - {None, -1}

    def _plug(self, bridge: str, places: Collection[Place]) -> None:
        """Let each have its port, whether its card is there or not yet."""
        ports = self._ports()
        wrong = [each for each in places if ports.get(each.guard.card) != _wanted(each)]
        words = [word for each in wrong for word in _port(bridge, each)]
        if words:
            self._ovsdb.run(*words)

    def _ports(self) -> dict[str, tuple[Any, ...]]:
        """Each port's tag, its trunks, and the number that it is to have."""
        asked = self._ovsdb.table("Interface", "name,ofport_request")
        requests = {row["name"]: row["ofport_request"] for row in asked}
        rows = self._ovsdb.table("Port", "name,tag,trunks")
        return {x["name"]: (x["tag"], x["trunks"], requests.get(x["name"])) for x in rows}

    def _flows(self, bridge: str) -> dict[int, Counter[int]]:
        """The cookies of our flows, for each port's number."""
        found: dict[int, Counter[int]] = {}
        for line in self._ovsdb.flows(bridge, _OURS).splitlines():
            words = line.strip().partition(",")[0]
            if words.startswith("cookie="):
                cookie = int(words.removeprefix("cookie="), 16)
                found.setdefault(cookie >> 32 & 0xFFFF, Counter())[cookie] += 1
        return found

    def _whole(self, bridge: str) -> list[Place]:
        """Those whose flows are there, and whose port is no other one, if it is there."""
        places = self._places(bridge)
        if not places:
            return []
        there, ports = self._flows(bridge), self._ports()
        return [
            each
            for each in places
            if _is_whole(each, there)
            and ports.get(each.guard.card, _wanted(each)) == _wanted(each)
        ]

    def _write_down(self, bridge: str) -> None:
        """Let them be there again when the host has been off, before its guests are."""
        for _ in range(_TRIES):
            if self._is_written(bridge):
                return
            self._start.keep(_file(bridge), self._script(bridge))  # others write, too
        raise Transient(f"what guards {bridge} does not stay written down")

    def _is_written(self, bridge: str) -> bool:
        if self._start.cannot():
            return True
        return self._start.keeps(_file(bridge), self._script(bridge))

    def _script(self, bridge: str) -> str:
        """What a shell is to do when the host starts; nothing, where there are no guards."""
        places = self._places(bridge)
        if not places:
            return ""
        flows = "\n".join(line for each in places for line in each.changes())
        change = shlex.join(self._ovsdb.changed_flows(bridge))
        ports = [shlex.join(self._ovsdb.told(*_port(bridge, each))) for each in places]
        return "\n".join([f"{change} <<'END'", flows, "END", *ports, ""])


def _file(bridge: str) -> str:
    return f"guards-{bridge}"


def _free(guard: Guard, taken: Collection[int]) -> int:
    """The first number from a place of the NIC's own on that nobody has."""
    count = len(_NUMBERS)
    for step in range(count):
        number = _NUMBERS[(int(guard.nic) + step) % count]
        if number not in taken:
            return number
    raise Transient(f"{guard.switch} has no numbers for ports any more")


def _port(bridge: str, place: Place) -> list[str]:
    """The words that make its port, or make it right."""
    card = place.guard.card
    return [
        *("--", "--may-exist", "add-port", bridge, card),
        *("--", "clear", "Port", card, "trunks"),
        *("--", "set", "Port", card, f"tag={place.guard.tag}"),
        *("--", "set", "Interface", card, f"ofport_request={place.number}"),
    ]


def _wanted(place: Place) -> tuple[Any, ...]:
    return place.guard.tag, None, place.number


def _is_whole(place: Place, there: dict[int, Counter[int]]) -> bool:
    wanted = Counter({place.cookie: sum(1 for _ in place.flows())})
    return there.get(place.number) == wanted
