"""Guests of two tenants on a real host: VLANs, Kea behind a relay, and ranges that overlap."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.privileges import Stock
from adapters.types import Family, OperationState
from api import tokens
from api.app import create_app
from api.dependencies import sender
from deployments.lab import appliance
from deployments.lab.kea import Kea
from deployments.lab.kvm_host import KvmHost
from deployments.lab.relay import Relay
from deployments.lab.tgtd import Tgtd
from deployments.lab.vlans import Vlans
from deployments.lab.wired_host import WiredHost
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused
from tests.api.people import user
from tests.flows.breaking import Place, run_and_die
from tests.flows.test_mend_links import mended
from tests.flows.test_sync_dhcp import synced
from tests.guest import Guest
from tests.lab import real_world
from tests.labs import started

pytestmark = pytest.mark.lab

TAGS = (101, 102)
# Forked from a process that has no thread of libvirt's.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.flows.breaking"])


@dataclass
class Lab:
    """A host at a switch, two servers behind its relay, and a network of each tenant."""

    world: real_world.RealWorld
    host: WiredHost
    servers: list[Kea]
    networks: list[UUID]
    vdcs: list[UUID]
    enterprises: list[UUID]

    def vm(self, network: int, place: int) -> UUID:
        """A VM in a tenant's network, with the address at this place."""
        tenants = replace(self.world, vdc=self.vdcs[network])
        found = cloud.inventory.vms_of(tenants.appliance(f"vm-{network}-{place}"))[0]
        with cloud.database.write() as db:
            db.execute(
                update(models.NicRow)
                .where(models.NicRow.vm_id == found.id)
                .values(network_id=self.networks[network], is_default=True)
            )
            db.get_one(models.VirtualMachine, found.id).ram_mib = 96
            said = db.get_one(models.Network, self.networks[network]).range or ""
            db.add(
                models.AddressRow(
                    id=uuid4(), network_id=self.networks[network], place=place,
                    address=str(IPv4Network(said)[place]), nic_id=found.nics[0].id,
                )
            )  # fmt: skip
        return found.id

    def guest(self, vm: UUID) -> Guest:
        """A VM that has booted."""
        record = cloud.inventory.vm(vm)
        guest = Guest(cloud.hypervisor(record.host), self.world.uri, vm)
        guest.boot()
        return guest

    def leases(self) -> list[tuple[str, str]]:
        servers = [each.id for each in cloud.lans.servers(self.world.datacenter)]
        found = [lease for server in servers for lease in cloud.dhcp(server).leases()]
        return sorted((lease.mac, str(lease.address)) for lease in found)

    def links(self) -> list[int | None]:
        found = cloud.switch(self.world.hosts[0]).links(cloud.inventory.installation)
        return sorted(link.tag or 0 for link in found)

    def tags(self) -> list[int | None]:
        with cloud.database.read() as db:
            rows = select(models.Network).where(models.Network.id.in_(self.networks))
            return [row.tag for row in db.scalars(rows.order_by(models.Network.number))]


STEPS = (  # of a deployment, in order
    *("charge-vms", "reserve-hosts", "survey-vm", "hold-links", "guard-cards"),
    *("reserve-addresses", "choose-base", "hold-base", "make-disk", "define-vm"),
    *("switch-vm", "record-state"),
)
REMOVALS = ("unguard-cards", "leave-links", "free-host", "release-addresses")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    relays = {tag: f"10.98.0.{tag}/32" for tag in TAGS}
    with ExitStack() as stack:
        vlans = stack.enter_context(started(Vlans(tmp_path / "v", relays, servers=2)))
        servers = [Kea(tmp_path / f"k{n}", vlans.servers[n]) for n in (0, 1)]
        for server in servers:
            stack.enter_context(started(server))
        stack.enter_context(started(Relay(tmp_path, vlans)))
        host = stack.enter_context(started(WiredHost(tmp_path / "h", vlans.switch, TAGS)))
        kvm = stack.enter_context(KvmHost(tmp_path / "q", host.namespace))
        tgtd = stack.enter_context(started(Tgtd(tmp_path / "t")))
        with real_world.with_guest(tmp_path / "home", kvm, tgtd, appliance.build()) as world:
            yield furnished(world, host, servers)


