"""Places: a few at each host and each repository, whichever worker asks.

A place is held by a runner's lease: who has lost that holds no place, so nothing is to be freed
after a crash.
"""

from typing import cast

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import Lease, Operations
from adapters.database.session import insert_missing, utc_now

_PLACES = cast(Table, models.Place.__table__)


class Places:
    """The places of all things, by the thing's name (`host:<id>`) and number from 0."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def take(self, thing: str, limit: int, lease: Lease) -> int | None:
        """Take one of the thing's places; None while all are taken."""
        with self._operations.holding(lease) as db:
            for place in _places(db, thing, limit):
                if place.number < limit and not _is_held(db, place):
                    place.operation_id, place.epoch = lease.operation, lease.epoch
                    return place.number
        return None

    def leave(self, thing: str, number: int, lease: Lease) -> None:
        """Give the place back, unless it is another's by now."""
        with self._operations.database.write() as db:
            place = db.get(models.Place, (thing, number), with_for_update=True)
            if place and (place.operation_id, place.epoch) == (lease.operation, lease.epoch):
                place.operation_id = None


def _places(db: Session, thing: str, limit: int) -> list[models.Place]:
    """The thing's rows, locked; those that are missing are made."""
    mine = select(models.Place).where(models.Place.thing == thing).with_for_update()
    found = {place.number for place in db.scalars(mine)}
    if missing := [n for n in range(limit) if n not in found]:
        rows = [{"thing": thing, "number": n, "epoch": 0} for n in missing]
        db.execute(insert_missing(_PLACES), rows)
    return list(db.scalars(mine.order_by(models.Place.number)))


def _is_held(db: Session, place: models.Place) -> bool:
    held = select(models.Operation.id).where(
        models.Operation.id == place.operation_id,
        models.Operation.epoch == place.epoch,
        models.Operation.due_at > utc_now(),
        models.Operation.runner_host.is_not(None),
    )
    return place.operation_id is not None and db.scalars(held).first() is not None
