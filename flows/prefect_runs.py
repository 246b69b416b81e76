"""What has become of the flow runs of operations: one question to Prefect a second, for all."""

import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Running

from adapters.database import events
from adapters.database.operations import Operation, Operations
from adapters.database.sent import Sent, sent
from adapters.database.session import Joined
from adapters.errors import Conflict
from adapters.types import OperationState
from flows import dispatch
from flows.cloud import cloud
from flows.operation import SUPERSEDED
from flows.wishes import ask

BEING_SENT = timedelta(seconds=1)
UNCLAIMED_S = 20.0  # how long a taken run may be without claiming its operation
LOST_S = 30.0  # from one look for lost runs to the next
CANCELLING_S = 2.0  # the same, of one that was cancelled meanwhile
_ALL_EVERY = 60  # looks: only then it shows that a waiting run was deleted
_PAGE = 200  # of Prefect's answers

log = logging.getLogger(__name__)


class Runs:
    """The runs that operations wait for, or have."""

    def __init__(self) -> None:
        self._looks = 0
        self._sent: dict[UUID, Sent] = {}
        self._seen: dict[UUID, FlowRun] = {}
        self._gone: set[UUID] = set()
        self._taken: dict[UUID, float] = {}  # since when a run was seen to wait no more

    def look(self, datacenter: UUID) -> None:
        """Ask for all that do not just wait in their queue: few, however long that is."""
        self._sent = sent(cloud.database, datacenter)
        self._seen = _read(list(self._sent), waiting=False)
        now = time.monotonic()
        self._taken = {run: self._taken.get(run, now) for run in self._seen}
        self._looks += 1
        if self._looks % _ALL_EVERY == 0:
            quiet = [run for run in self._sent if run not in self._seen][:_PAGE]
            self._gone = set(quiet) - _read(quiet).keys()

    def heed_cancels(self) -> None:
        """Wish for the operations what somebody has asked of their runs in Prefect."""
        for run in self._seen.values():
            asked = self._sent[run.id]
            if asked.wish != "cancel" and _is_cancelled(run):
                self._heed(asked)

    @staticmethod
    def _heed(asked: Sent) -> None:
        try:
            with cloud.database.write() as db, events.acting("somebody in Prefect"):
                ask(Operations(Joined(db), cloud.settings.lease_s), asked.operation, "cancel")
        except Conflict as refusal:
            log.info("operation %s is not cancelled: %s", asked.operation, refusal)
            if asked.claimed and refusal.code == "no-way-back":
                goes_on: State[None] = Running(message=f"not cancelled: {refusal}")
                dispatch.client().set_flow_run_state(asked.flow_run, goes_on, force=True)

    def has_one(self, operation: Operation, ours: set[UUID | None]) -> bool:
        """Whether a run for the next attempt waits in the pool, or has just been taken.

        `ours` are at work here: they claim their operations, or are seen to die. Whoever has
        just accepted one is making its run.
        """
        age = datetime.now(UTC) - operation.accepted_at  # negative where our clock is behind
        if not operation.attempt and timedelta() <= age < BEING_SENT:
            return True
        run = operation.flow_run_id
        if operation.attempt <= operation.epoch or run is None or run in self._gone:
            return False
        if run in ours or run not in self._seen:
            return True
        state = self._seen[run].state
        if state is None or state.is_final():
            return False
        patience_s = CANCELLING_S if state.is_cancelling() else UNCLAIMED_S
        return time.monotonic() - self._taken[run] < patience_s


class LostRuns:
    """Runs at work in Prefect that their operation does not need: each keeps a place in a queue.

    Their process died, or lost Prefect, after the operation had ended or was taken over.
    """

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._once: set[UUID] = set()

    def look(self, pool: str, ours: Collection[UUID | None]) -> None:
        """Now and then, show those as ended that were lost the last time, too."""
        if time.monotonic() - self._looked > LOST_S:
            self._looked = time.monotonic()
            lost = {run.id for run in _at_work(pool) if run.id not in ours and _is_over(run)}
            for run in lost & self._once:
                dispatch.close_run(run, "its process ended, its operation does not need it")
            self._once = lost


def _at_work(pool: str) -> list[FlowRun]:
    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    return dispatch.client().read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )


def _is_over(run: FlowRun) -> bool:
    row = dispatch.operation_of(run)
    if row is None:
        return False
    return row.ended or row.state is OperationState.STUCK or row.flow_run_id != run.id


def _read(runs: list[UUID], *, waiting: bool = True) -> dict[UUID, FlowRun]:
    if not runs:
        return {}
    others = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=[StateType.SCHEDULED]))
    asked = FlowRunFilter(id=FlowRunFilterId(any_=runs), state=None if waiting else others)
    return {run.id: run for run in dispatch.client().read_flow_runs(flow_run_filter=asked)}


def _is_cancelled(run: FlowRun) -> bool:
    state = run.state
    if state is None or state.name == SUPERSEDED:
        return False
    return state.is_cancelling() or state.is_cancelled()
