"""The same laws through the real engine: Prefect's server, its pool, our worker."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4, uuid5

import psutil
import pytest
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelling, Pending, Running

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.settings import Settings
from adapters.types import OperationState, Role
from api import serve, tokens
from api.client import Client
from deployments.lab import prefect_database
from deployments.lab.process import free_port, wait_for
from flows import dispatch, prefect_env, prefect_events, prefect_runs, waking
from flows.catalog import CATALOG, FLOWS
from flows.cloud import cloud
from flows.operation import accept_maintenance
from tests import worlds

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Stack:
    """What a module's tests run on: how many of each, and settings that all of them have."""

    homes: int = 1
    apart: bool = False  # each home on a machine of its own, as far as its processes can tell
    settings: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def stack() -> Stack:
    """One of each, as embedded; modules that want another one say so."""
    return Stack()


@pytest.fixture(scope="module")
def engine(tmp_path_factory, stack) -> Iterator[tuple[worlds.World, dict[str, serve.Service]]]:
    """A memory world with Prefect and a worker at work on it, in each of the stack's homes."""
    folder = tmp_path_factory.mktemp("engine")
    homes = [folder / f"home-{n}" for n in range(stack.homes)]
    changes = {
        "prefect_port": free_port(),
        "port": free_port(),
        "lease_s": 5,
        "backend_timeout_s": 1,
        "retries": 50,
        "simulation": folder / "world.sqlite",
        **stack.settings,
    }
    world = worlds.build(homes[0], **changes)
    first = cloud.settings
    services = services_in(first)
    for n, home in enumerate(homes[1:], start=2):
        ports = {"home": home, "port": free_port(), "prefect_port": free_port()}
        theirs = services_in(first.model_copy(update=ports))
        if stack.apart:
            for each in theirs.values():
                put_apart(each, home)
        services |= {f"{name}-{n}": each for name, each in theirs.items()}
    if stack.homes == 1:  # the tests' own process accepts and sends, as an API does
        del services["api"]
    env = prefect_env.environment(first)
    dispatch.client.cache_clear()
    dispatch._deployment.cache_clear()
    dispatch._pool.cache_clear()
    ours = {
        PREFECT_API_URL: env["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: env["PREFECT_API_AUTH_STRING"],
    }
    try:
        for each in services.values():  # one by one: two cores take long to start six at once
            each.start()
            each.wait_ready(Event())
        with temporary_settings(ours):
            yield world, services
            dispatch.client().__exit__(None, None, None)
    finally:
        for each in reversed(services.values()):
            if each.alive:
                each.process.send_signal(signal.SIGCONT)
            each.end()
        cloud.database.engine.dispose()
        shutil.rmtree(folder)


def services_in(settings: Settings) -> dict[str, serve.Service]:
    """The services of a home, to be started; Prefect's SQLite, if it has one, is migrated."""
    if settings.prefect_database_url is None:
        prefect_database.place(settings.home)
    return {each.name: each for each in serve.services(settings)}


def put_apart(service: serve.Service, home: Path) -> None:
    """Let a service see another machine than we do: one of the name of its home."""
    rename = ["unshare", "--uts", "--", "sh", "-c", 'hostname -- "$0" && exec "$@"', home.name]
    service.command = [*rename, *service.command]
    if service.name == "worker":
        bells = home / "workers" / home.name
        service.ready = lambda pid: any(waking.ring(x, str(pid)) for x in bells.glob("*"))


@pytest.fixture(autouse=True)
def no_fate_outlives_its_test(engine) -> Iterator[None]:
    yield
    cloud.world.forget_fates()


def asked_for(world: worlds.World, name: str, size_mib: int = 8) -> Operation:
    volume = {
        "id": str(uuid4()),
        "name": name,
        "virtual_datacenter_id": str(world.vdc),
        "pool_id": str(world.pool),
        "size_mib": size_mib,
    }
    return world.accept("create_iscsi_volume", uuid4(), volume=volume)


def ended(operation: Operation, timeout_s: float = 180) -> Operation:
    try:
        wait_for(lambda: cloud.operations.read(operation.id).ended, timeout_s, "its end")
    except TimeoutError as late:
        late.add_note(repr(cloud.operations.read(operation.id)))
        for log in (cloud.settings.home / "logs").glob("*.log"):
            late.add_note(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")
        raise
    return cloud.operations.read(operation.id)


def final_state(operation: Operation) -> str:
    run = cloud.operations.read(operation.id).flow_run_id
    assert run is not None
    return outcome_of(run)


def run_state(run: UUID) -> str | None:
    state = dispatch.client().read_flow_run(run).state
    return state.name if state else None


def made_volume(world: worlds.World, name: str) -> UUID:
    operation = asked_for(world, name)
    dispatch.send(operation)
    assert ended(operation).state is OperationState.SUCCEEDED
    wait_for(lambda: not cloud.operations.locked_by(operation.id), 90, "the receipt")
    return UUID(operation.arguments["volume"]["id"])


def outcome_of(run: UUID) -> str:
    """The state that a flow run ends in."""

    def has_ended() -> bool:
        state = dispatch.client().read_flow_run(run).state
        return state is not None and state.is_final()

    wait_for(has_ended, 90, "the flow run's end")
    return dispatch.client().read_flow_run(run).state.name


def test_an_operation_runs_as_a_flow_run_of_its_name(engine):
    world, _ = engine
    operation = asked_for(world, "named")
    dispatch.send(operation)
    done = ended(operation)
    assert done.state is OperationState.SUCCEEDED
    assert final_state(done) == "Completed"
    run = dispatch.client().read_flow_run(done.flow_run_id)
    assert run.name == f"create-iscsi-volume {done.target_name}"
    assert {f"operation:{done.id}", f"enterprise:{done.enterprise_id}"} <= set(run.tags)
    assert run.parameters == {"operation": str(done.id)}


@pytest.fixture
def customer(engine) -> Iterator[Client]:
    """Somebody who asks the API, in its own process; started here where there is none yet."""
    _, services = engine
    api = next(each for each in serve.services(cloud.settings) if each.name == "api")
    if "api" not in services:
        api.start()
        api.wait_ready(Event())
    token = tokens.mint(cloud.database, "customer", FIRST_ENTERPRISE)
    with Client(f"http://127.0.0.1:{cloud.settings.port}", token) as asking:
        yield asking
    if "api" not in services:
        api.end()


def test_without_prefect_requests_are_accepted_and_reported_and_run_when_it_is_back(
    engine, customer
):
    world, services = engine
    prefects = [each for each in services.values() if each.name == "prefect"]
    cloud.world.set_fate("storage.ensure_volume", delay_s=3)
    begun = asked_for(world, "begun before")
    dispatch.send(begun)
    wait_for(lambda: cloud.journal.lines(begun.id)[1:], 90, "the step in flight")
    for each in prefects:
        each.process.kill()
        each.process.wait()
    try:
        wanted = {"size_mib": 8, "virtual_datacenter": "demo"}
        asked = [customer.start("/v1/volumes", {"name": f"v{n}", **wanted}) for n in range(3)]
        customer.start(f"/v1/operations/{asked[0].id}/cancel")
        told = [customer.operation(each.id, wait_s=1) for each in asked]
        assert {(each.state, each.flow_run_url) for each in told} == {("accepted", None)}
        assert customer.wait(begun.id).state is OperationState.SUCCEEDED
    finally:
        for each in prefects:
            each.start()
            each.wait_ready(Event())
    run = cloud.operations.read(begun.id).flow_run_id
    wait_for(lambda: run_state(run) == "Completed", 60, "what its runner could not say")
    ends = [ended(cloud.operations.read(each.id), timeout_s=180) for each in asked]
    assert [each.state for each in ends] == ["cancelled", "succeeded", "succeeded"]
    assert [each.epoch for each in ends] == [1, 1, 1]


def test_a_run_that_its_operation_does_not_need_keeps_no_place(engine, monkeypatch):
    world, _ = engine
    monkeypatch.setattr(prefect_runs, "LOST_S", 0)
    done, other = asked_for(world, "done"), asked_for(world, "of another run")
    for each in (done, other):
        dispatch.send(each)
        assert final_state(ended(each)) == "Completed"
    left = cloud.operations.read(done.id).flow_run_id
    dispatch.client().set_flow_run_state(left, Running(), force=True)
    older = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("create_iscsi_volume", "main"),
        parameters={"operation": str(other.id)},
        state=Running(),
    )
    lost = prefect_runs.LostRuns()
    for ours in (set(), {left, older.id}, set()):  # whoever is at work may be about to end it
        lost.look("main", ours)
        assert {run_state(left), run_state(older.id)} == {"Running"}
    lost.look("main", set())
    assert (run_state(left), run_state(older.id)) == ("Completed", "Crashed")


def test_a_failed_operation_is_a_failed_run(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", "refuses")
    operation = asked_for(world, "refused")
    dispatch.send(operation)
    assert ended(operation).state is OperationState.FAILED
    assert final_state(operation) == "Failed"
    wait_for(lambda: not cloud.operations.read(operation.id).provisional, 90, "the second look")
    assert not cloud.operations.read(operation.id).left_behind


def test_an_operation_that_was_never_sent_is_found(engine):
    world, _ = engine
    assert ended(asked_for(world, "forgotten")).state is OperationState.SUCCEEDED


def test_sending_twice_runs_once(engine):
    world, _ = engine
    operation = asked_for(world, "twice")
    dispatch.send(operation)
    dispatch.send(operation)
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 1)


def retry(run: UUID) -> None:
    """What Prefect's UI does when somebody presses Retry."""
    dispatch.client().set_flow_run_state(run, AwaitingRetry(), force=True)


def test_a_retried_run_of_an_ended_operation_fails_and_says_so(engine):
    world, _ = engine
    operation = asked_for(world, "ended")
    dispatch.send(operation)
    done = ended(operation)
    assert final_state(done) == "Completed"
    wait_for(lambda: not cloud.operations.locked_by(done.id), 90, "the receipt")
    done = cloud.operations.read(done.id)
    retry(done.flow_run_id)
    wait_for(lambda: run_state(done.flow_run_id) == "Failed", 90, "the retried run")
    message = dispatch.client().read_flow_run(done.flow_run_id).state.message
    assert "nothing to retry" in message
    assert cloud.operations.read(done.id) == done


def test_a_retried_run_of_a_stuck_operation_resumes_it(engine):
    world, _ = engine
    volume = made_volume(world, "stuck")
    cloud.world.set_fate("storage.delete_volume", "refuses")
    operation = world.accept("delete_iscsi_volume", volume)
    dispatch.send(operation)

    def is_stuck() -> bool:
        return cloud.operations.read(operation.id).state is OperationState.STUCK

    wait_for(is_stuck, 90, "the refusal")
    run = cloud.operations.read(operation.id).flow_run_id
    assert outcome_of(run) == "Failed"
    retry(run)
    done = ended(operation)
    assert (done.state, done.epoch, done.flow_run_id) == (OperationState.SUCCEEDED, 2, run)
    wait_for(lambda: run_state(run) == "Completed", 90, "the retried run")


def test_a_second_run_of_a_running_operation_leaves_it_to_the_first(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=3)
    operation = asked_for(world, "taken")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    again = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("create_iscsi_volume", "main"),
        parameters={"operation": str(operation.id)},
    )
    assert outcome_of(again.id) == "Superseded"
    assert dispatch.client().read_flow_run(again.id).state.is_cancelled()
    assert "another run" in dispatch.client().read_flow_run(again.id).state.message
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 1)


