"""`python -m flows.worker`: takes flow runs from its pool, each in an isolated warm process.

Children are forked from a server that has everything imported, and end with their worker. Once a
second, and whenever it is woken, the worker asks its pool, and looks for operations that nobody
works on: accepted ones that Prefect does not know, and those whose runner is gone.
"""

import logging
import multiprocessing
import os
import select
import signal
import socket
import time
from contextvars import copy_context
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.context import SyncClientContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Pending

from adapters.database.operations import Operation
from adapters.database.runners import machine
from adapters.errors import AdapterError
from flows import dispatch
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.exports import rebuild_lost_exports
from flows.operation import accept_maintenance
from flows.steps import STEPS

LOOK_S = 1.0
HEARTBEAT_S = 15.0
UNCLAIMED_S = 20.0  # how long a taken run may be without claiming its operation
FIRST_OF_SCHEDULES = datetime(2026, 1, 1, tzinfo=UTC)  # a restart moves no schedule
RUNS_A_CHILD = 100  # then it is replaced, whatever it may have gathered

log = logging.getLogger(__name__)


def serve_runs(worker: int, pipe: connection.Connection) -> None:
    """What a child does: the flow runs that its worker sends, one at a time, connections kept."""
    Thread(target=_die_with, args=(worker,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's business
    # A heartbeat thread would end a second after the flow; the worker vouches for us.
    quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with quiet, SyncClientContext.get_or_create():
        for _ in range(RUNS_A_CHILD):
            try:
                run_json, kind = pipe.recv()
            except EOFError:  # the worker needs no more
                return
            copy_context().run(_run, FlowRun.model_validate_json(run_json), kind)
            pipe.send("done")


def _run(run: FlowRun, kind: str) -> None:
    # A run with a deployment starts a thread, a websocket and a GET to watch for suspension,
    # which we do not use.
    unwatched = run.model_copy(update={"deployment_id": None})
    run_flow(FLOWS[kind].flow, unwatched, run.parameters, return_type="state")


def _die_with(worker: int) -> None:
    """End this process when the worker ends: nobody is left to vouch for it."""
    try:
        select.select([os.pidfd_open(worker)], [], [])
    finally:
        os._exit(1)


class Child:
    """A process that runs flows, and the flow run that it has."""

    def __init__(self, context: Any) -> None:
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_runs, args=(os.getpid(), theirs))
        self.process.start()
        theirs.close()
        self.run: UUID | None = None

    def start(self, run: FlowRun, kind: str) -> None:
        """Run it; a process that has just died has it too, and is found dead with it."""
        self.run = run.id
        try:
            self._pipe.send((run.model_dump_json(), kind))
        except OSError as error:
            log.warning("run %s met a process that has ended: %s", run.id, error)

    @property
    def news(self) -> Any:
        """Becomes readable when the run is done, or the process has died."""
        return self._pipe

    def hear(self) -> bool:
        """Take the news; False when it is death."""
        try:
            while self._pipe.poll():
                self._pipe.recv()
                self.run = None
        except (EOFError, OSError):
            return False
        return True

    def end(self) -> None:
        """End the process at once."""
        self._pipe.close()
        self.process.kill()
        self.process.join()


class Worker:
    """The parent: its loop touches no backend, so nothing of theirs can hold it up."""

    def __init__(self, pool: str, slots: int) -> None:
        self.pool = pool
        self.slots = slots
        self.name = f"{machine()}/{os.getpid()}"
        self.stop = Event()
        self._children: list[Child] = []
        self._unclaimed: dict[UUID, float] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["flows.preload"])
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wire.bind(dispatch.wake_path(pool, cloud.settings))
        self._wire.settimeout(0)

    @property
    def prefect(self) -> SyncPrefectClient:
        """The client that dispatching uses too."""
        return dispatch.client()

    def serve(self) -> None:
        """Work until told to stop; then end the children and let their leases lapse."""
        cloud.operations.bury(lambda runner: runner.alive_here() is None)
        heartbeat = 0.0
        while not self.stop.is_set():
            try:
                if time.monotonic() - heartbeat > HEARTBEAT_S:
                    self.prefect.send_worker_heartbeat(self.pool, self.name, HEARTBEAT_S)
                    heartbeat = time.monotonic()
                self._tend()
                self._look()
                self._take()
            except (httpx.HTTPError, PrefectException, AdapterError) as error:
                log.warning("the worker tries again: %s", error)
            self._wait()
        for child in self._children:
            child.end()
        cloud.operations.bury(lambda runner: runner.alive_here() is None)

    def _wait(self) -> None:
        news = [child.news for child in self._children]
        if self._wire in connection.wait([self._wire, *news], timeout=LOOK_S):
            while select.select([self._wire], [], [], 0)[0]:
                self._wire.recv(16)

    def _take(self) -> None:
        """Take as many runs as there are idle children."""
        idle = [child for child in self._children if child.run is None]
        found = self._waiting() if idle else []
        for child, each in zip(idle, found, strict=False):
            run = each.flow_run
            taken: OrchestrationResult[None] = self.prefect.set_flow_run_state(run.id, Pending())
            if taken.state and taken.state.is_pending():
                child.start(run, self.prefect.read_flow(run.flow_id).name.replace("-", "_"))

    def _waiting(self) -> list[WorkerFlowRunResponse]:
        now = datetime.now(UTC)
        return self.prefect.get_scheduled_flow_runs_for_work_pool(self.pool, scheduled_before=now)

    def _tend(self) -> None:
        """Keep a child per slot; one that died leaves a lease and a run behind: both end here."""
        for child in list(self._children):
            if child.hear():
                continue
            self._children.remove(child)
            child.end()
            cloud.operations.bury(lambda runner: runner.alive_here() is None)
            if child.run:
                dispatch.close_run(child.run, f"its process ended ({child.process.exitcode})")
        while len(self._children) < self.slots:
            self._children.append(Child(self._context))

    def _look(self) -> None:
        """Send the operations that nobody works on; settling is a flow's work."""
        datacenter = cloud.inventory.datacenter_called(self.pool)
        due = cloud.operations.due(datacenter) if datacenter else []
        self._unclaimed = {each.id: self._unclaimed.get(each.id, time.monotonic()) for each in due}
        settling = False
        for operation in due:
            if operation.ended:
                settling = True
            elif not self._is_queued(operation):
                self._unclaimed.pop(operation.id, None)
                dispatch.send(operation)
        if settling and not cloud.operations.unfinished("reconcile_operations", datacenter):
            accepted = accept_maintenance(FLOWS["reconcile_operations"])
            dispatch.send(cloud.operations.read(accepted))

    def _is_queued(self, operation: Operation) -> bool:
        """Whether a run for the next attempt waits in the pool, or has just been taken."""
        if operation.attempt <= operation.epoch or operation.flow_run_id is None:
            return False
        if any(child.run == operation.flow_run_id for child in self._children):
            return True
        state = self.prefect.read_flow_run(operation.flow_run_id).state
        if state is None or state.is_final():
            return False
        patient = time.monotonic() - self._unclaimed[operation.id] < UNCLAIMED_S
        return patient or state.is_scheduled()


