"""An operation's next attempt becomes a flow run in the pool of its datacenter.

Prefect's pool is the queue: limits, priorities and pauses set there hold. A run is created once
(idempotency key `<operation>/<attempt>`); the wake-up carries no id, it makes the worker look now.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Completed, Crashed, Failed

from adapters.database.operations import Operation
from adapters.errors import NotFound
from adapters.types import OperationState
from flows import captions, logs, waking
from flows.cloud import cloud
from flows.operation import FLOWS
from flows.steps import STEPS

Ended = Callable[..., State[None]]
_SHOWN: dict[OperationState, Ended] = {
    OperationState.SUCCEEDED: Completed,
    OperationState.FAILED: Failed,
    OperationState.CANCELLED: Cancelled,
}

log = logging.getLogger(__name__)


def send(operation: Operation) -> None:
    """Create the flow run of the next attempt, and wake a worker.

    Prefect away is no error: the operation stays due, and the look every second sends it. One
    that has a runner, or may have none, is left alone: its runner hears of a wish by itself. One
    that nobody has approved in time ends here.
    """
    if operation.due_at is None or operation.due_at > datetime.now(UTC):
        return
    if operation.state is OperationState.WAITING:
        cloud.approvals.time_out(operation.id)
        return
    with logs.telling(operation=str(operation.id)):
        _send(operation)


def _send(operation: Operation) -> None:
    try:
        attempt = max(operation.epoch, operation.attempt) + 1
        kind = _flow_for(operation)
        run = client().create_flow_run_from_deployment(
            _deployment(kind, _pool(operation.datacenter_id)),
            # What has ended is settled with all that is due, by an operation of its own.
            parameters={} if operation.ended else {"operation": str(operation.id)},
            name=captions.title(operation)[:200],
            tags=cloud.stories.tags(operation),
            idempotency_key=f"{operation.id}/{attempt}",
            work_queue_name=FLOWS[kind if operation.ended else operation.kind].role,
        )
        cloud.operations.sent(operation.id, attempt, run.id)
        if operation.flow_run_id and operation.flow_run_id != run.id:
            close_run(
                operation.flow_run_id,
                f"taken over by run {run.id}",
                cancelled=operation.wish == "cancel" and operation.attempt > operation.epoch,
            )
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("operation %s is not sent yet: %s", operation.id, error)
        return
    waking.wake(waking.bells(cloud.settings, _pool(operation.datacenter_id)))


def has_run(operation: Operation) -> bool:
    """Whether a run of its next attempt has been made and has not ended."""
    if operation.attempt <= operation.epoch or operation.flow_run_id is None:
        return False
    run = _read(operation.flow_run_id)
    return bool(run and run.state and not run.state.is_final())


def close_run(flow_run: UUID, why: str, *, cancelled: bool = False) -> None:
    """Show a run that nobody works on as ended; one that has ended stays as it is."""
    run = _read(flow_run)
    if run and run.state and not run.state.is_final():
        _show_ended(run, why, otherwise=Cancelled if cancelled else Crashed)


def correct_run(flow_run: UUID, why: str) -> None:
    """Show a run that is shown as failed as its operation has ended."""
    if run := _read(flow_run):
        _show_ended(run, why, otherwise=Failed)


def _read(flow_run: UUID) -> FlowRun | None:
    try:
        return client().read_flow_run(flow_run)
    except ObjectNotFound:  # somebody has deleted it
        return None


def _show_ended(run: FlowRun, why: str, otherwise: Ended) -> None:
    """The last run of an operation that has ended shows that, whatever became of its process."""
    row = operation_of(run)
    as_it = row and row.flow_run_id == run.id and _SHOWN.get(row.state)
    client().set_flow_run_state(run.id, (as_it or otherwise)(message=why), force=True)


def operation_of(run: FlowRun) -> Operation | None:
    """The operation that a run is for; None for a scheduled one, and when it is forgotten."""
    try:
        return cloud.operations.read(UUID(str(run.parameters.get("operation"))))
    except (ValueError, NotFound):  # somebody may have typed it in Prefect's UI
        return None


@cache
def client() -> SyncPrefectClient:
    """This process's client, kept open."""
    made = get_client(sync_client=True)
    made.__enter__()
    return made


def _flow_for(operation: Operation) -> str:
    if operation.ended:
        return "reconcile_operations"
    lines = cloud.journal.lines(operation.id)
    if any(STEPS[x.name].effect.binds for x in lines if x.name in STEPS):
        return operation.kind
    changed = any(x.attempts for x in lines) and operation.version != FLOWS[operation.kind].version
    back = operation.wish or operation.state is OperationState.UNWINDING or changed
    return "unwind_operation" if back else operation.kind


@cache
def _pool(datacenter: UUID) -> str:
    return cloud.inventory.datacenter_name(datacenter)


@cache
def _deployment(kind: str, pool: str) -> UUID:
    name = f"{FLOWS[kind].flow.name}/{pool}"
    return client().read_deployment_by_name(name).id
