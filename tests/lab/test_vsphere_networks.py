"""Port groups of a simulated ESXi, alone and in a vCenter."""

from uuid import uuid4

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import Conflict, InUse, NotFound
from adapters.hypervisors.vsphere_spec import card
from adapters.types import Chap, Nic
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
