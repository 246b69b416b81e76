"""What the worker decides without the engine."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Running
from sqlalchemy import update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.schema import migrate
from adapters.database.session import Database
from api import serve
from deployments.lab.process import free_port, wait_for
from flows import dispatch, prefect_runs
from flows.cloud import cloud
from flows.worker import Worker, require_known_steps
from tests.flows.breaking import Breaker
from tests.flows.test_fates import places_named
from tests.flows.test_waking import rung
from tests.worlds import settings_in


class Prefect:
    """As much of Prefect's client as the worker's loop needs; it is away, or knows some runs."""

    def __init__(self) -> None:
        self.asked = 0
        self.runs: dict[UUID, FlowRun] = {}
        self.unanswered: set[UUID] = set()

    def send_worker_heartbeat(self, *_: object) -> None:
        self.asked += 1
        raise httpx.ConnectError("away")

    def read_flow_run(self, run: UUID) -> FlowRun:
        if run in self.unanswered:
            raise httpx.ReadTimeout("no answer")
        return self.runs[run]

    def read_flow_runs(self, **_: object) -> list[FlowRun]:
        return list(self.runs.values())

    def set_flow_run_state(self, run: UUID, state: State[None], *, force: bool) -> None:
        self.runs[run].state = state

    def running(self, **parameters: object) -> UUID:
        """A run at work, with these parameters."""
        run = FlowRun(flow_id=uuid4(), state=Running(), parameters=parameters)
        self.runs[run.id] = run
        return run.id

    def shown(self, run: UUID) -> str | None:
        state = self.runs[run].state
        return state.name if state else None


@pytest.fixture
def prefect(monkeypatch) -> Prefect:
    fake = Prefect()
    monkeypatch.setattr(dispatch, "client", lambda: fake)
    return fake


@pytest.fixture
def worker(world, prefect) -> Iterator[Worker]:
    """One without children."""
    made = Worker(cloud.settings.model_copy(update={"slots": 0}))
    yield made
    made._bell.take_down()


def test_it_refuses_to_start_over_steps_that_it_does_not_know(prepared, monkeypatch):
    broken = Breaker(monkeypatch, prepared.put_back("create_iscsi_volume"))
    broken.mind_the_dead()
    broken.at(places_named("create_iscsi_volume", "carve-volume")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    require_known_steps()
    with cloud.database.write() as db:
        known = models.Step.name == "carve-volume"
        db.execute(update(models.Step).where(known).values(name="carve-of-old"))
    with pytest.raises(SystemExit, match="carve-of-old"):
        require_known_steps()


def test_a_workers_name_is_one_part_of_an_address(worker):
    """Prefect finds no worker to forget whose name has a slash."""
    assert worker.name.endswith(f":{os.getpid()}")
    assert "/" not in worker.name


def test_a_bell_that_rings_while_prefect_is_away_is_heeded(worker, prefect):
    """Else it would ring for ever, and the loop would not wait between its looks."""
    loop = Thread(target=worker.serve)
    loop.start()
    try:
        wait_for(lambda: prefect.asked, 30, "the first look")
        worker._bell.ring()
        before = prefect.asked
        wait_for(lambda: prefect.asked > before, 30, "the look that it asked for")
        wait_for(lambda: not rung(worker._bell), 30, "silence")
    finally:
        worker.stopping.set()
        loop.join()


def test_a_run_that_cannot_be_closed_holds_up_no_other(worker, prefect):
    runs = [prefect.running() for _ in range(3)]
    prefect.unanswered.add(runs[0])
    worker._left = dict.fromkeys(runs, "its process ended")
    worker._tend()
    assert list(worker._left) == runs[:1]
    assert [prefect.shown(run) for run in runs] == ["Running", "Crashed", "Crashed"]
    prefect.unanswered.clear()
    worker._tend()
    assert not worker._left
    assert prefect.shown(runs[0]) == "Crashed"


@pytest.mark.parametrize("typed", ["shop", 7, None, str(UUID(int=7))])
def test_a_run_whose_operation_was_mistyped_is_a_run_like_others(
    typed, world, prefect, monkeypatch
):
    monkeypatch.setattr(prefect_runs, "LOST_S", 0)
    run, lost = prefect.running(operation=typed), prefect_runs.LostRuns()
    for _ in range(2):
        lost.look("main", ())
    assert prefect.shown(run) == "Running"
    dispatch.close_run(run, "its process ended")
    assert prefect.shown(run) == "Crashed"


@pytest.mark.parametrize("behind", [timedelta(seconds=2), timedelta(hours=1)])
def test_a_clock_behind_the_databases_keeps_no_operation_unsent(behind, world, monkeypatch):
    """Whoever accepts one makes its run at once; it is not waited for as long as clocks differ."""
    monkeypatch.setattr(prefect_runs, "BEING_SENT", timedelta(minutes=5))
    fresh, runs = world.accept("deploy_vm", uuid4()), prefect_runs.Runs()
    assert runs.has_one(accepted(fresh, datetime.now(UTC)), set())
    assert not runs.has_one(accepted(fresh, datetime.now(UTC) + behind), set())


def accepted(operation: Operation, when: datetime) -> Operation:
    return operation.model_copy(update={"accepted_at": when})


@pytest.mark.engine
def test_told_to_stop_while_prefect_is_away_it_ends(tmp_path):
    settings = settings_in(tmp_path / "home", prefect_port=free_port(), port=free_port())
    database = Database(settings.database)
    migrate(database, settings.home)
    database.engine.dispose()
    worker = next(each for each in serve.services(settings) if each.name == "worker")
    worker.start()
    try:
        wait_for(lambda: "waiting for Prefect" in worker.log.read_text(), 120, "its complaint")
        worker.process.terminate()
        assert worker.process.wait(30) == 0
    finally:
        worker.process.kill()
        worker.process.wait()
