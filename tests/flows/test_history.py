"""What is over is forgotten, and nothing else."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.session import utc_now
from adapters.types import Format, OperationState
from flows.cloud import cloud
from tests.flows.breaking import Breaker, Place
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_fates import settle_again
from tests.flows.test_sagas import assert_unlocked
from tests.worlds import World

DAY_S = 86_400


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


def test_what_was_left_is_left_once_later_operations_may_be_forgotten(world, monkeypatch):
    """Else a second look would take for its own what one of them has made."""
    target, asked = SCENARIOS["create_iscsi_volume"].prepare(world)
    broken = Breaker(monkeypatch, world.accept("create_iscsi_volume", target, **asked))
    broken.at(Place("record-carved", "", 0), lambda *_: 1 / 0)
    cloud.world.set_fate("storage.discard_volume", "lies", times=2)
    failed = broken.run()
    assert (failed.left_behind, failed.provisional) == (True, True)
    later = world.run("create_iscsi_volume", target, **asked)
    long_ago = utc_now(-31 * DAY_S)
    with cloud.database.write() as db:
        db.execute(update(models.Operation).values(accepted_at=long_ago, ended_at=long_ago))
    world.run("trim_history", world.datacenter)
    assert later.id not in known()
    ended = settle_again(failed)
    assert cloud.world.all("volume").keys() == {str(target)}
    assert (ended.left_behind, ended.provisional) == (True, False)
    assert_unlocked()


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
