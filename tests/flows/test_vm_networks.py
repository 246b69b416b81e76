"""Networks of VMs on hosts of every kind: what each is asked for, and no more."""

from ipaddress import IPv6Address
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.networks.memory import MemoryDhcp
from adapters.types import Finding, OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.scenarios import addressed, deploy_awaited, deploy_networked, networked
from tests.worlds import World


def answered(operation: UUID) -> int:
    """How many of a receipt's questions were not answered as expected."""
    return cloud.stories.answers(operation)[1]


@pytest.mark.parametrize(
    ("kind", "switch", "plugged", "guards"),
    [
        ("bridge", "", "", 1),
        ("ovs", "br0", "br0", 1),
        ("port-group", "vSwitch0", "", 0),
        ("distributed", "DVS0", "", 0),
    ],
)
def test_a_vm_is_plugged_in_as_its_host_has_networks(
    world: World, kind: str, switch: str, plugged: str, guards: int
) -> None:
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind=kind, switch=switch))
    deployed = world.run("deploy_vm", vm)
    assert (deployed.state, answered(deployed.id)) == (OperationState.SUCCEEDED, 0)
    record, installation = cloud.inventory.vm(vm), cloud.inventory.installation
    (link,) = cloud.switch(record.host).links(installation)
    (card,) = record.cards
    assert (link.kind, link.switch, link.tag) == (kind, switch, 105)
    assert (card.kind, card.bridge) == (kind, plugged or link.name)
    assert len(cloud.switch(record.host).guards(installation)) == guards
    gone = world.run("undeploy_vm", vm)
    assert (gone.state, answered(gone.id)) == (OperationState.SUCCEEDED, 0)
    assert cloud.switch(record.host).links(installation) == []
    assert cloud.switch(record.host).guards(installation) == []


def test_a_card_is_heard_at_the_address_that_it_gives_itself(world: World) -> None:
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Network).values(range6="fd00:0:0:7::/64"))
    assert world.run("deploy_vm", vm).state is OperationState.SUCCEEDED
    record, installation = cloud.inventory.vm(vm), cloud.inventory.installation
    (guard,) = cloud.switch(record.host).guards(installation)
    own = record.nics[0].mac.removeprefix("52:54:00:").replace(":", "")
    address6 = IPv6Address(f"fd00::7:5054:ff:fe{own[:2]}:{own[2:]}")
    assert guard.addresses == (record.plugs[0].address, address6)


def test_a_vm_has_its_ports_of_open_vswitch_again_when_it_starts(world: World) -> None:
    """They go when it is off, by whomever."""
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind="ovs", switch="br0"))
    world.run("deploy_vm", vm)
    record, installation = cloud.inventory.vm(vm), cloud.inventory.installation
    switch = cloud.switch(record.host)
    (guard,) = switch.guards(installation)
    assert (guard.switch, guard.tag, guard.nic) == ("br0", 105, record.nics[0].id)
    world.run("change_power", vm, former="ON", power="off")
    switch.delete_guards([guard])
    world.run("change_power", vm, former="OFF", power="on")
    assert switch.guards(installation) == [guard]


def test_a_card_that_its_guest_keeps_has_its_port_of_open_vswitch(world: World) -> None:
    """libvirt may have taken it away, and the card is given back into it."""
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind="ovs", switch="br0"))
    world.run("deploy_vm", vm)
    record = cloud.inventory.vm(vm)
    cloud.hypervisor(record.host).guest_keeps(vm)
    cloud.switch(record.host).delete_guards(record.guards)
    asked = world.accept("detach_nic", vm, nic=str(record.nics[0].id))
    ended = FLOWS["detach_nic"](asked.id)
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "nic-in-use")
    assert cloud.switch(record.host).has_guards(record.guards)


