"""Intents that an operation is accepted with: to be undone, although it may never have begun.

What such a step takes is there before the operation: without a line, nobody would take it away.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.session import utc_now
from adapters.types import StepState, Value


class Intent(Value):
    """A call of a step, as its line in the journal begins."""

    key: str
    name: str
    arguments: dict[str, Any]


def intend(db: Session, operation: UUID, intents: Iterable[Intent]) -> None:
    """Write down the first lines of an operation; nobody has tried them."""
    for position, intent in enumerate(intents, start=1):
        line = models.Step(
            **intent.model_dump(),
            operation_id=operation,
            position=position,
            lane="",
            host="",
            layer=0,
            found=False,
            state=StepState.PENDING,
            result=None,
            error=None,
            attempts=0,
            epoch=0,
            started_at=utc_now(),
        )
        db.add(line)
    db.flush()
