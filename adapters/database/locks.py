"""Locks: which operation has an object; all of those that it asks for, or none."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.errors import Conflict

_IDS_A_QUERY = 500


class Locked(Conflict):
    """An object is under an operation; the details say which."""

    code = "locked"

    def __init__(self, kind: str, object_id: UUID, operation: UUID) -> None:
        super().__init__(f"{kind} {object_id} is locked by operation {operation}")
        self.details = {"operation": str(operation)}


def lock(db: Session, operation: UUID, objects: Sequence[tuple[str, UUID]]) -> None:
    """Lock objects for an operation, all of them or none. Raises `Locked`."""
    held = _require_free(db, operation, objects)
    new = sorted((object_id, kind) for kind, object_id in objects if object_id not in held)
    if not new:
        return
    try:
        with db.begin_nested():
            db.execute(
                insert(models.Lock),
                [{"object_id": o, "kind": kind, "operation_id": operation} for o, kind in new],
            )
    except IntegrityError as error:  # somebody else's insert was first
        _require_free(db, operation, objects)
        kind, object_id = objects[0]
        raise Locked(kind, object_id, operation) from error


def require_unlocked(db: Session, kind: str, thing: UUID) -> None:
    """Raise `Locked` when an operation has it."""
    if held := db.get(models.Lock, thing):
        raise Locked(kind, thing, held.operation_id)


def _require_free(db: Session, operation: UUID, objects: Sequence[tuple[str, UUID]]) -> set[UUID]:
    """The objects that the operation has already. Raises `Locked` for another's."""
    kinds = {object_id: kind for kind, object_id in objects}
    ids, mine = sorted(kinds), set()
    for start in range(0, len(ids), _IDS_A_QUERY):
        some = models.Lock.object_id.in_(ids[start : start + _IDS_A_QUERY])
        for lock in db.scalars(select(models.Lock).where(some).with_for_update()):
            if lock.operation_id != operation:
                raise Locked(kinds[lock.object_id], lock.object_id, lock.operation_id)
            mine.add(lock.object_id)
    return mine
