"""Fates that single flows and receipts have to survive: liars, late calls, guests that write."""

import os
import signal
from contextvars import copy_context
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from adapters.database import models
from adapters.database.operations import Operation, Operations
from adapters.database.records import Conversion, VolumeRecord
from adapters.database.session import Joined
from adapters.errors import Conflict, Refused, Transient
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.types import ConversionState, Format, OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume
from flows.steps import STEPS
from flows.wishes import ask
from tests.flows.breaking import Breaker, lapse, places
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_sagas import (
    assert_unlocked,
    clean_run,
    every_step,
    no_way_back,
    repeatable_steps,
    require_all_there,
    require_nothing_left,
)


def settle_again(operation: Operation) -> Operation:
    """What the reconciler does when a provisional receipt is due."""
    lapse(operation)
    return FLOWS[operation.kind](operation.id)


def receipt_of(operation: Operation) -> dict[str, tuple[str, str]]:
    with cloud.database.read() as db:
        rows = db.scalars(
            select(models.Receipt).where(models.Receipt.operation_id == operation.id)
        )
        return {row.key.split("[")[0]: (row.expected, row.answer) for row in rows}


def fail_at_the_end(broken: Breaker) -> None:
    """Of creating a volume, after it was carved."""
    broken.at(places_named("create_iscsi_volume", "record-carved")[0], lambda *_: 1 / 0)


def asked_again(operation: Operation) -> Operation:
    """Another one about the same object."""
    return cloud.operations.accept(
        request_like(operation, id=uuid4(), locks=(("volume", operation.target_id),))
    )


def test_an_undo_that_lies_shows_in_the_receipt_and_is_undone_again(breaker):
    broken = breaker("create_iscsi_volume")
    cloud.world.set_fate("storage.discard_volume", "lies", times=2)
    fail_at_the_end(broken)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    assert (ended.left_behind, ended.provisional) == (True, True)
    assert receipt_of(ended)["carve-volume"] == ("absent", "present")
    ended = settle_again(ended)
    assert not ended.left_behind
    assert receipt_of(ended)["carve-volume"] == ("absent", "absent")
    assert not cloud.world.all("volume")


def lie(_late: Any, undo: Any, arguments: dict[str, Any]) -> None:
    """Say that it is undone."""


def undo_too_early(late: Any, undo: Any, arguments: dict[str, Any]) -> None:
    """Undo it; then the call lands that it was to undo."""
    undo(**arguments)
    late()


@pytest.mark.parametrize("undone", [lie, undo_too_early])
def test_what_an_undo_has_left_no_later_operation_finds(undone, breaker, monkeypatch):
    """It would find it there already, and then its own undo would leave it, for ever."""
    scenario, broken = SCENARIOS["create_iscsi_volume"], breaker("create_iscsi_volume")
    before, undo, times = scenario.before(), STEPS["carve-volume"].backward, []

    def once(**arguments):
        times.append(arguments)
        if len(times) > 1:
            return undo(**arguments)
        return undone(lambda: STEPS["carve-volume"].do(**arguments), undo, arguments)

    monkeypatch.setattr(STEPS["carve-volume"], "backward", once)
    fail_at_the_end(broken)
    first = broken.run()
    assert (first.state, first.provisional) == (OperationState.FAILED, True)
    assert receipt_of(first)["carve-volume"] == ("absent", "absent")
    require_nothing_left(scenario, before, first)
    second = Breaker(monkeypatch, asked_again(first))
    fail_at_the_end(second)
    require_nothing_left(scenario, before, second.run())


@pytest.mark.parametrize("order", [list, reversed])
@pytest.mark.parametrize("looked_at", ["after", "meanwhile"])
def test_what_lands_so_late_that_a_later_operation_finds_it_goes_when_that_one_failed(
    looked_at, order, breaker, monkeypatch
):
    scenario, broken = SCENARIOS["create_iscsi_volume"], breaker("create_iscsi_volume")
    before, late = scenario.before(), []

    def slow(do, arguments):
        late.append(lambda: do(**arguments))
        raise ZeroDivisionError

    broken.at(places_named("create_iscsi_volume", "carve-volume")[0], slow)
    first = broken.run()
    late[0]()
    second = Breaker(monkeypatch, asked_again(first))

    def fail(*_):
        if looked_at == "meanwhile":
            assert copy_context().run(settle_again, first).provisional
        raise ZeroDivisionError

    second.at(places_named("create_iscsi_volume", "record-carved")[0], fail)
    assert receipt_of(second.run())["carve-volume"] == ("present", "present")
    ends = [settle_again(each) for each in order((first, second.operation))]
    assert not any(each.left_behind or each.provisional for each in ends)
    require_nothing_left(scenario, before, cloud.operations.read(first.id))


