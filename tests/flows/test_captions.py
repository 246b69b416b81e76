"""What people are told of an operation in Prefect: what, where, how it went, never too much."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.stories import Moment, PlannedVm
from adapters.types import OperationState, StepState
from flows import captions
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.outline import ends, halves
from tests.worlds import World

BEGAN = datetime(2026, 11, 22, tzinfo=UTC)


def deployment(world: World, *vms: str, **links: list[str]) -> Operation:
    appliance = world.appliance(*vms, **links)
    ids = [str(vm.id) for vm in cloud.inventory.vms_of(appliance)]
    return world.accept("deploy_appliance", appliance, vms=ids)


def plan_of(operation: Operation) -> str:
    heading = captions.heading(operation, *halves(FLOWS[operation.kind].body))
    vms = [UUID(vm) for vm in operation.arguments["vms"]]
    return captions.plan(heading, cloud.stories.vms(vms), len(vms))


def moment(n: int, **more: object) -> Moment:
    began = BEGAN + timedelta(seconds=n)
    fields = {
        "key": f"make-disk[{n}]",
        "name": "make-disk",
        "lane": f"vm-{n}",
        "host": "host-0",
        "state": StepState.DONE,
        "attempts": 1,
        "started_at": began,
        "ended_at": began + timedelta(seconds=1),
        "error": None,
    }
    return Moment.model_validate({**fields, **more})


def test_a_plan_has_steps_vms_and_their_order_and_hosts_once_reserved(world):
    operation = deployment(world, "db", "web", web=["db"])
    planned = plan_of(operation)
    assert "**Once, where needed:** charge-vms → reserve-hosts → survey-vms → " in planned
    assert "**For each VM, where needed:** choose-base → hold-base → " in planned
    assert f"| web | db | 1 | 64 MiB | 0 | {captions.UNPLACED} |" in planned
    FLOWS["deploy_appliance"](operation.id)
    assert captions.UNPLACED not in plan_of(operation)
    assert re.search(r"\| db \|  \| 1 \| 64 MiB \| 0 \| host-[01] \|", plan_of(operation))


def test_a_vm_is_done_with_its_last_step_or_when_it_is_given_up(world):
    _, each = halves(FLOWS["deploy_appliance"].body)
    assert ends(each) == {"record-state", "give-up-vm"}
    assert ends(halves(FLOWS["undeploy_appliance"].body)[1]) == {"refund-vm"}
    both = {"record-state", "give-up-vm", "refund-vm"}
    assert ends(halves(FLOWS["sync_appliance"].body)[1]) == both
    operation = deployment(world, "db", "web")
    assert cloud.stories.done(operation.id, ends(each)) == 0
    FLOWS["deploy_appliance"](operation.id)
    assert cloud.stories.done(operation.id, ends(each)) == 2


def test_a_run_is_tagged_with_its_enterprise_and_the_appliances_that_it_touches(world):
    operation = deployment(world, "db")
    (vm,) = operation.arguments["vms"]
    appliance = operation.target_id
    theirs = {f"appliance:{appliance}", f"appliance:app-{appliance}", "enterprise:default"}
    theirs.add(f"enterprise:{operation.enterprise_id}")
    assert set(cloud.stories.tags(operation)) == theirs | {f"operation:{operation.id}"}
    switched = world.accept("change_power", UUID(vm), power="on")
    assert set(cloud.stories.tags(switched)) == theirs | {f"operation:{switched.id}"}


def test_a_timeline_has_a_line_for_each_step_and_bars_that_stand_in_line(world):
    operation = deployment(world, "db", "web", web=["db"])
    FLOWS["deploy_appliance"](operation.id)
    moments = cloud.stories.moments(operation.id)
    rows = captions.timeline(moments)
    assert [(row["VM"], row["step"]) for row in rows] == [(x.lane, x.name) for x in moments]
    assert {row["host"] for row in rows if row["VM"]} <= {"host-0", "host-1"}
    assert len({len(row["when"]) for row in rows}) == 1
    assert "why" not in rows[0]
    failed = moment(0, state=StepState.FAILED, error="no room", attempts=2)
    assert captions.timeline([failed])[0]["why"] == "no room"
    assert captions.timeline([failed])[0]["state"] == "failed, attempt 2"


def test_of_many_vms_little_is_told(world):
    many = 1000
    vms = [PlannedVm(name="vm", cpu=1, ram_mib=1, depends_on=(), volumes=0, host="")]
    planned = captions.plan("", vms * captions.MOST, many)
    assert planned.count("\n") < captions.MOST + 10
    assert "and 800 more VMs" in planned
    moments = [moment(n) for n in range(many)]
    moments.append(moment(many, name="define-vm", ended_at=BEGAN + timedelta(seconds=many + 7)))
    made, defined = captions.timeline(moments)
    assert (made["step"], made["times"], made["done"], made["to"]) == (
        "make-disk",
        many,
        many,
        "1000.0 s",
    )
    assert (defined["longest"], defined["of VM"]) == ("7.00 s", "vm-1000")


def test_a_receipt_shows_what_is_not_as_expected_first(world):
    operation = deployment(world, "db", "web")
    done = FLOWS["deploy_appliance"](operation.id)
    asked, otherwise = cloud.stories.answers(operation.id)
    rows = captions.receipt(cloud.stories.questions(operation.id, captions.MOST))
    assert (len(rows), otherwise) == (asked, 0)
    assert {row["VM"] for row in rows} == {"", "db", "web"}
    assert f"{asked} questions, 0 answered otherwise." in captions.proof(done, asked, otherwise)
    last = models.Receipt.key.startswith(f"{rows[-1]['step']}[{rows[-1]['of']}")
    with cloud.database.write() as db:
        db.execute(update(models.Receipt).where(last).values(as_expected=False))
    (first,) = captions.receipt(cloud.stories.questions(operation.id, 1))
    assert first == {**rows[-1], "as expected": "NO"}
    lied = done.model_copy(update={"provisional": True, "state": OperationState.FAILED})
    assert "Provisional" in captions.proof(lied, captions.MOST + 1, 1)
    assert f"The first {captions.MOST}" in captions.proof(lied, captions.MOST + 1, 1)


@given(st.text())
def test_what_others_have_written_is_no_markdown(text):
    plain = captions._plain(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|&#~]", plain)
    assert "\n" not in plain
