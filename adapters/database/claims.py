"""Claims: who needs a shared backend object, for as long as they live.

A thing goes with its last claim. Claiming and starting to remove lock the same row, so nobody
can claim what is being removed, and nothing is removed that somebody has just claimed. One
operation removes, until it says that the thing is gone or nobody runs it any more: a second
remover, being slower, would remove what has been made and claimed anew.

Who makes a thing again without needing it keeps it meanwhile: its removal waits. That is a lease
by the database's time, no transaction, which would hold up others for as long as a backend takes.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

from sqlalchemy import CursorResult, Table, bindparam, delete, select, update
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import ENDED
from adapters.database.session import Database, insert_missing, utc_now
from adapters.database.vms import parts
from adapters.errors import InUse, Transient

KEPT_S = 60.0  # whoever takes longer is taken for dead

_THINGS = cast(Table, models.SharedThing.__table__)
_CLAIMS = cast(Table, models.Claim.__table__)
# Made once: every disk of every VM asks these.
_ITS = _CLAIMS.c.thing == bindparam("thing_")
_HAS = select(_CLAIMS.c.thing).where(_ITS, _CLAIMS.c.holder == bindparam("holder_"))
_ANY = select(_CLAIMS.c.holder).where(_ITS).limit(1)
_IS_KEPT = _THINGS.c.kept_until > utc_now()
_LOCK = (
    select(_THINGS.c.remover, _IS_KEPT.label("is_kept"))
    .where(_THINGS.c.name == bindparam("thing_"))
    .with_for_update()
)
_ENTER = insert_missing(_THINGS)
_CLAIM = insert_missing(_CLAIMS)


class Kept(NamedTuple):
    """A thing that somebody has in hand; `until` tells one time from the next."""

    thing: str
    until: datetime
    is_claimed: bool


class Claims:
    """Claims on shared things, by name (`base:<host>:<digest>`) and holder (`disk:<id>`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, thing: str, *holders: str) -> None:
        """Need the thing; may be repeated. Raises `Transient` while it is being removed."""
        with self._database.write() as db:
            remover, is_kept = _locked(db, thing)
            if _is_at_work(db, remover) or (is_kept and not _is_claimed(db, thing)):
                raise Transient(f"{thing} is being removed")
            if remover:
                _set_remover(db, thing, None)
            db.execute(_CLAIM, [{"thing": thing, "holder": holder} for holder in holders])

    def release(self, thing: str, holder: str | Sequence[str], remover: UUID) -> bool:
        """Need it no more; True when the operation is to remove it: do so, then say `removed`.

        Raises `Transient` while somebody keeps it.
        """
        with self._database.write() as db:
            present = _require_free(db, thing)
            for some in parts([holder] if isinstance(holder, str) else holder):
                mine = (_CLAIMS.c.thing == thing) & _CLAIMS.c.holder.in_(some)
                db.execute(delete(_CLAIMS).where(mine))
            if _is_claimed(db, thing):
                return False
            if present != remover and not _is_at_work(db, present):
                _set_remover(db, thing, remover)
                return True
            return present == remover

    def removed(self, thing: str, remover: UUID) -> None:
        """The thing is gone; it may be made, and claimed, again.

        Raises `Transient` while somebody keeps it: whoever was late may be removing it again.
        """
        with self._database.write() as db:
            found = db.execute(_LOCK, {"thing_": thing}).first()
            if found and found.is_kept:
                raise Transient(f"{thing} is in hand")
            gone = (_THINGS.c.name == thing) & (_THINGS.c.remover == remover)
            db.execute(delete(_THINGS).where(gone))

    def begin_removal(self, thing: str, remover: UUID) -> None:
        """Remove a library file that somebody asked to remove. Raises `InUse` with its users."""
        with self._database.write() as db:
            present = _require_free(db, thing)
            if holders := _holders(db, thing):
                raise InUse(f"{thing} is in use", users=holders)
            if present != remover and _is_at_work(db, present):
                raise Transient(f"{thing} is being removed")
            _set_remover(db, thing, remover)

    def keep(self, thing: str) -> Kept:
        """Have it in hand until `let_go`, for a minute at most: its removal waits.

        Raises `Transient` while somebody else has.
        """
        with self._database.write() as db:
            _require_free(db, thing)
            its = _THINGS.c.name == thing
            db.execute(update(_THINGS).where(its).values(kept_until=utc_now(KEPT_S)))
            until = db.execute(select(_THINGS.c.kept_until).where(its)).scalar_one()
            return Kept(thing, until, _is_claimed(db, thing))

    def let_go(self, kept: Kept) -> bool:
        """Keep it no more; False when that took too long, and it may have been removed since."""
        with self._database.write() as db:
            db.execute(_LOCK, {"thing_": kept.thing})
            its = _THINGS.c.name == kept.thing
            mine = its & (_THINGS.c.kept_until == kept.until) & _IS_KEPT
            change = db.execute(update(_THINGS).where(mine).values(kept_until=None))
            unneeded = its & _THINGS.c.remover.is_(None) & _THINGS.c.kept_until.is_(None)
            if not _is_claimed(db, kept.thing):
                db.execute(delete(_THINGS).where(unneeded))
            return cast(CursorResult[Any], change).rowcount == 1

    def has(self, thing: str, holder: str) -> bool:
        """Whether this one needs the thing."""
        with self._database.read() as db:
            return db.execute(_HAS, {"thing_": thing, "holder_": holder}).first() is not None

    def is_claimed(self, thing: str) -> bool:
        """Whether anybody needs the thing."""
        with self._database.read() as db:
            return _is_claimed(db, thing)

    def within(self, thing: str) -> tuple[str, ...]:
        """Who needs the thing, or something in it: a file in a folder."""
        row = models.Claim
        inside = row.thing.startswith(f"{thing}/", autoescape=True)
        with self._database.read() as db:
            return tuple(db.scalars(select(row.holder).where((row.thing == thing) | inside)))

    def holders(self, thing: str) -> tuple[str, ...]:
        """Who needs the thing."""
        with self._database.read() as db:
            return _holders(db, thing)


def _holders(db: Session, thing: str) -> tuple[str, ...]:
    query = select(_CLAIMS.c.holder).where(_CLAIMS.c.thing == thing).order_by(_CLAIMS.c.holder)
    return tuple(db.scalars(query))


def _is_claimed(db: Session, thing: str) -> bool:
    return db.execute(_ANY, {"thing_": thing}).first() is not None


def _is_at_work(db: Session, remover: UUID | None) -> bool:
    row = db.get(models.Operation, remover) if remover else None
    return row is not None and (row.state not in ENDED or row.runner_host is not None)


def _set_remover(db: Session, thing: str, remover: UUID | None) -> None:
    db.execute(update(_THINGS).where(_THINGS.c.name == thing).values(remover=remover))


def _require_free(db: Session, thing: str) -> UUID | None:
    """Lock the thing's row; answers its remover. Raises `Transient` while somebody keeps it."""
    remover, is_kept = _locked(db, thing)
    if is_kept:
        raise Transient(f"{thing} is in hand")
    return remover


def _locked(db: Session, thing: str) -> tuple[UUID | None, bool]:
    """Lock the thing's row, which is made if there is none: its remover, and is it kept."""
    its = {"thing_": thing}
    found = db.execute(_LOCK, its).first()
    if found is None:
        db.execute(_ENTER, {"name": thing})
        found = db.execute(_LOCK, its).one()
    return found.remover, bool(found.is_kept)
