"""Ranges of a datacenter that exclude each other: of networks, and of DHCP relays.

Whoever writes one down has locked the datacenter's row: what is clear stays so until he has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.records import NetworkRecord
from adapters.errors import Conflict
from adapters.lan import NetworkKind

_NETWORK = models.Network
_COLUMNS = (
    *(_NETWORK.id, _NETWORK.name, _NETWORK.kind, _NETWORK.virtual_datacenter_id),
    *(_NETWORK.tag, _NETWORK.range, _NETWORK.relay, _NETWORK.dhcp_server_id),
)


@dataclass(frozen=True)
class _Lan:
    """A network that has a range."""

    name: str
    range: IPv4Network
    relay: IPv4Address | None
    tag: int | None
    server: UUID | None
    is_untagged: bool
    is_bought: bool

    @property
    def asked_from(self) -> IPv4Address | None:
        """Where its requests come from, if it says so and has no such address itself."""
        return None if self.relay is None or self.relay in self.range else self.relay


def ranges_of_relays(db: Session, datacenter: UUID) -> list[IPv4Network]:
    """Where DHCP relays are, so that no network may be there."""
    relays = _relays(db, datacenter)
    single = [IPv4Network(said) for lan in _lans(db, datacenter) if (said := lan.asked_from)]
    return [*([relays] if relays else []), *single]


def require_clear(db: Session, datacenter: UUID, relays: IPv4Network) -> None:
    """Raise `Conflict` where relays in this range would have what networks have."""
    for lan in _lans(db, datacenter):
        _require_no_relays(lan, relays)


def require_apart(db: Session, network: NetworkRecord) -> None:
    """Raise `Conflict` where relays, or other networks, have what a new one has."""
    if network.range is None:
        return
    lan = _lan(network)
    if relays := _relays(db, network.datacenter_id):
        _require_no_relays(lan, relays)
    for other in _lans(db, network.datacenter_id, network.id):
        for asked, has in ((lan, other), (other, lan)):
            if asked.asked_from is not None and asked.asked_from in has.range:
                text = f"{has.range} has the address {asked.asked_from} of a DHCP relay"
                raise Conflict(text, code="relays-overlap")
        share = lan.server is not None and lan.server == other.server
        if share and lan.relay and lan.relay == other.relay:
            text = f"{lan.relay} is the relay of network {other.name} at the same DHCP server"
            raise Conflict(text, code="relays-overlap")
        if lan.range.overlaps(other.range):
            _require_strangers(lan, other)


def _require_no_relays(lan: _Lan, relays: IPv4Network) -> None:
    """Raise `Conflict` where a network, or what it says of its own relay, is in the way."""
    text = ""
    if lan.range.overlaps(relays):
        text = f"{lan.range} of network {lan.name} overlaps {relays}, where DHCP relays are"
    elif lan.relay and lan.relay in relays:
        own = relays.network_address + lan.tag if lan.tag else None
        if lan.relay != own:
            text = f"{lan.relay}, whence network {lan.name} is asked for, is another VLAN's relay"
    if text:
        raise Conflict(text, code="relays-overlap")


def _require_strangers(lan: _Lan, other: _Lan) -> None:
    """Raise `Conflict` where two that overlap have a server, a wire or buyers in common."""
    if lan.server is not None and lan.server == other.server:
        text = f"the DHCP server has a range already that overlaps {lan.range}"
        raise Conflict(text, code="no-dhcp-server")
    why = ""
    if lan.is_untagged and other.is_untagged:
        why = "which has no VLAN of its own either"
    elif lan.is_bought and other.is_bought:
        why = "whose addresses are bought, too"
    if why:
        text = f"{lan.range} overlaps {other.range} of network {other.name}, {why}"
        raise Conflict(text, code="range-taken")


def _relays(db: Session, datacenter: UUID) -> IPv4Network | None:
    """A datacenter's range of them, as it is now."""
    said = db.scalar(select(models.Datacenter.relays).filter_by(id=datacenter))
    return IPv4Network(said) if said else None


def _lans(db: Session, datacenter: UUID, but: UUID | None = None) -> Iterator[_Lan]:
    query = select(*_COLUMNS).where(
        _NETWORK.datacenter_id == datacenter, _NETWORK.range.is_not(None)
    )
    if but:
        query = query.where(_NETWORK.id != but)
    return (_lan(row) for row in db.execute(query.order_by(_NETWORK.name)))


def _lan(network: Any) -> _Lan:
    """A row, or a record."""
    own = network.virtual_datacenter_id is not None
    return _Lan(
        name=network.name,
        range=IPv4Network(str(network.range)),
        relay=IPv4Address(str(network.relay)) if network.relay else None,
        tag=network.tag,
        server=network.dhcp_server_id,
        is_untagged=network.tag is None and not own,
        is_bought=network.kind == NetworkKind.PUBLIC,
    )
