"""Receipts: what was asked when an operation had ended; with the last one its locks go."""

from collections.abc import Collection, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Select, Table, delete, exists, insert, select

from adapters.database import models
from adapters.database.locks import lock
from adapters.database.operations import ENDED, Lease, Operations, let_go
from adapters.database.session import utc_now
from adapters.types import OperationState, StepState

UNKNOWN = "unknown"  # what an answer begins with that nobody could give
_ASKED_SINCE = "asked by a later operation, which has it since"
_RECEIPTS = cast(Table, models.Receipt.__table__)
_KEPT = exists().where(
    models.Step.operation_id == models.Operation.id, models.Step.state == StepState.DONE
)
_BACK = [OperationState.FAILED, OperationState.CANCELLED]
_UNDONE = models.Operation.state.in_(_BACK) & ~_KEPT


class Receipts:
    """The receipts of all operations."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def settle(
        self,
        lease: Lease,
        receipts: Sequence[models.Receipt],
        look_again_s: float | None,
        superseded: Collection[str] = (),
    ) -> None:
        """Keep the receipt, release the locks; look again later when it is provisional.

        What could not be asked, and a later operation has by now, that one has asked: it looks
        before it begins. What was seen stays said.
        """
        with self._operations.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            mine = models.Receipt.operation_id == lease.operation
            asked = {receipt.key for receipt in receipts}
            for key in db.scalars(select(models.Receipt.key).where(mine)).all():
                if key in asked:
                    db.execute(delete(models.Receipt).where(mine, models.Receipt.key == key))
            odd = select(models.Receipt).where(mine, ~models.Receipt.as_expected)
            for each in db.scalars(odd):
                if each.key in superseded and each.answer.startswith(UNKNOWN):
                    each.answer, each.as_expected = _ASKED_SINCE, True
            db.flush()
            if receipts:
                db.execute(insert(_RECEIPTS), [_values(each) for each in receipts])
            row.left_behind = db.scalars(_unexpected(lease.operation)).first() is not None
            row.provisional = look_again_s is not None
            let_go(row)
            if look_again_s is not None:
                row.due_at = utc_now(look_again_s)
            db.execute(delete(models.Lock).where(models.Lock.operation_id == lease.operation))

    def lock_again(self, lease: Lease) -> set[UUID]:
        """Take an ended operation's locks once more, but for what later ones have changed.

        Answers all that these have changed; one that was undone has changed nothing. Raises
        `Locked` while a later one has any of the rest.
        """
        with self._operations.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            later = select(models.Operation.objects).where(
                models.Operation.id != row.id,
                models.Operation.accepted_at >= row.ended_at,
                models.Operation.state.in_(ENDED),
                ~_UNDONE,
            )
            theirs = {UUID(each) for objects in db.scalars(later) for each in objects}
            ours = {UUID(each) for each in row.objects} - theirs
            lock(db, row.id, [(row.target_kind, each) for each in ours])
            return theirs


def _values(receipt: models.Receipt) -> dict[str, Any]:
    return {column.name: getattr(receipt, column.name) for column in _RECEIPTS.columns}


def _unexpected(operation: UUID) -> Select[tuple[str]]:
    mine = models.Receipt.operation_id == operation
    return select(models.Receipt.key).where(mine, ~models.Receipt.as_expected).limit(1)