def test_a_scheduled_run_accepts_an_operation_of_its_own(engine):
    run = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("reconcile_operations", "main")
    )
    assert outcome_of(run.id) == "Completed"


def test_reconciling_leaves_a_run_that_waits_to_begin(engine):
    world, services = engine
    with held_still(workers_of(services)):
        operation = asked_for(world, "waits")
        dispatch.send(operation)
        sent = cloud.operations.read(operation.id)
        FLOWS["reconcile_operations"](accept_maintenance(FLOWS["reconcile_operations"]))
        assert cloud.operations.read(operation.id) == sent
    done = ended(operation)
    assert (done.state, done.epoch, done.flow_run_id) == ("succeeded", 1, sent.flow_run_id)
    assert final_state(done) == "Completed"


def test_what_has_a_schedule_is_planned(engine):
    kept_by_prefect = {
        each.flow_id: each.schedules[0].schedule.interval
        for each in dispatch.client().read_deployments()
        if each.schedules
    }
    assert set(kept_by_prefect.values()) == {flow.every for flow in CATALOG if flow.every}

    def planned():
        runs = dispatch.client().read_flow_runs()
        return {run.flow_id for run in runs if run.auto_scheduled} == set(kept_by_prefect)

    wait_for(planned, 90, "Prefect's scheduler")


