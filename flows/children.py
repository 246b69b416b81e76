"""The processes that run flows: forked from a preloaded server, warm, and used many times.

Each is isolated: what a flow does to its process ends with it at the latest. They end with their
worker, and are replaced by count and by memory, the successor warm before the old one goes.
"""

import logging
import multiprocessing
import os
import select
import signal
from contextvars import copy_context
from multiprocessing import connection
from threading import Thread
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect.client.schemas.objects import FlowRun

from adapters.errors import AdapterError
from flows import dispatch, exhibits, logs, prefect_private, traces
from flows.catalog import FLOWS
from flows.cloud import cloud

RUNS_A_CHILD = 100
LEAVING_S = 10.0  # how long a child may take to tell Prefect the last of its steps

log = logging.getLogger(__name__)


def serve_runs(worker: int, pipe: connection.Connection) -> None:
    """What a child does: the flow runs that its worker sends, one at a time, connections kept.

    It says when it is free, and whether it is worn; it leaves when its worker needs it no more.
    """
    Thread(target=_die_with, args=(worker,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's business
    runs = 0
    exhibits.later.set(True)
    logs.install(cloud.settings)
    with traces.sent(cloud.settings, "runner"), prefect_private.kept_warm():
        _connect_to_database()
        while True:
            try:
                pipe.send(_is_worn(runs))
                run_json, kind = pipe.recv()
            except (EOFError, OSError):
                return
            run = FlowRun.model_validate_json(run_json)
            failure = copy_context().run(prefect_private.run_here, FLOWS[kind].flow, run)
            if isinstance(failure, httpx.HTTPError):
                dispatch.correct_run(run.id, f"Prefect did not hear of its end at once: {failure}")
            exhibits.finish()
            runs += 1


def _connect_to_database() -> None:
    try:
        with cloud.database.read() as db:
            db.connection()
    except AdapterError as error:  # the first run will connect
        log.info("not connected to the database yet: %s", error)


def _is_worn(runs: int) -> bool:
    memory_mib = psutil.Process().memory_info().rss / 2**20
    too_big = memory_mib > cloud.settings.child_memory_mib
    return runs >= RUNS_A_CHILD or (runs > 0 and too_big)


def _die_with(worker: int) -> None:
    """End this process when the worker ends: nobody is left to vouch for it."""
    try:
        ends = select.poll()
        ends.register(os.pidfd_open(worker), select.POLLIN)
        ends.poll()
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
        self.operation = ""  # of the run; a scheduled one has none yet
        self.warm = False
        self.worn = False

    @property
    def idle(self) -> bool:
        """Whether it can run something now."""
        return self.warm and self.run is None

    def start(self, run: FlowRun, kind: str) -> None:
        """Run it; a process that has just died has it too, and is found dead with it."""
        self.run, self.operation = run.id, str(run.parameters.get("operation") or "")
        try:
            self._pipe.send((run.model_dump_json(), kind))
        except OSError as error:
            log.warning("run %s met a process that has ended: %s", run.id, error)

    @property
    def news(self) -> Any:
        """Becomes readable when it is free, or the process has died."""
        return self._pipe

    def hear(self) -> bool:
        """Take the news; False when it is death."""
        try:
            while self._pipe.poll():
                self.worn = self._pipe.recv()
                self.warm, self.run = True, None
        except (EOFError, OSError):
            return False
        return True

    def end(self) -> None:
        """End the process at once."""
        self._pipe.close()
        self.process.kill()
        self.process.join()

    def leave(self) -> Thread:
        """Let an idle process go, without waiting for it; the thread ends with it."""
        self._pipe.close()
        farewell = Thread(target=self._see_off, name="farewell")
        farewell.start()
        return farewell

    def _see_off(self) -> None:
        self.process.join(LEAVING_S)
        self.process.kill()
        self.process.join()


class Children:
    """A child per slot; for a moment one more, while a worn one is being replaced."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._all: list[Child] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["flows.preload"])

    @property
    def news(self) -> list[Any]:
        """What becomes readable when one of them is free, or has died."""
        return [child.news for child in self._all]

    @property
    def busy(self) -> list[Child]:
        """Those that have a run."""
        return [child for child in list(self._all) if child.run]

    @property
    def idle(self) -> list[Child]:
        """Those that may be given one now: never more at work than there are slots."""
        free = sorted((child for child in self._all if child.idle), key=lambda child: child.worn)
        return free[: self._slots - len(self.busy)]

    def bury_dead(self) -> list[Child]:
        """Hear the news of all; those that have died are ours no more."""
        dead = [child for child in self._all if not child.hear()]
        for child in dead:
            self._all.remove(child)
            child.end()
        return dead

    def fill_up(self) -> None:
        """Have as many unworn ones as there are slots; then the worn ones go."""
        fresh = [child for child in self._all if not child.worn]
        for _ in range(self._slots - len(fresh)):
            self._all.append(Child(self._context))
        if sum(child.warm for child in fresh) >= self._slots:
            for child in [child for child in self._all if child.worn and child.run is None]:
                self._all.remove(child)
                child.leave()

    def disband(self) -> list[UUID]:
        """End all; answers the runs that did not come to their end."""
        interrupted = [child.run for child in self._all if child.run]
        for child in self.busy:
            child.end()
        farewells = [child.leave() for child in self._all if child.run is None]
        for farewell in farewells:
            farewell.join()
        self._all.clear()
        return interrupted
