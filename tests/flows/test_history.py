"""What is over is forgotten, and nothing else: here, and in Prefect through the real engine."""

import sqlite3
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.session import utc_now
from adapters.types import Format, OperationState
from deployments.lab.process import wait_for
from flows import dispatch
from flows.cloud import cloud
from tests.flows.test_engine import asked_for, engine
from tests.worlds import World

__all__ = ["engine"]
DAY_S = 86_400
SLACK, EVENTS = 60, 1000  # what trimming itself, and what is scheduled, leave for a while
SHORT = {
    "history_days": 8 / DAY_S,  # Prefect's server writes task runs down a little later
    "prefect_events_days": 8 / DAY_S,
    "slots": 4,
}


def known() -> set[UUID]:
    with cloud.database.read() as db:
        return set(db.scalars(select(models.Operation.id)))


def over(world: World, days: float, **fields: object) -> UUID:
    """An operation that ended so many days ago, settled, with what else its row is to say."""
    operation = world.run("convert_image", world.template, format="qcow2").id
    values = {"ended_at": utc_now(-days * DAY_S), **fields}
    with cloud.database.write() as db:
        mine = models.Operation.id == operation
        db.execute(update(models.Operation).where(mine).values(values))
    return operation


def test_operations_that_ended_long_ago_go_with_their_lines_and_receipts(world):
    old, new = over(world, 31), over(world, 29)
    trim = world.run("trim_history", world.datacenter).id
    assert known() == {new, trim}
    assert not cloud.journal.lines(old)
    report = next(x.result for x in cloud.journal.lines(trim) if x.name == "publish-report")
    assert report[0]["state"] == "1 forgotten"


@pytest.mark.parametrize(
    "fields",
    [
        {"state": OperationState.STUCK, "ended_at": None},
        {"state": OperationState.RUNNING},
        {"due_at": utc_now(60), "provisional": True},
        {"runner_host": "elsewhere"},
        {"left_behind": True},
    ],
    ids=["stuck", "running", "provisional", "settling", "left-behind"],
)
def test_what_somebody_may_need_stays(world, fields):
    kept = over(world, 40, **fields)
    world.run("trim_history", world.datacenter)
    assert kept in known()


def test_what_holds_a_lock_stays(world):
    kept = over(world, 40)
    world.add(models.Lock(object_id=uuid4(), kind="vm", operation_id=kept))
    world.run("trim_history", world.datacenter)
    assert kept in known()


def test_evidence_goes_in_its_own_time(world):
    evidence = over(world, 366, left_behind=True)
    world.run("trim_history", world.datacenter)
    assert evidence not in known()


def test_another_datacenters_operations_are_its_own_business(world):
    other = uuid4()
    world.add(models.Datacenter(id=other, name="other", repository="/", repository_marker=uuid4()))
    theirs = over(world, 40, datacenter_id=other)
    world.run("trim_history", world.datacenter)
    assert theirs in known()


def test_a_conversion_that_a_disk_needs_stays(world):
    template = world.image("foreign", Format.VMDK)
    vm = cloud.inventory.vms_of(world.appliance("db", template=template))[0].id
    world.run("deploy_vm", vm)
    cloud.become(cloud.settings.model_copy(update={"conversion_days": 1e-12}))
    world.run("trim_history", world.datacenter)
    (image,) = cloud.library.conversions(world.datacenter)
    world.run("undeploy_vm", vm)
    world.run("trim_history", world.datacenter)
    assert not cloud.library.conversions(world.datacenter)
    assert not cloud.repository(world.datacenter).has(image.path)


def prefects_rows() -> dict[str, int]:
    """How many rows of what grows with every run Prefect's database has."""
    tables = ("flow_run", "flow_run_state", "task_run", "task_run_state", "artifact", "events")
    database = sqlite3.connect(cloud.settings.home / "prefect" / "prefect.db")
    try:
        count = "SELECT count(*) FROM {}"
        return {x: database.execute(count.format(x)).fetchone()[0] for x in tables}
    finally:
        database.close()


@pytest.mark.engine
@pytest.mark.parametrize("engine", [SHORT], indirect=True, ids=["short"])
@pytest.mark.parametrize(
    "operations", [100, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_prefects_database_stays_bounded(engine, operations):
    """However many there were: once they are over for long enough, Prefect knows of none."""
    world, _ = engine
    at_first = prefects_rows()
    asked = [asked_for(world, f"volume-{n}") for n in range(operations)]
    for operation in asked:
        dispatch.send(operation)
    assert {ended_in(each, 3000).state for each in asked} == {OperationState.SUCCEEDED}
    assert prefects_rows()["flow_run"] >= operations
    wait_for(lambda: trimmed() < SLACK, 250, "the end of what is over")
    wait_for(lambda: prefects_rows()["events"] < EVENTS, 60, "the end of old events")
    rows = prefects_rows()
    assert rows["flow_run"] - at_first["flow_run"] < SLACK, rows
    assert rows["flow_run_state"] - at_first["flow_run_state"] < 5 * SLACK
    assert rows["task_run"] < 3 * SLACK, rows
    assert rows["artifact"] < SLACK
    assert len(known()) < SLACK


def ended_in(operation: Operation, patience_s: float) -> Operation:
    wait_for(lambda: cloud.operations.read(operation.id).ended, patience_s, "the end", every_s=0.5)
    return cloud.operations.read(operation.id)


def trimmed() -> int:
    """Trim once more; how many operations are known then."""
    run = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("trim_history", "main")
    )
    trim = uuid5(run.id, "trim_history")
    wait_for(lambda: cloud.operations.is_known(trim), 120, "the start of trimming", every_s=0.2)
    wait_for(lambda: cloud.operations.read(trim).ended, 240, "the end of trimming", every_s=0.2)
    return len(known())
