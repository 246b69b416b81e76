"""Moments that the matrix of steps does not reach: between steps, between runners, too late."""

import multiprocessing
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from uuid import UUID, uuid4

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.claims import Claims
from adapters.database.operations import LeaseLost, Operations
from adapters.database.runners import Runner, this_runner
from adapters.database.session import utc_now
from adapters.errors import Refused, Transient
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.storage.memory import MemoryStorage
from adapters.types import OperationState, StepState
from flows import saga
from flows.catalog import FLOWS
from flows.children import Child
from flows.cloud import cloud
from flows.exports import rebuild
from flows.operation import accept_maintenance
from flows.steps import STEPS, Effect
from tests.flows.breaking import Breaker, Killed, Place, lapse
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_fates import (
    asked_again,
    fail_at_the_end,
    places_named,
    receipt_of,
    settle_again,
)
from tests.flows.test_sagas import (
    assert_unlocked,
    clean_run,
    every_step,
    no_way_back,
    require_all_there,
    require_nothing_left,
)

FORWARD_ONLY = [
    "delete_iscsi_volume",
    "detach_volume",
    "detach_volume-hot",
    "undeploy_vm",
    "undeploy_appliance",
]
PASSING = ["import_image", "convert_image", "deploy_vm", "persist_vm"]


def first(broken: Breaker, method: str, instead) -> None:
    """Call `instead(the method, its arguments)` the first time that the operations get there."""
    whole, seen = getattr(Operations, method), []

    def patched(operations, *arguments, **named):
        if seen:
            return whole(operations, *arguments, **named)
        seen.append(arguments)
        return instead(lambda: whole(operations, *arguments, **named))

    broken.monkeypatch.setattr(Operations, method, patched)


# --- between the last step and the end --------------------------------------------------------


@pytest.mark.parametrize("name", PASSING)
def test_killed_when_what_was_temporary_is_gone_already(name, breaker):
    broken = breaker(name)
    first(broken, "end", lambda _end: broken.kill())
    broken.run_until_killed()
    done = list(broken.effects)
    require_all_there(name, broken.resumed())
    assert broken.effects == done


@pytest.mark.parametrize("name", ["import_image", "persist_vm"])
def test_the_end_of_something_temporary_that_is_refused_repeats_nothing(
    name, breaker, monkeypatch
):
    """Where there is no way back, resume ends what is left, and does not do it again."""
    broken = breaker(name)
    passing = next(
        x.step for _, x in map(_values, every_step()) if _ == name and _is_passing(x.step)
    )
    undo, refused = STEPS[passing].backward, []

    def refuse(**arguments):
        if not refused:
            refused.append(arguments)
            raise Refused("not now")
        undo(**arguments)

    monkeypatch.setattr(STEPS[passing], "backward", refuse)
    before = SCENARIOS[name].before()
    ended = broken.run()
    if name == "import_image":
        assert ended.state is OperationState.FAILED
        require_nothing_left(SCENARIOS[name], before, ended)
        return
    assert ended.state is OperationState.STUCK
    done = list(broken.effects)
    cloud.operations.resume(ended.id)
    require_all_there(name, broken.resumed())
    assert broken.effects == done


def _values(each):
    return each.values


def _is_passing(step: str) -> bool:
    return STEPS[step].effect is Effect.TEMPORARY


# --- a wish that comes as the first destructive step does -------------------------------------


def destructive_firsts():
    found = {}
    for name, place in map(_values, every_step()):
        steps = [x for n, x in map(_values, every_step()) if n == name and no_way_back(n, x)]
        if STEPS[place.step].effect is Effect.REMOVES and not place.lane and steps:
            found.setdefault(name, _first_removal(name))
    return sorted(found.items())


def _first_removal(name: str):
    return next(x for x in clean_run(name)[0] if STEPS[x.step].effect is Effect.REMOVES)


@pytest.mark.parametrize(("name", "place"), destructive_firsts())
def test_a_wish_before_the_first_destructive_intent_is_granted(name, place, breaker, monkeypatch):
    """It was accepted, so nothing may be destroyed any more."""
    broken = breaker(name)
    before = SCENARIOS[name].before()
    question, asked = STEPS[place.step].question, []

    def wish_meanwhile(**arguments):
        if not asked:
            asked.append(cloud.operations.want(broken.operation.id, "cancel"))
        return question(**arguments)

    monkeypatch.setattr(STEPS[place.step], "question", wish_meanwhile)
    ended = broken.run()
    assert ended.state is OperationState.CANCELLED
    require_nothing_left(SCENARIOS[name], before, ended)