def test_what_cannot_be_undone_once_more_keeps_no_lock_and_is_tried_again(breaker):
    broken = breaker("create_iscsi_volume")
    cloud.world.set_fate("storage.discard_volume", "lies")
    cloud.world.set_fate("storage.discard_volume", "fails", times=1 + cloud.settings.retries)
    cloud.world.set_fate("storage.discard_volume", "refuses")
    fail_at_the_end(broken)
    ended = broken.run()
    for _ in "12":
        assert ended.state is OperationState.FAILED
        assert (ended.left_behind, ended.provisional) == (True, True)
        assert receipt_of(ended)["carve-volume"] == ("absent", "present")
        assert_unlocked()
        ended = settle_again(ended)
    assert (ended.left_behind, ended.provisional) == (False, False)
    assert not cloud.world.all("volume")


def test_what_was_there_before_is_not_undone_once_more(breaker, monkeypatch):
    """Nor does a second undo touch what nobody could be asked about."""
    broken = breaker("create_iscsi_volume")
    STEPS["carve-volume"].do(**carved_by(broken))
    fail_at_the_end(broken)
    question, asked = STEPS["enter-volume"].question, []

    def away(**arguments):
        asked.append(arguments)
        if len(asked) > 1:
            raise Transient("nobody answers")
        return question(**arguments)

    monkeypatch.setattr(STEPS["enter-volume"], "question", away)
    ended = broken.run()
    assert ended.left_behind
    assert receipt_of(ended)["carve-volume"] == ("present", "present")
    assert receipt_of(ended)["enter-volume"] == ("absent", "unknown: nobody answers")
    attempts = {line.name: line.attempts for line in cloud.journal.lines(ended.id)}
    twice = {"charge-volume": 2, "enter-volume": 2, "record-carved": 2}
    assert attempts == {"carve-volume": 1, **twice}
    assert cloud.world.all("volume")


def carved_by(broken: Breaker) -> dict[str, Any]:
    """What the operation will ask its pool for."""
    record = VolumeRecord.model_validate(broken.operation.arguments["volume"])
    return {"volume": as_volume(record), "pool": record.pool_id}


def test_what_an_abandoned_operation_leaves_is_not_undone(breaker):
    broken = breaker("create_iscsi_volume")
    cloud.world.set_fate("storage.discard_volume", "refuses")
    fail_at_the_end(broken)
    assert broken.run().state is OperationState.STUCK
    cloud.operations.abandon(broken.operation.id, "somebody looks after it", "tests")
    ended = broken.run()
    assert (ended.state, ended.left_behind) == (OperationState.ABANDONED, True)
    assert len(cloud.world.all("volume")) == 1
    assert cloud.world.calls("storage.discard_volume") == [str(ended.target_id)]


def test_whoever_follows_a_killed_unwinder_undoes_only_the_rest(breaker):
    broken = breaker("create_iscsi_volume")
    broken.at(places_named("create_iscsi_volume", "record-carved")[0], lambda *_: 1 / 0)
    with broken.monkeypatch.context() as dying:
        dying.setattr(STEPS["enter-volume"], "backward", lambda **_: broken.kill())
        broken.run_until_killed()
    calls = cloud.world.calls("storage.discard_volume")
    ended = broken.run()
    assert (ended.state, ended.left_behind) == (OperationState.FAILED, False)
    assert cloud.world.calls("storage.discard_volume") == calls
    attempts = {line.name: line.attempts for line in cloud.journal.lines(ended.id)}
    made = {"enter-volume": 3, "carve-volume": 2, "record-carved": 2}
    assert attempts == {"charge-volume": 2, **made}


