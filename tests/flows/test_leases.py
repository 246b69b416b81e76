"""Deployments that wait for their guests to be told their addresses."""

import threading
from uuid import UUID

import pytest
from sqlalchemy import select

from adapters.database import models
from adapters.types import OperationState
from deployments.lab.process import wait_for
from flows import leases
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.scenarios import SCENARIOS, deploy_networked, deploy_networked_appliance
from tests.worlds import World


def asleep(world: World, monkeypatch) -> None:
    """From now on guests that are on ask for nothing."""
    monkeypatch.setattr(
        "adapters.networks.memory.MemoryDhcp._cards_that_are_on", lambda _server: set()
    )


def steps(operation: UUID) -> list[str]:
    return [line.name for line in cloud.journal.lines(operation)]


def test_a_vm_is_up_when_its_guest_has_its_address(world):
    operation = SCENARIOS["deploy_vm-awaited"].accept(world)
    assert FLOWS["deploy_vm"](operation.id).state is OperationState.SUCCEEDED
    done = steps(operation.id)
    assert done.index("switch-vm") < done.index("await-leases")


def test_who_does_not_ask_for_it_waits_for_nobody(world):
    operation = SCENARIOS["deploy_vm-networked"].accept(world)
    FLOWS["deploy_vm"](operation.id)
    assert "await-leases" not in steps(operation.id)


@pytest.mark.parametrize(
    ("of_appliance", "of_vm", "asked", "waits"),
    [
        ("lease", None, {}, True),
        (None, "lease", {}, True),
        ("lease", "nothing", {}, False),
        ("lease", "lease", {"wait_for": "nothing"}, False),
        ("nothing", "nothing", {"wait_for": "lease"}, True),
    ],
)
def test_a_deployments_own_word_goes_before_a_vms_and_that_before_its_appliances(
    world, of_appliance, of_vm, asked, waits
):
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        row = db.get_one(models.VirtualMachine, vm)
        row.wait_for = of_vm
        db.get_one(models.Appliance, row.appliance_id).wait_for = of_appliance
    assert ("await-leases" in steps(world.run("deploy_vm", vm, **asked).id)) is waits


def test_a_vm_without_such_a_network_is_up_when_it_is_on(world):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    world.run("deploy_vm", vm, wait_for="lease")


def test_a_guest_that_never_asks_is_a_failure_and_all_is_undone(world, monkeypatch):
    scenario = SCENARIOS["deploy_vm-awaited"]
    operation = scenario.accept(world)
    before = scenario.before()
    asleep(world, monkeypatch)
    cloud.settings.lease_wait_s = 0.05
    ended = FLOWS["deploy_vm"](operation.id)
    assert ended.state is OperationState.FAILED
    assert ended.error["code"] == "no-lease"
    assert "10.0.0.2" in ended.error["detail"]
    assert scenario.photograph() == before
    assert not cloud.operations.read(ended.id).left_behind


def test_a_guest_that_asks_late_is_waited_for(world, monkeypatch):
    monkeypatch.setattr(leases, "_POLL_S", 0.02)
    operation = SCENARIOS["deploy_vm-awaited"].accept(world)
    with monkeypatch.context() as patched:
        asleep(world, patched)
        runner = threading.Thread(target=FLOWS["deploy_vm"], args=[operation.id])
        runner.start()
        wait_for(lambda: "await-leases" in steps(operation.id), 60, "the wait for a lease")
        runner.join(0.2)
        assert runner.is_alive()
    runner.join(90)
    assert cloud.operations.read(operation.id).state is OperationState.SUCCEEDED


def test_only_who_never_asks_is_given_up_where_the_others_may_stay(world, monkeypatch):
    appliance, asked = deploy_networked_appliance(world)
    with cloud.database.read() as db:
        silent = UUID(asked["vms"][1])
        mac = db.scalars(select(models.NicRow.mac).filter_by(vm_id=silent)).one()
    from adapters.networks.memory import MemoryDhcp

    heard = MemoryDhcp._cards_that_are_on
    monkeypatch.setattr(MemoryDhcp, "_cards_that_are_on", lambda server: heard(server) - {mac})
    cloud.settings.lease_wait_s = 0.05
    operation = world.accept(
        "deploy_appliance", appliance, **asked, on_failure="keep", wait_for="lease"
    )
    ended = FLOWS["deploy_appliance"](operation.id)
    assert ended.error["code"] == "partly-deployed"
    assert [each["code"] for each in ended.error["vms"]] == ["no-lease"]
    assert cloud.inventory.vm(silent).host_id is None
    assert cloud.inventory.vm(UUID(asked["vms"][0])).host_id
