"""Asking an operation to go back, from our API or from Prefect's UI: one rule for both."""

from uuid import UUID

from adapters.database.approvals import Approvals
from adapters.database.journal import Journal
from adapters.database.operations import Operation, Operations
from adapters.errors import Conflict
from flows.steps import STEPS


def ask(operations: Operations, operation: UUID, wish: str) -> Operation:
    """Wish that it goes back; `operations` are those of one transaction.

    One that waits for approval has not begun: it ends at once. Raises `Conflict` once it has begun
    what cannot be undone, or has ended.
    """
    if withdrawn := Approvals(operations).withdraw(operation, wish):
        return withdrawn
    wished = operations.want(operation, wish)  # from now on what binds it waits for us
    lines = Journal(operations).lines(operation)
    if any(STEPS[x.name].effect.binds for x in lines if x.name in STEPS):
        text = "it has begun what cannot be undone: it can only go forward"
        raise Conflict(text, code="no-way-back")
    return wished
