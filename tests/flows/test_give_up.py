"""`on_failure: keep`: a VM that does not come up is undone alone, whatever dies meanwhile."""

import json
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import select

from adapters.database import models
from adapters.database.operations import Operations
from adapters.errors import Refused
from adapters.types import OperationState, Power, StepState, VmState
from flows.cloud import cloud
from flows.running import lane_name
from flows.steps import STEPS
from tests.flows.breaking import Breaker, Place, places
from tests.flows.test_fates import settle_again
from tests.flows.test_sagas import assert_unlocked, shape
from tests.worlds import photograph, require_ledger_exact

LANE = ["choose-base", "hold-base", "make-disk", "define-vm", "export-volume", "connect-volume"]
UNDONE = ["switch-vm", *LANE[:0:-1]]  # of the lane that fails, as they are undone
PREPARED = ["charge-vms", "reserve-hosts", "survey-vms"]


def accepted(world, monkeypatch, *, fails=("db",), on_failure="keep"):
    """A deployment of db (with a volume), mail, and web, which depends on db; some VMs fail."""
    appliance = world.appliance("db", "mail", "web", web=["db"])
    vms = cloud.inventory.vms_of(appliance)
    world.volume("data", vms[0].id)
    asked = {"vms": [str(vm.id) for vm in vms], "on_failure": on_failure}
    locks = [("appliance", appliance), *[("vm", vm.id) for vm in vms]]
    broken = Breaker(monkeypatch, world.accept("deploy_appliance", appliance, *locks, **asked))
    broken.mind_the_dead()
    broken.count_effects()
    fail(monkeypatch, fails)
    return broken


def fail(monkeypatch, lanes):
    """Let these VMs never come up: the last effect of their lanes happens, and is refused."""
    do = STEPS["switch-vm"].do

    def refuse(**arguments):
        do(**arguments)
        if lane_name.get() in lanes:
            raise Refused("it does not boot")

    monkeypatch.setattr(STEPS["switch-vm"], "do", refuse)


def states(broken):
    return {vm.name: vm.state for vm in cloud.inventory.vms_of(broken.operation.target_id)}


def receipts_of(operation):
    with cloud.database.read() as db:
        query = select(models.Receipt).where(models.Receipt.operation_id == operation.id)
        return {each.key: (each.expected, each.answer) for each in db.scalars(query)}


def require_partly(broken, ended):
    """Mail is up and stays; of db and web nothing is left, their hosts are free."""
    vms = {vm.name: vm for vm in cloud.inventory.vms_of(broken.operation.target_id)}
    assert ended.state is OperationState.FAILED
    require_ledger_exact()
    assert ended.error["code"] == "partly-deployed"
    assert ended.error["vms"] == [
        {"name": "db", "code": "refused", "detail": "it does not boot"},
        {"name": "web", "code": "depends-on-failed", "detail": "depends on db"},
    ]
    assert {name: vm.state for name, vm in vms.items()} == {
        "db": VmState.NOT_ALLOCATED,
        "mail": VmState.ON,
        "web": VmState.NOT_ALLOCATED,
    }
    assert (vms["db"].host_id, vms["web"].host_id) == (None, None)
    mail = str(vms["mail"].id)
    assert cloud.world.all("vm").keys() == {mail}
    assert {each["vm"] for each in cloud.world.all("disk").values()} == {mail}
    assert not cloud.world.all("connection")
    assert not cloud.world.all("export")
    assert_unlocked()
    assert not ended.left_behind
    lines = cloud.journal.lines(ended.id)
    lost = {x.key: x.state for x in lines if x.lane in {"db", "web"} and x.name != "give-up-vm"}
    assert set(lost.values()) <= {StepState.UNDONE, StepState.SKIPPED}
    kept = {x.state for x in lines if x.key not in lost}
    assert kept == {StepState.DONE}
    receipts = receipts_of(ended)
    for line in lines:
        if STEPS[line.name].question:
            there = "absent" if line.key in lost else "present"
            assert receipts[line.key] == (there, there)


