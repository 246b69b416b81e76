"""Networks as values, and the addresses of them that nobody has any more."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapters.amounts import Amounts, Charge
from adapters.database import models
from adapters.database.ranges import require_apart
from adapters.database.records import NetworkRecord
from adapters.database.session import Database, utc_now
from adapters.database.vms import parts
from adapters.errors import Conflict, InUse, NotFound

_ADDRESS = models.AddressRow
_COLUMNS = tuple(NetworkRecord.model_fields)


class Networks:
    """Every network there is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def network(self, network: UUID) -> NetworkRecord:
        """A network. Raises `NotFound`."""
        return self.networks([network])[0]

    def networks(self, networks: Sequence[UUID]) -> list[NetworkRecord]:
        """These networks, in this order. Raises `NotFound`."""
        with self._database.read() as db:
            found = {row.id: network_of(row) for row in _having(db, models.Network.id, networks)}
        if missing := [each for each in networks if each not in found]:
            raise NotFound(f"no network {missing[0]}")
        return [found[each] for each in networks]

    def has(self, network: UUID) -> bool:
        """Whether there is such a row."""
        with self._database.read() as db:
            return db.get(models.Network, network) is not None

    def enter(self, network: NetworkRecord) -> None:
        """Write a new network down. Raises `Conflict` when its name, tag or range is taken."""
        with self._database.write() as db:
            if db.get(models.Network, network.id) is None:
                enter_network(db, network)

    def charges(self, network: NetworkRecord) -> list[Charge]:
        """What a virtual datacenter's network is charged: the VLAN that it will have."""
        if not network.takes_tags or network.virtual_datacenter_id is None:
            return []
        with self._database.read() as db:
            return [charge_of(db, "network", network.id, network.virtual_datacenter_id)]

    def forget(self, network: UUID) -> None:
        """Remove a network's row, with its addresses; absent is success.

        Raises `InUse` while a NIC is in it.
        """
        with self._database.write() as db:
            if db.scalars(select(models.NicRow.id).filter_by(network_id=network)).first():
                raise InUse(f"network {network} has NICs")
            db.execute(delete(_ADDRESS).where(_ADDRESS.network_id == network))
            db.execute(delete(models.Network).where(models.Network.id == network))


def charge_of(db: Session, kind: str, what: UUID, virtual_datacenter: UUID) -> Charge:
    """What a `network`, or a public `address`, of a virtual datacenter is charged."""
    if (row := db.get(models.VirtualDatacenter, virtual_datacenter)) is None:
        raise NotFound(f"no virtual datacenter {virtual_datacenter}")
    return Charge(
        kind=kind,
        id=what,
        enterprise_id=row.enterprise_id,
        datacenter_id=row.datacenter_id,
        virtual_datacenter_id=row.id,
        amounts=Amounts(vlans=1) if kind == "network" else Amounts(public_addresses=1),
    )


def network_of(row: Any) -> NetworkRecord:
    """A network's row as a value."""
    return NetworkRecord.model_validate({name: getattr(row, name) for name in _COLUMNS})


def enter_network(db: Session, network: NetworkRecord) -> None:
    """Write a new network down. Raises `Conflict` when its name, tag or range is taken."""
    db.get(models.Datacenter, network.datacenter_id, with_for_update=True)
    require_new(db, network)
    require_apart(db, network)
    values = network.model_dump(mode="json")
    keys = {
        name: getattr(network, name) for name in values if name == "id" or name.endswith("_id")
    }
    number = _number(db, network.id) if network.range else None
    db.add(models.Network(**{**values, **keys, "kind": network.kind, "number": number}))
    db.flush()


def require_new(db: Session, network: NetworkRecord) -> None:
    """Raise `Conflict` when another network has its name, or its tag."""
    table = models.Network
    others = select(table).where(table.id != network.id)
    named = others.where(table.name == network.name)
    named = named.filter_by(
        datacenter_id=network.datacenter_id, virtual_datacenter_id=network.virtual_datacenter_id
    )
    if db.scalars(named).first():
        raise Conflict(f"there is a network called {network.name}", code="name-taken")
    if network.tag is None:
        return
    tagged = others.filter_by(datacenter_id=network.datacenter_id, tag=network.tag)
    if (other := db.scalars(tagged).first()) is not None:
        is_operators = other.virtual_datacenter_id is None
        text = f"VLAN {network.tag} is of {'network ' + other.name if is_operators else 'another'}"
        raise Conflict(text, code="tag-of-external" if is_operators else "tag-taken")


def free_addresses(db: Session, nics: Iterable[UUID]) -> None:
    """NICs have their addresses no more; bought ones stay bought, others rest, or are free."""
    for some in parts([*nics]):
        rows = db.execute(
            select(_ADDRESS, models.Network)
            .join(models.Network, models.Network.id == _ADDRESS.network_id)
            .where(_ADDRESS.nic_id.in_(some))
        ).all()
        for row, network in rows:
            row.nic_id = None
            if row.virtual_datacenter_id is None:
                let_rest(db, row, network)
    db.flush()


def let_rest(db: Session, row: models.AddressRow, network: models.Network) -> None:
    """Let an address that nobody has wait for as long as its network says."""
    if network.quarantine_s:
        row.quarantined_until = db.scalar(select(utc_now(network.quarantine_s)))
    else:
        db.delete(row)


def _number(db: Session, network: UUID) -> int:
    """How servers know a network: a number that no other has, and not soon one that has gone."""
    number = network.int % (2**31 - 1) + 1
    while db.scalars(select(models.Network.id).filter_by(number=number)).first():
        number += 1
    return number


def _having(db: Session, column: Any, keys: Sequence[UUID]) -> list[Any]:
    found: list[Any] = []
    for some in parts(keys):
        found += db.scalars(select(column.class_).where(column.in_(some)))
    return found
