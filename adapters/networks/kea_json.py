"""Kea's words for subnets and reservations of ours, and back; pure.

Which are ours is in their `user-context`. Whatever else stands in them, and in the rest of the
configuration, stays as it is.
"""

from collections.abc import Iterable
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
_EVERYWHERE = IPv4Network("0.0.0.0/0")

Json = dict[str, Any]


def held(subnets: Iterable[Json], installation: UUID) -> Held:
    """What the `subnet4` of a configuration holds."""
    ours: dict[UUID, Subnet] = {}
    cards: dict[UUID, Reservation] = {}
    other_subnets: list[OtherSubnet] = []
    other_cards: list[OtherReservation] = []
    for piece in subnets:
        subnet = _subnet(piece) if _owner(piece) == str(installation) else None
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


def with_held(subnets: Iterable[Json], held: Held, installation: UUID) -> list[Json]:
    """The `subnet4` of a configuration that holds this instead, others' as they were."""
    ours: dict[str, Json] = {}
    others: list[Json] = []
    for piece in subnets:
        if _owner(piece) == str(installation):
            ours[_id(piece)] = piece
        else:
            others.append(piece)
    cards: dict[UUID, list[Reservation]] = {key: [] for key in held.subnets}
    for card in held.reservations.values():
        cards[card.subnet].append(card)
    return others + [
        _subnet_piece(ours.get(str(key), {}), subnet, cards[key])
        for key, subnet in held.subnets.items()
    ]


# --- subnets -----------------------------------------------------------------------------------


def _subnet(piece: Json) -> Subnet:
    options = {each["code"]: each["data"] for each in piece.get("option-data", [])}
    relays = piece.get("relay", {}).get("ip-addresses", [])
    context = piece["user-context"][_CONTEXT]
    return Subnet(
        id=context["id"],
        number=piece["id"],
        range=piece["subnet"],
        gateway=context["gateway"],
        dns=tuple(each.strip() for each in options.get(_DNS, "").split(",") if each.strip()),
        suffix=options.get(_SUFFIX, ""),
        routes=_routes_of(options.get(_ROUTES, "")),
        relay=relays[0] if relays else None,
        mtu=options.get(_MTU, MTU),
        installation=context["installation"],
    )


def _subnet_piece(found: Json, subnet: Subnet, cards: list[Reservation]) -> Json:
    """A subnet with its reservations; what was found of it keeps what we have no word for."""
    known = {_id(each): each for each in found.get("reservations", []) if _owner(each)}
    kept = [each for each in found.get("reservations", []) if not _owner(each)]
    options = {_DNS: ", ".join(map(str, subnet.dns)), _SUFFIX: subnet.suffix}
    options[_MTU] = str(subnet.mtu) if subnet.mtu != MTU else ""
    options[_ROUTES] = _routes_data(subnet.routes)
    return {
        **found,
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
    is_default = _ROUTERS in options if subnet.gateway else context["default"]
    return Reservation(
        id=context["id"],
        subnet=subnet.id,
        mac=piece["hw-address"].lower(),
        address=piece["ip-address"],
        hostname=piece.get("hostname", ""),
        is_default=is_default,
    )


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
    left, routes = bytes.fromhex(data.removeprefix("0x")), []
    while left:
        size = -(-left[0] // 8)
        to = left[1 : 1 + size].ljust(4, b"\0"), left[0]
        by = left[1 + size : 5 + size]
        routes.append(Route(to=IPv4Network((to[0], to[1])), by=IPv4Address(by)))
        left = left[5 + size :]
    return tuple(routes)


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
