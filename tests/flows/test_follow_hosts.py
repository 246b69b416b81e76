"""Hosts are followed: what happens to VMs behind our back is soon known."""

from contextlib import contextmanager
from threading import Event, Thread

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.events import EventRow
from adapters.types import VmState
from deployments.lab.process import wait_for
from flows import follow_hosts
from flows.cloud import cloud
from tests.flows.scenarios import SCENARIOS
from tests.worlds import build


@pytest.fixture
def world(tmp_path):
    made = build(tmp_path / "home")
    yield made
    cloud.database.engine.dispose()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(follow_hosts, "_LOOK_S", 0.2)


@pytest.fixture
def vm(world):
    """On."""
    (made,) = cloud.inventory.vms_of(world.appliance("db"))
    world.run("deploy_vm", made.id)
    return made.id


@contextmanager
def following():
    """All hosts are followed meanwhile, as in a worker."""
    stop = Event()
    thread = Thread(target=follow_hosts.follow_hosts, args=("main", stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def becomes(vm, state):
    wait_for(lambda: cloud.inventory.state(vm) is state, 20, state)


def switch(vm, power):
    cloud.world.put("vm", vm, {**cloud.world.find("vm", vm), "power": power})


def told():
    with cloud.database.read() as db:
        found = db.scalars(select(EventRow).filter_by(kind="vm.state-changed"))
        return [(each.details["former"], each.details["state"], each.severity) for each in found]


def test_a_guest_that_went_off_is_off_and_one_switched_by_hand_is_on(vm):
    with following():
        switch(vm, "off")
        becomes(vm, VmState.OFF)
        switch(vm, "paused")
        becomes(vm, VmState.PAUSED)
        switch(vm, "on")
        becomes(vm, VmState.ON)
    assert told() == [("ON", "OFF", "info"), ("OFF", "PAUSED", "info"), ("PAUSED", "ON", "info")]


def test_a_vm_that_is_gone_is_unknown_until_it_is_back(vm):
    kept = cloud.world.find("vm", vm)
    with following():
        cloud.world.remove("vm", vm)
        becomes(vm, VmState.UNKNOWN)
        cloud.world.put("vm", vm, kept)
        becomes(vm, VmState.ON)
    assert told()[0] == ("ON", "UNKNOWN", "warning")


def test_a_host_that_does_not_answer_is_heard_again(vm, monkeypatch):
    monkeypatch.setattr(follow_hosts, "_RETRY_S", 0.2)
    cloud.world.set_fate("hypervisors.power", "fails", times=3)
    kept = cloud.world.find("vm", vm)
    with following():
        cloud.world.remove("vm", vm)
        becomes(vm, VmState.UNKNOWN)
        cloud.world.put("vm", vm, kept)
        becomes(vm, VmState.ON)


@pytest.mark.parametrize("which", [0, 1])
def test_a_vm_that_cannot_be_asked_for_holds_up_no_other(world, which):
    """As one whose datastore is away: its host names it no more, and says nothing of it."""
    with cloud.database.write() as db:
        db.get_one(models.Host, world.hosts[1]).maintenance = True
    vms = cloud.inventory.vms_of(world.appliance("db", "web"))
    for each in vms:
        world.run("deploy_vm", each.id)
    lost, other = vms[which].id, vms[1 - which].id
    kept = cloud.world.find("vm", lost)
    with following():
        cloud.world.put("vm", lost, {**kept, "installation": "another's"})
        switch(other, "off")
        becomes(other, VmState.OFF)
        assert cloud.inventory.state(lost) is VmState.ON
        cloud.world.put("vm", lost, {**kept, "power": "off"})
        becomes(lost, VmState.OFF)


def test_a_host_that_tells_no_news_is_not_followed(world, vm):
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(address="memory?without=news"))
    cloud.become(cloud.settings)
    assert follow_hosts._hosts("main") == []


def test_what_was_missed_is_made_up_for(vm):
    switch(vm, "off")
    with following():
        becomes(vm, VmState.OFF)


def test_a_vm_under_an_operation_is_left_to_it(world):
    operation = SCENARIOS["change_power-off"].accept(world)
    vm = operation.target_id
    switch(vm, "off")
    follow_hosts.bring_up_to_date(cloud.inventory.vm(vm).host, {})
    assert cloud.inventory.state(vm) is VmState.ON
    assert not cloud.following.record(vm, VmState.ON, VmState.OFF)
    assert told() == []


def test_what_somebody_else_has_changed_meanwhile_stays(vm):
    assert not cloud.following.record(vm, VmState.OFF, VmState.UNKNOWN)
    assert cloud.inventory.state(vm) is VmState.ON