def furnished(world: real_world.RealWorld, host: WiredHost, servers: list[Kea]) -> Lab:
    """Write the lab's racks, servers and networks down; two enterprises have the same range."""
    rack, networks = uuid4(), [uuid4(), uuid4()]
    vdcs, enterprises = [world.vdc, uuid4()], [FIRST_ENTERPRISE, uuid4()]
    with cloud.database.write() as db:
        db.execute(update(models.Template).values(shared=True))
        db.execute(update(models.Datacenter).values(relays="10.98.0.0/20"))
        db.add(models.Enterprise(id=enterprises[1], name="others"))
        db.flush()
        db.add(
            models.VirtualDatacenter(
                id=vdcs[1], enterprise_id=enterprises[1], datacenter_id=world.datacenter,
                name="demo", family=Family.KVM,
            )
        )  # fmt: skip
        db.add(
            models.Rack(
                id=rack, datacenter_id=world.datacenter, name="rack", vlan_min=TAGS[0],
                vlan_max=TAGS[-1], vlans_avoided=[], vlans_reserved=0, low_vlans_percent=0,
            )
        )  # fmt: skip
        db.flush()
        db.execute(
            update(models.Host).values(
                rack_id=rack, uplink=f"{host.namespace}/up0", link_kind="bridge"
            )
        )
        for n, server in enumerate(servers):
            known = uuid4()
            db.add(
                models.DhcpServer(
                    id=known, datacenter_id=world.datacenter, name=f"kea-{n}", kind="kea",
                    address=str(server.socket),
                )
            )  # fmt: skip
            db.flush()
            db.add(
                models.Network(
                    id=networks[n], virtual_datacenter_id=vdcs[n],
                    datacenter_id=world.datacenter, name=f"tenant-{n}", kind="private",
                    range="10.0.0.0/24", number=n + 1, dhcp_server_id=known,
                )
            )  # fmt: skip
    for network in networks:
        charges = cloud.networks.charges(cloud.networks.network(network))
        cloud.ledger.charge(charges, lambda _: True)
    return Lab(world, host, servers, networks, vdcs, enterprises)


@contextmanager
def tenants(lab: Lab) -> Iterator[list[Api]]:
    """The API as a user of each tenant sees it, who may have one VLAN."""
    app = create_app()
    token = tokens.first_token(cloud.database)
    assert token
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        api = Api(client, lab.world, token)
        app.dependency_overrides[sender] = lambda: api.sent.append
        for enterprise in lab.enterprises:
            limit = api.call(
                "PUT", f"/v1/limits/enterprise/{enterprise}", json={"hard": {"vlans": 1}}
            )
            assert limit.status_code == 200, limit.text
        yield [user(api, Stock.ENTERPRISE_ADMIN, enterprise=each) for each in lab.enterprises]


def test_each_tenant_sees_and_has_its_own_alone(lab):
    with tenants(lab) as every:
        for n, tenant in enumerate(every):
            own, others = lab.vm(n, 55), lab.networks[1 - n]
            tenant.done(tenant.post(f"/v1/vms/{own}/deploy", json={"wait_for": "lease"}))
            networks = {each["name"] for each in tenant.get("/v1/networks").json()}
            assert networks - {"default"} == {f"tenant-{n}"}
            (address,) = tenant.get("/v1/addresses").json()
            assert (address["address"], address["network_id"]) == (
                "10.0.0.55",
                str(lab.networks[n]),
            )
            (vm,) = tenant.get("/v1/vms").json()
            assert (vm["id"], vm["state"]) == (str(own), "ON")
            refused(tenant.get(f"/v1/networks/{others}"), 404, "not-found")
            asked = {
                "name": "more",
                "virtual_datacenter": str(lab.vdcs[n]),
                "range": "10.0.0.0/24",
            }
            refused(tenant.post("/v1/networks", json=asked), 409, "no-dhcp-server")
            unmanaged = {"name": "more", "virtual_datacenter": "demo", "kind": "unmanaged"}
            refused(tenant.post("/v1/networks", json=unmanaged), 409, "hard-limit")
        first, second = (tenant.get("/v1/vms").json()[0]["id"] for tenant in every)
        refused(every[0].post(f"/v1/vms/{second}/undeploy"), 404, "not-found")
        assert len(lab.leases()) == 2
        for tenant, vm in zip(every, (first, second), strict=True):
            tenant.done(tenant.post(f"/v1/vms/{vm}/undeploy"))
    assert (lab.tags(), lab.links(), lab.leases()) == ([None, None], [], [])


