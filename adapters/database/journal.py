"""The journal: one line per step, written before the step runs and kept when it has ended.

Every write is conditional on the runner's lease (`Operations.holding`). Lines change state;
they are never deleted. A line keeps what was found before the first attempt, and that only.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, insert, select, update

from adapters.database import models
from adapters.database.operations import Lease, Operations
from adapters.database.session import utc_now
from adapters.types import StepState, Value

_STEPS = cast(Table, models.Step.__table__)


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
    attempts: int
    epoch: int = 0
    result: Any = None
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


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

    def intend(self, lease: Lease, line: Line, *, unless_wished: bool = False) -> str | None:
        """Write down what is about to be done; it is on disk when this returns.

        With `unless_wished`, answer what somebody wishes instead: wish and intent, one is first.
        """
        with self._operations.holding(lease) as db:
            if unless_wished and (wish := db.get_one(models.Operation, lease.operation).wish):
                return wish
            fields = line.model_dump() | {"started_at": utc_now(), "epoch": lease.epoch}
            db.execute(insert(_STEPS).values(operation_id=lease.operation, **fields))
            return None

    def attempt(self, lease: Lease, line: Line, state: StepState) -> None:
        """Another attempt at the line begins, `running` forward or `undoing` back."""
        values = {"state": state, "arguments": line.arguments, "epoch": lease.epoch}
        self._change(lease, line.key, attempts=_STEPS.c.attempts + 1, **values)

    def stumble(self, lease: Lease, key: str, error: str) -> None:
        """An attempt failed; the line goes on showing why."""
        self._change(lease, key, error=error)

    def settle(
        self,
        lease: Lease,
        key: str,
        state: StepState,
        *,
        result: Any = None,
        error: str | None = None,
    ) -> None:
        """Write the outcome; only a step that is done has a result."""
        outcome = {"result": result} if state is StepState.DONE else {}
        self._change(lease, key, state=state, error=error, ended_at=utc_now(), **outcome)

    def start_over(self, lease: Lease, keys: Collection[str]) -> None:
        """Forget outcomes, not intents: a newer version of the flow does these lines anew."""
        with self._operations.holding(lease) as db:
            mine = (_STEPS.c.operation_id == lease.operation) & _STEPS.c.key.in_(keys)
            db.execute(update(_STEPS).where(mine).values(state=StepState.PENDING))

    def _change(self, lease: Lease, key: str, **values: Any) -> None:
        with self._operations.holding(lease) as db:
            line = (_STEPS.c.operation_id == lease.operation) & (_STEPS.c.key == key)
            db.execute(update(_STEPS).where(line).values(values))
