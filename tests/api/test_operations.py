"""Operations as the API tells of them, and what may be done about one."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from adapters.database import models
from api.routers import operations as router
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.steps import STEPS
from tests.api.conftest import Api, refused

PATIENCE_S = 90
BODY = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}


def ids(api: Api, **filters: str) -> list[str]:
    return [each["id"] for each in api.get("/v1/operations", params=filters).json()]


def test_the_list_is_filtered_and_the_newest_comes_first(api: Api) -> None:
    api.volume("one")
    second = api.volume("two")
    waiting = api.post("/v1/volumes", json={**BODY, "name": "three"}).json()["id"]
    assert ids(api)[0] == waiting
    assert ids(api, state="accepted") == [waiting]
    assert len(ids(api, kind="create_iscsi_volume")) == 3
    assert len(ids(api, target_id=str(second))) == 1
    refused(api.get("/v1/operations", params={"state": "odd"}), 422, "invalid-request")


@contextmanager
def held(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A step begins, sets the first event, and ends once the second is set."""
    begun, may_end, do = threading.Event(), threading.Event(), STEPS[step].do

    def holding(**arguments: Any) -> Any:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        return do(**arguments)

    with monkeypatch.context() as patched:
        patched.setattr(STEPS[step], "do", holding)
        yield begun, may_end