def test_a_report_is_a_table_in_prefect_and_in_our_database(engine):
    world, _ = engine
    run = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("check_datacenters", "main")
    )
    assert outcome_of(run.id) == "Completed"
    lines = cloud.journal.lines(uuid5(run.id, "check_datacenters"))
    kept = next(line.result for line in lines if line.name == "publish-report")
    shown = dispatch.client().read_artifacts(
        artifact_filter=ArtifactFilter(
            key=ArtifactFilterKey(any_=[f"check-datacenters-{world.datacenter}"])
        )
    )
    assert [json.loads(each.data) for each in shown if each.flow_run_id == run.id] == [kept]
    states = {each["what"]: each["state"] for each in kept}
    assert states == {"worker": "online", "repository": "ok", "datastore": "ok", "pool": "ok"}


def test_a_killed_runner_is_noticed_and_its_run_shown_as_crashed(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=3)
    operation = asked_for(world, "killed")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    runner = _runner(operation)
    first = cloud.operations.read(operation.id).flow_run_id
    os.kill(runner.pid, signal.SIGKILL)
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 2)
    assert dispatch.client().read_flow_run(first).state.name == "Crashed"
    assert final_state(done) == "Completed"


def test_a_killed_worker_takes_its_children_along_and_its_successor_goes_on(engine):
    world, services = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=5)
    operation = asked_for(world, "orphaned")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    runner, worker = _runner(operation), worker_of(operation, services)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    wait_for(lambda: not runner.is_running(), 90, "the end of its child")
    worker.start()
    worker.wait_ready(Event())
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 2)
    volume = str(operation.arguments["volume"]["id"])
    assert cloud.world.calls("storage.ensure_volume").count(volume) == 2