def test_a_port_group_of_all_hosts_goes_with_the_last_vm_of_any(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    networked(world)
    appliance = world.appliance("one", "two")
    one, two = (vm.id for vm in cloud.inventory.vms_of(appliance))
    addressed(one, two)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind="distributed", switch="DVS0"))
    hosts = []
    for vm in (one, two):
        world.run("deploy_vm", vm)
        hosts.append(cloud.inventory.vm(vm).host)
        with cloud.database.write() as db:  # the next one goes to another
            db.execute(
                update(models.Host).where(models.Host.id == hosts[-1]).values(maintenance=True)
            )
    first, second = hosts
    assert first != second
    (link,) = cloud.switch(first).links(cloud.inventory.installation)
    assert swept(world) == set()
    world.run("undeploy_vm", one)
    assert cloud.switch(second).has_link(link)
    assert swept(world) == set()
    world.run("undeploy_vm", two)
    assert not cloud.switch(second).has_link(link)
    monkeypatch.setattr(cloud.settings, "sweep_max_percent", 100)
    cloud.switch(first).ensure_link(link)
    assert {(what, state) for what, _, state in swept(world)} == {("link", "removed")}
    assert not cloud.switch(first).has_link(link)


def test_a_server_is_told_of_all_vms_of_an_appliance_in_one_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    networked(world)
    appliance = world.appliance(*(f"vm{n}" for n in range(30)))
    asked = [vm.id for vm in cloud.inventory.vms_of(appliance)]
    addressed(*asked)
    told, change = [], MemoryDhcp._change
    monkeypatch.setattr(
        MemoryDhcp, "_change", lambda *said: (told.append(said[1]), change(*said))[1]
    )
    vms = [str(vm) for vm in asked]
    world.run("deploy_appliance", appliance, vms=vms)
    assert told == ["ensure_reservations"]
    world.run("undeploy_appliance", appliance, vms=vms)
    assert told == ["ensure_reservations", "delete_reservations"]


def test_a_sweep_finds_what_no_vm_claims_of_networks(world: World) -> None:
    vm, _ = deploy_networked(world)
    world.run("deploy_vm", vm)
    record, installation = cloud.inventory.vm(vm), cloud.inventory.installation
    switch = cloud.switch(record.host)
    (link,), (guard,) = switch.links(installation), switch.guards(installation)
    assert swept(world) == set()
    strays = [link.model_copy(update={"network": uuid4(), "tag": tag}) for tag in (109, 110)]
    stray = guard.model_copy(update={"nic": uuid4()})
    for each in strays:
        switch.ensure_link(each)
    switch.ensure_guards([stray])
    cloud.world.put("plugged", f"{record.host}:{strays[1].name}", {"cards": ["foreign"]})
    switch.delete_guards([guard])
    found = {
        ("link", str(strays[0].network), "removed"),
        ("link", str(strays[1].network), "orphan, in use"),
        ("guard", str(stray.nic), "removed"),
        ("guard", str(guard.nic), "missing"),
    }
    assert swept(world) == found
    assert sorted(x.tag or 0 for x in switch.links(installation)) == [105, 110]
    assert switch.guards(installation) == []
    switch.ensure_guards([guard])
    assert {state for *_, state in swept(world)} == {"orphan, in use"}


def test_cards_are_guarded_on_purpose_where_nobody_said_how_a_host_has_networks(
    world: World,
) -> None:
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind=None))
    world.run("deploy_vm", vm)
    assert len(cloud.switch(cloud.inventory.vm(vm).host).guards(cloud.inventory.installation)) == 1
    assert swept(world) == set()


def swept(world: World) -> set[tuple[str, str, str]]:
    """What a sweep says of networks."""
    operation = world.run("sweep_orphans", world.datacenter)
    lines = cloud.journal.lines(operation.id)
    assert answered(operation.id) == 0
    report = next(line.result for line in lines if line.name == "publish-report")
    told = map(Finding.model_validate, report)
    return {(x.what, x.name, x.state) for x in told if x.what in {"link", "guard"}}


def test_a_deployment_waits_until_the_guest_was_told_its_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, asked = deploy_awaited(world)
    world.run("deploy_vm", vm, **asked)
    world.run("undeploy_vm", vm)
    monkeypatch.setattr(cloud.settings, "lease_wait_s", 0)
    cloud.world.set_fate("dhcp.leases", "lies")
    ended = FLOWS["deploy_vm"](world.accept("deploy_vm", vm, **asked).id)
    assert (ended.state, ended.error["code"]) == (OperationState.FAILED, "no-lease")
    assert cloud.inventory.vm(vm).host_id is None
