"""Operations: functions that are Prefect flows of the operation's id, and nothing else."""

import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from uuid import UUID, uuid4, uuid5

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, get_run_context
from prefect.states import Cancelled

from adapters.database import events
from adapters.database.operations import LeaseLost, Operation, Request
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.errors import Conflict
from adapters.types import OperationState, Role
from flows import steps
from flows.cloud import cloud
from flows.exhibits import exhibited
from flows.saga import execute

SUPERSEDED = "Superseded"  # how Prefect shows a run whose operation another run has
FLOWS: dict[str, "OperationFlow"] = {}  # all that are imported; `catalog` imports all


def accept_maintenance(flow: "OperationFlow", operation: UUID | None = None) -> UUID:
    """Accept a maintenance operation on this worker's datacenter; its id may be given.

    One of that id stays as it is: a scheduled run that is tried again goes on with its own.
    """
    if operation and cloud.operations.is_known(operation):
        return operation
    datacenter = cloud.inventory.datacenter_called(cloud.settings.datacenter)
    if datacenter is None:
        raise Conflict(f"no datacenter {cloud.settings.datacenter}", code="no-datacenter")
    request = Request(
        id=operation or uuid4(),
        kind=flow.kind,
        version=flow.version,
        target_kind=flow.target,
        target_id=datacenter,
        target_name=cloud.settings.datacenter,
        enterprise_id=FIRST_ENTERPRISE,
        datacenter_id=datacenter,
        requested_by="maintenance",
        by_itself=True,
    )
    return cloud.operations.accept(request).id


class OperationFailed(Exception):
    """What a Prefect run ends with when its operation did not succeed."""


class OperationFlow:
    """What the body says, kept by the laws of the saga and shown by Prefect."""

    def __init__(
        self,
        target: str,
        body: Callable[[Operation], None],
        *,
        any_kind: bool,
        every: timedelta | None,
        wanted: Callable[[], bool],
        role: Role | None,
        planned: bool,
    ) -> None:
        self.planned = planned
        self.every = every
        self._wanted = wanted
        self.role = role or (Role.MAINTENANCE if every else Role.DEPLOY)
        self.target = target
        self.body = body
        self.kind = body.__name__
        self.kinds = frozenset() if any_kind else frozenset({self.kind})
        self.summary = inspect.getdoc(body) or ""

    @property
    def schedule(self) -> timedelta | None:
        """How often it runs by itself, unless the operator does not want that."""
        return self.every if self.every and self._wanted() else None

    def __call__(self, operation: UUID) -> Operation:
        """Run here and now, without the engine."""
        return execute(operation, self.kinds, self.body, self.version)

    @cached_property
    def version(self) -> str:
        """Changes with the names and arguments of the steps that this flow may take."""
        return steps.version(_modules(self.body.__module__))

    def accept_own(self) -> UUID:
        """A scheduled run comes without an operation: accept one whose id follows from the run.

        Raises `Conflict` for a flow that is not scheduled, and where there is no datacenter yet.
        """
        if self.every is None:
            raise Conflict(f"{self.kind} needs an operation's id", code="operation-missing")
        context = get_run_context()
        run = context.flow_run if isinstance(context, FlowRunContext) else None
        return accept_maintenance(self, uuid5(run.id, self.kind) if run else None)

    @staticmethod
    def _heed_retry(operation: UUID) -> None:
        """Take a stuck operation up again when its run is retried in Prefect.

        Raises `OperationFailed` for an operation that has ended: a run of it has nothing to do.
        """
        row, context = cloud.operations.read(operation), FlowRunContext.get()
        if row.ended:
            raise OperationFailed(f"operation {operation} has {row.state}: nothing to retry")
        run = context and context.flow_run
        if run and run.run_count > 1 and row.state is OperationState.STUCK:
            # This run is its next attempt: no other one is made once it is due again.
            cloud.operations.sent(operation, max(row.epoch, row.attempt) + 1, run.id)
            with events.acting("somebody in Prefect"):
                cloud.operations.resume(operation)

    @cached_property
    def flow(self) -> Flow[[UUID | None], State[None] | None]:
        """The Prefect flow."""

        def run(operation: UUID | None = None) -> State[None] | None:
            if operation:
                self._heed_retry(operation)
            asked = operation or self.accept_own()
            shown = nullcontext() if self.every else exhibited(asked, self.body)
            try:
                with shown:
                    ended = self(asked)
            except LeaseLost as lost:
                # Told from what somebody cancels: that would be heeded (`cancelling`).
                return Cancelled(name=SUPERSEDED, message=str(lost))
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
    target: str,
    *,
    any_kind: bool = False,
    every: timedelta | None = None,
    wanted: Callable[[], bool] = lambda: True,
    role: Role | None = None,
    planned: bool = False,
) -> Callable[[Callable[[Operation], None]], OperationFlow]:
    """Make a function an operation on a kind of target; `every` so often, it runs by itself.

    Where that is not `wanted`, it is there for who asks. Its role says in which queue its runs
    wait. One that can be planned is shown before it is done (`dry_run`): whatever it goes by can
    be foreseen.
    """

    def made(body: Callable[[Operation], None]) -> OperationFlow:
        flow = OperationFlow(
            target,
            body,
            any_kind=any_kind,
            every=every,
            wanted=wanted,
            role=role,
            planned=planned,
        )
        FLOWS[flow.kind] = flow
        return flow

    return made


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
