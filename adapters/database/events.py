"""Events: what changed, who did it, from where, and on what: written with the change itself.

Rows are only added, and by the last statement of their transaction: a lower id may be committed
after a higher one, but only by as much as an INSERT and its COMMIT are apart (`Tide`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from threading import Lock
from typing import Any, cast
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import BigInteger, Index, Integer, String, Table, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from adapters.database import models
from adapters.database.conventions import FIRST_ENTERPRISE, Base, table
from adapters.database.session import Database, utc_now, write_last
from adapters.types import Value

SETTLED_S = 60.0  # no transaction lies so long between its last statement and its end
_MANY = 1000


class Severity(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventRow(Base):
    """One change. It outlives what it is about, so it has names beside ids, and no foreign key."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "enterprise_id", "at"),
        Index(None, "enterprise_id", "kind", "at"),
        Index(None, "enterprise_id", "severity", "at"),
        Index(None, "enterprise_id", "who", "at"),
        Index(None, "object_id", "at"),
        Index(None, "appliance_id", "at"),
        Index(None, "virtual_datacenter_id", "at"),
        {**table()[-1], "sqlite_autoincrement": True},  # no id is ever used again
    )
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[datetime] = mapped_column(index=True)
    severity: Mapped[str] = mapped_column(String(8))
    kind: Mapped[str] = mapped_column(String(64))
    who: Mapped[str]
    who_id: Mapped[UUID | None]
    client: Mapped[str | None] = mapped_column(String(64))
    request: Mapped[str | None] = mapped_column(String(64))
    enterprise_id: Mapped[UUID]
    virtual_datacenter_id: Mapped[UUID | None]
    appliance_id: Mapped[UUID | None]
    object_kind: Mapped[str] = mapped_column(String(32))
    object_id: Mapped[UUID | None]
    object_name: Mapped[str]
    operation_id: Mapped[UUID | None] = mapped_column(index=True)
    about: Mapped[dict[str, Any]]
    details: Mapped[dict[str, Any]]


_EVENTS = cast(Table, EventRow.__table__)
TELL = _EVENTS.insert().values(at=utc_now())
_ORIGIN = ("who", "who_id", "client", "request")
_OBJECT = ("enterprise_id", "virtual_datacenter_id", "appliance_id", "about")
_TARGET = ("object_kind", "object_id", "object_name")
_AS_WISHED = {"accepted", "started", "approved", "resumed", "succeeded"}
_GRAVE = {"failed", "stuck"}
_OPERATORS = (models.Enterprise, models.AllocationRule)  # about a tenant, but no matter of its own


class Origin(Value):
    """Who acts here, and from where; nobody, where a process works by itself."""

    who: str = ""
    who_id: UUID | None = None
    client: str | None = None
    request: str | None = None
    enterprise_id: UUID | None = None


_NOBODY = Origin()
origin: ContextVar[Origin] = ContextVar("origin", default=_NOBODY)


@contextmanager
def acting(who: str) -> Iterator[None]:
    """Let what is told inside be told of somebody who did not come through the API."""
    here = origin.get().model_copy(update={"who": who, "who_id": None})
    token = origin.set(here)
    try:
        yield
    finally:
        origin.reset(token)


def tell(
    db: Session,
    kind: str,
    row: Base | None = None,
    severity: Severity = Severity.INFO,
    **details: Any,
) -> None:
    """Write down what is done to a row in this transaction; tell of a removal before it.

    Details are for everybody to read who may see the row: no secret, no value of one.
    """
    here, about = origin.get(), kin(db, row) if row is not None else {}
    own = about.get("enterprise", {}).get("id")
    owner = UUID(own) if own else FIRST_ENTERPRISE
    if not own or isinstance(row, _OPERATORS):
        owner = here.enterprise_id or owner
    target = next(iter(about.items()), None)
    values = {
        **here.model_dump(include=set(_ORIGIN)),
        **_about(about, owner),
        "object_kind": target[0] if target else "",
        "object_id": UUID(target[1]["id"]) if target else None,
        "object_name": target[1]["name"] if target else "",
        "operation_id": None,
    }
    write_last(db, TELL, _told(values, kind, severity, details))


def tell_of(
    db: Session,
    row: models.Operation,
    what: str,
    error: dict[str, Any] | None = None,
    **details: Any,
) -> None:
    """Write down what became of an operation.

    Who asked for it has caused it, unless somebody acts now. One that began by itself, and was not
    told of then, is told of when it goes wrong.
    """
    values = None if what == "accepted" else _known(db, row)
    if values is None:
        if what in _AS_WISHED - {"accepted"}:
            return
        values = _anew(db, row)
    if (here := origin.get()).who:
        values |= here.model_dump(include=set(_ORIGIN))
    said = {"kind": row.kind, **details}
    if error:
        said["error"] = {"code": error.get("code"), "detail": error.get("detail")}
    severity = Severity.INFO if what in _AS_WISHED else Severity.WARNING
    if what in _GRAVE:
        severity = Severity.ERROR
    write_last(db, TELL, _told(values, f"operation.{what}", severity, said))


