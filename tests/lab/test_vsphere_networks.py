"""Port groups of a simulated ESXi, alone and in a vCenter, and of its distributed switch."""

from uuid import uuid4

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import Conflict, InUse, NotFound, Unsupported
from adapters.guests import NicKind
from adapters.hypervisors.vsphere import VsphereHypervisor
from adapters.hypervisors.vsphere_spec import card
from adapters.lan import Link, LinkKind
from adapters.nodes.vsphere_links import VsphereSwitch
from adapters.types import Chap, Nic, Vm
from adapters.vsphere.distributed import DistributedGroups
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session

pytestmark = pytest.mark.lab

SWITCH = "vSwitch0"


@pytest.fixture(params=["vcenter", "esxi"])
def session(request):
    vcsim = request.getfixturevalue(request.param)
    login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
    return Session(vcsim.address, lambda: login)


@pytest.fixture
def groups(session):
    return PortGroups(session)


@pytest.fixture
def name():
    return f"cloudloom-{uuid4()}"


def networks(session):
    """The simulator tells a new one in its inventory, not of its host."""
    return {each.name: each for each in session.datacenter.networkFolder.childEntity}


def test_a_port_group_is_there_once_made_and_gone_once_deleted(session, groups, name):
    with session.speaking():
        before = networks(session)
        assert not groups.has(name, SWITCH, 42)
        groups.ensure(name, SWITCH, 42)
        groups.ensure(name, SWITCH, 42)
        assert groups.has(name, SWITCH, 42)
        assert networks(session).keys() - before.keys() == {name}
        groups.delete(name)
        groups.delete(name)
        assert not groups.has(name, SWITCH, 42)
        assert networks(session) == before


def test_another_port_group_of_that_name_is_left_alone(session, groups, name):
    with session.speaking():
        groups.ensure(name, SWITCH, 42)
    for vlan, switch in ((43, SWITCH), (42, "vSwitch1")):
        with pytest.raises(Conflict), session.speaking():
            groups.ensure(name, switch, vlan)
    with session.speaking():
        assert groups.has(name, SWITCH, 42)
        groups.delete(name)


def test_a_port_group_needs_its_switch(session, groups, name):
    with pytest.raises(NotFound), session.speaking():
        groups.ensure(name, "nowhere", 42)


def test_a_port_group_with_a_card_stays(session, groups, name):
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01")
    with session.speaking():
        groups.ensure(name, SWITCH, 0)
        network = networks(session)[name]
        config = vim.vm.ConfigSpec(
            name=f"vm-{name}",
            numCPUs=1,
            memoryMB=32,
            guestId="otherGuest64",
            files=vim.vm.FileInfo(vmPathName="[LocalDS_0]"),
            deviceChange=[card(0, nic, network, name)],
        )
        vm = session.create(config)
    with pytest.raises(InUse) as refusal, session.speaking():
        groups.delete(name)
    assert refusal.value.users == (f"vm-{name}",)
    with session.speaking():
        session.wait(vm.Destroy_Task())
        groups.delete(name)
        assert not groups.has(name, SWITCH, 0)


# --- of a distributed switch, which all hosts of the vCenter are at ------------------------------

OURS = uuid4()


def session_at(vcsim, host):
    login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
    return Session(vcsim.address.replace("DC0_C0_H0", host), lambda: login)


@pytest.fixture
def hosts(vcenter):
    """Two of them."""
    return [session_at(vcenter, host) for host in ("DC0_C0_H0", "DC0_C0_H1")]


def link_of(switch="DVS0", **more):
    said = {"tag": 42, "uplink": "", "switch": switch, "kind": LinkKind.DISTRIBUTED} | more
    return Link(network=uuid4(), installation=OURS, **said)


def test_all_hosts_of_a_distributed_switch_have_its_port_groups(hosts):
    first, second = (VsphereSwitch(each, LinkKind.DISTRIBUTED) for each in hosts)
    link = link_of()
    first.ensure_link(link)
    second.ensure_link(link)
    assert second.has_link(link)
    assert second.links(OURS) == [link]
    second.delete_link(link)
    first.delete_link(link)
    assert not first.has_link(link)
    assert first.links(OURS) == []


