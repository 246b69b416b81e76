"""The Prefect UI, used as people use it: the demo's appliance, deployed on memory adapters."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import expect

from adapters.types import Format, OperationState
from api.client import Client, Operation
from deployments.demo import BLUEPRINT
from deployments.lab.cloudloom import Cloudloom
from deployments.lab.prefect_ui import PrefectUi
from deployments.lab.process import wait_for
from flows.cloud import cloud
from tests import worlds

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
expect.set_options(timeout=60_000)  # the pages ask again every few seconds


@dataclass
class Stage:
    """A Cloudloom with the demo's appliance, and a browser that has logged in."""

    client: Client
    ui: PrefectUi
    prefect: str
    prefect_auth: str
    datacenter: UUID
    shop: UUID
    deployed: Operation
    run: UUID


def flow_run_of(operation: Operation) -> UUID:
    return UUID(str(operation.flow_run_url).rpartition("/")[2])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("ui")
    world = worlds.build(folder / "home")
    world.image("tiny-linux", Format.QCOW2)
    slow = {"retries": "500", "retry_delay_s": "0.2", "retry_delay_max_s": "0.5"}
    ours = Cloudloom(folder / "home", image_tool="memory", backend_timeout_s="1", **slow)
    try:
        ours.start()
        with (
            Client(ours.url, ours.token) as client,
            PrefectUi(ours.prefect_port, ours.prefect_auth) as ui,
        ):
            shop = client.post_yaml("/v1/appliances", BLUEPRINT)["id"]
            deployed = client.wait(client.start(f"/v1/appliances/{shop}/deploy").id)
            assert deployed.state is OperationState.SUCCEEDED, deployed.error
            ui.log_in()
            yield Stage(
                client,
                ui,
                f"http://127.0.0.1:{ours.prefect_port}/api",
                ours.prefect_auth,
                world.datacenter,
                UUID(shop),
                deployed,
                flow_run_of(deployed),
            )
    finally:
        ours.stop()
        cloud.database.engine.dispose()


def test_the_link_of_an_operation_leads_through_the_login_to_its_run(stage):
    stage.ui.page.evaluate("localStorage.clear()")
    stage.ui.log_in(at=str(stage.deployed.flow_run_url))
    expect(stage.ui.page).to_have_url(re.compile(re.escape(str(stage.deployed.flow_run_url))))
    expect(stage.ui.page.get_by_text("deploy-appliance shop").first).to_be_visible()


def test_tags_find_the_runs_of_an_appliance_and_of_an_enterprise(stage):
    for tag in ("enterprise:default", "appliance:shop", f"appliance:{stage.shop}"):
        stage.ui.runs(tag)
        expect(stage.ui.page.get_by_role("link", name="deploy-appliance shop")).to_be_visible()
    expect(stage.ui.page.get_by_text(re.compile("^1 Flow runs?$"))).to_be_visible()
    stage.ui.runs("appliance:another")
    expect(stage.ui.page.get_by_text("0 Flow runs")).to_be_visible()
    expect(stage.ui.page.get_by_role("link", name="deploy-appliance shop")).to_have_count(0)


def test_a_run_shows_its_steps_and_their_log_names_the_operation(stage):
    page = stage.ui.run(stage.run, "Task Runs")
    for step in ("reserve-hosts", "connect-volume"):
        expect(page.get_by_role("link", name=f"{step}[").first).to_be_visible()
    page = stage.ui.run(stage.run, "Logs")
    line = re.compile(rf"reserve-hosts done after .* operation={stage.deployed.id}")
    expect(page.get_by_text(line)).to_be_visible()


def test_plan_timeline_and_receipt_are_artifacts(stage):
    plan = stage.ui.artifact(stage.run, "plan")
    expect(plan.get_by_role("row", name="web db 1 128 MiB 0 host-")).to_be_visible()
    expect(plan.get_by_text("choose-base → hold-base → make-disk").first).to_be_visible()
    timeline = stage.ui.artifact(stage.run, "timeline")
    expect(timeline.get_by_text("succeeded after ")).to_be_visible()
    row = re.compile(r"^reserve-hosts done \d\.\d s")
    expect(timeline.get_by_role("row", name=row)).to_be_visible()
    receipt = stage.ui.artifact(stage.run, "receipt")
    questions = len(stage.client.get(f"/v1/operations/{stage.deployed.id}/receipt")["questions"])
    told = f"{stage.deployed.id}: {questions} questions, 0 answered otherwise"
    expect(receipt.get_by_text(told)).to_be_visible()
    row = f"reserve-hosts present present yes {str(stage.shop)[:8]}"
    expect(receipt.get_by_role("row", name=row)).to_be_visible()


def test_what_is_cancelled_there_is_cancelled_here_and_undone(stage):
    before = worlds.photograph()
    blueprint = BLUEPRINT.replace("shop", "slow").replace("name: data", "name: more")
    slow = stage.client.post_yaml("/v1/appliances", blueprint)
    without = worlds.photograph()
    cloud.world.set_fate("hypervisors.ensure_vm", "fails", times=10_000, delay_s=0.2)
    asked = stage.client.start(f"/v1/appliances/{slow['id']}/deploy")
    wait_for(lambda: stage.client.operation(asked.id).counts.get("running"), 60, "the step")
    run = flow_run_of(stage.client.operation(asked.id))
    page = stage.ui.artifact(run, "progress")
    expect(page.get_by_text("0 of 2 VMs done")).to_be_visible()
    page = stage.ui.run(run, "Logs")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("button", name="Cancel Flow Run").click()
    ended = stage.client.wait(asked.id)
    cloud.world.forget_fates()
    assert ended.state is OperationState.CANCELLED
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    page = stage.ui.run(run, "Task Runs")
    expect(page.get_by_role("link", name="undo define-vm[")).to_be_visible()
    assert worlds.photograph() == without != before


def test_a_report_of_maintenance_is_a_table(stage):
    user, password = stage.prefect_auth.split(":")
    with httpx.Client(base_url=stage.prefect, auth=(user, password), timeout=60) as prefect:
        found = prefect.get("/deployments/name/check-datacenters/main").json()["id"]
        made = prefect.post(f"/deployments/{found}/create_flow_run", json={}).json()["id"]
    page = stage.ui.artifact(UUID(made), f"check-datacenters-{stage.datacenter}")
    for what in ("worker", "repository", "datastore", "pool"):
        expect(page.get_by_role("cell", name=what, exact=True).first).to_be_visible()
    expect(page.get_by_role("cell", name="online", exact=True)).to_be_visible()
