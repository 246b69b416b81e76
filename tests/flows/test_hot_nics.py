"""NICs of VMs that are on: guests that do not let go, or too late, and hosts that cannot."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.errors import Refused
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.types import OperationState
from flows.cloud import cloud
from tests.flows.breaking import Breaker, Place
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_fates import receipt_of, settle_again
from tests.flows.test_sagas import require_nothing_left

NAMES = ["attach_nic-hot", "detach_nic-hot"]
Breakers = Callable[[str], Breaker]


def keep(vm: UUID) -> None:
    """Let the guest release nothing."""
    cloud.hypervisor(cloud.inventory.vm(vm).host).guest_keeps(vm)


def lose(vm: UUID, nic: str) -> None:
    """Let the guest release the card by itself; it has it again at its next start."""
    mac = next(x.mac for x in cloud.inventory.vm(vm).nics if x.id == UUID(nic))
    found = cloud.world.find("vm", vm)
    assert mac in found["macs"]
    cloud.world.put("vm", vm, {**found, "let_go": [mac]})


def test_a_guest_that_keeps_a_nic_has_it_as_before(breaker: Breakers) -> None:
    """Its address is not freed, and it is guarded, as long as it may be heard."""
    broken, scenario = breaker("detach_nic-hot"), SCENARIOS["detach_nic-hot"]
    keep(broken.operation.target_id)
    before = scenario.before()
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "nic-in-use")
    assert "pull-nic" in {line.name for line in cloud.journal.lines(ended.id)}
    require_nothing_left(scenario, before, ended)


def test_a_nic_that_is_released_too_late_is_given_back(breaker: Breakers) -> None:
    """The guest was told to let go, and may do so after the operation has ended."""
    broken, scenario = breaker("detach_nic-hot"), SCENARIOS["detach_nic-hot"]
    vm, nic = broken.operation.target_id, broken.operation.arguments["nic"]
    keep(vm)
    before = scenario.before()
    ended = broken.run()
    assert (ended.left_behind, ended.provisional) == (False, True)
    lose(vm, nic)
    assert scenario.photograph()["world"] != before["world"]
    ended = settle_again(ended)
    assert receipt_of(ended)["pull-nic"] == ("absent", "absent")
    assert scenario.photograph()["world"] == before["world"]


def test_a_guest_that_keeps_what_it_was_given_is_asked_until_it_lets_go(breaker: Breakers) -> None:
    broken, scenario = breaker("attach_nic-hot"), SCENARIOS["attach_nic-hot"]
    vm, before = broken.operation.target_id, scenario.before()

    def plug_and_fail(do: Callable[..., None], arguments: dict[str, Any]) -> None:
        do(**arguments)
        keep(vm)
        raise Refused("broken after its effect")

    broken.at(Place("plug-nic", "", 0), plug_and_fail)
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.STUCK, "nic-in-use")
    found = cloud.world.find("vm", vm)
    cloud.world.put("vm", vm, {key: found[key] for key in found if key != "keeps"})
    cloud.operations.resume(ended.id)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    require_nothing_left(scenario, before, ended)


@pytest.mark.parametrize("name", NAMES)
def test_a_host_that_cannot_is_not_asked(
    name: str, breaker: Breakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, before = breaker(name), SCENARIOS[name].before()
    lacks = MemoryHypervisor.capabilities - {"hot-nic"}
    monkeypatch.setattr(MemoryHypervisor, "capabilities", lacks)
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "nic-not-hot")
    require_nothing_left(SCENARIOS[name], before, ended)


@pytest.mark.parametrize("name", NAMES)
def test_a_restricted_nic_neither_comes_nor_goes(name: str, breaker: Breakers) -> None:
    broken = breaker(name)
    with cloud.database.write() as db:
        db.execute(update(models.Network).values(kind="restricted"))
    before = SCENARIOS[name].photograph()
    ended = broken.run()
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "nic-not-hot")
    assert SCENARIOS[name].photograph() == before
