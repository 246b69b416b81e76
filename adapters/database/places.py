"""Places: a few at each host and each repository, whichever worker asks.

A place is held by a runner's lease: who has lost that holds no place, so nothing is to be freed
after a crash. Where runners stand in line, tenants take turns: each ticket has the number of its
tenant's turn, and a tenant that comes later begins with the turn that is being served. So who
asks for a hundred things holds up nobody who asks for one.
"""

from typing import cast
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import Lease, Operations
from adapters.database.session import insert_missing, utc_now

_PLACES = cast(Table, models.Place.__table__)
_OPERATION, _WAITER = models.Operation, models.Waiter


class Places:
    """The places of all things, by the thing's name (`host:<id>`) and number from 0."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def line_up(self, thing: str, lease: Lease) -> UUID:
        """Stand in line for one of its places, once; answers a ticket."""
        ticket, waiting = uuid4(), select(func.max(_WAITER.turn)).where(_WAITER.thing == thing)
        with self._operations.holding(lease) as db:
            served = max(place.turn for place in _places(db, thing, 1))
            mine = _WAITER.operation_id == lease.operation  # whose answer was lost
            db.execute(delete(_WAITER).where(_WAITER.thing == thing, mine | ~_lives(_WAITER)))
            whose = db.get_one(_OPERATION, lease.operation).enterprise_id
            last = db.scalar(waiting.where(_WAITER.enterprise_id == whose)) or 0
            db.add(
                _WAITER(
                    id=ticket,
                    thing=thing,
                    operation_id=lease.operation,
                    epoch=lease.epoch,
                    enterprise_id=whose,
                    turn=max(served, last) + 1,
                    since=utc_now(),
                )
            )
        return ticket

    def step_out(self, ticket: UUID) -> None:
        """Wait no more; who has a place waits for none."""
        with self._operations.database.write() as db:
            db.execute(delete(_WAITER).where(_WAITER.id == ticket))

    def take(self, thing: str, limit: int, lease: Lease, ticket: UUID | None = None) -> int | None:
        """Take one of the thing's places; None while all are taken, or are others' turn."""
        with self._operations.holding(lease) as db:
            places = [place for place in _places(db, thing, limit) if place.number < limit]
            if ticket and db.get(_WAITER, ticket) is None:  # it was served; the answer was lost
                whose = lease.operation, lease.epoch
                held = (x for x in places if (x.operation_id, x.epoch) == whose)
                return next((place.number for place in held), None)
            free = [place for place in places if not _is_held(db, place)]
            turn = _turn(db, thing, len(free), ticket) if ticket else 0
            if not free or turn is None:
                return None
            place = free[0]
            place.operation_id, place.epoch = lease.operation, lease.epoch
            place.turn = max(turn, *(each.turn for each in places), 0)
            return place.number

    def leave(self, thing: str, number: int, lease: Lease) -> None:
        """Give the place back, unless it is another's by now."""
        with self._operations.database.write() as db:
            place = db.get(models.Place, (thing, number), with_for_update=True)
            if place and (place.operation_id, place.epoch) == (lease.operation, lease.epoch):
                place.operation_id = None


def _turn(db: Session, thing: str, free: int, ticket: UUID) -> int | None:
    """The turn that a ticket stands for, if it is among the first so many that still wait."""
    line = select(_WAITER).where(_WAITER.thing == thing, _lives(_WAITER))
    first = db.scalars(line.order_by(_WAITER.turn, _WAITER.since, _WAITER.id).limit(free)).all()
    mine = next((each for each in first if each.id == ticket), None)
    if mine is None:
        return None
    db.delete(mine)
    return mine.turn


def _places(db: Session, thing: str, limit: int) -> list[models.Place]:
    """The thing's rows, locked; those that are missing are made."""
    mine = select(models.Place).where(models.Place.thing == thing).with_for_update()
    found = {place.number for place in db.scalars(mine)}
    if missing := [n for n in range(limit) if n not in found]:
        rows = [{"thing": thing, "number": n, "epoch": 0} for n in missing]
        db.execute(insert_missing(_PLACES), rows)
    return list(db.scalars(mine.order_by(models.Place.number)))


def _is_held(db: Session, place: models.Place) -> bool:
    table = models.Place
    itself = (table.thing == place.thing) & (table.number == place.number)
    held = select(table.number).where(itself, _lives(table))
    return place.operation_id is not None and db.scalars(held).first() is not None


def _lives(row: type[models.Place | models.Waiter]) -> ColumnElement[bool]:
    """Whether the runner that it names still has its lease."""
    runner = select(_OPERATION.id).where(
        _OPERATION.id == row.operation_id,
        _OPERATION.epoch == row.epoch,
        _OPERATION.due_at > utc_now(),
        _OPERATION.runner_host.is_not(None),
    )
    return runner.exists()
