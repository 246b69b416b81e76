"""`python -m flows.worker`: takes flow runs from its pool's queues, each in a warm process.

Once a second, and whenever it is woken, the worker asks its pool, and looks for operations that
nobody works on: accepted ones that Prefect does not know, those whose runner is gone, and those
whose runs were cancelled in Prefect. Told to stop, it lets its operations end for a while, and
hands back the others.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from multiprocessing import connection
from threading import Event, Lock, Thread
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.responses import SetStateStatus, WorkerFlowRunResponse
from prefect.exceptions import PrefectException
from prefect.states import Pending

from adapters.database.figures import Slots
from adapters.database.runners import machine
from adapters.errors import AdapterError
from adapters.settings import Settings
from flows import dispatch, logs, prefect_events
from flows.catalog import FLOWS
from flows.children import Children
from flows.cloud import cloud
from flows.exports import rebuild_lost_exports
from flows.follow_hosts import follow_hosts
from flows.operation import accept_maintenance
from flows.prefect_runs import LostRuns, Runs
from flows.registration import register_patiently
from flows.steps import STEPS
from flows.waking import Bell, bells

LOOK_S = 1.0
HEARTBEAT_S = 15.0

log = logging.getLogger("flows.worker")  # as a program, it is `__main__`


class Worker:
    """The parent: its loop touches no backend, so nothing of theirs can hold it up."""

    def __init__(self, settings: Settings) -> None:
        self.pool = settings.datacenter
        self.name = f"{machine()}/{os.getpid()}".replace("/", ":")  # as Prefect wants names
        self.stopping = Event()
        self._hurry = Event()
        self._queues: list[str] = list(settings.roles)
        self._patience_s = settings.shutdown_s
        self._slots = settings.slots
        self._children = Children(settings.slots)
        self._children.fill_up()  # they get warm while we register
        self._runs = Runs()
        self._lost = LostRuns()
        self._left: dict[UUID, str] = {}  # runs of dead children, and why they died
        self._taking = Lock()
        self._told = self._looked = self._reported = 0.0
        self._said: Slots | None = None
        self._bell = Bell(bells(settings, self.pool))

    @property
    def prefect(self) -> SyncPrefectClient:
        """The client that dispatching uses too."""
        return dispatch.client()

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Take no more; when told twice, hand back what runs without waiting for it."""
        if self.stopping.is_set():
            self._hurry.set()
        self.stopping.set()

    def hear(self, event: str, run: UUID) -> None:
        """Take Prefect's word that something is to be done, unless it is done, or just being."""
        if event in prefect_events.CANCELS:
            self._looked = 0.0
        with self._taking:
            taken = any(child.run == run for child in self._children.busy)
        if not self._looked or not taken:
            self._bell.ring()

    def serve(self) -> None:
        """Work until told to stop; then let what runs end, for a while, and hand back the rest."""
        _bury_dead_runners()
        self._bell.hang_up()
        while not self.stopping.is_set():
            with _tried_again():
                self._tell()
                self._tend()
                self._children.fill_up()
                with self._taking:
                    self._bell.heed()  # what rang until now is answered by this look
                    self._take()
                if time.monotonic() - self._looked > LOOK_S * 0.9:
                    self._looked = time.monotonic()
                    self._report()
                    self._look()
            self._wait(self._bell.fileno())
            self._bell.heed()  # also where Prefect is away: it must not ring for ever
        self._bell.take_down()
        self._finish()

    def _wait(self, *others: int) -> None:
        connection.wait([*others, *self._children.news], timeout=LOOK_S)

    def _tell(self) -> None:
        """Tell Prefect now and then that we are here."""
        if time.monotonic() - self._told > HEARTBEAT_S:
            self.prefect.send_worker_heartbeat(self.pool, self.name, HEARTBEAT_S)
            self._told = time.monotonic()

    def _report(self) -> None:
        """Tell our database, for whoever monitors us, when it has changed, and now and then."""
        now = Slots(
            name=self.name,
            datacenter=self.pool,
            slots=self._slots,
            busy=len(self._children.busy),
        )
        if now != self._said or time.monotonic() - self._reported > HEARTBEAT_S:
            cloud.figures.report(now)
            self._said, self._reported = now, time.monotonic()

    def _tend(self) -> None:
        """Hear what became of the children: a dead one leaves a lease and a run, both end here.

        With Prefect or the database away that is tried again until it is done.
        """
        for child in self._children.bury_dead():
            if child.run:
                self._left[child.run] = why = f"its process ended ({child.process.exitcode})"
                with logs.telling(run=str(child.run), operation=child.operation):
                    log.warning(why)
        if self._left:
            _bury_dead_runners()
        for run, why in list(self._left.items()):
            with _tried_again():  # each by itself: none may hold up the others, or the queue
                dispatch.close_run(run, why)
                del self._left[run]

    def _take(self) -> None:
        """Take as many runs as there are idle children."""
        idle = self._children.idle
        found = self._waiting(len(idle)) if idle else []
        for child, each in zip(idle, found, strict=False):
            run = each.flow_run
            taken: OrchestrationResult[None] = self.prefect.set_flow_run_state(run.id, Pending())
            if taken.status is SetStateStatus.ACCEPT:
                child.start(run, _kind_of(run.flow_id))
                with logs.telling(run=str(run.id), operation=child.operation):
                    log.info("%s is run by process %s", run.name, child.process.pid)

    def _waiting(self, most: int) -> list[WorkerFlowRunResponse]:
        """The most urgent ones; the client's own method would fetch a page of 200 each time."""
        asked = {
            "work_queue_names": self._queues,
            "scheduled_before": datetime.now(UTC).isoformat(),
            "limit": most,
        }
        answer = self.prefect.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self.pool},
            json=asked,
        )
        return WorkerFlowRunResponse.model_validate_list(answer.json())

    def _look(self) -> None:
        """Send the operations that nobody works on; settling is a flow's work."""
        datacenter = cloud.inventory.datacenter_called(self.pool)
        if datacenter is None:
            return
        self._runs.look(datacenter)
        self._runs.heed_cancels()
        ours = {child.run for child in self._children.busy}
        self._lost.look(self.pool, ours)
        settling = False
        for operation in cloud.operations.due(datacenter):
            if operation.ended:
                settling = True
            elif not self._runs.has_one(operation, ours):
                dispatch.send(operation)
        if settling and not cloud.operations.unfinished("reconcile_operations", datacenter):
            accepted = accept_maintenance(FLOWS["reconcile_operations"])
            dispatch.send(cloud.operations.read(accepted))

    def _finish(self) -> None:
        """Let operations end while there is time; what does not is another worker's at once."""
        until = time.monotonic() + self._patience_s
        while (self._children.busy or self._left) and time.monotonic() < until:
            if self._hurry.is_set():
                break
            with _tried_again():
                self._tell()
                self._tend()
            self._wait()
        interrupted = self._children.disband()
        with _tried_again():
            _bury_dead_runners()
            for run in interrupted:
                dispatch.close_run(run, "its worker was told to stop")
            if interrupted:
                self._look()