def test_guests_get_their_addresses_and_reach_their_own_network(lab):
    first, second, other = lab.vm(0, 55), lab.vm(0, 56), lab.vm(1, 55)
    lab.world.run("deploy_vm", first, wait_for="lease")
    for vm in (second, other):
        lab.world.run("deploy_vm", vm)
    assert lab.tags() == [101, 102]
    assert lab.links() == [101, 102]
    for vm, address in ((first, "10.0.0.55"), (second, "10.0.0.56"), (other, "10.0.0.55")):
        mac = cloud.inventory.vm(vm).nics[0].mac
        assert f"NET eth0 {mac} {address}" in lab.guest(vm).lines()
    assert len(lab.leases()) == 3
    ping = "ping -c 1 -W 3 {} >/dev/null 2>&1; echo HEARD-{}-$?"
    assert lab.guest(second).tell(ping.format("10.0.0.55", "own"), "HEARD-own-") == "HEARD-own-0"
    assert lab.guest(other).tell(ping.format("10.0.0.56", "it"), "HEARD-it-") == "HEARD-it-1"
    assert synced(lab.world) == {("dhcp-server", "in line"): 2}
    lab.world.run("undeploy_vm", first)
    assert lab.tags() == [101, 102]
    lab.world.run("undeploy_vm", second)
    lab.world.run("undeploy_vm", other)
    assert (lab.tags(), lab.links(), lab.leases()) == ([None, None], [], [])
    assert synced(lab.world) == {("dhcp-server", "in line"): 2}


def test_an_address_is_anothers_at_once(lab):
    first = lab.vm(0, 55)
    lab.world.run("deploy_vm", first)
    lab.guest(first)
    lab.world.run("undeploy_vm", first)
    with cloud.database.write() as db:
        for row in db.scalars(select(models.AddressRow)):
            db.delete(row)
    second = lab.vm(0, 55)
    lab.world.run("deploy_vm", second)
    mac = cloud.inventory.vm(second).nics[0].mac
    assert f"NET eth0 {mac} 10.0.0.55" in lab.guest(second).lines()
    assert lab.leases() == [(mac, "10.0.0.55")]


ASK = (  # of a card that may just have come
    "until [ -e /sys/class/net/eth1 ]; do sleep 1; done; ip link set eth1 up;"
    " udhcpc -i eth1 -s /bin/lease -t 9 -T 3 -n -q >/dev/null 2>&1;"
    " echo; echo TOLD-$(cat /tmp/address.eth1)"
)


def test_a_guest_that_runs_is_given_a_card_and_gives_it_back(lab):
    with cloud.database.write() as db:
        db.get_one(models.Network, lab.networks[1]).range = "10.0.1.0/24"
    vm, other = lab.vm(0, 55), lab.vm(1, 56)
    lab.world.run("deploy_vm", vm)
    lab.world.run("deploy_vm", other)
    guest, nic = lab.guest(vm), uuid4()
    lab.guest(other)
    before = guest.tell("ip route | md5sum | sed s/^/ROUTES-/", "ROUTES-")
    asked = {"id": str(nic), "network": str(lab.networks[1]), "address": "10.0.1.57"}
    lab.world.run("attach_nic", vm, nic=asked)
    assert guest.tell(ASK, "TOLD-1", 120) == "TOLD-10.0.1.57"
    mac = cloud.inventory.vm(vm).card(nic).mac
    assert (mac, "10.0.1.57") in lab.leases()
    ping = "ping -I eth1 -c 1 -W 9 10.0.1.56 >/dev/null 2>&1; a=$?; echo; echo HEARD-it-$a"
    assert guest.tell(ping, "HEARD-it-") == "HEARD-it-0"
    assert synced(lab.world, dry_run=True) == {("dhcp-server", "in line"): 2}
    lab.world.run("detach_nic", vm, nic=str(nic))
    look = "[ -e /sys/class/net/eth1 ]; a=$?; echo; echo GONE-$a"
    assert guest.tell(look, "GONE-") == "GONE-1"
    assert "10.0.1.57" not in {address for _, address in lab.leases()}
    assert lab.links() == [101, 102]
    after = guest.tell("ip route | md5sum | sed s/^/AFTER-/", "AFTER-")
    assert after.removeprefix("AFTER-") == before.removeprefix("ROUTES-")
    assert cloud.hypervisor(lab.world.hosts[0]).has_vm(cloud.inventory.vm(vm).definition())
    assert synced(lab.world) == {("dhcp-server", "in line"): 2}


