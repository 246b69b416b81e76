"""The journal: one line per step, written before the step runs and kept when it has ended.

Every write is conditional on the runner's lease (`Operations.holding`). Lines change state;
they are never deleted. A line keeps what was found before the first attempt, and that only.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import Lease, Operations
from adapters.database.session import utc_now
from adapters.types import StepState, Value


class Line(Value):
    """One step of an operation, as the journal has it."""

    key: str
    name: str
    lane: str
    layer: int
    position: int
    arguments: dict[str, Any]
    found: bool
    state: StepState
    result: Any
    error: str | None
    attempts: int
    epoch: int
    started_at: datetime
    ended_at: datetime | None


def _as_value(row: models.Step) -> Line:
    return Line(**{name: getattr(row, name) for name in Line.model_fields})


class Journal:
    """The lines of all operations."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def lines(self, operation: UUID) -> list[Line]:
        """An operation's lines, in the order of their intents."""
        query = (
            select(models.Step)
            .where(models.Step.operation_id == operation)
            .order_by(models.Step.position)
        )
        with self._operations.database.read() as db:
            return [_as_value(row) for row in db.scalars(query)]

    def find(self, operation: UUID, key: str) -> Line | None:
        """One line."""
        with self._operations.database.read() as db:
            row = db.get(models.Step, (operation, key))
            return _as_value(row) if row else None

    def intend(
        self,
        lease: Lease,
        *,
        key: str,
        name: str,
        lane: str,
        layer: int,
        arguments: dict[str, Any],
        found: bool,
    ) -> Line:
        """Write down what is about to be done; it is on disk when this returns."""
        with self._operations.holding(lease) as db:
            last = db.scalar(
                select(func.max(models.Step.position)).where(
                    models.Step.operation_id == lease.operation
                )
            )
            row = models.Step(
                operation_id=lease.operation,
                key=key,
                name=name,
                lane=lane,
                layer=layer,
                position=(last or 0) + 1,
                arguments=arguments,
                found=found,
                state=StepState.PENDING,
                result=None,
                error=None,
                attempts=0,
                epoch=lease.epoch,
                started_at=utc_now(),
                ended_at=None,
            )
            db.add(row)
            db.flush()
            db.refresh(row)
            return _as_value(row)

    def attempt(self, lease: Lease, key: str, state: StepState) -> int:
        """An attempt begins, `running` forward or `undoing` back; answers how many there were."""
        with self._operations.holding(lease) as db:
            row = _row(db, lease, key)
            row.state = state
            row.attempts += 1
            row.epoch = lease.epoch
            return row.attempts

    def stumble(self, lease: Lease, key: str, error: str) -> None:
        """An attempt failed; the line goes on showing why."""
        with self._operations.holding(lease) as db:
            _row(db, lease, key).error = error

    def settle(
        self,
        lease: Lease,
        key: str,
        state: StepState,
        *,
        result: Any = None,
        error: str | None = None,
    ) -> None:
        """Write the outcome."""
        with self._operations.holding(lease) as db:
            row = _row(db, lease, key)
            row.state = state
            row.error = error
            row.ended_at = utc_now()
            if state is StepState.DONE:
                row.result = result

    def start_over(self, lease: Lease) -> None:
        """Forget outcomes, not intents: a newer version of the flow does every step anew."""
        with self._operations.holding(lease) as db:
            for row in db.scalars(
                select(models.Step).where(models.Step.operation_id == lease.operation)
            ):
                row.state = StepState.PENDING


def _row(db: Session, lease: Lease, key: str) -> models.Step:
    return db.get_one(models.Step, (lease.operation, key))