# A step whose effect is temporary; the call that leaves it half done; the call that ends it.
TEMPORARY = {
    "open-scratch": ("convert_image", "images.convert", "repository.clear"),
    "fill-volume": ("persist_vm", "images.fill_target", "storage.delete_export"),
    "pour-image": ("persist_template", "images.fill_target", "storage.delete_export"),
    "open-stills": ("capture_image-on", "images.convert_still", "hypervisors.close_stills"),
    "take-upload": ("import_image", "images.inspect", "repository.clear"),
}


@pytest.mark.parametrize("step", TEMPORARY)
def test_what_is_temporary_goes_also_when_it_was_half_done(step, breaker):
    name, halfway, _ = TEMPORARY[step]
    broken, scenario = breaker(name), SCENARIOS[name]
    before = scenario.before()
    cloud.world.set_fate(halfway, "commits-then-fails", times=2)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    assert scenario.photograph() == before
    assert not ended.left_behind
    assert receipt_of(ended)[step] == ("absent", "absent")


@pytest.mark.parametrize("step", TEMPORARY)
def test_what_is_temporary_and_stays_shows_in_the_receipt(step, breaker):
    name, halfway, ending = TEMPORARY[step]
    broken = breaker(name)
    if step not in {
        "fill-volume",
        "pour-image",
    }:  # that one leaves something behind when all goes well, too
        cloud.world.set_fate(halfway, "commits-then-fails", times=2)
    cloud.world.set_fate(ending, "lies", times=99)
    ended = broken.run()
    assert ended.ended
    assert ended.left_behind
    assert receipt_of(ended)[step] == ("absent", "present")


def test_a_conversion_that_failed_says_so(breaker):
    broken = breaker("convert_image")
    cloud.world.set_fate("images.convert", "refuses")
    assert broken.run().state is OperationState.FAILED
    with cloud.database.read() as db:
        assert db.scalars(select(models.Conversion.state)).all() == [ConversionState.FAILED]


def test_a_conversion_in_place_when_its_runner_died_is_known_when_that_is_unwound(
    breaker, monkeypatch
):
    """It was published; before that was written down, its runner was killed."""
    broken = breaker("convert_image")
    (source,) = cloud.library.images(broken.operation.target_id)
    wanted = Conversion(
        datacenter_id=broken.operation.datacenter_id, source=source, format=Format.QCOW2
    )
    monkeypatch.setattr(cloud.library, "finish", lambda *_: broken.kill())
    broken.run_until_killed()
    monkeypatch.undo()
    assert not cloud.library.converted(wanted)
    cloud.operations.want(broken.operation.id, "unwind")
    assert FLOWS["convert_image"](broken.operation.id).state is OperationState.CANCELLED
    kept, repository = cloud.library.converted(wanted), cloud.repository(wanted.datacenter_id)
    assert repository.has(wanted.path)
    assert kept
    assert kept.digest == repository.digest(repository.path(wanted.path))


def test_a_call_that_lands_after_its_undo_is_found_at_the_second_look(breaker):
    broken = breaker("create_iscsi_volume")
    late = []

    def slow(do, arguments):
        late.append(lambda: do(**arguments))
        raise ZeroDivisionError

    broken.at(places_named("create_iscsi_volume", "carve-volume")[0], slow)
    ended = broken.run()
    assert (ended.left_behind, ended.provisional) == (False, True)
    late[0]()
    assert len(cloud.world.all("volume")) == 1
    ended = settle_again(ended)
    assert (ended.left_behind, ended.provisional) == (False, False)
    assert not cloud.world.all("volume")


def test_a_second_look_leaves_what_a_later_operation_has_made(breaker):
    broken = breaker("deploy_vm")
    broken.at(places_named("deploy_vm", "switch-vm")[0], lambda *_: 1 / 0)
    failed = broken.run()
    assert failed.provisional
    later = cloud.operations.accept(
        request_like(failed, id=UUID(int=7), locks=(("vm", failed.target_id),))
    )
    assert FLOWS["deploy_vm"](later.id).state is OperationState.SUCCEEDED
    failed = settle_again(failed)
    assert not failed.provisional
    assert cloud.inventory.vm(failed.target_id).state == "ON"
    assert cloud.world.find("vm", failed.target_id)["power"] == "on"


