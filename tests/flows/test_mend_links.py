"""Hosts have what their VMs need of them, whatever somebody has deleted there by hand."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.locks import Locked
from adapters.types import Finding
from flows.cloud import cloud
from tests.flows.breaking import Breaker, Place
from tests.flows.scenarios import deploy_networked, networked, unlinked
from tests.worlds import World

IN_LINE = {("host", "in line"): 2}
LOST = {("link", "lost"): 1, ("guard", "lost"): 1, ("card", "loose"): 1}


def mended(world: World, **arguments: bool) -> Counter[tuple[str, str]]:
    """What a run says, by what it is about and how that is."""
    operation = world.run("mend_links", world.datacenter, **arguments)
    assert not cloud.operations.read(operation.id).left_behind, findings(operation.id)
    return report_of(operation.id)


def report_of(operation: UUID) -> Counter[tuple[str, str]]:
    return Counter((each.what, each.state) for each in findings(operation))


def findings(operation: UUID) -> list[Finding]:
    lines = cloud.journal.lines(operation)
    report = next(line.result for line in lines if line.name == "publish-report")
    return [Finding.model_validate(each) for each in report]


def linked_host(world: World) -> UUID:
    """The host that has lost a link."""
    unlinked(world)
    found = [host for host in world.hosts if cloud.world.find("loose", f"{host}:{nic_at(host)}")]
    return found[0]


def nic_at(host: UUID) -> UUID | None:
    """The NIC of the VM there."""
    return next((nic.id for vm in cloud.lans.idle_at(host) for nic in vm.nics), None)


def test_what_is_lost_is_told_and_given_back(world):
    unlinked(world)
    told = {("host", "differs"): 1, ("host", "in line"): 1, **LOST}
    assert mended(world, dry_run=True) == told
    assert mended(world, dry_run=True) == told
    assert mended(world) == {**told, ("host", "mended"): 1}
    assert mended(world) == IN_LINE


def test_what_an_operation_has_is_its_own(world):
    host = linked_host(world)
    for vm in cloud.lans.idle_at(host):
        world.accept("undeploy_vm", vm.id)
    assert cloud.lans.idle_at(host) == []
    assert mended(world) == IN_LINE


def test_who_asks_for_a_vm_first_has_it(world, monkeypatch):
    host = linked_host(world)
    broken = Breaker(monkeypatch, world.accept("mend_links", world.datacenter))
    vms = [vm.id for vm in cloud.lans.idle_at(host)]

    def taken(do, arguments):
        for vm in vms:
            world.accept("undeploy_vm", vm)
        return do(**arguments)

    broken.at(Place("hold-concerned", "", 0), taken)
    assert ("host", "mended") not in report_of(broken.run().id)
    assert cloud.switch(host).links(cloud.inventory.installation) == []


def test_what_a_vm_has_given_up_meanwhile_is_not_made(world, monkeypatch):
    host = linked_host(world)
    broken = Breaker(monkeypatch, world.accept("mend_links", world.datacenter))
    vms = [vm.id for vm in cloud.lans.idle_at(host)]

    def gone(do, arguments):
        with ThreadPoolExecutor() as elsewhere:
            for vm in vms:
                elsewhere.submit(world.run, "undeploy_vm", vm).result()
        return do(**arguments)

    broken.at(Place("hold-concerned", "", 0), gone)
    assert ("host", "mended") not in report_of(broken.run().id)
    assert cloud.switch(host).links(cloud.inventory.installation) == []


def test_nobody_begins_with_a_vm_that_is_being_mended(world, monkeypatch):
    host = linked_host(world)
    broken = Breaker(monkeypatch, world.accept("mend_links", world.datacenter))
    vms = [vm.id for vm in cloud.lans.idle_at(host)]

    def asked(do, arguments):
        for vm in vms:
            with pytest.raises(Locked):
                world.accept("undeploy_vm", vm)
        return do(**arguments)

    broken.at(Place("mend-host", "", 0), asked)
    assert report_of(broken.run().id)["host", "mended"] == 1


def test_what_a_vm_does_not_claim_is_not_made(world):
    host = linked_host(world)
    (link,) = {link for vm in cloud.lans.idle_at(host) for link in vm.links}
    for vm in cloud.lans.idle_at(host):
        cloud.claims.release(f"link:{host}:{link.network}", f"vm:{vm.id}", vm.id)
    assert mended(world) == IN_LINE


def test_anothers_of_that_name_is_told_of_and_left_alone(world):
    host = linked_host(world)
    (link,) = {link for vm in cloud.lans.idle_at(host) for link in vm.links}
    other = link.model_copy(update={"mtu": 1400})
    cloud.switch(host).ensure_link(other)
    assert mended(world, dry_run=True)["link", "another's"] == 1
    assert cloud.switch(host).links(cloud.inventory.installation) == [other]


def test_a_host_that_refuses_is_told_of_and_its_vms_are_free_again(world):
    host = linked_host(world)
    cloud.world.put("uplink", f"{host}:up0", {"missing": True})
    operation = world.run("mend_links", world.datacenter)
    assert report_of(operation.id)["host", "not mended"] == 1
    assert cloud.operations.read(operation.id).left_behind
    assert cloud.lans.idle_at(host)
    guards = [guard for vm in cloud.lans.idle_at(host) for guard in vm.guards]
    assert cloud.switch(host).has_guards(guards), "one refusal holds up no other thing"
    cloud.world.remove("uplink", f"{host}:up0")
    assert mended(world)["host", "mended"] == 1


def test_a_host_that_is_away_is_told_of_and_holds_up_no_other(world):
    host = linked_host(world)
    cloud.world.set_fate("nodes.has_link", "fails")
    assert mended(world)["host", "away"] == 1
    assert mended(world)["host", "away"] == 0
    assert cloud.switch(host).links(cloud.inventory.installation)


@pytest.mark.parametrize("kind", ["ovs", "port-group", "distributed"])
def test_links_of_every_kind_are_given_back(world, kind):
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind=kind, switch="br0"))
    world.run("deploy_vm", vm)
    record = cloud.inventory.vm(vm)
    cloud.switch(record.host).delete_link(record.links[0])
    assert mended(world)["link", "lost"] == 1
    assert cloud.switch(record.host).has_link(record.links[0])


def test_hosts_without_networks_are_no_trouble(world):
    assert mended(world) == {}
    networked(world)
    assert mended(world) == IN_LINE
