"""Asking an operation to go back, from our API or from Prefect's UI: one rule for both."""

from uuid import UUID

from adapters.database.journal import Journal
from adapters.database.operations import Operation, Operations
from adapters.errors import Conflict
from flows.steps import STEPS, Effect


def ask(operations: Operations, operation: UUID, wish: str) -> Operation:
    """Wish that it goes back; `operations` are those of one transaction.

    Raises `Conflict` once something has been destroyed, or the operation has ended.
    """
    wished = operations.want(operation, wish)  # from now on its first destruction waits for us
    lines = Journal(operations).lines(operation)
    if any(STEPS[x.name].effect is Effect.REMOVES for x in lines if x.name in STEPS):
        text = "something has been destroyed already: it can only go forward"
        raise Conflict(text, code="no-way-back")
    return wished