def story(db: Session, operation: UUID) -> dict[str, Any]:
    """What all events of an operation have in common."""
    row = db.get_one(models.Operation, operation)
    return _known(db, row) or _anew(db, row)


def _known(db: Session, row: models.Operation) -> dict[str, Any] | None:
    """The same as its first event has it, if there is one."""
    columns = [_EVENTS.c[name] for name in (*_ORIGIN, *_OBJECT, *_TARGET, "operation_id")]
    query = select(*columns).where(_EVENTS.c.operation_id == row.id).order_by(_EVENTS.c.id)
    first = db.execute(query.limit(1)).mappings().first()
    return dict(first) if first else None


def secret_read(values: dict[str, Any], secret: UUID, step: str) -> dict[str, Any]:
    """Say that an operation, of this story, was handed a secret; to be written by `TELL`."""
    return _told(values, "secret.read", Severity.INFO, {"secret": secret, "step": step})


def kin(db: Session, row: Base) -> dict[str, dict[str, str]]:
    """A row and all that it belongs to, by the foreign keys of named things: the nearest first.

    Only by those that are called after them: a host reserved for a tenant is not the tenant's.
    """
    tables = {each.local_table: each.class_ for each in Base.registry.mappers}
    found: dict[str, dict[str, str]] = {}
    todo: deque[Any] = deque([row])
    while todo:
        each = todo.popleft()
        noun = singular(each.__tablename__)
        if noun in found or not hasattr(each, "name"):
            continue
        found[noun] = {"id": str(each.id), "name": each.name}
        for column in each.__table__.columns:
            for key in column.foreign_keys:
                parent = tables[key.column.table]
                value = getattr(each, column.key)
                own = column.key == f"{singular(parent.__tablename__)}_id"
                if own and value is not None and (owner := db.get(parent, value)):
                    todo.append(owner)
    return found


def singular(plural: str) -> str:
    """`policies` → `policy`, `addresses` → `address`, `vms` → `vm`."""
    if plural.endswith("ies"):
        return f"{plural[:-3]}y"
    return plural[:-2] if plural.endswith("sses") else plural.removesuffix("s")


def table_of(noun: str) -> type[Base] | None:
    """The rows of what is called so, if there are any."""
    for each in Base.registry.mappers:
        if singular(each.class_.__tablename__) == noun:
            return cast(type[Base], each.class_)
    return None


def _anew(db: Session, row: models.Operation) -> dict[str, Any]:
    """The same of an operation that nothing has been told of yet."""
    about = {row.target_kind: {"id": str(row.target_id), "name": row.target_name}}
    target = table_of(row.target_kind)
    for known in (
        target and db.get(target, row.target_id),
        db.get(models.Datacenter, row.datacenter_id),
        db.get(models.Enterprise, row.enterprise_id),
    ):
        for noun, named in (kin(db, known) if known else {}).items():
            about.setdefault(noun, named)
    return {
        "who": row.requested_by,
        **dict.fromkeys(_ORIGIN[1:]),
        **_about(about, row.enterprise_id),
        "object_kind": row.target_kind,
        "object_id": row.target_id,
        "object_name": row.target_name,
        "operation_id": row.id,
    }


def _about(about: dict[str, dict[str, str]], enterprise: UUID) -> dict[str, Any]:
    def of(noun: str) -> UUID | None:
        return UUID(about[noun]["id"]) if noun in about else None

    return {
        "enterprise_id": enterprise,
        "virtual_datacenter_id": of("virtual_datacenter"),
        "appliance_id": of("appliance"),
        "about": about,
    }


def _told(
    values: dict[str, Any], kind: str, severity: Severity, details: dict[str, Any]
) -> dict[str, Any]:
    said = {"kind": kind.replace("_", "-"), "severity": severity}
    return {**values, **said, "details": to_jsonable_python(details)}


class Tide:
    """Up to where no event can turn up any more: what a stream may tell without losing any.

    Ids are given in their order, without gaps. Where one is missing, its transaction is about to
    be committed, or was not: what follows waits for it until it cannot come any more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = Lock()
        self._mark: int | None = None
        self._latest: dict[UUID, int] = {}

    @property
    def mark(self) -> int:
        """The last id that may be told, as of the last look."""
        return self._mark or 0

    def look(self, enterprises: Iterable[UUID] = ()) -> dict[UUID, int]:
        """The last event of each of these enterprises that may be told, of those seen so far."""
        young = _EVENTS.c.at > utc_now(-SETTLED_S)
        with self._turn:
            with self._database.read() as db:
                if self._mark is None:
                    self._mark = db.scalar(select(func.max(_EVENTS.c.id)).where(~young)) or 0
                query = select(_EVENTS.c.id, _EVENTS.c.enterprise_id, young)
                query = query.where(_EVENTS.c.id > self._mark).order_by(_EVENTS.c.id)
                for event, enterprise, is_young in db.execute(query.limit(_MANY)):
                    if is_young and event != self._mark + 1:
                        break
                    self._mark = event
                    self._latest[enterprise] = event
            return {each: self._latest[each] for each in enterprises if each in self._latest}