@pytest.mark.parametrize("name", ["persist_vm", "undeploy_vm"])
def test_a_wish_that_came_too_late_does_not_turn_a_resumed_operation(name, breaker):
    """Stuck past its first destructive step, with a wish on its row: resume goes forward."""
    broken = breaker(name)

    def wish_then_refuse(_do, _arguments):
        cloud.operations.want(broken.operation.id, "cancel")
        raise Refused("the datastore is read-only")

    broken.at(places_named(name, "remove-disk")[0], wish_then_refuse)
    assert broken.run().state is OperationState.STUCK
    cloud.operations.resume(broken.operation.id)
    ended = broken.resumed()
    require_all_there(name, ended)
    assert ended.error is None


# --- stuck, and on again ----------------------------------------------------------------------


def refuse_once(monkeypatch, step: str) -> None:
    undo, refused = STEPS[step].backward, []

    def refuse(**arguments):
        if not refused:
            refused.append(arguments)
            raise Refused("not now")
        undo(**arguments)

    monkeypatch.setattr(STEPS[step], "backward", refuse)


@pytest.mark.parametrize("step", ["define-vm", "hold-base", "reserve-hosts"])
def test_what_was_stuck_on_the_way_back_goes_on_back(step, breaker, monkeypatch):
    broken = breaker("deploy_vm")
    before = SCENARIOS["deploy_vm"].before()
    refuse_once(monkeypatch, step)
    broken.at(places_named("deploy_vm", "switch-vm")[0], lambda *_: 1 / 0)
    assert broken.run().state is OperationState.STUCK
    done = list(broken.effects)
    cloud.operations.resume(broken.operation.id)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    assert broken.effects == done
    require_nothing_left(SCENARIOS["deploy_vm"], before, ended)


