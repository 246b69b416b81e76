"""Claims: who needs a shared backend object, for as long as they live.

A thing goes with its last claim. Claiming and starting to remove lock the same row, so nobody
can claim what is being removed, and nothing is removed that somebody has just claimed. One
operation removes, until it says that the thing is gone or nobody runs it any more: a second
remover, being slower, would remove what has been made and claimed anew.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import ENDED
from adapters.database.session import Database
from adapters.errors import InUse, Transient


class Claims:
    """Claims on shared things, by name (`base:<host>:<digest>`) and holder (`disk:<id>`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, thing: str, holder: str) -> None:
        """Need the thing; may be repeated. Raises `Transient` while it is being removed."""
        with self._database.write() as db:
            row = _locked(db, thing)
            if _is_at_work(db, row.remover):
                raise Transient(f"{thing} is being removed")
            row.remover = None
            if db.get(models.Claim, (thing, holder)) is None:
                db.add(models.Claim(thing=thing, holder=holder))

    def release(self, thing: str, holder: str, remover: UUID) -> bool:
        """Need it no more; True when the operation is to remove it: do so, then say `removed`."""
        with self._database.write() as db:
            row = _locked(db, thing)
            db.execute(
                delete(models.Claim).where(
                    models.Claim.thing == thing, models.Claim.holder == holder
                )
            )
            if _holders(db, thing):
                return False
            if not _is_at_work(db, row.remover):
                row.remover = remover
            return row.remover == remover

    def removed(self, thing: str, remover: UUID) -> None:
        """The thing is gone; it may be made, and claimed, again."""
        with self._database.write() as db:
            row = db.get(models.SharedThing, thing, with_for_update=True)
            if row is not None and row.remover == remover:
                db.delete(row)

    def begin_removal(self, thing: str, remover: UUID) -> None:
        """Remove a library file that somebody asked to remove. Raises `InUse` with its users."""
        with self._database.write() as db:
            row = _locked(db, thing)
            if holders := _holders(db, thing):
                raise InUse(f"{thing} is in use", users=holders)
            if row.remover != remover and _is_at_work(db, row.remover):
                raise Transient(f"{thing} is being removed")
            row.remover = remover

    @contextmanager
    def held(self, thing: str) -> Iterator[bool]:
        """Keep the thing as it is while inside; answers whether somebody claims it."""
        with self._database.write() as db:
            row = db.get(models.SharedThing, thing, with_for_update=True)
            yield row is not None and row.remover is None and bool(_holders(db, thing))

    def holders(self, thing: str) -> tuple[str, ...]:
        """Who needs the thing."""
        with self._database.read() as db:
            return _holders(db, thing)


def _holders(db: Session, thing: str) -> tuple[str, ...]:
    query = select(models.Claim.holder).where(models.Claim.thing == thing)
    return tuple(db.scalars(query.order_by(models.Claim.holder)))


def _is_at_work(db: Session, remover: UUID | None) -> bool:
    row = db.get(models.Operation, remover) if remover else None
    return row is not None and (row.state not in ENDED or row.runner_host is not None)


def _locked(db: Session, thing: str) -> models.SharedThing:
    row = db.get(models.SharedThing, thing, with_for_update=True)
    if row is None:
        try:
            with db.begin_nested():
                db.add(models.SharedThing(name=thing))
        except IntegrityError:  # somebody else's insert was first
            pass
        row = db.get_one(models.SharedThing, thing, with_for_update=True)
    return row
