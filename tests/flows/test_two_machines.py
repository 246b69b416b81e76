"""Two machines, each with Prefect's server, a worker and an API; PostgreSQL, Redis and MariaDB.

They share nothing else: no home, no socket, no table of processes that they would believe.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from adapters.database import models
from api import serve, tokens
from deployments.lab.process import wait_for
from flows.cloud import cloud
from tests.flows.test_engine import (
    Stack,
    children_of,
    engine,
    held_still,
    no_fate_outlives_its_test,
    put_apart,
    run_state,
    workers_of,
)

__all__ = ["engine", "no_fate_outlives_its_test"]
pytestmark = [pytest.mark.engine, pytest.mark.lab, pytest.mark.timeout(900)]
PATIENCE_S = 120
IMAGE = json.dumps({"format": "vmdk", "virtual_size_bytes": 2**24, "content": "linux"})


@pytest.fixture(scope="module")
def stack(shared) -> Stack:
    return Stack(homes=2, apart=True, settings=shared)


@dataclass
class Machine:
    """One of the two, and a client of its API."""

    services: list[serve.Service]
    api: httpx.Client

    @property
    def worker(self) -> serve.Service:
        return workers_of({each.name: each for each in self.services})[0]

    def accepted(self, name: str, vdc: str = "demo") -> dict[str, Any]:
        """Ask for a volume; the operation."""
        answer = self.asked(name, vdc)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def asked(self, name: str, vdc: str = "demo") -> httpx.Response:
        body = {"name": name, "size_mib": 8, "virtual_datacenter": vdc}
        return self.api.post("/v1/volumes", json=body, headers={"Idempotency-Key": name})

    def ended(self, operation: dict[str, Any]) -> dict[str, Any]:
        """What this one reports of an operation that has ended."""
        path, found = f"/v1/operations/{operation['id']}", operation

        def has_ended() -> bool:
            nonlocal found
            found = self.api.get(path, params={"wait": 30}).json()
            return found["ended_at"] is not None

        wait_for(has_ended, PATIENCE_S, "the operation's end")
        return found

    @contextmanager
    def killed(self, *names: str) -> Iterator[None]:
        """Kill what runs on it, or some of that; it is started again afterwards."""
        dead = [each for each in self.services if each.name in names or not names]
        for each in dead:
            os.kill(each.process.pid, signal.SIGKILL)
        for each in dead:
            each.process.wait()
        try:
            yield
        finally:
            for each in dead:
                each.start()
                each.wait_ready(Event())


@pytest.fixture(scope="module")
def machines(engine) -> Iterator[list[Machine]]:
    services = list(engine[1].values())
    token = tokens.first_token(cloud.database)
    headers, made = {"Authorization": f"Bearer {token}"}, []
    for ours in (services[:3], services[3:6]):
        port = ours[2].command[ours[2].command.index("--port") + 1]
        url = f"http://127.0.0.1:{port}"
        made.append(Machine(ours, httpx.Client(base_url=url, headers=headers, timeout=60)))
    yield made
    for each in made:
        each.api.close()


def row_of(operation: dict[str, Any]) -> models.Operation:
    with cloud.database.read() as db:
        row = db.get_one(models.Operation, UUID(operation["id"]))
        db.expunge(row)
        return row


def in_flight(operation: dict[str, Any], step: str) -> None:
    """Wait until a step of the operation has begun."""

    def begun() -> bool:
        return any(x.name == step for x in cloud.journal.lines(UUID(operation["id"])))

    wait_for(begun, PATIENCE_S, f"{step} in flight")


def events(machine: Machine, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    path = f"/v1/operations/{operation['id']}/events"
    with machine.api.stream("GET", path) as told:
        for line in told.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_what_one_accepts_the_other_carries_out_and_reports(machines):
    first, second = machines
    with held_still([first.worker]):
        operation = first.accepted("across")
        told = list(events(second, operation))
        reported = second.ended(operation)
    assert told[-1]["state"] == reported["state"] == "succeeded"
    ours = first.ended(operation)
    assert ours.pop("flow_run_url") != reported.pop("flow_run_url")  # each has a Prefect UI
    assert ours == reported
    replayed = second.asked("across")
    assert (replayed.json()["id"], replayed.headers["idempotency-replayed"]) == (
        operation["id"],
        "true",
    )


def test_an_address_that_one_has_signed_is_good_at_the_other_and_once(machines):
    first, second = machines
    wish = {"name": "carried", "format": "vmdk", "datacenter": "main"}
    where = first.api.post("/v1/templates", params=wish).headers["location"]
    sent = second.api.put(where, content=IMAGE)
    assert sent.status_code == 202, sent.text
    again = first.api.put(where, content=IMAGE)
    assert (again.status_code, again.json()["code"]) == (409, "transfer-used")
    assert first.ended(sent.json())["state"] == "succeeded"


def test_a_killed_replica_loses_no_request_and_doubles_none(machines):
    first, second = machines
    names, answered = [f"asked-{n}" for n in range(24)], Event()

    def asked_until_answered(name: str) -> tuple[dict[str, Any], bool]:
        """As a client does that has a list of replicas; and whether it had to try again."""
        try:
            return first.accepted(name), False
        except httpx.TransportError:
            return second.accepted(name), True
        finally:
            answered.set()

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(asked_until_answered, name) for name in names]
        answered.wait(PATIENCE_S)
        with first.killed("api"):
            told = [each.result() for each in asking]
            ended = [second.ended(operation) for operation, _ in told]
    assert any(again for _, again in told)
    assert {each["state"] for each in ended} == {"succeeded"}
    with cloud.database.read() as db:
        kept = list(db.scalars(select(models.Operation.target_name)))
    assert Counter(name for name in kept if name in names) == dict.fromkeys(names, 1)
    calls = Counter(cloud.world.calls("storage.ensure_volume"))
    assert {calls[each["target"]["id"]] for each in ended} == {1}


@pytest.mark.parametrize(
    "names", [["worker"], pytest.param([], marks=pytest.mark.slow)], ids=["worker", "all"]
)
def test_what_a_killed_worker_had_goes_on_elsewhere_and_repeats_nothing(machines, names):
    """But for the step in flight; also when Prefect's server and the API die with it."""
    blueprint = {
        "appliance": f"shop-{len(names)}",
        "virtual_datacenter": "demo",
        "vms": [{"name": "db", "template": "tiny"}],
    }
    api = machines[0].api
    appliance = api.post("/v1/appliances", json=blueprint).json()
    cloud.world.set_fate("hypervisors.ensure_vm", delay_s=PATIENCE_S)
    operation = api.post(f"/v1/appliances/{appliance['id']}/deploy").json()
    in_flight(operation, "define-vm")
    row = row_of(operation)
    (its,) = (each for each in machines if row.runner_pid in children_of(each.worker))
    (other,) = (each for each in machines if each is not its)
    with its.killed(*names):
        ended = other.ended(operation)
        taken = row_of(operation)
    assert (ended["state"], taken.epoch, row.epoch) == ("succeeded", 2, 1)
    vm = appliance["vms"][0]["id"]
    assert cloud.world.calls("hypervisors.ensure_vm").count(vm) == 2
    assert cloud.world.calls("hypervisors.set_power").count(vm) == 1
    assert set(Counter(cloud.world.calls("hypervisors.ensure_disk")).values()) == {1}