def request_like(operation: Operation, **changes):
    from adapters.database.operations import Request

    kept = Request.model_fields.keys() & type(operation).model_fields.keys()
    return Request(**{**{name: getattr(operation, name) for name in kept}, **changes})


def test_a_guest_that_keeps_a_volume_is_not_robbed_of_it_by_an_undo(breaker):
    """It is asked, and asked again when it was told to let go; meanwhile all can see it."""
    broken, before = breaker("attach_volume-hot"), SCENARIOS["attach_volume-hot"].before()
    vm = UUID(broken.operation.arguments["vm"])

    def connect_and_fail(do, arguments):
        do(**arguments)
        cloud.hypervisor(UUID(arguments["host"])).guest_keeps(vm)
        raise Refused("broken after its effect")

    broken.at(places_named("attach_volume-hot", "connect-volume")[0], connect_and_fail)
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.STUCK, "in-use")
    assert cloud.world.find("connection", f"{vm}.{ended.target_id}")
    cloud.world.put("vm", vm, before["world"][f"vm/{vm}"])
    cloud.operations.resume(ended.id)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    require_nothing_left(SCENARIOS["attach_volume-hot"], before, ended)


def test_a_guest_that_keeps_a_volume_leaves_its_detaching_stuck(breaker):
    broken = breaker("detach_volume-hot")
    vm = UUID(broken.operation.arguments["vm"])
    cloud.hypervisor(cloud.inventory.vm(vm).host).guest_keeps(vm)
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.STUCK, "in-use")
    assert [x.name for x in cloud.journal.lines(ended.id)][-1] == "unplug-volume"
    cloud.world.put("vm", vm, {**cloud.world.find("vm", vm), "power": "off"})
    cloud.operations.resume(ended.id)
    assert broken.run().state is OperationState.SUCCEEDED


def places_named(name: str, step: str):
    return [place for place in clean_run(name)[0] if place.step == step]


CONNECTING = ["attach_volume", "attach_volume-hot", "deploy_vm", "deploy_appliance", "persist_vm"]
CONNECTING += ["deploy_vm-persistent"]


def connected_by_then():
    return [
        each
        for each in every_step()
        if each.values[0] in CONNECTING and connects_before(*each.values)
    ]


def connects_before(name, place):
    reached = clean_run(name)[0]
    before = reached[: reached.index(place)]
    in_order = [x.step for x in before if place.lane == "web" or x.lane in {place.lane, ""}]
    return {"connect-volume", "redefine-vm"} & set(in_order)


def guests_write() -> dict[str, dict]:
    """Every guest writes to all that it is connected to; answers the volumes that were written."""
    for vm, properties in cloud.world.all("vm").items():
        hypervisor = cloud.hypervisor(UUID(properties["host"]))
        assert isinstance(hypervisor, MemoryHypervisor)
        hypervisor.guest_writes(UUID(vm))
    return written_volumes()


def written_volumes() -> dict[str, dict]:
    return {key: v for key, v in cloud.world.all("volume").items() if v["written"]}


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize(("name", "place"), connected_by_then())
def test_a_guests_bytes_survive(name, place, then, breaker):
    broken = breaker(name)

    def kill(do, arguments):
        do(**arguments)
        broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    written = guests_write()
    assert written
    if then == "unwound" and not no_way_back(name, place):
        cloud.operations.want(broken.operation.id, "unwind")
        ended = broken.run()
        carved = any(x.name == "carve-volume" for x in cloud.journal.lines(ended.id))
        assert ended.state is (OperationState.STUCK if carved else OperationState.CANCELLED)
        others = name.startswith("attach_volume") or name == "persist_vm"
        assert not cloud.world.all("connection") or others
    else:
        require_all_there(name, broken.resumed())
    for key, volume in written.items():
        now = cloud.world.find("volume", key)
        assert (now["written"], now["content"]) == (True, volume["content"])


COPYING = {"persist_template", "persist_template-disks", "capture_volume"}


