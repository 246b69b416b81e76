"""Kea's words for subnets and reservations of ours, and back; pure.

Which are ours is in their `user-context`. Whatever else stands in them, and in the rest of the
configuration, stays as it is. Where Kea tells names to a DNS server (RFC 2136, by its daemon
`kea-dhcp-ddns`), it tells those of guests in networks that have a suffix.
"""

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID

from adapters.lan import MTU, Reservation, Route, Subnet
from adapters.networks.held import Held, OtherReservation, OtherSubnet

_CONTEXT = "cloudloom"
_ROUTERS, _DNS, _SUFFIX, _MTU, _ROUTES = 3, 6, 15, 26, 121
_NAMES = {
    _ROUTERS: "routers",
    _DNS: "domain-name-servers",
    _SUFFIX: "domain-name",
    _MTU: "interface-mtu",
}
_TELLS, _TOLD_SUFFIX = "ddns-send-updates", "ddns-qualifying-suffix"
_EVERYWHERE = IPv4Network("0.0.0.0/0")

Json = dict[str, Any]


def held(dhcp4: Json, installation: UUID) -> Held:
    """What a configuration holds."""
    ours: dict[UUID, Subnet] = {}
    cards: dict[UUID, Reservation] = {}
    other_subnets: list[OtherSubnet] = []
    other_cards: list[OtherReservation] = []
    for piece in dhcp4.get("subnet4", []):
        is_ours = _owner(piece) == str(installation)
        subnet = _subnet(piece, names=_tells_names(dhcp4)) if is_ours else None
        if subnet is not None:
            ours[subnet.id] = subnet
        else:
            relays = piece.get("relay", {}).get("ip-addresses", [])
            other_subnets += [  # one a relay; without any, one
                OtherSubnet(IPv4Network(piece["subnet"]), piece["id"], relay)
                for relay in (*map(IPv4Address, relays), *(() if relays else (None,)))
            ]
        for each in piece.get("reservations", []):
            if subnet is not None and _owner(each) == str(installation):
                card = _reservation(each, subnet)
                cards[card.id] = card
            elif "ip-address" in each or "hw-address" in each:
                address = each.get("ip-address")
                other_cards.append(
                    OtherReservation(
                        subnet.id if subnet else None,
                        each.get("hw-address", "").lower(),
                        IPv4Address(address) if address else None,
                    )
                )
    return Held(ours, cards, tuple(other_subnets), tuple(other_cards))


def with_held(dhcp4: Json, held: Held, installation: UUID) -> Json:
    """A configuration that holds this instead, others' as they were."""
    ours: dict[str, Json] = {}
    others: list[Json] = []
    for piece in dhcp4.get("subnet4", []):
        if _owner(piece) == str(installation):
            ours[_id(piece)] = piece
        else:
            others.append(piece)
    cards: dict[UUID, list[Reservation]] = {key: [] for key in held.subnets}
    for card in held.reservations.values():
        cards[card.subnet].append(card)
    names = _tells_names(dhcp4)
    subnets = others + [
        _subnet_piece(ours.get(str(key), {}), subnet, cards[key], names=names)
        for key, subnet in held.subnets.items()
    ]
    return in_order({**dhcp4, "subnet4": subnets})


def in_order(dhcp4: Json) -> Json:
    """A configuration whose subnets and reservations are in order: Kea tells them in any."""
    subnets = [
        {**piece, "reservations": sorted(piece.get("reservations", []), key=_place)}
        for piece in dhcp4.get("subnet4", [])
    ]
    return {**dhcp4, "subnet4": sorted(subnets, key=lambda piece: piece["id"])}


def _place(reservation: Json) -> tuple[str, str]:
    return reservation.get("ip-address", ""), reservation.get("hw-address", "")


def _tells_names(dhcp4: Json) -> bool:
    return bool(dhcp4.get("dhcp-ddns", {}).get("enable-updates"))


# --- subnets -----------------------------------------------------------------------------------


def _subnet(piece: Json, *, names: bool) -> Subnet:
    """A subnet; one whose names would not be told has no suffix yet."""
    options = {each["code"]: each["data"] for each in piece.get("option-data", [])}
    suffix = options.get(_SUFFIX, "")
    if names and piece.get(_TOLD_SUFFIX, "").rstrip(".") != suffix:
        suffix = ""
    relays = piece.get("relay", {}).get("ip-addresses", [])
    context = piece["user-context"][_CONTEXT]
    known = {"id": context["id"], "number": piece["id"], "range": piece["subnet"]}
    known["installation"] = context["installation"]
    gateway = {"gateway": context.get("gateway")}
    more = {
        "dns": tuple(each.strip() for each in options.get(_DNS, "").split(",") if each.strip()),
        "suffix": suffix,
        "routes": _routes_of(options.get(_ROUTES, "")),
        "relay": relays[0] if relays else None,
        "mtu": options.get(_MTU, MTU),
    }
    for said in ({**gateway, **more}, gateway):  # by hand, it may have become what we never say
        with suppress(ValueError):
            return Subnet(**known, **said)
    return Subnet(**known)


