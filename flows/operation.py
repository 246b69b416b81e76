"""Operations: functions that are Prefect flows of the operation's id, and nothing else."""

import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from uuid import UUID

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from adapters.database.operations import LeaseLost, Operation
from adapters.types import OperationState
from flows import steps
from flows.cloud import cloud
from flows.saga import execute


class OperationFailed(Exception):
    """What a Prefect run ends with when its operation did not succeed."""


class OperationFlow:
    """What the body says, kept by the laws of the saga and shown by Prefect."""

    def __init__(self, target: str, body: Callable[[Operation], None], *, any_kind: bool) -> None:
        self.target = target
        self.body = body
        self.kind = body.__name__
        self.kinds = frozenset() if any_kind else frozenset({self.kind})
        self.summary = inspect.getdoc(body) or ""

    def __call__(self, operation: UUID) -> Operation:
        """Run here and now, without the engine."""
        return execute(operation, self.kinds, self.body, self.version)

    @cached_property
    def version(self) -> str:
        """Changes with the names and arguments of the steps that this flow may take."""
        return steps.version(_modules(self.body.__module__))

    @cached_property
    def flow(self) -> Flow[[UUID], State[None] | None]:
        """The Prefect flow."""

        def run(operation: UUID) -> State[None] | None:
            try:
                ended = self(operation)
            except LeaseLost as lost:
                return Cancelled(message=str(lost))
            if ended.state is OperationState.CANCELLED:
                return Cancelled(message=f"operation {operation} was cancelled and undone")
            if ended.state is not OperationState.SUCCEEDED:
                detail = (ended.error or {}).get("detail")
                raise OperationFailed(f"operation {operation} is {ended.state}: {detail}")
            return None

        return Flow(
            run,
            name=self.kind.replace("_", "-"),
            description=self.summary,
            persist_result=False,
            result_storage=Path(cloud.settings.home.absolute() / "results"),
            validate_parameters=True,
        )


def operation(
    target: str, *, any_kind: bool = False
) -> Callable[[Callable[[Operation], None]], OperationFlow]:
    """Make a function an operation on a kind of target."""
    return lambda body: OperationFlow(target, body, any_kind=any_kind)


def _modules(start: str) -> frozenset[str]:
    """A flow's module, and those of ours that it takes steps or lanes from."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        seen.add(name)
        for thing in vars(sys.modules[name]).values():
            module = getattr(thing, "module", None) or getattr(thing, "__module__", None)
            if isinstance(module, str) and module.startswith("flows.") and module not in seen:
                todo.append(module)
    return frozenset(seen)
