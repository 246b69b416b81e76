"""`/metrics` tells what the database knows, to its neighbours only; requests have ids."""

import json
import logging
import re
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, update

from adapters.database import models
from adapters.database.figures import Slots, Took
from adapters.types import OperationState
from api.app import create_app
from api.metrics import METRICS
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused


def scraped(api: Api) -> dict[tuple[str, ...], float]:
    """The samples, by name and the values of their labels in the order of the labels' names."""
    response = api.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_operations_are_counted_by_kind_and_state(api):
    api.volume()
    waiting = api.post(
        "/v1/volumes", json={"name": "b", "size_mib": 8, "virtual_datacenter": "demo"}
    )
    found = scraped(api)
    kind = "create_iscsi_volume"
    assert found["cloudloom_operations", kind, "succeeded"] == 1
    assert found["cloudloom_operations", kind, "accepted"] == 1
    assert found["cloudloom_queue_depth", "main", "storage"] == 1
    assert found["cloudloom_queue_depth", "main", "deploy"] == 0
    assert found["cloudloom_operations_stuck",] == 0
    with cloud.database.write() as db:
        stuck = update(models.Operation).where(models.Operation.id == uuid_of(waiting))
        db.execute(stuck.values(state=OperationState.STUCK))
    found = scraped(api)
    assert found["cloudloom_operations_stuck",] == 1
    assert found["cloudloom_queue_depth", "main", "storage"] == 0


def uuid_of(response) -> object:
    from uuid import UUID

    return UUID(response.json()["id"])


def test_durations_are_histograms_that_outlive_the_history(api):
    for seconds in (0.004, 0.02, 0.02, 3600.0):
        cloud.figures.add([Took("step", "make-disk", "done", seconds, retries=2)])
    api.volume()
    with cloud.database.write() as db:
        for table in (models.Receipt, models.Step, models.Operation):
            db.execute(delete(table))
    found = scraped(api)
    name = "cloudloom_step_duration_seconds"
    of = {
        bound: found[f"{name}_bucket", bound, "done", "make-disk"] for bound in ("0.005", "0.025")
    }
    assert of == {"0.005": 1, "0.025": 3}
    assert found[f"{name}_bucket", "600.0", "done", "make-disk"] == 3
    assert found[f"{name}_bucket", "+Inf", "done", "make-disk"] == 4
    assert found[f"{name}_count", "done", "make-disk"] == 4
    assert found[f"{name}_sum", "done", "make-disk"] == pytest.approx(3600.044)
    assert found["cloudloom_step_retries_total", "make-disk"] == 8
    assert found[f"{name}_count", "done", "carve-volume"] == 1
    ended = ("create_iscsi_volume", "succeeded")
    assert found["cloudloom_operation_duration_seconds_count", *ended] == 1


def test_only_workers_that_have_spoken_lately_have_slots(api):
    cloud.figures.report(Slots(name="a/1", datacenter="main", slots=2, busy=0))
    cloud.figures.report(Slots(name="a/1", datacenter="main", slots=2, busy=1))
    found = scraped(api)
    assert found["cloudloom_worker_slots", "main", "a/1"] == 2
    assert found["cloudloom_worker_slots_busy", "main", "a/1"] == 1
    from adapters.database.figures import WorkerRow
    from adapters.database.session import utc_now

    with cloud.database.write() as db:
        db.execute(update(WorkerRow).values(seen_at=utc_now(-61)))
    assert ("cloudloom_worker_slots", "main", "a/1") not in scraped(api)


def test_every_metric_is_told_as_it_is_described(api):
    cloud.figures.add([Took("step", "make-disk", "done", 1), Took("operation", "x", "failed", 1)])
    text = api.client.get("/metrics").text
    for name, meaning in METRICS.items():
        assert f"# TYPE {name} {meaning.type}" in text
    assert len(re.findall("^# TYPE", text, re.MULTILINE)) == len(METRICS)


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("10.1.2.3", 200),
        ("::ffff:192.168.1.1", 200),
        ("fd00::1", 200),
        ("8.8.8.8", 403),
        ("2600::1", 403),
        ("::ffff:8.8.8.8", 403),
        ("unknown", 403),
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/health/live", "/health/ready"])
def test_strangers_are_told_nothing(api, peer, status, path):
    client = TestClient(create_app(), raise_server_exceptions=False, client=(peer, 1))
    response = client.get(path)
    assert response.status_code == status
    if status == 403:
        refused(response, 403, "not-local")


def test_a_request_has_the_id_that_it_brought_or_a_new_one(api):
    brought = api.get("/v1/volumes", headers={"X-Request-ID": "from-a-client"})
    assert brought.headers["x-request-id"] == "from-a-client"
    for wrong in ("short", "x" * 65, 'a"b\tc d e f'):
        given = api.get("/v1/volumes", headers={"X-Request-ID": wrong}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


def test_a_line_names_the_route_and_the_operation_but_no_signed_address(api, caplog):
    caplog.set_level(logging.DEBUG)
    started = api.post(
        "/v1/volumes", json={"name": "b", "size_mib": 8, "virtual_datacenter": "demo"}
    )
    api.client.put(f"/gateway/uploads/{(secret := uuid4().hex)}", content=b"x")
    api.client.get(f"/nowhere/{secret}")
    ours = {x.getMessage(): x for x in caplog.records if x.name == "api.observing"}
    assert ours["POST /v1/volumes"].operation == started.json()["id"]
    assert ours["POST /v1/volumes"].status == 202
    assert {"PUT /gateway/uploads/{signed}", "GET (no such route)"} <= ours.keys()
    assert secret not in json.dumps([str(vars(x)) for x in ours.values()])


def test_a_defect_is_told_with_the_id_that_its_traceback_has(api, caplog, monkeypatch):
    def broken(*_args: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("api.routers.volumes.finding.volumes", broken)
    answer = api.get("/v1/volumes", headers={"X-Request-ID": "from-a-client"})
    problem = refused(answer, 500, "internal-error")
    assert problem["request_id"] == "from-a-client"
    assert "secret words" not in answer.text
    [line] = [x for x in caplog.records if x.exc_info]
    assert "secret words" in str(line.exc_info[1])
    assert (line.name, line.getMessage()) == ("api.observing", "a defect")
