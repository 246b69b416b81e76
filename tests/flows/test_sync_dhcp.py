"""DHCP servers in line with the database, whatever they have lost or kept."""

from collections import Counter
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID, uuid4

from adapters.database import models
from adapters.types import Finding
from flows.cloud import cloud
from tests.flows.scenarios import deploy_networked_appliance, networked, strayed
from tests.worlds import World


def synced(world: World, **arguments: Any) -> Counter[tuple[str, str]]:
    """What a run says, by what it is about and how that is."""
    operation = world.run("sync_dhcp", world.datacenter, **arguments)
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return Counter((x.what, x.state) for x in map(Finding.model_validate, report))


def server_of(world: World) -> UUID:
    return cloud.lans.servers(world.datacenter)[0].id


def test_what_differs_is_told_and_mended(world):
    strayed(world)
    told = {("dhcp-server", "differs"): 1, ("address", "lacking"): 2, ("address", "unneeded"): 1}
    assert synced(world, dry_run=True) == told
    assert synced(world, dry_run=True) == told
    assert synced(world) == told
    assert synced(world) == {("dhcp-server", "in line"): 1}


def test_a_server_that_has_lost_all_is_told_all(world):
    appliance, asked = deploy_networked_appliance(world)
    world.run("deploy_appliance", appliance, **asked)
    server = server_of(world)
    subnets, known = before = cloud.dhcp(server).content()
    cloud.dhcp(server).delete_reservations(known.values(), subnets)
    assert cloud.dhcp(server).content() == ({}, {})
    assert synced(world)["address", "lacking"] == 3
    assert cloud.dhcp(server).content() == before


def test_a_subnet_that_has_changed_is_as_it_was_said(world):
    strayed(world)
    synced(world)
    dhcp = cloud.dhcp(server_of(world))
    (subnet,) = dhcp.content()[0].values()
    dhcp.ensure_subnet(subnet.model_copy(update={"gateway": IPv4Address("10.0.0.9")}))
    assert synced(world) == {("dhcp-server", "differs"): 1, ("subnet", "lacking"): 1}
    assert dhcp.content()[0] == {subnet.id: subnet}


def test_what_an_operation_has_is_its_own(world):
    asked = deploy_networked_appliance(world)[1]
    for vm in asked["vms"]:
        world.accept("deploy_vm", UUID(vm))
    server = server_of(world)
    known = cloud.dhcp(server).content()[1]
    reservations = cloud.lans.of_vms(server, [UUID(vm) for vm in asked["vms"]])[1]
    cloud.dhcp(server).ensure_reservations(reservations)
    assert synced(world) == {("dhcp-server", "in line"): 1}
    assert len(cloud.dhcp(server).content()[1]) == len(known) + 2


def test_a_server_that_is_away_is_told_of_and_holds_up_no_other(world):
    strayed(world)
    with cloud.database.write() as db:
        away = {"id": uuid4(), "datacenter_id": world.datacenter, "name": "away"}
        db.add(models.DhcpServer(**away, kind="kea", address="/nowhere/socket"))
    assert synced(world)["dhcp-server", "away"] == 1
    assert synced(world) == {("dhcp-server", "in line"): 1, ("dhcp-server", "away"): 1}


def test_no_server_is_no_trouble(world):
    assert synced(world) == {}
    networked(world)
    assert synced(world) == {("dhcp-server", "in line"): 1}