def register(pool: str) -> None:
    """Make the work pool and a deployment of every flow, or bring them up to date."""
    prefect = dispatch.client()
    try:
        prefect.read_work_pool(pool)
    except ObjectNotFound:
        prefect.create_work_pool(WorkPoolCreate(name=pool, type="cloudloom"))
    for flow in FLOWS.values():
        every = flow.every and IntervalSchedule(
            interval=flow.every, anchor_date=FIRST_OF_SCHEDULES
        )
        prefect.create_deployment(
            prefect.create_flow(flow.flow),
            name=pool,
            version=flow.version[:12],
            description=flow.summary,
            work_pool_name=pool,
            schedules=[DeploymentScheduleCreate(schedule=every)] if every else [],
            parameter_openapi_schema=flow.flow.parameters.model_dump(),
            enforce_parameter_schema=True,
            tags=["cloudloom"],
        )


def register_patiently(pool: str) -> None:
    """Register once Prefect answers: a worker may be there before its server."""
    while True:
        try:
            register(pool)
        except httpx.TransportError as error:
            log.info("waiting for Prefect: %s", error)
            time.sleep(LOOK_S / 2)
        else:
            return


def require_known_steps() -> None:
    """Refuse to start over unfinished operations that this version could neither do nor undo."""
    if unknown := cloud.operations.unfinished_steps() - STEPS.keys():
        listed = ", ".join(sorted(unknown))
        raise SystemExit(f"unfinished operations have steps that are unknown here: {listed}")


def main() -> None:
    """Serve the datacenter that the settings name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    require_known_steps()
    pool = cloud.settings.datacenter
    register_patiently(pool)
    worker = Worker(pool, cloud.settings.slots)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    Thread(target=rebuild_lost_exports, args=(worker.stop,), name="exports", daemon=True).start()
    Path(cloud.settings.home / "worker.ready").write_text(str(os.getpid()))
    worker.serve()


if __name__ == "__main__":
    main()