def _runner(operation: Operation) -> psutil.Process:
    return psutil.Process(_runner_pid(operation))


def _runner_pid(operation: Operation) -> int | None:
    with cloud.database.read() as db:
        return db.get_one(models.Operation, operation.id).runner_pid


def test_cancelling_stops_a_step_and_unwinds(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", "fails", times=100, delay_s=0.5)
    operation = asked_for(world, "cancelled")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    run = cloud.operations.read(operation.id).flow_run_id
    dispatch.send(cloud.operations.want(operation.id, "cancel"))
    done = ended(operation)
    assert done.flow_run_id == run
    assert done.state is OperationState.CANCELLED
    assert final_state(done) == "Cancelled"
    assert not cloud.inventory.has_volume(done.target_id)


def cancel_in_prefect(run: UUID) -> None:
    """What Prefect's UI does when somebody presses Cancel."""
    dispatch.client().set_flow_run_state(run, Cancelling())


@contextmanager
def paused(role: Role) -> Iterator[None]:
    """A queue that somebody has paused in Prefect's UI."""
    queue = dispatch.client().read_work_queue_by_name(role, "main")
    dispatch.client().update_work_queue(queue.id, is_paused=True)
    try:
        yield
    finally:
        dispatch.client().update_work_queue(queue.id, is_paused=False)


def test_a_run_cancelled_in_prefect_is_an_operation_cancelled(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", "fails", times=100, delay_s=0.5)
    operation = asked_for(world, "pressed")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    run = cloud.operations.read(operation.id).flow_run_id
    cancel_in_prefect(run)
    done = ended(operation)
    assert (done.state, done.wish, done.flow_run_id) == (OperationState.CANCELLED, "cancel", run)
    assert final_state(done) == "Cancelled"
    assert not cloud.inventory.has_volume(UUID(done.arguments["volume"]["id"]))


def test_a_waiting_run_cancelled_in_prefect_is_an_operation_cancelled(engine):
    world, _ = engine
    operation = asked_for(world, "not begun")
    with paused(Role.STORAGE):
        dispatch.send(operation)
        first = cloud.operations.read(operation.id).flow_run_id
        cancel_in_prefect(first)
        assert run_state(first) == "Cancelled"
        wait_for(lambda: cloud.operations.read(operation.id).attempt == 2, 10, "its way back")
    done = ended(operation)
    assert (done.state, done.wish) == (OperationState.CANCELLED, "cancel")
    assert done.flow_run_id != first
    assert not cloud.journal.lines(operation.id)


def test_a_run_cancelled_before_it_was_claimed_is_an_operation_cancelled(engine):
    world, _ = engine
    operation = asked_for(world, "lost on the way")
    with paused(Role.STORAGE):
        dispatch.send(operation)
        first = cloud.operations.read(operation.id).flow_run_id
        dispatch.client().set_flow_run_state(first, Pending())
        cancel_in_prefect(first)
        assert run_state(first) == "Cancelling"
        wait_for(lambda: cloud.operations.read(operation.id).attempt == 2, 10, "its way back")
    assert ended(operation).state is OperationState.CANCELLED
    assert outcome_of(first) == "Cancelled"


def test_cancelling_what_waits_ends_its_run(engine):
    world, _ = engine
    operation = asked_for(world, "queued")
    with paused(Role.STORAGE):
        dispatch.send(operation)
        first = cloud.operations.read(operation.id).flow_run_id
        dispatch.send(cloud.operations.want(operation.id, "cancel"))
        assert run_state(first) == "Cancelled"
    assert ended(operation).state is OperationState.CANCELLED
    assert final_state(operation) == "Cancelled"


def test_what_has_destroyed_something_goes_on_although_its_run_was_cancelled(engine):
    world, _ = engine
    volume = made_volume(world, "doomed")
    cloud.world.set_fate("storage.delete_volume", delay_s=3)
    operation = world.accept("delete_iscsi_volume", volume)
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the first destruction")
    run = cloud.operations.read(operation.id).flow_run_id
    cancel_in_prefect(run)
    wait_for(lambda: run_state(run) == "Running", 10, "the refusal")
    assert "only go forward" in dispatch.client().read_flow_run(run).state.message
    done = ended(operation)
    assert (done.state, done.wish) == (OperationState.SUCCEEDED, None)
    assert final_state(done) == "Completed"


def test_a_refused_cancel_of_a_run_that_is_gone_goes_on_in_a_new_one(engine):
    world, _ = engine
    volume = made_volume(world, "half gone")
    cloud.world.set_fate("storage.delete_volume", delay_s=2)
    operation = world.accept("delete_iscsi_volume", volume)
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the first destruction")
    with paused(Role.STORAGE):
        os.kill(_runner(operation).pid, signal.SIGKILL)
        wait_for(lambda: cloud.operations.read(operation.id).attempt == 2, 10, "the next run")
        second = cloud.operations.read(operation.id).flow_run_id
        cancel_in_prefect(second)
        wait_for(lambda: cloud.operations.read(operation.id).attempt == 3, 10, "the one after")
    done = ended(operation)
    assert (done.state, done.wish, done.epoch) == (OperationState.SUCCEEDED, None, 2)


def test_a_waiting_run_that_was_deleted_is_made_again(engine, monkeypatch):
    world, _ = engine
    monkeypatch.setattr(prefect_runs, "_ALL_EVERY", 1)
    operation = asked_for(world, "deleted")
    with paused(Role.STORAGE):
        dispatch.send(operation)
        dispatch.client().delete_flow_run(cloud.operations.read(operation.id).flow_run_id)
        runs = prefect_runs.Runs()
        runs.look(operation.datacenter_id)
        waiting = cloud.operations.read(operation.id)
        assert not runs.has_one(waiting, set())
        dispatch.send(waiting)
    assert ended(operation).state is OperationState.SUCCEEDED


def test_limits_of_a_queue_hold(engine):
    world, _ = engine
    queue = dispatch.client().read_work_queue_by_name(Role.STORAGE, "main")
    dispatch.client().update_work_queue(queue.id, concurrency_limit=1)
    cloud.world.set_fate("storage.ensure_volume", delay_s=1)
    try:
        operations = [asked_for(world, f"one by one {n}") for n in range(2)]
        for each in operations:
            dispatch.send(each)
        first, second = sorted((ended(each) for each in operations), key=lambda x: x.ended_at)
    finally:
        dispatch.client().update_work_queue(queue.id, concurrency_limit=None)
    assert second.started_at > first.ended_at


def stop_still(pid: int) -> None:
    """Stop a process outside of its transactions: one of SQLite's would hold up everybody."""
    with cloud.database.write() as db, cloud.world._transaction():
        db.connection()
        os.kill(pid, signal.SIGSTOP)
        stopped = psutil.STATUS_STOPPED
        wait_for(lambda: psutil.Process(pid).status() == stopped, 10, "its standstill")


@contextmanager
def held_still(workers: list[serve.Service]) -> Iterator[None]:
    """Stop workers' parents meanwhile: their children live, and nobody gives them work."""
    for each in workers:
        stop_still(each.process.pid)
    try:
        yield
    finally:
        for each in workers:
            each.process.send_signal(signal.SIGCONT)


def workers_of(services: dict[str, serve.Service]) -> list[serve.Service]:
    """The workers of the stack, one a home."""
    return [each for each in services.values() if each.name == "worker"]


def worker_of(operation: Operation, services: dict[str, serve.Service]) -> serve.Service:
    """The one whose child runs the operation."""
    pid = _runner_pid(operation)
    return next(each for each in workers_of(services) if pid in children_of(each))


@pytest.fixture
def beside(engine) -> Iterator[serve.Service]:
    """A worker more of the first home, for storage alone; between tests it is held still."""
    _, services = engine
    if (second := services.get("beside")) and second.alive:
        second.process.send_signal(signal.SIGCONT)
    else:
        first = services["worker"]
        env = {**first.env, "CLOUDLOOM_SHUTDOWN_S": "0.5", "CLOUDLOOM_CHILD_MEMORY_MIB": "1"}
        command = ["api.cli", "worker", "--slots", "1", "--queue", "storage"]
        log = first.log.with_name("beside.log")
        second = services["beside"] = serve.Service("beside", command, env, log, first.ready)
        second.start()
        second.wait_ready(Event())
        wait_for(lambda: children_of(second), 90, "its children")
    yield second
    if second.alive:
        stop_still(second.process.pid)


def test_a_worker_takes_from_its_queues_only(engine, beside):
    world, services = engine
    with held_still(workers_of(services)):
        image = dispatch.client().create_flow_run_from_deployment(
            dispatch._deployment("convert_image", "main")
        )
        assert made_volume(world, "of its queue")
        assert run_state(image.id) == "Scheduled"
    assert outcome_of(image.id) == "Failed"  # it lacks its operation


def test_two_workers_of_one_home_share_the_work_and_repeat_nothing(engine, beside):
    world, services = engine
    slots = cloud.settings.slots
    cloud.world.set_fate("storage.ensure_volume", times=slots, delay_s=60)
    operations = [asked_for(world, f"shared {n}") for n in range(slots + 3)]
    long, short = operations[:slots], operations[slots:]
    with held_still(workers_of(services)[1:]):
        with held_still([beside]):
            for each in long:
                dispatch.send(each)
            for each in long:
                wait_for(lambda each=each: cloud.journal.lines(each.id)[1:], 90, "its step")
        for each in short:
            dispatch.send(each)
        for each in short:  # the first worker has no slot for them
            ended(each)
        assert not any(cloud.operations.read(each.id).ended for each in long)
        cloud.world.forget_fates()
        done = [ended(each) for each in operations]
    assert {(each.state, each.epoch) for each in done} == {(OperationState.SUCCEEDED, 1)}
    calls = cloud.world.calls("storage.ensure_volume")
    assert {calls.count(each.arguments["volume"]["id"]) for each in done} == {1}


def test_a_child_that_has_grown_is_replaced(engine, beside):
    world, services = engine
    with held_still(workers_of(services)):
        made_volume(world, "before")
        before = children_of(beside)
        made_volume(world, "after")
        wait_for(lambda: not before & children_of(beside), 10, "its successor")


def test_what_does_not_end_in_time_is_handed_to_another_worker(engine, beside):
    world, services = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=60)
    operation = asked_for(world, "handed over")
    with held_still(workers_of(services)):
        dispatch.send(operation)
        wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
        first = cloud.operations.read(operation.id).flow_run_id
        beside.end()
        handed = cloud.operations.read(operation.id)
        assert (handed.attempt, handed.epoch) == (2, 1)
        assert run_state(first) == "Crashed"
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 2)


