"""Whatever is asked for and dies: the ledger is the sum of what exists, within limits."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from adapters.amounts import Amounts, Level
from adapters.database import models
from adapters.database.ledger import standings
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.errors import Refused
from adapters.types import OperationState, VmState
from flows.cloud import cloud
from flows.policies.limits import require_settable
from flows.steps import STEPS, Effect
from tests.flows.breaking import Breaker, Killed, lapse
from tests.worlds import World, require_ledger_exact

ROOM = Amounts(cpu=3, ram_mib=192, storage_mib=24)
DEEDS = ["deploy_vm", "undeploy_vm", "deploy_appliance", "undeploy_appliance", "persist_vm"]
DEEDS += ["create_iscsi_volume", "delete_iscsi_volume", "resize_volume"]
CHANGES = ["resize_vm", "add_disk", "delete_disk"]  # of what a VM that is off is made of
DEEDS += CHANGES


@dataclass(frozen=True)
class Fate:
    """What happens at the how-manieth step of an operation."""

    nth: int
    after: bool
    what: str


FATES = st.builds(
    Fate,
    nth=st.integers(0, 20),
    after=st.booleans(),
    what=st.sampled_from(["killed and resumed", "killed and unwound", "refused"]),
)


@settings(
    max_examples=12,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a world for each example: making a failure smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(DEEDS), FATES), min_size=3, max_size=10))
def test_the_ledger_is_the_sum_of_what_exists(prepared, deeds):
    world = prepared.new()
    whose = (Level.VIRTUAL_DATACENTER, world.vdc)
    cloud.ledger.set_limits(FIRST_ENTERPRISE, whose, Amounts(), ROOM, require_settable)
    appliances = [world.appliance("db", "web"), world.appliance("mail", "files")]
    world.volume("data", vms_of(appliances[0])[0].id, carved=False)
    for kind, fate in deeds:
        if asked := wish(world, kind, appliances):
            target, arguments = asked
            suffer(world, kind, target, arguments, fate)
            require_ledger_exact()
            with cloud.database.read() as db:
                used = standings(db, FIRST_ENTERPRISE, [whose])[0].used
            assert used.beyond(ROOM).model_copy(update={"disk_mib": 0}) == Amounts()


def vms_of(appliance: UUID) -> list[Any]:
    return cloud.inventory.vms_of(appliance)


def wish(world: World, kind: str, appliances: list[UUID]) -> tuple[UUID, dict[str, Any]] | None:
    """Something of this kind that the API would accept now, if there is anything."""
    deployed = kind not in {"deploy_vm", "deploy_appliance"}
    fits = [
        vm
        for appliance in appliances
        for vm in vms_of(appliance)
        if (vm.state is not VmState.NOT_ALLOCATED) == deployed
    ]
    volume = {"virtual_datacenter_id": str(world.vdc), "pool_id": str(world.pool)}
    volume |= {"id": str(uuid4()), "name": str(uuid4()), "size_mib": 16}
    if kind.endswith("appliance"):
        whole = fits[0].appliance_id if fits else None
        vms = [str(vm.id) for vm in fits if vm.appliance_id == whole]
        return (whole, {"vms": vms}) if whole else None
    if kind == "create_iscsi_volume":
        return UUID(volume["id"]), {"volume": volume}
    if kind in {"delete_iscsi_volume", "resize_volume"}:
        free = select(models.VolumeRow).where(models.VolumeRow.vm_id.is_(None))
        with cloud.database.read() as db:
            found = db.scalars(free).first()
            more = {"size_mib": found.size_mib + 4} if found and kind == "resize_volume" else {}
            return (found.id, more) if found else None
    if kind == "persist_vm":
        fits = [vm for vm in fits if any(disk.position == 0 for disk in vm.local_disks)]
        return (off(world, fits[0]), {"volume": volume}) if fits else None
    if kind in CHANGES:
        return change(world, kind, fits[0]) if fits else None
    return (fits[0].id, {}) if fits else None


def change(world: World, kind: str, vm: Any) -> tuple[UUID, dict[str, Any]] | None:
    """More of one thing and less of another; a disk more; or that one less."""
    more = [disk for disk in vm.disks if disk.image is None]
    if kind == "delete_disk":
        return (off(world, vm), {"disk": str(more[0].id)}) if more else None
    if kind == "add_disk":
        disk = {"id": str(uuid4()), "position": 2 + len(more), "size_mib": 4}
        return None if more else (off(world, vm), {"disk": disk})
    size = {"cpu": 3 - min(vm.cpu, 2), "ram_mib": 96 - min(vm.ram_mib, 64)}
    return off(world, vm), {"size": size}


def off(world: World, vm: Any) -> UUID:
    """The VM, which is off by then."""
    if vm.state is VmState.ON:
        world.run("change_power", vm.id, power="off", former="ON")
    return UUID(str(vm.id))


def suffer(world: World, kind: str, target: UUID, arguments: dict[str, Any], fate: Fate) -> None:
    """Ask for it, let that happen to it, and see it through."""
    operation = world.accept(kind, target, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        broken = Breaker(patch, operation)
        broken.mind_the_dead()
        break_at(patch, broken, fate)
        try:
            ended = broken.run()
        except Killed:
            broken.dead = False
            lapse(operation)
            if fate.what == "killed and unwound":
                cloud.operations.want(operation.id, "unwind")
            ended = broken.run()
    if ended.state is OperationState.STUCK:
        cloud.operations.resume(ended.id)
        ended = broken.run()
    assert ended.ended
    assert not ended.left_behind


def break_at(patch: pytest.MonkeyPatch, broken: Breaker, fate: Fate) -> None:
    calls = count()

    def breaking(do: Callable[..., Any]) -> Callable[..., Any]:
        def done(**given: Any) -> Any:
            if next(calls) != fate.nth:
                return do(**given)
            if fate.after:
                do(**given)
            if fate.what == "refused":
                raise Refused("it does not want to")
            return broken.kill()

        return done

    for step in STEPS.values():
        if step.effect is not Effect.ONCE:
            patch.setattr(step, "do", breaking(step.do))