@contextmanager
def _tried_again() -> Iterator[None]:
    """Let nothing that another second may put right end the worker."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, AdapterError) as error:
        log.warning("the worker tries again: %s", error)


def _bury_dead_runners() -> None:
    cloud.operations.bury(lambda runner: runner.alive_here() is None)


@cache
def _kind_of(flow: UUID) -> str:
    return dispatch.client().read_flow(flow).name.replace("-", "_")


def require_known_steps() -> None:
    """Refuse to start over unfinished operations that this version could neither do nor undo."""
    if unknown := cloud.operations.unfinished_steps() - STEPS.keys():
        listed = ", ".join(sorted(unknown))
        raise SystemExit(f"unfinished operations have steps that are unknown here: {listed}")


def main() -> None:
    """Serve the datacenter that the settings name."""
    logs.install(cloud.settings)
    require_known_steps()
    worker = Worker(cloud.settings)
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)
    if register_patiently(worker.pool, worker.stopping):
        pool = dispatch.client().read_work_pool(worker.pool)
        for target, arguments in (
            (rebuild_lost_exports, (Event(),)),
            (follow_hosts, (worker.pool, worker.stopping)),
            (prefect_events.listen, (pool.id, worker.hear)),
        ):
            Thread(target=target, args=arguments, name=target.__name__, daemon=True).start()
    worker.serve()


if __name__ == "__main__":
    main()
