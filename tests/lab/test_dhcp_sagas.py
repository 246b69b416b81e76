"""The laws of sagas at real DHCP servers, by VMs on pretended hosts; guests that ask for real."""

import multiprocessing
import signal
import threading
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest
from sqlalchemy import select

from adapters.database import models
from adapters.errors import Refused
from adapters.types import OperationState
from deployments.lab.dnsmasq import Dnsmasq
from deployments.lab.kea import Kea
from deployments.lab.relay import Relay
from deployments.lab.vlans import Vlans
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests import worlds
from tests.flows.breaking import Breaker, run_and_die
from tests.flows.scenarios import SCENARIOS
from tests.flows.test_sagas import assert_unlocked, clean_run, no_way_back
from tests.flows.test_sync_dhcp import synced
from tests.labs import started

pytestmark = pytest.mark.lab

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.flows.breaking"])
IN_LINE = {("dhcp-server", "in line"): 1}
LABS = {"kea": Kea, "dnsmasq": Dnsmasq}
CASES = [
    pytest.param(kind, name, place, id=f"{kind}-{name}:{place}")
    for name in SCENARIOS
    if name.endswith("-networked")
    for place in sorted(clean_run(name)[0], key=str)
    if place.step.endswith("-addresses")
    for kind in LABS
]


@pytest.fixture
def vlans(tmp_path):
    """A switch whose one VLAN the scenarios' network is."""
    with started(Vlans(tmp_path / "vlans", {105: "10.0.0.1/24"})) as vlans:
        yield vlans


@pytest.fixture
def world(request, tmp_path, vlans):
    """A small cloud, with a real DHCP server beside its pretended hosts."""
    with ExitStack() as stack:
        lab = LABS[request.param](tmp_path / "dhcp", vlans.servers[0])
        stack.enter_context(started(lab))
        stack.enter_context(started(Relay(tmp_path, vlans)))
        made = worlds.build(tmp_path / "home")
        address = lab.socket if isinstance(lab, Kea) else lab.folder
        made.dhcp = request.param, str(address)
        yield made
    cloud.database.engine.dispose()


def server():
    """The DHCP server of the datacenter."""
    with cloud.database.read() as db:
        return cloud.dhcp(db.scalars(select(models.DhcpServer.id)).one())


def photograph(scenario):
    """What the DHCP server was told and has told, beside everything else."""
    return scenario.photograph(), server().content(), server().leases()


@pytest.mark.parametrize(("world", "name", "place"), CASES, indirect=["world"])
def test_commits_then_fails(name, place, world, monkeypatch):
    scenario = SCENARIOS[name]
    operation = scenario.accept(world)
    before = photograph(scenario)
    broken = Breaker(monkeypatch, operation)

    def refuse(do, arguments):
        do(**arguments)
        raise Refused("broken after its effect")

    broken.at(place, refuse)
    ended = broken.run()
    if no_way_back(name, place):
        assert ended.state is OperationState.STUCK
        cloud.operations.resume(ended.id)
        broken.resumed()
    else:
        assert ended.state is OperationState.FAILED
        assert photograph(scenario) == before
    assert not cloud.operations.read(ended.id).left_behind
    assert_unlocked()


@pytest.mark.parametrize("then", ["resumed", pytest.param("unwound", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("world", "name", "place"), CASES, indirect=["world"])
def test_killed(name, place, then, world, tmp_path):
    """A runner of its own dies by SIGKILL right after the effect."""
    words = tmp_path / "last-words"
    scenario = SCENARIOS[name]
    operation = scenario.accept(world)
    before = photograph(scenario)
    settings = cloud.settings
    child = FORKS.Process(target=run_and_die, args=(settings, operation, place, words))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, words.read_text()
    cloud.become(settings)
    cloud.operations.bury(lambda runner: runner.alive_here() is None)
    if then == "unwound":
        cloud.operations.want(operation.id, "unwind")
    ended = FLOWS[operation.kind](operation.id)
    if then == "unwound" and not no_way_back(name, place):
        assert ended.state is OperationState.CANCELLED, ended.error
        assert photograph(scenario) == before
    else:
        assert ended.state is OperationState.SUCCEEDED, ended.error
    assert not ended.left_behind
    assert_unlocked()
    assert synced(world) == IN_LINE


@pytest.mark.parametrize("world", LABS, indirect=True)
def test_a_vm_is_up_when_the_server_has_told_its_guest(world, vlans):
    operation = SCENARIOS["deploy_vm-awaited"].accept(world)
    mac = cloud.inventory.vm(operation.target_id).nics[0].mac
    guest = threading.Thread(target=vlans.ask, args=[mac, 105], kwargs={"seconds": 20})
    guest.start()
    assert FLOWS["deploy_vm"](operation.id).state is OperationState.SUCCEEDED
    assert [lease.mac for lease in server().leases()] == [mac]
    guest.join()


@pytest.mark.parametrize("world", LABS, indirect=True)
def test_a_server_that_has_lost_everything_is_brought_in_line(world, vlans, tmp_path):
    lab = LABS[world.dhcp[0]](tmp_path / "dhcp", vlans.servers[0])
    operation = SCENARIOS["deploy_vm-networked"].accept(world)
    FLOWS["deploy_vm"](operation.id)
    nic = cloud.inventory.vm(operation.target_id).nics[0]
    before = server().content()
    told = vlans.ask(nic.mac, 105)
    lab.stop()
    lab.forget()
    lab.start()
    assert not vlans.ask(nic.mac, 105)
    assert synced(world)["address", "lacking"] == 1
    assert server().content() == before
    assert synced(world) == IN_LINE
    assert vlans.ask(nic.mac, 105)["ip"] == told["ip"]


@pytest.mark.parametrize("world", LABS, indirect=True)
def test_a_deployed_vm_gets_its_address_and_gives_it_back(world, vlans):
    operation = SCENARIOS["deploy_vm-networked"].accept(world)
    with cloud.database.write() as db:
        nic = db.scalars(select(models.NicRow).filter_by(vm_id=operation.target_id)).one()
        nic.is_default = True
        address = db.scalars(select(models.AddressRow).filter_by(nic_id=nic.id)).one().address
    assert not vlans.ask(nic.mac, 105)
    FLOWS["deploy_vm"](operation.id)
    told = vlans.ask(nic.mac, 105)
    assert told["ip"] == address
    assert told["router"] == "10.0.0.1"
    assert told["domain"] == "lan"
    (lease,) = server().leases()
    assert (lease.mac, lease.address) == (nic.mac, IPv4Address(address))
    world.run("undeploy_vm", operation.target_id)
    assert server().leases() == []
    assert server().content() == ({}, {})
    assert not vlans.ask(nic.mac, 105)