def test_a_cancelled_operation_that_is_killed_on_the_way_back_ends_cancelled(breaker, monkeypatch):
    broken = breaker("deploy_vm")
    broken.at(places_named("deploy_vm", "define-vm")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    cloud.operations.want(broken.operation.id, "cancel")
    undo, killed = STEPS["make-disk"].backward, []

    def kill(**arguments):
        if not killed:
            killed.append(arguments)
            broken.kill()
        undo(**arguments)

    monkeypatch.setattr(STEPS["make-disk"], "backward", kill)
    broken.run_until_killed()
    assert broken.run().state is OperationState.CANCELLED


# --- a new version ----------------------------------------------------------------------------


def removals():
    return [
        pytest.param(name, place, id=f"{name}:{place}")
        for name, place in map(_values, every_step())
        if name in [*FORWARD_ONLY, "persist_vm"] and STEPS[place.step].effect is Effect.REMOVES
    ]


@pytest.mark.parametrize(("name", "place"), removals())
def test_a_new_version_goes_forward_over_what_is_gone(name, place, breaker, monkeypatch):
    broken = breaker(name)

    def kill(do, arguments):
        do(**arguments)
        broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    monkeypatch.setattr(FLOWS[broken.operation.kind], "version", "another")
    require_all_there(name, broken.resumed())


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_a_new_version_does_every_step_of_a_forward_only_operation_anew(
    name, breaker, monkeypatch
):
    broken = breaker(name)
    first(broken, "end", lambda _end: broken.kill())
    broken.run_until_killed()
    steps = [line.key for line in cloud.journal.lines(broken.operation.id)]
    monkeypatch.setattr(FLOWS[broken.operation.kind], "version", "another")
    require_all_there(name, broken.resumed())
    lines = cloud.journal.lines(broken.operation.id)
    assert [line.key for line in lines] == steps
    assert {(line.state, line.attempts) for line in lines} == {(StepState.DONE, 2)}


def test_a_new_version_is_told_anew_and_what_it_is_told_is_recorded(breaker, monkeypatch):
    broken = breaker("delete_iscsi_volume")
    broken.at(places_named("delete_iscsi_volume", "strike-volume")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    told, do = [], STEPS["remove-volume"].do
    monkeypatch.setattr(STEPS["remove-volume"], "do", lambda **a: (told.append(a), do(**a)))
    with cloud.database.write() as db:
        db.execute(update(models.VolumeRow).values(size_mib=9))
    monkeypatch.setattr(FLOWS["delete_iscsi_volume"], "version", "another")
    broken.resumed()
    assert told[0]["volume"]["size_mib"] == 9
    line = next(x for x in cloud.journal.lines(broken.operation.id) if x.name == "remove-volume")
    assert line.arguments["volume"]["size_mib"] == 9


# --- receipts ---------------------------------------------------------------------------------


def test_a_look_with_a_defect_keeps_no_lock(breaker, monkeypatch):
    broken = breaker("create_iscsi_volume")
    question, asked = STEPS["carve-volume"].question, []

    def defect(**arguments):
        asked.append(arguments)
        return question(**arguments) if len(asked) == 1 else 1 / 0

    monkeypatch.setattr(STEPS["carve-volume"], "question", defect)
    ended = broken.run()
    assert ended.state is OperationState.SUCCEEDED
    assert ended.left_behind
    assert receipt_of(ended)["carve-volume"] == ("present", "unknown: ZeroDivisionError")
    assert_unlocked()


def test_what_was_left_behind_stays_said_when_a_later_operation_came(breaker):
    broken = breaker("create_iscsi_volume")
    cloud.world.set_fate("storage.discard_volume", "lies", times=2)
    fail_at_the_end(broken)
    failed = broken.run()
    assert failed.left_behind
    assert FLOWS[failed.kind](asked_again(failed).id).state is OperationState.SUCCEEDED
    ended = settle_again(failed)
    assert (ended.left_behind, ended.provisional) == (True, False)
    assert len(cloud.world.all("volume")) == 1


def test_what_could_not_be_asked_a_later_operation_has_asked(breaker, monkeypatch):
    broken = breaker("create_iscsi_volume")
    fail_at_the_end(broken)
    question, asked = STEPS["carve-volume"].question, []

    def away(**arguments):
        asked.append(arguments)
        if len(asked) > 1:
            raise Transient("nobody answers")
        return question(**arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(STEPS["carve-volume"], "question", away)
        failed = broken.run()
    assert failed.left_behind
    assert receipt_of(failed)["carve-volume"] == ("absent", "unknown: nobody answers")
    again = asked_again(failed)
    waits = settle_again(failed)
    assert (waits.left_behind, waits.provisional) == (True, True)
    assert FLOWS[again.kind](again.id).state is OperationState.SUCCEEDED
    ended = settle_again(failed)
    assert (ended.left_behind, ended.provisional) == (False, False)
    assert receipt_of(ended)["carve-volume"][1].startswith("asked by a later operation")


def test_what_no_later_operation_had_is_looked_at_again(world, monkeypatch):
    """Its neighbour was deployed since: that one is left alone, what was left of this one goes."""
    appliance = world.appliance("db", "web", web=["db"])
    db, web = (vm.id for vm in cloud.inventory.vms_of(appliance))
    locks = [("appliance", appliance), ("vm", db), ("vm", web)]
    cloud.become(cloud.settings.model_copy(update={"backend_timeout_s": 60}))
    cloud.world.set_fate("hypervisors.delete_disk", "lies", times=4)
    asked = {"vms": [str(db), str(web)]}
    broken = Breaker(monkeypatch, world.accept("deploy_appliance", appliance, *locks, **asked))
    broken.at(Place("define-vm", "web", 0), lambda *_: 1 / 0)
    failed = broken.run()
    assert failed.left_behind
    assert {each["vm"] for each in cloud.world.all("disk").values()} == {str(db), str(web)}
    cloud.world.forget_fates()
    world.run("deploy_vm", db)
    before = {k: v for k, v in cloud.world.all("disk").items() if v["vm"] == str(db)}
    ended = settle_again(failed)
    assert cloud.world.all("disk") == before
    assert cloud.world.all("vm").keys() == {str(db)}
    assert cloud.inventory.vm(db).host_id
    assert ended.left_behind  # of the first, nobody knows since


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_effect_says_what_it_is_about(name, world):
    """Else the second look at a receipt could not tell it from a later operation's."""
    operation = FLOWS[SCENARIOS[name].kind](SCENARIOS[name].accept(world).id)
    with cloud.database.read() as db:
        had = {
            *db.scalars(select(models.VirtualMachine.id)),
            *db.scalars(select(models.VolumeRow.id)),
        }
    had |= {operation.id, *operation.objects, *saga._ids_in(operation.arguments)}
    lines = cloud.journal.lines(operation.id)
    vague = [
        x.key for x in lines if STEPS[x.name].question and not saga._ids_in(x.arguments) & had
    ]
    assert vague == []


# --- runners ----------------------------------------------------------------------------------


def test_a_runner_that_lost_its_lease_and_went_on_is_not_taken_for_the_holder(breaker):
    """It may have other work by then: whoever takes over must not end it for the old one."""
    broken = breaker("create_iscsi_volume")

    def too_late(do, arguments):
        lapse(broken.operation)
        return do(**arguments)

    broken.at(places_named("create_iscsi_volume", "carve-volume")[0], too_late)
    with pytest.raises(LeaseLost):
        broken.run()
    lapse(broken.operation)
    assert cloud.operations.claim(broken.operation.id, this_runner()).former is None


def test_a_process_that_nobody_has_reaped_is_not_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        zombie = Runner(
            host=this_runner().host, pid=child, started=psutil.Process(child).create_time()
        )
        assert zombie.alive_here() is None
    finally:
        os.waitpid(child, 0)


# --- the worker -------------------------------------------------------------------------------


def deployed_with_volumes(world, how_many: int):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    for position in range(1, how_many + 1):
        world.volume(f"data-{position}", vm, position=position)
    world.run("deploy_vm", vm)
    return cloud.inventory.exports_of(world.pool)


def test_one_export_that_is_there_does_not_hide_the_lost_ones(world):
    """A flow has made the first anew before anybody noticed that the daemon was restarted."""
    exports = deployed_with_volumes(world, 3)
    for export in exports[1:]:
        cloud.world.remove("export", export.id)
    for look in range(len(exports)):
        rebuild(world.pool, look)
    assert cloud.world.all("export").keys() == {str(each.id) for each in exports}


def test_an_export_that_cannot_be_rebuilt_keeps_no_other_away(world):
    exports = deployed_with_volumes(world, 3)
    for export in exports:
        cloud.world.remove("export", export.id)
    cloud.world.set_fate("storage.restore", "refuses")
    rebuild(world.pool)
    assert cloud.world.all("export").keys() == {str(each.id) for each in exports[1:]}
    for look in range(len(exports)):
        rebuild(world.pool, look)
    assert len(cloud.world.all("export")) == len(exports)


@pytest.fixture
def lost(world):
    """A deployed VM, and its one export, which the target daemon has lost."""
    (export,) = deployed_with_volumes(world, 1)
    cloud.world.remove("export", export.id)
    (vm,) = map(UUID, cloud.world.all("vm"))
    return vm, export


def while_rebuilding(monkeypatch, meanwhile) -> None:
    """Call `meanwhile()` while an export is being made again, and before it is there."""
    restore = MemoryStorage.restore

    def slowly(storage, exports):
        meanwhile()
        return restore(storage, exports)

    monkeypatch.setattr(MemoryStorage, "restore", slowly)


def let_keepers_time_pass() -> None:
    with cloud.database.write() as db:
        db.execute(update(models.SharedThing).values(kept_until=utc_now(-1)))


def waits_for_rebuilding(monkeypatch, then=lambda: None) -> Event:
    """Set when a withdrawal has to wait; `then()` is called each time."""
    release, waits = Claims.release, Event()

    def patient(claims, *arguments):
        try:
            return release(claims, *arguments)
        except Transient:
            waits.set()
            then()
            raise

    monkeypatch.setattr(Claims, "release", patient)
    return waits


def assert_nothing_is_exported(world) -> None:
    assert not cloud.world.all("export")
    assert not cloud.inventory.exports_of(world.pool)
    with cloud.database.read() as db:
        assert not [x for x in db.scalars(select(models.SharedThing.name)) if "export" in x]


def test_no_writer_waits_while_an_export_is_rebuilt(world, lost, monkeypatch):
    """A target daemon that hangs would hold up every lease on SQLite."""

    def write() -> None:
        with closing(sqlite3.connect(world.home / "cloudloom.sqlite", timeout=0)) as db:
            db.execute("BEGIN IMMEDIATE")

    while_rebuilding(monkeypatch, write)
    rebuild(world.pool)
    assert cloud.world.all("export")


def test_an_export_is_withdrawn_when_it_has_been_rebuilt(world, lost, monkeypatch):
    vm, _ = lost
    waits = waits_for_rebuilding(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        undeploying = []

        def withdraw() -> None:
            undeploying.append(pool.submit(world.run, "undeploy_vm", vm))
            assert waits.wait(30)

        while_rebuilding(monkeypatch, withdraw)
        rebuild(world.pool)
        undeploying[0].result(30)
    assert_nothing_is_exported(world)


def test_what_is_being_withdrawn_is_not_rebuilt(world, lost):
    vm, export = lost
    thing, remover = f"export:{export.id}", world.accept("undeploy_vm", vm).id
    assert cloud.claims.release(thing, f"vm:{vm}", remover)
    rebuild(world.pool)
    assert not cloud.world.all("export")
    cloud.claims.removed(thing, remover)
    rebuild(world.pool)
    assert not cloud.world.all("export")


def test_a_worker_that_dies_while_it_rebuilds_holds_up_a_withdrawal_for_a_while(
    world, lost, monkeypatch
):
    vm, _ = lost

    def die(*_):
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(Claims, "let_go", die)
        with pytest.raises(Killed):
            rebuild(world.pool)
    assert cloud.world.all("export")
    waits = waits_for_rebuilding(monkeypatch, then=let_keepers_time_pass)
    world.run("undeploy_vm", vm)
    assert waits.is_set()
    assert_nothing_is_exported(world)


@pytest.mark.parametrize("then", ["withdrawn", "made anew"])
def test_an_export_that_is_rebuilt_too_late_is_ended_unless_somebody_needs_it(
    then, world, lost, monkeypatch
):
    """Its worker stood still for longer than a withdrawal waits."""
    vm, export = lost
    overtaken = []

    def overtake() -> None:
        if overtaken:
            return
        overtaken.append(vm)
        let_keepers_time_pass()
        world.run("undeploy_vm", vm)
        if then == "made anew":
            world.run("deploy_vm", vm)

    while_rebuilding(monkeypatch, overtake)
    rebuild(world.pool)
    if then == "withdrawn":
        assert_nothing_is_exported(world)
    else:
        assert cloud.world.all("export").keys() == {str(export.id)}
        world.run("undeploy_vm", vm)
        assert_nothing_is_exported(world)


def test_a_run_for_a_process_that_has_just_died_is_found_with_it():
    ours, theirs = multiprocessing.Pipe()
    child = Child.__new__(Child)
    child._pipe, child.run = ours, None
    theirs.close()
    run = FlowRun(flow_id=uuid4())
    child.start(run, "deploy_vm")
    assert child.run == run.id
    assert not child.hear()


def test_maintenance_elsewhere_holds_up_none_here(world):
    accept_maintenance(FLOWS["reconcile_operations"])
    assert cloud.operations.unfinished("reconcile_operations", world.datacenter)
    assert not cloud.operations.unfinished("reconcile_operations", uuid4())


def test_a_scheduled_run_that_is_tried_again_goes_on_with_its_operation(world):
    own = uuid4()
    flow = FLOWS["reconcile_operations"]
    assert accept_maintenance(flow, own) == accept_maintenance(flow, own) == own


def test_a_long_queue_does_not_hide_what_no_run_was_made_for(world):
    queued = world.accept("deploy_vm", uuid4())
    cloud.operations.sent(queued.id, 1, uuid4())
    died = world.accept("deploy_vm", uuid4())
    assert [each.id for each in cloud.operations.due(world.datacenter, limit=1)] == [died.id]


# --- placement --------------------------------------------------------------------------------


def test_a_host_that_does_not_answer_keeps_no_vm_from_the_others(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    cloud.world.set_fate("hypervisors.datastore", "fails", times=1)
    world.run("deploy_vm", vm)
    assert cloud.world.calls("hypervisors.datastore") == world.datastores
    assert cloud.inventory.vm(vm).host == world.hosts[1]


def test_hosts_that_are_all_away_are_asked_again(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    cloud.world.set_fate("hypervisors.datastore", "fails", times=2)
    world.run("deploy_vm", vm)
    assert cloud.world.calls("hypervisors.datastore") == world.datastores * 2


def test_no_writer_waits_while_a_host_is_asked(world, monkeypatch):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    datastore, free = MemoryHypervisor.datastore, []

    def asked(hypervisor, directory):
        with closing(sqlite3.connect(world.home / "cloudloom.sqlite", timeout=0)) as db:
            db.execute("BEGIN IMMEDIATE")
            free.append(directory)
        return datastore(hypervisor, directory)

    monkeypatch.setattr(MemoryHypervisor, "datastore", asked)
    world.run("deploy_vm", vm)
    assert free == world.datastores
