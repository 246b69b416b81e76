"""The texts of a network's files in dnsmasq's folders, and what was said by them; pure.

Each network has a file in each of four folders, under its id: `ranges` (its subnet, read at the
start only; the first line is all that we know of it), `hosts` (reservations), `options`, `names`.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from uuid import UUID

from pydantic import ValidationError

from adapters.lan import MTU, Reservation, Subnet
from adapters.networks.held import OtherReservation

_ROUTERS, _DNS, _SUFFIX, _MTU, _ROUTES = 3, 6, 15, 26, 121
_ID = re.compile(r"(?P<words>\S+)\s+# (?P<id>[0-9a-f-]{36})")

FOLDERS = ("ranges", "hosts", "options", "names")


def texts(subnet: Subnet, cards: Iterable[Reservation], kept: Iterable[str]) -> dict[str, str]:
    """The text in each folder; `kept` are the lines of `hosts` that are not ours."""
    every = sorted(cards, key=lambda card: card.address)
    hosts = [*kept, *(f"{_words(card, subnet)} # {card.id}" for card in every)]
    names = [
        f"{card.address} {card.hostname}.{subnet.suffix}"
        for card in every
        if card.hostname and subnet.suffix
    ]
    lines = {
        "ranges": _range(subnet),
        "hosts": hosts,
        "options": _options(subnet),
        "names": names,
    }
    return {folder: "".join(f"{line}\n" for line in lines[folder]) for folder in FOLDERS}


def subnet_of(ranges: str) -> Subnet | None:
    """The network that a text in `ranges` is of; None where it is none that was made so."""
    first, _, _ = ranges.partition("\n")
    with suppress(ValidationError):
        return Subnet.model_validate_json(first.removeprefix("# "))
    return None


def reservations_of(hosts: str, subnet: Subnet) -> tuple[list[Reservation], list[str]]:
    """What a text in `hosts` reserves, and its lines that are not ours."""
    ours, others = [], []
    for line in hosts.splitlines():
        card = _card(line, subnet)
        if card is None:
            others.append(line)
        else:
            ours.append(card)
    return ours, others


def other_reservation(line: str, subnet: UUID) -> OtherReservation | None:
    """What somebody else's line reserves, as far as it is a card and an address."""
    mac, address = "", None
    for word in line.partition(" #")[0].lower().split(","):
        if re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", word.strip()):
            mac = word.strip()
        with suppress(ValueError):
            address = IPv4Address(word.strip())
    if not mac and address is None:
        return None
    return OtherReservation(subnet, mac, address)


def _card(line: str, subnet: Subnet) -> Reservation | None:
    found = _ID.fullmatch(line)
    if found is None:
        return None
    mac, *words = found["words"].split(",")
    is_default = f"set:{_gateway_tag(subnet)}" in words
    address, *name = words[1:] if is_default else words
    fields = {"id": found["id"], "subnet": subnet.id, "mac": mac, "address": address}
    with suppress(ValidationError):
        return Reservation(**fields, hostname="".join(name), is_default=is_default)
    return None


def _words(card: Reservation, subnet: Subnet) -> str:
    """A card, its mark if its guest's packets leave here, its address, and its name."""
    mark = [f"set:{_gateway_tag(subnet)}"] if card.is_default else []
    name = [card.hostname] if card.hostname else []
    return ",".join([card.mac, *mark, str(card.address), *name])


def _range(subnet: Subnet) -> list[str]:
    """Only reserved addresses; a relay from elsewhere asks as if it were within."""
    start, mask = subnet.range.network_address, subnet.range.netmask
    lines = [
        f"# {subnet.model_dump_json()}",
        f"dhcp-range=set:{_tag(subnet)},{start},static,{mask}",
    ]
    if subnet.relay is not None:
        lines.append(f"shared-network={subnet.relay},{start}")
    return lines


def _options(subnet: Subnet) -> list[str]:
    """Options by tag. One without a value is not sent: dnsmasq would say itself."""
    here, by_gateway = f"tag:{_tag(subnet)}", f"tag:{_gateway_tag(subnet)}"
    others = f"{here},tag:!{_gateway_tag(subnet)}"
    routes = [str(each) for route in subnet.routes for each in (route.to, route.by)]
    lines = [",".join([here, str(_DNS), *map(str, subnet.dns)])]
    if subnet.suffix:
        lines.append(f"{here},{_SUFFIX},{subnet.suffix}")
    if subnet.mtu != MTU:
        lines.append(f"{here},{_MTU},{subnet.mtu}")
    if subnet.gateway is None:
        lines.append(f"{here},{_ROUTERS}")
    else:
        lines += [f"{by_gateway},{_ROUTERS},{subnet.gateway}", f"{others},{_ROUTERS}"]
    if routes:  # who is told routes heeds no router beside them
        everywhere = ["0.0.0.0/0", str(subnet.gateway)] if subnet.gateway else []
        lines.append(",".join([by_gateway, str(_ROUTES), *routes, *everywhere]))
        lines.append(",".join([others, str(_ROUTES), *routes]))
    return lines


def _tag(subnet: Subnet) -> str:
    return f"n{subnet.number}"


def _gateway_tag(subnet: Subnet) -> str:
    return f"n{subnet.number}gw"
