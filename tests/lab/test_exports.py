"""A restarted target daemon gets its targets back from our database, and only those in use."""

import pytest

from adapters.types import OperationState
from flows.attach_volume import export_for
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.exports import rebuild
from tests.lab import real_world

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path, kvm_host, tgtd):
    made = real_world.build(tmp_path / "home", kvm_host, tgtd, power_off_timeout_s=0)
    yield made
    real_world.clear(made)
    cloud.database.engine.dispose()


def test_a_restarted_tgtd_is_filled_again(world, tgtd):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    volume = world.volume("data", vm)
    world.run("deploy_vm", vm)
    export = export_for(volume, cloud.inventory.vm(vm))
    targets = world.tgt.targets().keys()
    tgtd.crash()
    tgtd.start()
    assert not world.tgt.targets()
    rebuild(world.pool)
    assert world.tgt.targets().keys() == targets
    assert cloud.storage(world.pool).has_export(export)
    rebuild(world.pool)
    assert world.tgt.targets().keys() == targets


def test_an_export_that_is_being_withdrawn_does_not_come_back(world, tgtd):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    volume = world.volume("data", vm)
    world.run("deploy_vm", vm)
    export = export_for(volume, cloud.inventory.vm(vm))
    remover = world.accept("undeploy_vm", vm)
    tgtd.crash()
    tgtd.start()
    assert cloud.claims.release(f"export:{export.id}", f"vm:{vm}", remover.id)
    rebuild(world.pool)
    assert not world.tgt.targets()


def test_undeploying_over_a_restarted_tgtd_ends(world, tgtd):
    vm = cloud.inventory.vms_of(world.appliance("db"))[0].id
    world.volume("data", vm)
    world.run("deploy_vm", vm)
    tgtd.crash()
    tgtd.start()
    ended = FLOWS["undeploy_vm"](world.accept("undeploy_vm", vm).id)
    assert ended.state is OperationState.SUCCEEDED
    rebuild(world.pool)
    assert not world.tgt.targets()