def _subnet_piece(found: Json, subnet: Subnet, cards: list[Reservation], *, names: bool) -> Json:
    """A subnet with its reservations; what was found of it keeps what we have no word for."""
    known = {_id(each): each for each in found.get("reservations", []) if _owner(each)}
    kept = [each for each in found.get("reservations", []) if not _owner(each)]
    options = {_DNS: ", ".join(map(str, subnet.dns)), _SUFFIX: subnet.suffix}
    options[_MTU] = str(subnet.mtu) if subnet.mtu != MTU else ""
    options[_ROUTES] = _routes_data(subnet.routes)
    told = {_TELLS: bool(subnet.suffix), _TOLD_SUFFIX: subnet.suffix} if names else {}
    return {
        **found,
        **told,
        "id": subnet.number,
        "subnet": str(subnet.range),
        "relay": {"ip-addresses": [str(subnet.relay)] if subnet.relay else []},
        "option-data": _options(found, {**options, _ROUTERS: ""}),
        "reservations": kept + [_card_piece(known.get(str(c.id), {}), c, subnet) for c in cards],
        "user-context": _with_context(
            found, subnet.id, subnet.installation, gateway=_text(subnet.gateway)
        ),
    }


# --- reservations ------------------------------------------------------------------------------


def _reservation(piece: Json, subnet: Subnet) -> Reservation:
    context = piece["user-context"][_CONTEXT]
    options = {each["code"] for each in piece.get("option-data", [])}
    is_default = _ROUTERS in options if subnet.gateway else context.get("default", True)
    known = {"id": context["id"], "subnet": subnet.id, "is_default": is_default}
    known |= {"mac": piece["hw-address"].lower(), "address": piece["ip-address"]}
    try:
        return Reservation(**known, hostname=piece.get("hostname", ""))
    except ValueError:  # a name that is none of ours
        return Reservation(**known)


def _card_piece(found: Json, card: Reservation, subnet: Subnet) -> Json:
    """A reservation; only a card by which its guest's packets leave hears of the gateway."""
    options = {_ROUTERS: "", _ROUTES: ""}
    if subnet.gateway is not None and card.is_default:
        options[_ROUTERS] = str(subnet.gateway)
        if subnet.routes:  # who is told routes heeds no router beside them
            everywhere = Route(to=_EVERYWHERE, by=subnet.gateway)
            options[_ROUTES] = _routes_data((*subnet.routes, everywhere))
    return {
        **found,
        "hw-address": card.mac,
        "ip-address": str(card.address),
        "hostname": card.hostname,
        "option-data": _options(found, options),
        "user-context": _with_context(
            found, card.id, subnet.installation, default=card.is_default
        ),
    }


# --- what both have ----------------------------------------------------------------------------


def _owner(piece: Json) -> str | None:
    """The installation whose it is, if any's."""
    owner: str | None = piece.get("user-context", {}).get(_CONTEXT, {}).get("installation")
    return owner


def _id(piece: Json) -> str:
    return str(piece["user-context"][_CONTEXT]["id"])


def _with_context(found: Json, key: UUID, installation: UUID, **more: Any) -> Json:
    said = {"id": str(key), "installation": str(installation), **more}
    return {**found.get("user-context", {}), _CONTEXT: said}


def _options(found: Json, ours: dict[int, str]) -> list[Json]:
    """Options with these data, and without those that have none; others as they were."""
    were = {each["code"]: each for each in found.get("option-data", [])}
    kept = [each for code, each in were.items() if code not in ours]
    for code, data in ours.items():
        if were.get(code, {}).get("data", "").upper() == data.upper() != "":
            kept.append(were[code])
        elif data:
            option = {"code": code, "space": "dhcp4", "data": data, "csv-format": code in _NAMES}
            kept.append({**option, "name": _NAMES[code]} if code in _NAMES else option)
    return sorted(kept, key=lambda each: each["code"])


def _routes_data(routes: Iterable[Route]) -> str:
    """RFC 3442: of each destination its length and no more bytes than that, then who leads there.

    In hexadecimal digits, since not every Kea has words for it.
    """
    data = b""
    for route in routes:
        length = route.to.prefixlen
        data += bytes([length]) + route.to.network_address.packed[: -(-length // 8)]
        data += route.by.packed
    return data.hex().upper()


def _routes_of(data: str) -> tuple[Route, ...]:
    routes = []
    with suppress(ValueError):
        left = bytes.fromhex(data.removeprefix("0x"))
        while left:
            size = -(-left[0] // 8)
            to, by = left[1 : 1 + size].ljust(4, b"\0"), left[1 + size : 5 + size]
            routes.append(Route(to=IPv4Network((to, left[0])), by=IPv4Address(by)))
            left = left[5 + size :]
    return tuple(routes)


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