def copies() -> dict[str, Any]:
    """What every template's files and every volume hold."""
    with cloud.database.read() as db:
        where = dict(db.execute(select(models.Template.id, models.Template.datacenter_id)).all())
        disks = [(x.template_id, x.path) for x in db.scalars(select(models.TemplateDisk))]
    images = {
        path: cloud.repository(where[template]).path(path).read_bytes()
        for template, path in disks
        if path
    }
    return images | {key: x["content"] for key, x in cloud.world.all("volume").items()}


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize(
    ("name", "place"), [each for each in every_step() if each.values[0] in COPYING]
)
def test_no_crash_loses_what_is_copied(name, place, then, breaker):
    """Neither between volumes and templates: what is there is read, and what is made is new."""
    broken = breaker(name)
    had = copies()
    assert had

    def kill(do, arguments):
        do(**arguments)
        broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    assert had.items() <= copies().items()
    if then == "unwound":
        cloud.operations.want(broken.operation.id, "unwind")
    assert broken.run().ended
    assert had.items() <= copies().items()


@pytest.mark.parametrize(("name", "place"), repeatable_steps())
def test_a_real_sigkill_is_resumed(name, place, prepared, monkeypatch):
    """The runner is a process of its own, and dies right after the step's effect."""
    operation = prepared.put_back(name)
    cloud.database.engine.dispose()
    cloud.become(cloud.settings)  # no connection goes through a fork
    child = os.fork()
    if child == 0:
        broken = Breaker(monkeypatch, operation)
        broken.at(
            place, lambda do, arguments: (do(**arguments), os.kill(os.getpid(), signal.SIGKILL))
        )
        try:
            broken.run()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    cloud.become(cloud.settings)
    assert cloud.operations.read(operation.id).epoch == 1
    cloud.operations.bury(lambda runner: runner.alive_here() is None)
    ended = FLOWS[operation.kind](operation.id)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    require_all_there(name, ended)


def test_a_stuck_operation_is_abandoned_with_a_receipt_of_what_may_remain(breaker):
    broken = breaker("delete_iscsi_volume")
    cloud.world.set_fate("storage.delete_volume", "refuses")
    assert broken.run().state is OperationState.STUCK
    cloud.operations.abandon(broken.operation.id, "the pool is scrapped", "tests")
    ended = broken.run()
    assert ended.state is OperationState.ABANDONED
    assert ended.left_behind
    assert receipt_of(ended)["remove-volume"] == ("absent", "present")