def killed(lab: Lab, kind: str, vm: UUID, step: str, words: Path) -> Operation:
    """An operation whose runner has died by SIGKILL right after a step's effect."""
    operation, settings = lab.world.accept(kind, vm), cloud.settings
    child = FORKS.Process(
        target=run_and_die, args=(settings, operation, Place(step, "", 0), words)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, words.read_text()
    cloud.become(settings)
    cloud.operations.bury(lambda runner: runner.alive_here() is None)
    return operation


def test_whatever_dies_nothing_differs_afterwards(lab, tmp_path):
    """Killed after each step, and taken back, or gone on with: at every step of a deployment."""
    neighbour, vm = lab.vm(0, 54), lab.vm(0, 55)
    lab.world.run("deploy_vm", neighbour)
    for step in STEPS:
        operation = killed(lab, "deploy_vm", vm, step, tmp_path / step)
        cloud.operations.want(operation.id, "unwind")
        ended = FLOWS["deploy_vm"](operation.id)
        assert (ended.state, ended.left_behind) == (OperationState.CANCELLED, False), step
        assert synced(lab.world, dry_run=True) == {("dhcp-server", "in line"): 2}, step
        assert (lab.tags(), lab.links()) == ([101, None], [101])
    for step in (*STEPS[3:6], *REMOVALS):
        kind = "undeploy_vm" if step in REMOVALS else "deploy_vm"
        if cloud.inventory.vm(vm).host_id is None and step in REMOVALS:
            lab.world.run("deploy_vm", vm)
        operation = killed(lab, kind, vm, step, tmp_path / step)
        ended = FLOWS[kind](operation.id)
        assert (ended.state, ended.left_behind) == (OperationState.SUCCEEDED, False), step
        assert synced(lab.world, dry_run=True) == {("dhcp-server", "in line"): 2}, step
        if kind == "deploy_vm":
            lab.world.run("undeploy_vm", vm)
    lab.world.run("undeploy_vm", neighbour)
    assert (lab.tags(), lab.links(), lab.leases()) == ([None, None], [], [])


def test_a_bridge_that_is_deleted_under_its_guests_is_given_back_with_their_cards(lab):
    first, second = lab.vm(0, 55), lab.vm(0, 56)
    for vm in (first, second):
        lab.world.run("deploy_vm", vm, wait_for="lease")
    assert mended(lab.world) == {("host", "in line"): 1}
    lab.guest(first)

    def heard(when: str) -> str:
        ping = f"ping -c 1 -W 3 10.0.0.55 >/dev/null 2>&1; echo HEARD-{when}-$?"
        return lab.guest(second).tell(ping, f"HEARD-{when}-")

    assert heard("before") == "HEARD-before-0"
    switch = cloud.switch(lab.world.hosts[0])
    (link,) = switch.links(cloud.inventory.installation)
    lab.host.network.ip("link", "delete", "dev", link.name)
    lab.host.network.run("nft", "flush", "ruleset")
    assert heard("cut") == "HEARD-cut-1"
    told = {
        ("host", "differs"): 1,
        ("link", "lost"): 1,
        ("guard", "lost"): 2,
        ("card", "loose"): 2,
    }
    assert mended(lab.world, dry_run=True) == told
    assert mended(lab.world) == {**told, ("host", "mended"): 1}
    assert heard("after") == "HEARD-after-0"
    assert mended(lab.world) == {("host", "in line"): 1}


def test_a_server_that_has_lost_its_files_is_told_again(lab):
    vm = lab.vm(0, 55)
    lab.world.run("deploy_vm", vm)
    lab.guest(vm)
    lab.servers[0].lose(leases=True, configuration=True)
    lab.servers[0].start()
    assert synced(lab.world)["address", "lacking"] == 1
    assert synced(lab.world) == {("dhcp-server", "in line"): 2}
    lab.world.run("change_power", vm, power="off", former="ON")
    lab.world.run("change_power", vm, power="on", former="OFF")
    mac = cloud.inventory.vm(vm).nics[0].mac
    assert f"NET eth0 {mac} 10.0.0.55" in lab.guest(vm).lines()