def test_a_worker_that_is_told_to_stop_lets_its_operations_end(engine):
    world, services = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=2)
    operation = asked_for(world, "let go on")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    worker = worker_of(operation, services)
    assert os.getpgid(worker.process.pid) == worker.process.pid  # Ctrl-C reaches `serve` alone
    worker.end()
    try:
        done = cloud.operations.read(operation.id)
        assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 1)
        assert final_state(done) == "Completed"
    finally:
        worker.start()
        worker.wait_ready(Event())


def children_of(worker: serve.Service) -> set[int]:
    """The processes that run its flows: children of its fork server."""
    pid, found = worker.process.pid, set()
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended while we looked
            if each.ppid() != pid:
                found.add(each.pid)
    return found


def test_prefect_tells_a_worker_of_its_pools_runs_only(engine):
    world, _ = engine
    pool = dispatch.client().read_work_pool("main").id
    ours, others, asked, runs = [], [], [], []

    def sent_and_cancelled() -> bool:
        """Whether both events of one were heard; what came before the ears were open was not."""
        heard = {run for event, run in ours if event == "prefect.flow-run.Scheduled"}
        heard &= {run for event, run in ours if event == "prefect.flow-run.Cancelled"}
        if heard & set(runs):
            return True
        asked.append(asked_for(world, f"told-{len(asked)}"))
        dispatch.send(asked[-1])
        runs.append(cloud.operations.read(asked[-1].id).flow_run_id)
        cancel_in_prefect(runs[-1])
        return False

    async def listen() -> None:
        hearing = [
            asyncio.create_task(prefect_events._hear(pool, lambda *x: ours.append(x))),
            asyncio.create_task(prefect_events._hear(uuid4(), lambda *x: others.append(x))),
        ]
        with paused(Role.STORAGE):
            await asyncio.to_thread(wait_for, sent_and_cancelled, 60, "both events", every_s=3)
        for each in hearing:
            each.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)

    asyncio.run(listen())
    assert not others
    for each in asked:
        assert ended(each).state is OperationState.CANCELLED


