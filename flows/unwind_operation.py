"""Unwind another operation: undo, from its journal, what it set out to do."""

from adapters.database.operations import Operation
from adapters.errors import Conflict
from adapters.types import Role
from flows.operation import operation


@operation("operation", any_kind=True, role=Role.MAINTENANCE)
def unwind_operation(request: Operation) -> None:
    """Run under the id, lease and journal of the operation that is to be undone."""
    raise Conflict(f"operation {request.id} was asked to unwind", code="unwound")