def test_what_fails_is_undone_alone_and_what_depends_on_it_is_not_brought_up(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    ended = broken.run()
    require_partly(broken, ended)
    assert ended.error["detail"] == ("1 of 3 VMs are up, db: it does not boot; web: depends on db")
    undone = [x for x in cloud.journal.lines(ended.id) if x.lane == "db" and x.name in UNDONE]
    newest_first = sorted(undone, key=lambda line: line.ended_at)
    assert [line.name for line in newest_first] == UNDONE
    assert {x.name for x in cloud.journal.lines(ended.id) if x.lane == "web"} == {"give-up-vm"}


def test_without_it_all_are_undone(world, monkeypatch):
    broken = accepted(world, monkeypatch, on_failure="undo")
    before = photograph()
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "refused")
    assert photograph() == before


def test_where_nothing_comes_up_all_is_undone(world, monkeypatch):
    broken = accepted(world, monkeypatch, fails=("db", "mail"))
    before = photograph()
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "nothing-deployed")
    assert [each["name"] for each in ended.error["vms"]] == ["db", "mail", "web"]
    assert photograph() == before
    assert not ended.left_behind


def test_what_is_prepared_for_all_fails_for_all(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    before = photograph()
    broken.at(Place("survey-vms", "", 0), lambda *_: 1 / 0)
    assert broken.run().error["code"] == "internal-error"
    assert photograph() == before


def test_giving_up_that_lies_shows_in_the_receipt(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    broken.at(Place("give-up-vm", "db", 0), lambda *_: None)
    ended = broken.run()
    told = {
        key.split("[")[0]: said for key, said in receipts_of(ended).items() if said[0] != said[1]
    }
    assert told == {"give-up-vm": ("present", "absent")}
    assert ended.left_behind


# --- killed -----------------------------------------------------------------------------------


def killings():
    """Every step of the deployment that db spoils, of every lane, and every undo of db's."""
    reached = [Place(name, "", 0) for name in PREPARED]
    reached += [Place(name, "db", 0) for name in [*LANE, "switch-vm", "give-up-vm"]]
    mail = [*LANE[:4], "switch-vm", "record-state"]
    reached += [Place(name, "mail", 0) for name in mail]
    reached += [Place("give-up-vm", "web", 0)]
    return [pytest.param(place, id=str(place)) for place in reached]


def test_the_killings_are_at_every_step(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    ended = broken.run()
    assert {str(x) for x in places(ended)} == {each.id for each in killings()}


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", killings())
def test_killed_at_a_step_it_ends_the_same(place, when, then, world, monkeypatch):
    broken = accepted(world, monkeypatch)
    before = photograph()

    def kill(do, arguments):
        try:
            if when == "after":
                do(**arguments)
        finally:
            broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    go_on(broken, then, before)


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", UNDONE)
def test_killed_while_the_lane_is_undone_it_ends_the_same(step, when, then, world, monkeypatch):
    broken = accepted(world, monkeypatch)
    before, undo, killed = photograph(), STEPS[step].backward, []

    def kill(**arguments):
        if not killed:
            killed.append(step)
            if when == "after":
                undo(**arguments)
            broken.kill()
        undo(**arguments)

    monkeypatch.setattr(STEPS[step], "backward", kill)
    broken.run_until_killed()
    effects = list(broken.effects)
    ended = go_on(broken, then, before)
    if then == "resumed":
        db = [x for x in broken.effects[len(effects) :] if x[0] in {*LANE, "switch-vm"}]
        lines = cloud.journal.lines(ended.id)
        mine = {(x.name, str(next(iter(x.arguments.values())))) for x in lines if x.lane == "db"}
        assert not mine & set(db)  # what is being undone is not tried again


@pytest.mark.parametrize("then", ["resumed", "unwound"])
def test_killed_when_it_was_about_to_end_it_ends_the_same(then, world, monkeypatch):
    broken = accepted(world, monkeypatch)
    before, end, killed = photograph(), Operations.end, []

    def kill(*arguments):
        if not killed:
            killed.append(arguments)
            broken.kill()
        end(*arguments)

    monkeypatch.setattr(Operations, "end", kill)
    broken.run_until_killed()
    go_on(broken, then, before)


def go_on(broken, then, before):
    """Somebody takes over; on the way back the kept VMs are undone, too."""
    if then == "resumed":
        ended = broken.run()
        require_partly(broken, ended)
        return ended
    cloud.operations.want(broken.operation.id, "unwind")
    ended = broken.run()
    assert ended.state is OperationState.CANCELLED
    assert photograph() == before
    assert not ended.left_behind
    assert_unlocked()
    return ended


# --- stopped, stuck, looked at again ----------------------------------------------------------


def test_a_cancel_that_comes_while_a_lane_is_undone_undoes_all(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    before, undo, asked = photograph(), STEPS["make-disk"].backward, []

    def cancel(**arguments):
        if not asked:
            asked.append(cloud.operations.want(broken.operation.id, "cancel"))
            from flows.running import this_saga

            while not this_saga().runner._stop.wait(10):
                pytest.fail("nobody heard of the wish")
        undo(**arguments)

    monkeypatch.setattr(STEPS["make-disk"], "backward", cancel)
    ended = broken.run()
    assert ended.state is OperationState.CANCELLED
    assert photograph() == before
    assert not ended.left_behind


@pytest.mark.parametrize("then", ["resume", "unwind"])
def test_an_undo_that_is_refused_is_stuck_in_the_end(then, world, monkeypatch):
    """The others have gone on; resumed, it ends as it would have."""
    broken = accepted(world, monkeypatch)
    before, undo, refused = photograph(), STEPS["make-disk"].backward, []

    def refuse(**arguments):
        if not refused:
            refused.append(arguments)
            raise Refused("the datastore is read-only")
        undo(**arguments)

    monkeypatch.setattr(STEPS["make-disk"], "backward", refuse)
    stuck = broken.run()
    assert stuck.state is OperationState.STUCK
    assert stuck.error["detail"] == "the datastore is read-only"
    assert states(broken)["mail"] is VmState.ON
    if then == "resume":
        cloud.operations.resume(stuck.id)
        require_partly(broken, broken.run())
        return
    cloud.operations.want(stuck.id, "unwind")
    ended = broken.run()
    assert ended.ended
    assert photograph() == before


def test_the_second_look_leaves_what_was_kept(world, monkeypatch):
    """Also where it has changed since: that is nothing which this operation has left."""
    broken = accepted(world, monkeypatch)
    ended = broken.run()
    assert ended.provisional
    mail = next(iter(cloud.world.all("vm")))
    hypervisor = cloud.hypervisor(cloud.inventory.vm(UUID(mail)).host)
    hypervisor.set_power(UUID(mail), Power.OFF, timeout_s=0)
    hypervisor.delete_vm(UUID(mail))
    after = json.dumps(shape(photograph()), sort_keys=True)
    ended = settle_again(ended)
    assert (ended.provisional, ended.left_behind) == (False, False)
    assert json.dumps(shape(photograph()), sort_keys=True) == after


def test_what_was_left_of_a_lost_vm_is_undone_at_the_second_look(world, monkeypatch):
    broken = accepted(world, monkeypatch)
    late, do = [], STEPS["make-disk"].do

    def slow(**arguments):
        if lane_name.get() == "db":
            late.append(partial(do, **arguments))
            raise Refused("nobody answers")
        do(**arguments)

    monkeypatch.setattr(STEPS["make-disk"], "do", slow)
    ended = broken.run()
    assert not ended.left_behind
    late[0]()
    assert len(cloud.world.all("disk")) == 2
    ended = settle_again(ended)
    assert (ended.provisional, ended.left_behind) == (False, False)
    assert len(cloud.world.all("disk")) == 1
    assert states(broken)["mail"] is VmState.ON
