"""What can be seen from outside of one deployment: its trace, its logs, its figures."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from adapters.database import models
from adapters.database.journal import Line
from api.client import Client
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.process import wait_for
from flows.cloud import cloud
from tests import worlds

pytestmark = pytest.mark.engine
IN_URL = "a-password-in-a-url"
REQUEST = "a-request-of-ours"
VMS = """{appliance: shop, virtual_datacenter: demo, vms: [
    {name: db, template: tiny, volumes: [{name: data, size_mib: 8}], networks: [default]},
    {name: web, template: tiny, networks: [default]}]}"""


class Collector(ThreadingHTTPServer):
    """As much of an OTLP receiver as a test needs."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, object]] = []  # with the service's name

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - `self` is the collector
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                asked = ExportTraceServiceRequest.FromString(body)
                for resource in asked.resource_spans:
                    names = [x.value.string_value for x in resource.resource.attributes]
                    service = next(each for each in names if each.startswith("cloudloom-"))
                    for scope in resource.scope_spans:
                        self.spans += [(service, span) for span in scope.spans]
                handler.send_response(200)
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@dataclass
class Seen:
    """What was there to see when all of it had ended."""

    operation: str = ""
    steps: list[Line] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)
    metrics: str = ""
    in_prefect: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[str, object]] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One deployment through API and worker, one step of which does not work at first."""
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("observed")
    worlds.build(folder / "home")
    cloud.world.set_fate("storage.ensure_export", "fails", times=1)
    with pytest.MonkeyPatch.context() as patch:
        # Nothing is sent before its time: what arrives was flushed by those who left.
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        ours = Cloudloom(
            folder / "home",
            image_tool="memory",
            retry_delay_s="0",
            log_level="DEBUG",
            otlp_endpoint=f"http://spy:{IN_URL}@127.0.0.1:{collector.server_port}",
        )
    found = Seen()
    ours.start()
    try:
        observe(ours, found)
    finally:
        ours.stop()
        collector.shutdown()
        collector.server_close()
    found.files = {
        str(each.relative_to(ours.home)): each.read_bytes()
        for each in ours.home.rglob("*")
        if each.is_file()
    }
    found.spans = collector.spans
    found.logs = {each.stem: each.read_text() for each in (folder / "home/logs").glob("*.log")}
    yield found
    cloud.database.engine.dispose()


def observe(ours: Cloudloom, found: Seen) -> None:
    with Client(ours.url, ours.token) as client:
        appliance = client.post_yaml("/v1/appliances", VMS)["id"]
        answer = httpx.post(
            f"{ours.url}/v1/appliances/{appliance}/deploy",
            headers={"Authorization": f"Bearer {ours.token}", "X-Request-ID": REQUEST},
            timeout=60,
        )
        found.operation = answer.json()["id"]
        ended = client.wait(found.operation)
        assert ended.state == "succeeded", ended.error
    found.steps = cloud.journal.lines(ended.id)
    with cloud.database.read() as db:
        secrets = list(db.scalars(select(models.Secret.id)))
    found.passwords = [cloud.secrets.read(x).password.get_secret_value() for x in secrets]
    found.secrets = planted(ours) | {f"CHAP {n}": x for n, x in enumerate(found.passwords)}
    found.answers = answers_to(ours, found.operation)
    found.events = json.loads(found.answers[f"/v1/events?operation_id={found.operation}"])

    def are_figures_there() -> bool:
        found.metrics = httpx.get(f"{ours.url}/metrics", timeout=60).text
        return 'outcome="succeeded"' in found.metrics and "slots_busy" in found.metrics

    wait_for(are_figures_there, 30, "the figures of the run")
    run = cloud.operations.read(ended.id).flow_run_id
    user, _, password = ours.prefect_auth.partition(":")

    def are_logs_shown() -> bool:
        wanted = {"logs": {"flow_run_id": {"any_": [str(run)]}}}
        url = f"http://127.0.0.1:{ours.prefect_port}/api/logs/filter"
        shown = httpx.post(url, json=wanted, auth=(user, password), timeout=60).json()
        found.in_prefect = [each["message"] for each in shown]
        return any("succeeded" in each for each in found.in_prefect)

    wait_for(are_logs_shown, 30, "the logs in Prefect", every_s=0.5)


def planted(ours: Cloudloom) -> dict[str, str]:
    """What nobody is to find: also of a key that was rotated away."""
    kept = {"old key": (ours.home / "secret.key").read_text()}
    command = [sys.executable, "-m", "api.cli", "rotate-keys"]
    rotated = subprocess.run(command, env=ours.env, check=True, capture_output=True, text=True)
    assert "1 of them encrypted anew" in rotated.stdout
    with Client(ours.url, ours.token) as client:
        guest = client.post("/v1/api-tokens", {"name": "guest"})["token"]
    return {
        **kept,
        "key": (ours.home / "secret.key").read_text(),
        "password in a URL": IN_URL,
        "token": ours.token.split("_", 2)[2],
        "guest's token": guest.split("_", 2)[2],
        "Prefect's password": ours.prefect_auth.partition(":")[2],
        "Prefect's key": (ours.home / "prefect/key").read_text(),
    }


def answers_to(ours: Cloudloom, operation: str) -> dict[str, str]:
    """All that the API lists, and all of one operation."""
    headers = {"Authorization": f"Bearer {ours.token}"}
    with httpx.Client(base_url=ours.url, headers=headers, timeout=60) as ask:
        paths = ask.get("/openapi.json").json()["paths"]
        asked = [x for x, each in paths.items() if "get" in each and "{" not in x]
        asked = [x for x in asked if not x.endswith("/stream")]
        of_it = f"/v1/operations/{operation}"
        asked += [of_it, f"{of_it}/steps", f"{of_it}/receipt"]
        asked.append(f"/v1/events?operation_id={operation}")
        return {each: ask.get(each).text for each in asked}


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(each) for each in text.splitlines()]


def test_request_flow_step_and_adapter_call_are_one_trace(seen):
    asked = "POST /v1/appliances/{appliance_id}/deploy"
    spans = {span.span_id: (service, span) for service, span in seen.spans}
    named = {span.name.split("[")[0]: span for _, span in seen.spans}
    assert {line.key for line in seen.steps} <= {
        span.name for _, span in seen.spans if span.trace_id == named[asked].trace_id
    }
    for call, step in (
        ("hypervisors.memory.ensure_vm", "define-vm"),
        ("storage.memory.ensure_export", "export-volume"),
    ):
        now, way = named[call], []
        while now:
            service, now = spans[now.span_id]
            way.append((service, now.name.split("[")[0]))
            now = now.parent_span_id and spans[now.parent_span_id][1]
        runner, api = "cloudloom-runner", "cloudloom-api"
        assert way == [(runner, call), (runner, step), (runner, "deploy_appliance"), (api, asked)]


def test_every_line_about_the_operation_says_so(seen):
    assert all("event" in each for text in seen.logs.values() for each in lines(text))
    [asked] = [x for x in lines(seen.logs["api"]) if x.get("request") == REQUEST]
    assert (asked["operation"], asked["status"]) == (seen.operation, 202)
    mine = [x for x in lines(seen.logs["worker"]) if x.get("operation") == seen.operation]
    told = {x["logger"] for x in mine}
    assert {"flows.worker", "flows.saga"} <= told  # by the parent, and by its child
    [again] = [x for x in mine if "does not work yet" in str(x["event"])]  # in a lane's thread
    assert (again["lane"], again["kind"], again["level"]) == ("db", "deploy_appliance", "warning")
    assert str(again["step"]).startswith("export-volume[")


def test_prefect_shows_lines_with_the_operations_id(seen):
    assert any("does not work yet" in each for each in seen.in_prefect)
    assert all(f"operation={seen.operation}" in each for each in seen.in_prefect)


def test_no_password_is_in_logs_traces_metrics_or_prefect(seen):
    assert seen.passwords
    told = [*seen.logs.values(), seen.metrics, *seen.in_prefect, *map(str, seen.spans)]
    assert [x for x in seen.passwords if any(x in each for each in told)] == []


MEANT_FOR = {
    "secret.key": {"key"},
    "token": {"token"},
    "prefect/auth": {"Prefect's password"},
    "prefect/key": {"Prefect's key"},
}


def test_secrets_are_only_where_they_are_meant_to_be(seen):
    assert {"cloudloom.sqlite", "prefect/prefect.db", "logs/worker.log"} <= set(seen.files)
    assert "/v1/events" in seen.answers
    found = {
        place: {name for name, value in seen.secrets.items() if value.encode() in content}
        for place, content in seen.files.items()
    }
    for place, meant in MEANT_FOR.items():
        assert found.pop(place, meant) == meant, place
    assert {place: names for place, names in found.items() if names} == {}
    told = [*seen.answers.values(), seen.metrics, *map(str, seen.spans)]
    assert [x for x, value in seen.secrets.items() if any(value in each for each in told)] == []


def test_whoever_was_handed_a_secret_is_told_of(seen):
    [read] = [each for each in seen.events if each["kind"] == "secret.read"]
    assert read["who"]["name"] == "first"
    assert read["request"] == REQUEST
    assert read["details"]["step"].startswith("export-volume[")
    assert read["about"]["appliance"]["name"] == "shop"


def test_the_metrics_tell_of_steps_slots_and_operations(seen):
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(seen.metrics)
        for sample in family.samples
    }
    made = ("done", "make-disk")
    assert found["cloudloom_operations", "deploy_appliance", "succeeded"] == 1
    assert found["cloudloom_operations_stuck",] == 0
    assert found["cloudloom_queue_depth", "deploy", "main"] == 0
    assert [v for k, v in found.items() if k[0] == "cloudloom_worker_slots"] == [2]
    assert found["cloudloom_step_retries_total", "export-volume"] == 1
    assert found["cloudloom_step_retries_total", "make-disk"] == 0
    assert found["cloudloom_step_duration_seconds_count", *made] == 2
    assert found["cloudloom_step_duration_seconds_bucket", "+Inf", *made] == 2
    ended = ("deploy_appliance", "succeeded")
    assert found["cloudloom_operation_duration_seconds_count", *ended] == 1
