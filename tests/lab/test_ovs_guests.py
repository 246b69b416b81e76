"""A guest of a real libvirt in a VLAN of a real Open vSwitch."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.errors import InUse
from adapters.hypervisors.kvm import KvmHypervisor
from adapters.lan import Guard, Link, LinkKind, card_of
from adapters.nodes.openvswitch import OpenVswitch
from adapters.types import Nic, Power
from deployments.lab.kvm_host import KvmHost
from deployments.lab.ovs import Ovs
from deployments.lab.wired_host import UPLINK, Wire, WiredHost
from tests.guest import Guest
from tests.lab.test_appliance import OURS, appliance_vm, define, hypervisor_on
from tests.labs import started

pytestmark = pytest.mark.lab


@pytest.fixture
def kvm(wired_host: WiredHost, tmp_path: Path) -> Iterator[KvmHost]:
    with KvmHost(tmp_path / "kvm", wired_host.namespace) as host:
        yield host


@pytest.fixture
def ovs(kvm: KvmHost, wired_host: WiredHost, tmp_path: Path) -> Iterator[Ovs]:
    """Where libvirt looks for it: its /run is a folder of its host's."""
    place = kvm.folder / "state" / "openvswitch"
    with started(Ovs(tmp_path / "ovs", wired_host.namespace, run=place)) as switch:
        switch.add_bridge("br0")
        for tag in (101, 102):
            switch.vsctl("add-port", "br0", f"{UPLINK}.{tag}", f"tag={tag}")
        yield switch


@pytest.fixture
def hypervisor(kvm: KvmHost, ovs: Ovs, tmp_path: Path) -> KvmHypervisor:
    assert ovs.vsctl("list-br") == "br0\n"
    return hypervisor_on(kvm, tmp_path)


def test_a_guest_hears_its_own_vlan_only(
    wire: Wire,
    wired_host: WiredHost,
    another_wired_host: WiredHost,
    kvm: KvmHost,
    ovs: Ovs,
    hypervisor: KvmHypervisor,
    tmp_path: Path,
    appliance_image: Path,
) -> None:
    switch = OpenVswitch(wired_host.namespace, ovs.database)
    link = Link(
        network=uuid4(), tag=101, uplink="", kind=LinkKind.OVS, switch="br0", installation=OURS
    )
    switch.ensure_link(link)
    wire.switch.ip("address", "add", "10.0.101.1/24", "dev", "br101")
    other = another_wired_host.network
    other.ip("address", "add", "10.0.102.1/24", "dev", f"{UPLINK}.102")
    other.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")  # it is in both VLANs
    vm = appliance_vm(tmp_path, appliance_image)
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:05", kind="ovs", bridge="br0", tag=101)
    vm = vm.model_copy(update={"nics": (nic,)})
    define(hypervisor, vm)
    addresses = ("10.0.101.5", "10.0.102.5")
    guard = Guard(
        nic=nic.id, mac=nic.mac, addresses=addresses, switch="br0", tag=101, installation=OURS
    )
    switch.ensure_guards([guard])
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guest = Guest(hypervisor, kvm.uri, vm.id)
    assert f"NET eth0 {nic.mac} -" in guest.boot()
    with pytest.raises(InUse) as refusal:
        switch.delete_link(link)
    assert refusal.value.users == (card_of(nic.id),)
    ask = (
        "for t in 101 102; do ip addr add 10.0.$t.5/24 dev eth0; a=no;"
        " ping -c 1 -W 2 10.0.$t.1 >/dev/null 2>&1 && a=yes; echo; echo HEARD-$t-$a; done"
    )
    assert guest.tell(ask, "HEARD-102-") == "HEARD-102-no"
    assert "HEARD-101-yes" in guest.lines()
    ask = (
        "ip addr del 10.0.101.5/24 dev eth0; ip addr add 10.0.101.9/24 dev eth0; b=no;"
        " ping -c 1 -W 2 10.0.101.1 >/dev/null 2>&1 && b=yes; echo; echo SPOOFED-$b"
    )
    assert guest.tell(ask, "SPOOFED-") == "SPOOFED-no"
    hypervisor.set_power(vm.id, Power.OFF, timeout_s=0)
    assert card_of(nic.id) not in ovs.vsctl("list-ports", "br0")
    assert switch.has_guards([guard])
    hypervisor.delete_vm(vm.id)
    switch.delete_guards([guard])
    switch.delete_link(link)
    assert switch.links(OURS) == []


def test_a_card_comes_to_a_guest_that_runs_and_again_when_it_has_gone(
    wire: Wire,
    wired_host: WiredHost,
    kvm: KvmHost,
    ovs: Ovs,
    hypervisor: KvmHypervisor,
    tmp_path: Path,
    appliance_image: Path,
) -> None:
    switch = OpenVswitch(wired_host.namespace, ovs.database)
    wire.switch.ip("address", "add", "10.0.101.1/24", "dev", "br101")
    bare = appliance_vm(tmp_path, appliance_image).model_copy(update={"nics": ()})
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:05", kind="ovs", bridge="br0", tag=101)
    vm = bare.model_copy(update={"nics": (nic,)})
    define(hypervisor, bare)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guest = Guest(hypervisor, kvm.uri, vm.id)
    guest.boot()
    guard = Guard(
        nic=nic.id, mac=nic.mac, addresses=("10.0.101.5",), switch="br0", tag=101,
        installation=OURS,
    )  # fmt: skip
    for time in ("first", "again"):
        switch.ensure_guards([guard])
        hypervisor.set_nics(bare, vm)
        ask = (
            "until [ -e /sys/class/net/eth0 ]; do sleep 1; done; ip link set eth0 up;"
            " ip addr add 10.0.101.5/24 dev eth0; a=no;"
            f" ping -c 1 -W 9 10.0.101.1 >/dev/null 2>&1 && a=yes; echo; echo HEARD-{time}-$a"
        )
        assert guest.tell(ask, f"HEARD-{time}-", 120) == f"HEARD-{time}-yes"
        hypervisor.set_nics(vm, bare)
        assert card_of(nic.id) not in ovs.vsctl("list-ports", "br0")
    switch.delete_guards([guard])
    assert switch.guards(OURS) == []