def test_a_distributed_port_group_with_a_card_of_another_host_stays(hosts):
    first = VsphereSwitch(hosts[0], LinkKind.DISTRIBUTED)
    link = link_of()
    first.ensure_link(link)
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01", kind=NicKind.DISTRIBUTED, bridge=link.name)
    hypervisor = VsphereHypervisor(hosts[1], OURS)
    vm = Vm(id=uuid4(), name="db", cpu=1, ram_mib=64, disks=(), nics=(nic,), installation=OURS)
    hypervisor.ensure_vm(vm)
    with hosts[1].speaking():
        there = next(each for each in hosts[1].host.vm if each.name == f"vm-{vm.id}")
        cards = [each for each in there.config.hardware.device if hasattr(each, "macAddress")]
        port = DistributedGroups(hosts[0]).port(link.name)
    assert [each.macAddress for each in cards] == [nic.mac]
    assert cards[0].backing.port.portgroupKey == port.portgroupKey
    assert cards[0].backing.port.switchUuid == port.switchUuid
    with pytest.raises(InUse) as refusal:
        first.delete_link(link)
    assert refusal.value.users == (f"vm-{vm.id}",)
    hypervisor.delete_vm(vm.id)
    first.delete_link(link)


def test_a_distributed_port_group_is_guarded_against_other_macs(hosts):
    switch = VsphereSwitch(hosts[0], LinkKind.DISTRIBUTED)
    link = link_of()
    switch.ensure_link(link)
    with hosts[0].speaking():
        group = DistributedGroups(hosts[0]).find(link.name)
        has = group.itself.config.defaultPortConfig.securityPolicy
    assert not any(
        each.value for each in (has.allowPromiscuous, has.macChanges, has.forgedTransmits)
    )
    switch.delete_link(link)


def test_a_standard_port_group_of_that_name_is_left_alone(hosts):
    link = link_of()
    standard = PortGroups(hosts[0])
    with hosts[0].speaking():
        standard.ensure(link.name, SWITCH, 7)
    switch = VsphereSwitch(hosts[0], LinkKind.DISTRIBUTED)
    with pytest.raises(Conflict) as refusal:
        switch.ensure_link(link)
    assert refusal.value.code == "link-conflict"
    switch.delete_link(link)
    with hosts[0].speaking():
        assert standard.has(link.name, SWITCH, 7)
        standard.delete(link.name)


def test_a_card_needs_its_distributed_port_group(hosts):
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01", kind=NicKind.DISTRIBUTED, bridge="nowhere")
    vm = Vm(id=uuid4(), name="db", cpu=1, ram_mib=64, disks=(), nics=(nic,), installation=OURS)
    with pytest.raises(NotFound, match="nowhere"):
        VsphereHypervisor(hosts[0], OURS).ensure_vm(vm)


def test_an_esxi_alone_is_at_no_distributed_switch(esxi):
    switch = VsphereSwitch(session_at(esxi, ""), LinkKind.DISTRIBUTED)
    with pytest.raises(NotFound, match="no distributed switch DVS0"):
        switch.ensure_link(link_of())
    assert switch.links(OURS) == []


def test_a_distributed_switch_that_the_host_is_not_at_is_none_of_its_own(hosts):
    session, switch = hosts[0], VsphereSwitch(hosts[0], LinkKind.DISTRIBUTED)
    spec = vim.DistributedVirtualSwitch.CreateSpec(
        configSpec=vim.DistributedVirtualSwitch.ConfigSpec(name="elsewhere")
    )
    with session.speaking():
        (datacenter,) = session.inventory(vim.Datacenter)
        session.wait(datacenter.networkFolder.CreateDVS_Task(spec))
        every = session.inventory(vim.DistributedVirtualSwitch)
        made = next(each for each in every if each.name == "elsewhere")
    try:
        with pytest.raises(NotFound, match="no distributed switch elsewhere"):
            switch.ensure_link(link_of("elsewhere"))
    finally:
        with session.speaking():
            session.wait(made.Destroy_Task())


def test_a_distributed_switch_has_the_mtu_that_it_has(hosts):
    with pytest.raises(Unsupported, match="an MTU of 1500, not 9000"):
        VsphereSwitch(hosts[0], LinkKind.DISTRIBUTED).ensure_link(link_of(mtu=9000))