def test_half_a_step_is_progress(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long says how far it is."""
    wanted = {"family": "hyperv"}
    asked = api.post(f"/v1/templates/{api.world.template}/conversions", json=wanted).json()
    with held("convert-disk", monkeypatch) as (begun, may_end), ThreadPoolExecutor(1) as pool:
        run = pool.submit(FLOWS[asked["kind"]], UUID(asked["id"]))
        assert begun.wait(PATIENCE_S)
        found = api.get(f"/v1/operations/{asked['id']}").json()
        key, before = found["steps"][-1]["key"], found["progress"]
        with cloud.database.write() as db:
            db.get_one(models.Step, (UUID(asked["id"]), key)).percent = 60
        found = api.get(f"/v1/operations/{asked['id']}").json()
        assert (found["steps"][-1]["percent"], found["progress"]) == (60, before + 30)
        may_end.set()
        run.result(PATIENCE_S)
    ended = api.get(f"/v1/operations/{asked['id']}").json()
    assert (ended["steps"][-1]["percent"], ended["progress"]) == (100, 100)


def test_wait_answers_when_it_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = api.post("/v1/volumes", json=BODY).json()
    watch: Any = api.client.app.state.watch  # type: ignore[attr-defined]
    told, until = [], watch.until
    with held("carve-volume", monkeypatch) as (_, may_end), ThreadPoolExecutor(1) as pool:

        async def waiting(*asked: Any) -> Any:
            may_end.set()
            told.append(await until(*asked))
            return told[-1]

        monkeypatch.setattr(watch, "until", waiting)
        run = pool.submit(FLOWS[operation["kind"]], UUID(operation["id"]))
        found = api.get(f"/v1/operations/{operation['id']}", params={"wait": 60}).json()
        run.result(PATIENCE_S)
    assert found["state"] == "succeeded"
    assert [each.resting for each in told] == [True], "its time was up"


def test_wait_gives_up_in_time(api: Api) -> None:
    operation = api.post("/v1/volumes", json=BODY).json()
    path = f"/v1/operations/{operation['id']}"
    assert api.get(path, params={"wait": 0.3}).json()["state"] == "accepted"
    refused(api.get(path, params={"wait": 61}), 422, "invalid-request")


def events(lines: Iterator[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "id":
            found.append({"id": value})
        elif field == "data":
            found[-1]["data"] = json.loads(value)
    return found


def test_events_tell_until_the_end_and_can_be_resumed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_once, read, reports = threading.Event(), router._read, []

    def reading(*asked: Any) -> Any:
        reports.append(read(*asked))
        if len(reports) > 1:  # the first is whether there is such an operation
            told_once.set()
        return reports[-1]

    def run_then() -> None:
        assert told_once.wait(60)
        FLOWS[operation["kind"]](UUID(operation["id"]))

    monkeypatch.setattr(router, "_read", reading)
    operation = api.post("/v1/volumes", json=BODY).json()
    path = f"/v1/operations/{operation['id']}/events"
    before = next(iter(cloud_marks(operation["id"])))
    run = threading.Thread(target=run_then)
    run.start()
    told = events(api.get(path).iter_lines())
    run.join()
    assert told[0]["data"]["state"] == "accepted"
    assert told[-1]["data"]["state"] == "succeeded"
    resumed = events(api.get(path, headers={"Last-Event-ID": before}).iter_lines())
    assert [each["data"]["state"] for each in resumed] == ["succeeded"]


def cloud_marks(operation: str) -> list[str]:
    from api.watching import glance

    return [each.mark for each in glance([UUID(operation)]).values()]


def test_cancel_before_it_runs_leaves_nothing(api: Api) -> None:
    operation = api.post("/v1/volumes", json=BODY).json()
    path = f"/v1/operations/{operation['id']}"
    assert api.post(f"{path}/cancel").status_code == 202
    assert [str(each.id) for each in api.sent] == [operation["id"]] * 2
    FLOWS[operation["kind"]](UUID(operation["id"]))
    assert api.get(path).json()["state"] == "cancelled"
    assert api.get("/v1/volumes").json() == []
    refused(api.post(f"{path}/cancel"), 409, "operation-ended")


@pytest.mark.parametrize("wish", ["cancel", "unwind"])
def test_what_has_destroyed_something_only_goes_forward(api: Api, wish: str) -> None:
    volume = api.volume()
    cloud.world.set_fate("storage.delete_volume", "refuses")
    stuck = api.run(api.delete(f"/v1/volumes/{volume}"))
    path = f"/v1/operations/{stuck['id']}"
    assert stuck["state"] == "stuck"
    assert stuck["error"]["code"] == "refused"
    assert stuck["steps"][-1]["error"]
    refused(api.post(f"{path}/{wish}"), 409, "no-way-back")


def test_a_stuck_operation_is_resumed(api: Api) -> None:
    volume = api.volume()
    cloud.world.set_fate("storage.delete_volume", "refuses")
    stuck = api.run(api.delete(f"/v1/volumes/{volume}"))
    path = f"/v1/operations/{stuck['id']}"
    key = {"Idempotency-Key": "again"}
    first = api.post(f"{path}/resume", headers=key)
    assert first.json()["state"] == "running"
    assert api.post(f"{path}/resume", headers=key).json() == first.json()
    refused(api.post(f"{path}/resume"), 409, "not-stuck")
    api.done(first)


def test_a_stuck_operation_is_abandoned_for_a_reason(api: Api) -> None:
    volume = api.volume()
    cloud.world.set_fate("storage.delete_volume", "refuses")
    stuck = api.run(api.delete(f"/v1/volumes/{volume}"))
    path = f"/v1/operations/{stuck['id']}"
    refused(api.post(f"{path}/abandon", json={}), 422, "invalid-request")
    given_up = api.post(f"{path}/abandon", json={"reason": "the pool burnt down"}).json()
    assert given_up["state"] == "abandoned"
    assert given_up["error"]["reason"] == "the pool burnt down"
    assert given_up["error"]["abandoned_by"] == "first"
    assert api.delete(f"/v1/volumes/{volume}").status_code == 202


def test_a_failure_is_told_as_a_problem_with_its_receipt(api: Api) -> None:
    cloud.world.set_fate("storage.ensure_volume", "refuses")
    failed = api.run(api.post("/v1/volumes", json=BODY))
    assert failed["state"] == "failed"
    assert failed["error"]["type"] == "urn:cloudloom:problem:refused"
    assert {step["state"] for step in failed["steps"]} == {"undone"}
    receipt = api.get(f"/v1/operations/{failed['id']}/receipt").json()
    assert {each["expected"] for each in receipt["questions"]} == {"absent"}
    assert not receipt["left_behind"]


def test_the_flow_run_is_shown_in_prefects_ui(api: Api) -> None:
    from uuid import uuid4

    operation, run = api.post("/v1/volumes", json=BODY).json(), uuid4()
    cloud.operations.sent(UUID(operation["id"]), 1, run)
    shown = api.get(f"/v1/operations/{operation['id']}").json()
    assert shown["flow_run_url"] == f"http://127.0.0.1:7411/v2/runs/flow-run/{run}"


def test_an_operation_of_many_steps_is_summed_up_and_its_steps_are_paged(api: Api) -> None:
    """Three VMs have some twenty steps: enough, where few are told at once."""
    text = """{appliance: shop, virtual_datacenter: demo,
        vms: [{name: web, template: tiny, replicas: 3, networks: [default]}]}"""
    appliance = api.appliance(text)["id"]
    ended = api.done(api.post(f"/v1/appliances/{appliance}/deploy"))
    path = f"/v1/operations/{ended['id']}/steps"
    assert ended["counts"] == {"done": len(ended["steps"])}
    assert ended["slowest"] is None
    told, where = [], f"{path}?limit=7"
    while where:
        answer = api.get(where)
        told += answer.json()
        where = answer.links.get("next", {}).get("url")
    assert told == ended["steps"]
    lane = api.get(path, params={"lane": "web-2"}).json()
    assert {step["lane"] for step in lane} == {"web-2"}
    assert {UUID(step["host"]) for step in lane}
    assert api.get(path, params={"state": "failed"}).json() == []
    refused(api.get(path, params={"limit": 0}), 422, "invalid-request")


def test_beyond_some_hundreds_only_what_moves_or_failed_is_told(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.reports.STEPS_TOLD", 2)
    vm = api.appliance(
        "{appliance: a, virtual_datacenter: demo, vms: [{name: v, template: tiny}]}"
    )["id"]
    ended = api.done(api.post(f"/v1/appliances/{vm}/deploy"))
    assert ended["steps"] == []
    assert sum(ended["counts"].values()) > 5
