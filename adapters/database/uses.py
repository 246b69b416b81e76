"""Who uses a part of the infrastructure, and taking away what nobody does.

Only rows go; nothing on a host or a storage device is touched. Whoever asks has locked the
datacenter's row (`held`), as placements do: what is unused stays so until it has gone.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, and_, delete, exists, or_, select
from sqlalchemy import cast as as_type
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.conventions import Base
from adapters.database.events import singular
from adapters.database.ledger import Ledger
from adapters.database.operations import ENDED
from adapters.database.packages import PackageRow
from adapters.database.repositories import RemotePackageRow, TemplateRepositoryRow
from adapters.database.session import Joined
from adapters.errors import InUse, NotFound
from adapters.types import Value

T = TypeVar("T", bound=Base)
TOLD = 20  # users that a refusal names, of each kind
_VM = models.VirtualMachine
_VDC = models.VirtualDatacenter


class User(Value):
    """Something that needs a thing to stay."""

    kind: str
    id: UUID
    name: str


Query = Callable[[UUID], Select[Any]]


def _of(table: Any, column: Any) -> Query:
    return lambda key: select(table.id, table.name).where(column == key)


_USERS: dict[type[Base], dict[str, Query]] = {
    models.Datacenter: {
        "rack": _of(models.Rack, models.Rack.datacenter_id),
        "host": _of(models.Host, models.Host.datacenter_id),
        "storage-device": _of(models.StorageDevice, models.StorageDevice.datacenter_id),
        "virtual-datacenter": _of(
            models.VirtualDatacenter, models.VirtualDatacenter.datacenter_id
        ),
        "template": _of(models.Template, models.Template.datacenter_id),
        "template-repository": _of(TemplateRepositoryRow, TemplateRepositoryRow.datacenter_id),
        "dhcp-server": _of(models.DhcpServer, models.DhcpServer.datacenter_id),
        "network": lambda key: _of(models.Network, models.Network.datacenter_id)(key).where(
            models.Network.virtual_datacenter_id.is_(None)
        ),
    },
    models.DhcpServer: {"network": _of(models.Network, models.Network.dhcp_server_id)},
    models.Network: {
        "vm": lambda key: (
            select(_VM.id, _VM.name)
            .join(models.NicRow, models.NicRow.vm_id == _VM.id)
            .where(models.NicRow.network_id == key)
            .distinct()
        ),
        "virtual-datacenter": lambda key: (
            select(_VDC.id, _VDC.name)
            .join(models.AddressRow, models.AddressRow.virtual_datacenter_id == _VDC.id)
            .where(models.AddressRow.network_id == key)
            .distinct()
        ),
    },
    models.Rack: {"host": _of(models.Host, models.Host.rack_id)},
    models.Host: {"vm": _of(_VM, _VM.host_id)},
    models.Datastore: {"vm": _of(_VM, _VM.datastore_id)},
    models.StorageDevice: {"storage-pool": _of(models.StoragePool, models.StoragePool.device_id)},
    models.StoragePool: {"volume": _of(models.VolumeRow, models.VolumeRow.pool_id)},
    models.Tier: {
        "storage-pool": _of(models.StoragePool, models.StoragePool.tier_id),
        "datastore": lambda key: select(models.Datastore.id, models.Datastore.directory).filter_by(
            tier_id=key
        ),
        "vm": _of(_VM, _VM.tier_id),
    },
    models.AllocationRule: {},
    models.VirtualDatacenter: {
        "appliance": _of(models.Appliance, models.Appliance.virtual_datacenter_id),
        "volume": _of(models.VolumeRow, models.VolumeRow.virtual_datacenter_id),
        "address": lambda key: select(models.AddressRow.id, models.AddressRow.address).filter_by(
            virtual_datacenter_id=key
        ),
    },
    TemplateRepositoryRow: {},
}

_RULE = models.AllocationRule
_THEIR_OWN: dict[type[Base], tuple[Any, ...]] = {  # what goes with a thing
    models.Datacenter: (
        *(_RULE.datacenter_id, models.Tier.datacenter_id, models.Conversion.datacenter_id),
        PackageRow.datacenter_id,
    ),
    models.Rack: (_RULE.rack_id,),
    models.Host: (_RULE.host_id, models.Datastore.host_id, models.Secret.id),
    models.DhcpServer: (models.Secret.id,),
    models.VirtualDatacenter: (models.Network.virtual_datacenter_id,),
    TemplateRepositoryRow: (RemotePackageRow.repository_id, models.Secret.id),
}


def held(db: Session, table: type[T], key: UUID) -> T:
    """A row, with its datacenter's locked: no VM is placed meanwhile. Raises `NotFound`."""
    row = db.get(table, key)
    if row is not None:
        if datacenter := datacenter_of(db, row):
            db.get(models.Datacenter, datacenter, with_for_update=True, populate_existing=True)
        row = db.get(table, key, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no {_noun(table)} {key}")
    return row


def datacenter_of(db: Session, row: Any) -> UUID | None:
    """The datacenter that a thing is in; None: it is about all of them."""
    if isinstance(row, models.Datacenter):
        return row.id
    if isinstance(row, models.Datastore):
        return db.get_one(models.Host, row.host_id).datacenter_id
    if isinstance(row, models.StoragePool):
        return db.get_one(models.StorageDevice, row.device_id).datacenter_id
    if isinstance(row, models.AllocationRule) and (row.rack_id or row.host_id):
        of: Any = models.Rack if row.rack_id else models.Host
        return cast(UUID, db.get_one(of, row.rack_id or row.host_id).datacenter_id)
    return cast(UUID | None, row.datacenter_id)


def remove(db: Session, row: Any) -> None:
    """Remove a row, with those that are only its own. Raises `InUse`, with its users."""
    require_unused(db, row)
    if isinstance(row, models.Datacenter):
        _forget_operations(db, row.id)
    if isinstance(row, models.VirtualDatacenter):
        _forget_networks(db, row.id)
    for column in _THEIR_OWN.get(type(row), ()):
        db.execute(delete(column.class_).where(column == row.id))
    db.delete(row)
    db.flush()


def require_unused(db: Session, row: Any) -> None:
    """Raises `InUse`: its details name the users, `TOLD` of each kind."""
    users = [*users_of(db, row), *operations(db, row)]
    if users:
        raise in_use(row, users)


def in_use(row: Any, users: list[User]) -> InUse:
    """The refusal that names a thing's users."""
    name = getattr(row, "name", None) or getattr(row, "directory", row.id)
    told = ", ".join(f"{each.kind} {each.name}" for each in users[:3]) or "others"
    more = ", ..." if len(users) > 3 else ""  # noqa: PLR2004 - as many as a sentence takes
    refusal = InUse(f"{_noun(type(row))} {name} is in use by {told}{more}")
    refusal.details = {"users": [each.model_dump(mode="json") for each in users]}
    return refusal


def users_of(db: Session, row: Any) -> Iterator[User]:
    """What is there because of a thing, `TOLD` of each kind."""
    for kind, query in _USERS[type(row)].items():
        for key, name in db.execute(query(row.id).limit(TOLD)):
            yield User(kind=kind, id=key, name=name)


def operations(db: Session, row: Any) -> Iterator[User]:
    """The operations that are not over and done with, and speak of this thing."""
    table, step, word = models.Operation, models.Step, str(row.id)
    named_by_a_step = exists().where(
        step.operation_id == table.id,
        or_(step.host == word, _says(step.arguments, word)),
    )
    about = or_(
        table.target_id == row.id,
        table.datacenter_id == row.id,
        table.virtual_datacenter_id == row.id,
        _says(table.objects, word),
        _says(table.arguments, word),
        named_by_a_step,
    )
    query = select(table.id, table.kind).where(~_settled(), about).limit(TOLD)
    for key, kind in db.execute(query):
        yield User(kind="operation", id=key, name=kind)


def _says(column: Any, word: str) -> ColumnElement[bool]:
    return as_type(column, Text).contains(word, autoescape=True)


def _settled() -> ColumnElement[bool]:
    table = models.Operation
    return and_(
        table.state.in_(ENDED),
        table.due_at.is_(None),
        table.id.not_in(select(models.Lock.operation_id)),
    )


def _forget_networks(db: Session, virtual_datacenter: UUID) -> None:
    """Those of a virtual datacenter are charged no more, and none of their addresses rests."""
    mine = select(models.Network.id).filter_by(virtual_datacenter_id=virtual_datacenter)
    networks = db.scalars(mine).all()
    table = models.AddressRow
    db.execute(delete(table).where(table.network_id.in_(networks)))
    Ledger(Joined(db)).refund("network", networks)


def _forget_operations(db: Session, datacenter: UUID) -> None:
    """All that were there are settled, or it would be in use: their history goes with it."""
    over = select(models.Operation.id).where(models.Operation.datacenter_id == datacenter)
    for table in (models.Receipt, models.Step):
        db.execute(delete(table).where(table.operation_id.in_(over)))
    db.execute(delete(models.Operation).where(models.Operation.datacenter_id == datacenter))


def _noun(table: type[Base]) -> str:
    name: str = table.__tablename__
    return singular(name).replace("_", " ")
