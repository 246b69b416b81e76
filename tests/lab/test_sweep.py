"""A sweep on a real libvirt host and a real iSCSI server that two installations share."""

import libvirt
import pytest

from adapters.types import Kind
from flows.cloud import cloud
from tests.flows.test_sweep_orphans import (
    become,
    deployed,
    forget_tenants,
    second_installation,
    seen_by,
    states,
    swept,
)
from tests.lab import real_world

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path, kvm_host, tgtd):
    made = real_world.build(
        tmp_path / "home",
        kvm_host,
        tgtd,
        power_off_timeout_s=0,
        sweep_removes=True,
        sweep_max_percent=100,
    )
    yield made
    real_world.clear(made)
    cloud.database.engine.dispose()


def test_what_one_has_lost_goes_and_the_others_things_stay(world):
    other = second_installation(world)
    become(world, world)
    mine = deployed(world, "mine")
    world.run("change_power", mine, power="on", former="OFF")
    become(other, world)
    vm = deployed(other, "theirs")
    theirs = {x for x in seen_by(other) if x.kind is not Kind.FILE}
    become(world, world)
    forget_tenants()
    assert states(swept(world)) == {
        (kind, "orphan, in use") for kind in ("vm", "disk", "export", "volume")
    }  # for it runs
    switch_off(world, mine)
    assert {("vm", "removed"), ("export", "removed")} <= states(swept(world))
    assert states(swept(world)) == {("disk", "removed"), ("volume", "removed")}
    assert {x.kind for x in seen_by(world)} == {Kind.FILE}
    assert len(world.tgt.targets()) == 1
    become(other, world)
    assert {x for x in seen_by(other) if x.kind is not Kind.FILE} == theirs
    assert states(swept(other)) == set()
    other.run("change_power", vm, power="on", former="OFF")


def switch_off(world, vm):
    connection = libvirt.open(world.uri)
    connection.lookupByUUID(vm.bytes).destroy()
    connection.close()