def test_a_new_version_unwinds_what_can_be_undone(breaker, monkeypatch):
    broken = breaker("deploy_vm")
    broken.at(places_named("deploy_vm", "define-vm")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    monkeypatch.setattr(FLOWS["deploy_vm"], "version", "another")
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    assert ended.error["code"] == "version-changed"
    assert not cloud.world.all("vm")


def test_a_new_version_does_every_destructive_step_anew(breaker, monkeypatch):
    broken = breaker("undeploy_vm")
    broken.at(places_named("undeploy_vm", "remove-disk")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    monkeypatch.setattr(FLOWS["undeploy_vm"], "version", "another")
    stops = len(cloud.world.calls("hypervisors.set_power"))
    assert broken.resumed().version == "another"
    assert len(cloud.world.calls("hypervisors.set_power")) == stops + 1


def test_one_operations_failure_leaves_anothers_shared_things(world):
    """Two VMs share a base and a conversion: the failure of one leaves the other's untouched."""
    from adapters.types import Format

    template = world.image("foreign", Format.VMDK)
    for host in world.hosts:
        cloud.world.put("sees", host, {"sees": False})
    first, second = (
        cloud.inventory.vms_of(world.appliance("vm", template=template))[0].id for _ in "12"
    )
    world.run("deploy_vm", first)
    host = cloud.inventory.vm(first).host
    with cloud.database.write() as db:  # only one host is left: both share its copy of the base
        for other in set(world.hosts) - {host}:
            db.get(models.Host, other).ram_mib = 0
    copies = cloud.world.all("copy")
    assert len(copies) == 1
    cloud.world.set_fate("hypervisors.set_power", "refuses")
    failed = FLOWS["deploy_vm"](world.accept("deploy_vm", second).id)
    assert failed.state is OperationState.FAILED
    assert cloud.world.all("copy") == copies
    assert cloud.world.find("vm", first)["power"] == "on"
    world.run("undeploy_vm", first)
    assert not cloud.world.all("copy")
    assert not cloud.claims.holders(f"copy:{host}")


def test_deleting_a_volume_that_is_exported_is_refused_and_shows_where_it_stuck(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    volume = world.volume("data", vm)
    world.run("deploy_vm", vm)
    ended = FLOWS["delete_iscsi_volume"](world.accept("delete_iscsi_volume", volume).id)
    assert ended.state is OperationState.STUCK
    assert ended.error["code"] == "in-use"
    assert cloud.storage(world.pool).has_volume(as_volume(cloud.inventory.volume(volume)))


# --- what is begun at most once ----------------------------------------------------------------


def resets() -> int:
    return len(cloud.world.calls("hypervisors.reset"))


def press_reset():
    return places_named("reset_vm", "press-reset")[0]


def require_not_repeated(broken: Breaker, before, ended: Operation) -> None:
    assert ended.state is OperationState.FAILED
    assert ended.error["code"] == "not-repeated"
    require_nothing_left(SCENARIOS["reset_vm"], before, ended)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wish", ["", "cancel"])
def test_a_reset_whose_runner_was_killed_is_not_pressed_again(when, wish, breaker):
    broken, before = breaker("reset_vm"), SCENARIOS["reset_vm"].before()

    def kill(do, arguments):
        if when == "after":
            do(**arguments)
        broken.kill()

    broken.at(press_reset(), kill)
    broken.run_until_killed()
    if wish:
        with pytest.raises(Conflict, match="cannot be undone"), cloud.database.write() as db:
            ask(Operations(Joined(db), cloud.settings.lease_s), broken.operation.id, wish)
    ended = broken.run()
    assert resets() == (when == "after")
    require_not_repeated(broken, before, ended)


def test_a_reset_whose_answer_was_lost_is_not_pressed_again(breaker):
    broken, before = breaker("reset_vm"), SCENARIOS["reset_vm"].before()
    cloud.world.set_fate("hypervisors.reset", "commits-then-fails", times=9)
    ended = broken.run()
    assert resets() == 1
    require_not_repeated(broken, before, ended)


def test_a_reset_by_a_newer_version_is_not_pressed_again(breaker, monkeypatch):
    broken, before = breaker("reset_vm"), SCENARIOS["reset_vm"].before()
    broken.at(press_reset(), lambda *_: broken.kill())
    broken.run_until_killed()
    monkeypatch.setattr(FLOWS["reset_vm"], "version", "another")
    ended = broken.run()
    assert resets() == 0
    require_not_repeated(broken, before, ended)


def test_a_host_that_is_away_is_waited_for_before_a_reset_is_begun(breaker):
    broken = breaker("reset_vm")
    cloud.world.set_fate("hypervisors.power", "fails")
    require_all_there("reset_vm", broken.resumed())
    assert resets() == 1


def test_a_guest_that_does_not_come_back_from_its_reset_shows_in_the_receipt(breaker):
    broken = breaker("reset_vm")

    def reset_and_die(do, arguments):
        do(**arguments)
        vm = str(arguments["vm"])
        cloud.world.put("vm", vm, {**cloud.world.find("vm", vm), "power": "off"})

    broken.at(press_reset(), reset_and_die)
    assert broken.run().left_behind


@pytest.mark.parametrize(
    ("name", "ability"),
    [
        ("reset_vm", "reset"),
        ("change_power-pause", "pause"),
        ("attach_volume-hot", "hot-attach"),
        ("detach_volume-hot", "hot-attach"),
        ("persist_vm", "disk-files disk-stream"),
        ("export_vm", "disk-files disk-stream"),
        ("capture_image", "disk-files disk-stream"),
        ("capture_image-on", "stills"),
    ],
)
def test_what_a_host_cannot_do_is_not_begun(name, ability, breaker, monkeypatch):
    broken = breaker(name)
    monkeypatch.setattr(
        MemoryHypervisor, "capabilities", MemoryHypervisor.capabilities - {*ability.split()}
    )
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "unsupported")
    assert not cloud.journal.lines(ended.id)


def test_every_kind_of_line_has_a_known_step():
    assert {place.step for name in SCENARIOS for place in clean_run(name)[0]} <= set(STEPS)
    assert places
