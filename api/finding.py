"""Finding what a request names: by id or name, and only what belongs to the caller's enterprise.

What is another's is not found, in the same words as what does not exist.
"""

from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.conventions import Base
from adapters.errors import NotFound
from api.tokens import Caller

T = TypeVar("T", bound=Base)


def operation(db: Session, caller: Caller, ref: UUID) -> models.Operation:
    """An operation."""
    return _one(db, models.Operation, ref, operations(caller))


def template(
    db: Session, caller: Caller, ref: str | UUID, datacenter: UUID | None = None
) -> models.Template:
    """A template, of a datacenter when one is given."""
    query = templates(caller)
    if datacenter:
        query = query.where(models.Template.datacenter_id == datacenter)
    return _one(db, models.Template, ref, query)


def virtual_datacenter(db: Session, caller: Caller, ref: str | UUID) -> models.VirtualDatacenter:
    """A virtual datacenter."""
    return _one(db, models.VirtualDatacenter, ref, virtual_datacenters(caller))


def appliance(db: Session, caller: Caller, ref: UUID) -> models.Appliance:
    """An appliance."""
    return _one(db, models.Appliance, ref, appliances(caller))


def vm(db: Session, caller: Caller, ref: UUID) -> models.VirtualMachine:
    """A VM."""
    return _one(db, models.VirtualMachine, ref, vms(caller))


def volume(db: Session, caller: Caller, ref: UUID) -> models.VolumeRow:
    """A volume."""
    return _one(db, models.VolumeRow, ref, volumes(caller))


def shared(db: Session, table: type[T], ref: str | UUID, **within: Any) -> T:
    """A part of the infrastructure, which belongs to everybody."""
    return _one(db, table, ref, select(table).filter_by(**within))


def operations(caller: Caller) -> Select[tuple[models.Operation]]:
    """The caller's operations."""
    table = models.Operation
    return select(table).where(table.enterprise_id == caller.enterprise_id)


def templates(caller: Caller) -> Select[tuple[models.Template]]:
    """The caller's templates."""
    table = models.Template
    return select(table).where(table.enterprise_id == caller.enterprise_id)


def virtual_datacenters(caller: Caller) -> Select[tuple[models.VirtualDatacenter]]:
    """The caller's virtual datacenters."""
    table = models.VirtualDatacenter
    return select(table).where(table.enterprise_id == caller.enterprise_id)


def appliances(caller: Caller) -> Select[tuple[models.Appliance]]:
    """The caller's appliances."""
    mine = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    return select(models.Appliance).where(models.Appliance.virtual_datacenter_id.in_(mine))


def vms(caller: Caller) -> Select[tuple[models.VirtualMachine]]:
    """The caller's VMs."""
    mine = appliances(caller).with_only_columns(models.Appliance.id)
    return select(models.VirtualMachine).where(models.VirtualMachine.appliance_id.in_(mine))


def volumes(caller: Caller) -> Select[tuple[models.VolumeRow]]:
    """The caller's volumes."""
    mine = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    return select(models.VolumeRow).where(models.VolumeRow.virtual_datacenter_id.in_(mine))


def _one(db: Session, table: type[T], ref: str | UUID, query: Select[tuple[T]]) -> T:
    """The row of that id, else of that name; what a text names gets a code of its own."""
    columns = cast(Any, table)
    noun = _NOUNS.get(table, table.__tablename__.rstrip("s").replace("_", "-"))
    if isinstance(ref, str):
        by_name = db.scalars(query.where(columns.name == ref)).first()
        found = by_name or _by_id(db, columns, ref, query)
        if found is None:
            raise NotFound(f"there is no {noun} {ref}", code=f"unknown-{noun}")
        return found
    if (row := db.scalars(query.where(columns.id == ref)).first()) is None:
        raise NotFound(f"there is no {noun} {ref}")
    return row


_NOUNS: dict[Any, str] = {models.VirtualMachine: "vm"}


def _by_id(db: Session, columns: Any, ref: str, query: Select[tuple[T]]) -> T | None:
    try:
        key = UUID(ref)
    except ValueError:
        return None
    return db.scalars(query.where(columns.id == key)).first()
