"""Locks: which operation has an object; all of those that it asks for, or none."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.errors import Conflict


class Locked(Conflict):
    """An object is under an operation; the details say which."""

    code = "locked"

    def __init__(self, kind: str, object_id: UUID, operation: UUID) -> None:
        super().__init__(f"{kind} {object_id} is locked by operation {operation}")
        self.details = {"operation": str(operation)}


def lock(db: Session, operation: UUID, objects: Sequence[tuple[str, UUID]]) -> None:
    """Lock objects for an operation, all of them or none. Raises `Locked`."""
    for kind, object_id in sorted(objects, key=lambda each: each[1]):
        held = db.get(models.Lock, object_id, with_for_update=True)
        if held and held.operation_id != operation:
            raise Locked(kind, object_id, held.operation_id)
        if held:
            continue
        try:
            with db.begin_nested():
                db.add(models.Lock(object_id=object_id, kind=kind, operation_id=operation))
        except IntegrityError as error:  # somebody else's insert was first
            other = db.scalars(
                select(models.Lock.operation_id).where(models.Lock.object_id == object_id)
            ).one_or_none()
            raise Locked(kind, object_id, other or operation) from error
