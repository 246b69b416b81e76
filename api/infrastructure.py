"""What the routers of the infrastructure share: it is changed at once, in the database alone.

A change, and a removal, locks the datacenter's row, as every placement does: no host goes, and
no rule changes, while VMs are being placed.
"""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, StringConstraints
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.conventions import Base
from adapters.database.events import singular, tell
from adapters.errors import Conflict
from api import finding
from api.matching import Precondition
from api.once import Answer
from flows.cloud import cloud

T = TypeVar("T", bound=Base)
R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)
Text = Annotated[str, StringConstraints(max_length=255)]


def _without_password(address: str) -> str:
    """Addresses are shown to everybody who may see the host, and are in every backup."""
    if urlsplit(address).password is not None:
        raise ValueError("an address with a password in it would be kept, and shown")
    return address


Address = Annotated[Text, AfterValidator(_without_password)]


class Shown(Protocol):
    """A thing as the API shows it."""

    id: UUID

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As JSON."""


def created(kind: str, body: Shown) -> Answer:
    """The answer to who made something."""
    return Answer(201, body.model_dump(mode="json"), f"/v1/{kind}/{body.id}")


def enter(db: Session, row: Base, name: str) -> None:
    """Write a new row down. Raises `Conflict` when its name is taken."""
    try:
        with db.begin_nested():
            db.add(row)
    except IntegrityError as error:
        raise _taken(name) from error


def plainly(model: type[M]) -> Callable[[Session, Base], M]:
    """How a thing is shown that has nothing but its own columns."""
    return lambda _db, row: model.model_validate(row)


def change(
    table: type[T],
    key: UUID,
    act: Callable[[Session, T], R],
    match: Precondition,
    shown: Callable[[Session, T], BaseModel],
) -> R:
    """Change a thing while nobody else does. Raises `NotFound`, and `Conflict` by its name."""

    def changed(db: Session) -> R:
        row = uses.held(db, table, key)
        match.require_same(shown(db, row))
        try:
            with db.begin_nested():
                told = act(db, row)
        except IntegrityError as error:
            raise _taken(str(getattr(row, "name", key))) from error
        tell(db, f"{singular(table.__tablename__)}.changed", row)
        return told

    return cloud.database.alone(changed)


def remove(
    table: type[T], key: UUID, match: Precondition, shown: Callable[[Session, T], BaseModel]
) -> None:
    """Remove a thing that nobody uses. Raises `InUse`, with its users."""

    def removed(db: Session) -> None:
        row = uses.held(db, table, key)
        match.require_same(shown(db, row))
        tell(db, f"{singular(table.__tablename__)}.deleted", row)
        uses.remove(db, row)

    cloud.database.alone(removed)


def assign(row: Base, values: dict[str, Any]) -> None:
    """Give columns these values."""
    for name, value in values.items():
        setattr(row, name, value)


def tier(db: Session, datacenter: UUID, ref: str | None) -> UUID | None:
    """The id of a datacenter's tier; of none, where none is named."""
    if ref is None:
        return None
    return finding.shared(db, models.Tier, ref, datacenter_id=datacenter).id


def _taken(name: str) -> Conflict:
    return Conflict(f"there is one called {name} already", code="name-taken")
