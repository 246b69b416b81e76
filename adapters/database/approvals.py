"""Approvals: an operation that waits is approved, rejected, withdrawn, or timed out.

Each is a change of a row that still waits, under that row's lock: exactly one of them happens.
What ends so never began: there is nothing to undo nor to look at, and its locks go at once.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell_of
from adapters.database.operations import Operation, Operations, as_value, let_go
from adapters.database.session import utc_now
from adapters.errors import Conflict, NotFound
from adapters.types import Decision, OperationState

_LATE = "nobody approved it in time"


class Approvals:
    """What is decided about operations that wait."""

    def __init__(self, operations: Operations) -> None:
        self._database = operations.database

    def approve(self, operation: UUID, by: str, token: UUID, reason: str | None) -> Operation:
        """Let it begin now. Raises `Conflict` when it does not wait, or has waited too long."""
        with self._database.write() as db:
            row = _waiting_in_time(db, operation)
            row.approval = _record(Decision.APPROVED, by, token, reason)
            row.state = OperationState.ACCEPTED
            row.due_at = utc_now()
            tell_of(db, row, Decision.APPROVED, reason=reason)
            return _value(db, row)

    def reject(self, operation: UUID, by: str, token: UUID, reason: str | None) -> Operation:
        """End it: it is not to be. Raises `Conflict` as `approve` does."""
        with self._database.write() as db:
            row = _waiting_in_time(db, operation)
            row.approval = _record(Decision.REJECTED, by, token, reason)
            why = f"rejected by {by}" + (f": {reason}" if reason else "")
            tell_of(db, row, Decision.REJECTED, reason=reason)
            return _end(db, row, "approval-rejected", why)

    def time_out(self, operation: UUID) -> Operation:
        """End it when it has waited too long; whoever decided before has decided."""
        with self._database.write() as db:
            row = _locked(db, operation)
            if row.state != OperationState.WAITING or not _is_late(db, operation):
                return as_value(row)
            row.approval = _record(Decision.TIMED_OUT, None, None, None)
            tell_of(db, row, Decision.TIMED_OUT)
            return _end(db, row, "approval-timeout", _LATE)

    def withdraw(self, operation: UUID, wish: str) -> Operation | None:
        """End it because somebody does not want it any more; None when it does not wait."""
        with self._database.write() as db:
            row = _locked(db, operation)
            if row.state != OperationState.WAITING:
                return None
            row.wish = wish
            return _end(db, row, "stopped", f"asked to {wish}")


def _locked(db: Session, operation: UUID) -> models.Operation:
    row = db.get(models.Operation, operation, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"no operation {operation}")
    return row


def _waiting_in_time(db: Session, operation: UUID) -> models.Operation:
    row = _locked(db, operation)
    if row.state != OperationState.WAITING:
        raise Conflict(f"operation {operation} is {row.state}", code="not-waiting")
    if _is_late(db, operation):
        raise Conflict(f"operation {operation}: {_LATE}", code="approval-timeout")
    return row


def _is_late(db: Session, operation: UUID) -> bool:
    late = models.Operation.due_at <= utc_now()
    return bool(db.scalar(select(late).where(models.Operation.id == operation)))


def _record(
    decision: Decision, by: str | None, token: UUID | None, reason: str | None
) -> dict[str, Any]:
    return {
        "decision": decision,
        "by": by,
        "token": str(token) if token else None,
        "reason": reason,
        "decided_at": datetime.now(UTC).isoformat(),
    }


def _end(db: Session, row: models.Operation, code: str, why: str) -> Operation:
    row.state = OperationState.CANCELLED
    row.error = {"code": code, "detail": why}
    row.ended_at = utc_now()
    let_go(row)
    tell_of(db, row, row.state, error=row.error)
    db.execute(delete(models.Lock).where(models.Lock.operation_id == row.id))
    return _value(db, row)


def _value(db: Session, row: models.Operation) -> Operation:
    db.flush()
    db.refresh(row)
    return as_value(row)