def test_machines_tell_their_processes_apart(machines):
    """Else one of them would take the other's living runner for dead, and its lease away."""
    cloud.world.set_fate("storage.ensure_volume", times=2, delay_s=3)
    first, second = machines
    with held_still([second.worker]):
        here = first.accepted("here")
        in_flight(here, "carve-volume")
    with held_still([first.worker]):
        there = first.accepted("there")
        in_flight(there, "carve-volume")
    hosts = {row_of(each).runner_host for each in (here, there)}
    assert len(hosts) == 2
    assert {second.ended(each)["state"] for each in (here, there)} == {"succeeded"}


def test_no_flow_of_one_datacenter_runs_in_anothers_worker(machines, engine, tmp_path):
    first, second = machines
    repository = tmp_path / "repository"
    repository.mkdir()
    for path, body in {
        "datacenters": {"name": "other", "repository": str(repository)},
        "storage-devices": {
            "datacenter": "other",
            "name": "far",
            "technology": "memory",
            "host": "127.0.0.1",
        },
        "storage-pools": {"storage_device": "far", "name": "pool-2", "total_mib": 1024},
        "virtual-datacenters": {"name": "far", "datacenter": "other", "family": "memory"},
    }.items():
        assert second.api.post(f"/v1/{path}", json=body).status_code == 201
    others = second.accepted("others", "far")
    assert first.ended(first.accepted("ours"))["state"] == "succeeded"
    assert (row_of(others).state, row_of(others).epoch) == ("accepted", 0)

    near = second.worker
    env = {**near.env, "CLOUDLOOM_DATACENTER": "other"}
    far = serve.Service("worker", ["flows.worker"], env, near.log, near.ready)
    put_apart(far, cloud.settings.home.with_name("home-1"))
    with held_still(workers_of(engine[1])):
        ours = second.accepted("ours-2")
        try:
            far.start()
            far.wait_ready(Event())
            assert second.ended(others)["state"] == "succeeded"
            again = second.accepted("others-2", "far")
            assert second.ended(again)["state"] == "succeeded"
        finally:
            far.end()
        left = row_of(ours)
        assert (left.state, left.epoch) == ("accepted", 0)
        assert run_state(left.flow_run_id) in {"Scheduled", "Late"}
    assert first.ended(ours)["state"] == "succeeded"
