"""Two hosts of a vCenter with one datastore: what one of them no longer needs, the other may."""

import shutil
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from adapters.database import models
from adapters.types import Chap, Finding, Power
from flows.cloud import cloud
from tests.lab import vsphere_world

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path, vcenter, tgtd):
    """A second host beside the first, which has the same datastore."""
    made = vsphere_world.build(tmp_path / "home", vcenter, tgtd, power_off_timeout_s=0)
    made.hosts.append(uuid4())
    with cloud.database.write() as db:
        first = db.get_one(models.Host, made.hosts[0])
        store = db.scalars(select(models.Datastore)).one()
        fields = {c.key: getattr(first, c.key) for c in models.Host.__table__.columns}
        address = first.address.replace("/DC0_C0_H0?", "/DC0_C0_H1?")
        other = {"id": made.hosts[1], "name": "host-1", "address": address}
        db.add(models.Host(**{**fields, **other}))
        db.flush()
        fields = {c.key: getattr(store, c.key) for c in models.Datastore.__table__.columns}
        db.add(models.Datastore(**{**fields, "id": uuid4(), "host_id": made.hosts[1]}))
        login = Chap(user=vcenter.user, password=SecretStr(vcenter.password))
        cloud.secrets.keep(db, made.hosts[1], login)
    templates = cloud.repository(made.datacenter).path("templates")
    for folder in templates.iterdir():
        if folder.name != str(made.template):
            shutil.rmtree(folder)  # of a template that no operation has made
    yield made
    for host in made.hosts:
        hypervisor = cloud.hypervisor(host)
        for vm in hypervisor.vms():
            hypervisor.set_power(vm, Power.OFF, timeout_s=0)
            hypervisor.delete_vm(vm)
    cloud.database.engine.dispose()


@pytest.fixture
def vms(world) -> list[UUID]:
    """One on each host, of the same template."""
    made = [cloud.inventory.vms_of(world.appliance(name))[0].id for name in ("db", "web")]
    for vm in made:
        world.run("deploy_vm", vm)
    assert {cloud.inventory.vm(vm).host for vm in made} == set(world.hosts)
    return made


def files(world, pattern: str) -> list[str]:
    return sorted(path.name for path in (world.files / str(world.datacenter)).glob(pattern))


def swept(world) -> list[Finding]:
    cloud.__dict__["settings"] = cloud.settings.model_copy(update={"sweep_max_percent": 100})
    operation = world.run("sweep_orphans", world.datacenter)
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return [Finding.model_validate(each) for each in report]


def test_the_copy_that_disks_lie_over_goes_with_the_last_of_them_on_whichever_host(world, vms):
    copy = files(world, "base-*.vmdk")
    world.run("undeploy_vm", vms[0])
    assert files(world, "base-*.vmdk") == copy
    world.run("undeploy_vm", vms[1])
    assert files(world, "base-*") == []


def test_a_sweep_takes_no_disk_for_a_stray_that_the_other_host_has(world, vms):
    before = files(world, "*")
    (verdict,) = swept(world)
    assert (verdict.state, files(world, "*")) == ("0 removed", before)
