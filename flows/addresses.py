"""NICs get addresses of their networks: the next ones, or those that somebody has picked."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import network_of
from adapters.database.locks import Locked
from adapters.database.records import NetworkRecord
from adapters.database.session import utc_now
from adapters.database.vms import parts
from adapters.errors import Conflict
from adapters.lan import NetworkKind
from flows.policies.addressing import Space, next_places, picked

_ADDRESS = models.AddressRow
_NOBODY: Mapping[UUID, IPv4Address] = {}


def reserve(
    db: Session,
    nics: Sequence[models.NicRow],
    virtual_datacenter: UUID,
    wanted: Mapping[UUID, IPv4Address] = _NOBODY,
) -> None:
    """Reserve an address for each NIC of a virtual datacenter's VMs, whose network has any.

    One in another order than theirs would wait for the other: networks are locked by their ids.
    Raises `OutOfSpace`, `Conflict`, `Refused`.
    """
    _require_apart(db, nics)
    by_network: dict[UUID, list[models.NicRow]] = {}
    for nic in nics:
        by_network.setdefault(nic.network_id, []).append(nic)
    for key, some in sorted(by_network.items()):
        row = db.get_one(models.Network, key, with_for_update=True, populate_existing=True)
        if held := db.get(models.Lock, key):
            raise Locked("network", key, held.operation_id)
        network = network_of(row)
        if network.range is None:
            if any(nic.id in wanted for nic in some):
                text = f"network {network.name} has no addresses of ours"
                raise Conflict(text, code="network-without-addresses")
        elif network.kind is NetworkKind.PUBLIC:
            _assign_bought(db, network, some, virtual_datacenter, wanted)
        else:
            _assign_free(db, network, some, wanted)
    db.flush()


def space_of(network: NetworkRecord) -> Space:
    """What a network has to give. Raises `Conflict` where that is nothing."""
    if network.range is None:
        text = f"network {network.name} has no addresses of ours"
        raise Conflict(text, code="network-without-addresses")
    return Space(range=network.range, excluded=network.never_given)


def taken_places(db: Session, network: UUID) -> set[int]:
    """The places of a network that nobody else may have now; those that have rested are freed."""
    mine = _ADDRESS.network_id == network
    rested = _ADDRESS.quarantined_until <= utc_now()
    for row in db.scalars(select(_ADDRESS).where(mine, rested)):
        db.delete(row)
    db.flush()
    return {*db.scalars(select(_ADDRESS.place).where(mine))}


def enter(db: Session, network: NetworkRecord, place: int, **whose: UUID) -> models.AddressRow:
    """Write an address down, as somebody's."""
    address = str(space_of(network).address(place))
    row = _ADDRESS(id=uuid4(), network_id=network.id, place=place, address=address, **whose)
    db.add(row)
    return row


def _require_apart(db: Session, nics: Sequence[models.NicRow]) -> None:
    """Raise `Conflict` where a VM is in two networks that may give it the same address."""
    table, network = models.NicRow, models.Network
    columns = select(table.vm_id, network.id, network.name, network.range)
    query = columns.join(network, network.id == table.network_id)
    lans: dict[UUID, dict[UUID, tuple[str, IPv4Network]]] = {}
    for some in parts([*{nic.vm_id for nic in nics}]):
        mine = query.where(table.vm_id.in_(some), network.range.is_not(None)).distinct()
        for vm, key, name, said in db.execute(mine):
            lans.setdefault(vm, {})[key] = name, IPv4Network(said)
    pairs = {pair for each in lans.values() for pair in combinations(sorted(each.values()), 2)}
    for (name, one), (other, another) in sorted(pairs):
        if one.overlaps(another):
            text = f"no VM is in networks {name} ({one}) and {other} ({another}), which overlap"
            raise Conflict(text, code="ranges-overlap")


def _assign_free(
    db: Session,
    network: NetworkRecord,
    nics: Sequence[models.NicRow],
    wanted: Mapping[UUID, IPv4Address],
) -> None:
    space, taken = space_of(network), taken_places(db, network.id)
    others: list[models.NicRow] = []
    for nic in nics:
        if nic.id not in wanted:
            others.append(nic)
            continue
        place = picked(space, taken, wanted[nic.id], network.name)
        taken.add(place)
        enter(db, network, place, nic_id=nic.id)
    places = next_places(space, taken, len(others), network.name)
    for nic, place in zip(others, places, strict=True):
        enter(db, network, place, nic_id=nic.id)


def _assign_bought(
    db: Session,
    network: NetworkRecord,
    nics: Sequence[models.NicRow],
    virtual_datacenter: UUID,
    wanted: Mapping[UUID, IPv4Address],
) -> None:
    query = select(_ADDRESS).where(
        _ADDRESS.network_id == network.id,
        _ADDRESS.virtual_datacenter_id == virtual_datacenter,
        _ADDRESS.nic_id.is_(None),
    )
    bought = {row.address: row for row in db.scalars(query.order_by(_ADDRESS.place))}
    for nic in sorted(nics, key=lambda nic: nic.id not in wanted):  # those that are picked first
        address = str(wanted[nic.id]) if nic.id in wanted else next(iter(bought), "")
        if (row := bought.pop(address, None)) is None:
            text = f"no address of {network.name} that was bought is free"
            raise Conflict(text, code="address-not-bought")
        row.nic_id = nic.id