def test_a_stopped_runner_loses_its_lease_and_is_ended_by_its_successor(engine):
    world, _ = engine
    cloud.world.set_fate("storage.ensure_volume", delay_s=2)
    operation = asked_for(world, "stopped")
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the step in flight")
    runner = _runner(operation)
    stop_still(runner.pid)
    done = ended(operation)
    assert (done.state, done.epoch) == (OperationState.SUCCEEDED, 2)
    wait_for(lambda: not runner.is_running(), 10, "the end of the stopped runner")


def test_prefect_away_in_the_middle_holds_up_no_operation(engine):
    world, services = engine
    cloud.world.set_fate("hypervisors.ensure_vm", delay_s=2.0)
    appliance = world.appliance("db")
    vms = [str(vm.id) for vm in cloud.inventory.vms_of(appliance)]
    operation = world.accept("deploy_appliance", appliance, vms=vms)
    dispatch.send(operation)
    wait_for(lambda: cloud.journal.lines(operation.id)[1:], 90, "the first steps")
    with held_still([each for name, each in services.items() if name.startswith("prefect")]):
        assert ended(operation).state is OperationState.SUCCEEDED
        wait_for(lambda: not cloud.operations.locked_by(operation.id), 90, "the receipt")
    assert final_state(operation) == "Completed"
    run = cloud.operations.read(operation.id).flow_run_id
    wait_for(lambda: artifacts_of(run) == {"plan", "timeline", "receipt"}, 60, "the exhibits")


def test_an_operation_of_few_steps_costs_prefect_no_more_than_these(engine):
    world, _ = engine
    operation = asked_for(world, "small")
    dispatch.send(operation)
    assert final_state(ended(operation)) == "Completed"
    assert artifacts_of(cloud.operations.read(operation.id).flow_run_id) == set()


def artifacts_of(run: UUID) -> set[str]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    return {each.key for each in dispatch.client().read_artifacts(artifact_filter=of_run)}
