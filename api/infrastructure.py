"""What the routers of the infrastructure share: it is changed at once, in the database alone.

A change, and a removal, locks the datacenter's row, as every placement does: no host goes, and
no rule changes, while VMs are being placed.
"""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

from pydantic import StringConstraints
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.conventions import Base
from adapters.errors import Conflict
from api import finding
from api.once import Answer
from flows.cloud import cloud

T = TypeVar("T", bound=Base)
R = TypeVar("R")
Text = Annotated[str, StringConstraints(max_length=255)]


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


def change(table: type[T], key: UUID, act: Callable[[Session, T], R]) -> R:
    """Change a thing while nobody else does. Raises `NotFound`, and `Conflict` by its name."""

    def changed(db: Session) -> R:
        row = uses.held(db, table, key)
        try:
            with db.begin_nested():
                told = act(db, row)
        except IntegrityError as error:
            raise _taken(str(getattr(row, "name", key))) from error
        return told

    return cloud.database.alone(changed)


def remove(table: type[Base], key: UUID) -> None:
    """Remove a thing that nobody uses. Raises `InUse`, with its users."""

    def removed(db: Session) -> None:
        uses.remove(db, uses.held(db, table, key))

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
