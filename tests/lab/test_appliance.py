"""The appliance on a real libvirt host: it boots, is alone, hears the power button, survives."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest
from pydantic import SecretStr

from adapters.hypervisors.domain_xml import domain_xml, serial
from adapters.hypervisors.kvm import KvmHypervisor
from adapters.storage.directory import DirectoryStorage
from adapters.storage.tgt import Tgt
from adapters.types import Base, Chap, Connection, Disk, Export, Format, Nic, Power, Vm, Volume
from deployments.lab.kvm_host import KvmHost
from deployments.lab.process import Process
from tests.guest import Guest

pytestmark = pytest.mark.lab

OURS = uuid4()
MAC = "52:54:00:00:00:01"


def hypervisor_on(host: KvmHost, folder: Path) -> KvmHypervisor:
    (folder / "datastore").mkdir(exist_ok=True)
    return KvmHypervisor(host.uri, OURS, "qemu", str(folder / "consoles"))


def appliance_vm(folder: Path, image: Path) -> Vm:
    """A VM whose disk is an overlay of the appliance."""
    vm = uuid4()
    base = Base(path=str(image), format=Format.RAW, digest="00" * 32)
    disk = Disk(
        id=uuid4(), vm=vm, size_mib=64, datastore=str(folder / "datastore"), base=base,
        installation=OURS,
    )  # fmt: skip
    nics = (Nic(id=uuid4(), mac=MAC),)
    return Vm(id=vm, name="a", cpu=1, ram_mib=96, disks=(disk,), nics=nics, installation=OURS)


def define(hypervisor: KvmHypervisor, vm: Vm) -> None:
    for disk in vm.disks:
        hypervisor.ensure_disk(disk)
    hypervisor.ensure_vm(vm)


@pytest.fixture
def hypervisor(kvm_host: KvmHost, tmp_path: Path) -> Iterator[KvmHypervisor]:
    kvm = hypervisor_on(kvm_host, tmp_path)
    try:
        yield kvm
    finally:
        for vm in kvm.vms():
            kvm.set_power(vm, Power.OFF, timeout_s=0)
            kvm.delete_vm(vm)


def test_boots_from_an_overlay_outlives_libvirtd_and_hears_the_power_button(
    kvm_host, hypervisor, tmp_path, appliance_image
):
    vm = appliance_vm(tmp_path, appliance_image)
    define(hypervisor, vm)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    kvm_host.crash()
    kvm_host.start()
    assert hypervisor.vms() == {vm.id: Power.ON}

    guest = Guest(hypervisor, kvm_host.uri, vm.id)
    printed = guest.boot()
    name = serial(vm.disks[0].id)
    assert f"DISK /dev/vda {64 * 2048} {name}" in printed
    assert f"ROOT {name}" in printed
    assert f"NET eth0 {MAC} 10.0.2.15" in printed

    hypervisor.set_power(vm.id, Power.OFF, timeout_s=120)
    assert hypervisor.power(vm.id) is Power.OFF
    assert any("APPLIANCE-POWEROFF" in line for line in guest.lines())


def test_sees_its_volume_and_writes_to_it(kvm_host, tgtd, hypervisor, tmp_path, appliance_image):
    vm = appliance_vm(tmp_path, appliance_image)
    define(hypervisor, vm)
    storage = pool(tmp_path, tgtd)
    volume = Volume(id=uuid4(), size_mib=24, installation=OURS)
    storage.ensure_volume(volume)
    connect(hypervisor, storage, volume, vm.id, position=1)
    kvm_host.crash()  # the password must outlive it
    kvm_host.start()
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)

    guest = Guest(hypervisor, kvm_host.uri, vm.id)
    assert f"DISK /dev/vdb {24 * 2048} {serial(volume.id)}" in guest.boot()
    assert not storage.written(volume)
    guest.tell("echo our data >/dev/vdb; sync; echo WRITTEN $?", "WRITTEN 0")
    assert storage.written(volume)
    assert (tmp_path / "pool" / f"vol-{volume.id}.img").read_bytes().startswith(b"our data\n")


def test_a_running_guest_sees_its_volume_come_and_go(
    kvm_host, tgtd, hypervisor, tmp_path, appliance_image
):
    vm = appliance_vm(tmp_path, appliance_image)
    define(hypervisor, vm)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guest = Guest(hypervisor, kvm_host.uri, vm.id)
    guest.boot()

    storage = pool(tmp_path, tgtd)
    volume = Volume(id=uuid4(), size_mib=24, installation=OURS)
    storage.ensure_volume(volume)
    connection = connect(hypervisor, storage, volume, vm.id, position=3)
    assert guest.wait_for("PLUGGED") == f"PLUGGED /dev/vdb {24 * 2048} {serial(volume.id)}"
    guest.tell("echo our data >/dev/vdb; sync; echo WRITTEN $?", "WRITTEN 0")
    assert storage.written(volume)

    kvm_host.crash()  # who was asked before is asked again after
    kvm_host.start()
    hypervisor.disconnect(connection)
    assert guest.wait_for("UNPLUGGED") == "UNPLUGGED /dev/vdb"
    assert not hypervisor.has_connection(connection)
    assert str(volume.id) not in everything_libvirt_knows(kvm_host, vm.id)


def everything_libvirt_knows(host: KvmHost, vm: UUID) -> str:
    connection = libvirt.open(host.uri)
    try:
        domain = connection.lookupByUUID(vm.bytes)
        secrets = [each.XMLDesc() for each in connection.listAllSecrets()]
        return "".join(
            (domain.XMLDesc(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), *secrets)
        )
    finally:
        connection.close()


def test_a_terminal_passes_on_every_last_word_and_ends_with_libvirtd(
    kvm_host, hypervisor, tmp_path, appliance_image
):
    vm = appliance_vm(tmp_path, appliance_image)
    define(hypervisor, vm)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    Guest(hypervisor, kvm_host.uri, vm.id).boot()
    with hypervisor.terminal(vm.id) as line:
        line.settimeout(30)
        for number in range(300):  # a reader that libvirt forgets to wake is forgotten seldom
            line.sendall(f"echo said-$(({number}))\n".encode())
            hear(line, f"\nsaid-{number}\r".encode())
        kvm_host.crash()
        while line.recv(4096):
            pass
    kvm_host.start()
    with hypervisor.terminal(vm.id) as line:
        line.settimeout(30)
        line.sendall(b"echo back $((1 + 1))\n")
        hear(line, b"\nback 2\r")


def hear(line: socket.socket, words: bytes) -> None:
    heard = b""
    while words not in heard:
        piece = line.recv(4096)
        assert piece, heard
        heard += piece


def test_what_a_guest_prints_is_kept_although_who_has_the_terminal_does_not_read(
    kvm_host, hypervisor, tmp_path, appliance_image
):
    vm = appliance_vm(tmp_path, appliance_image)
    define(hypervisor, vm)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guest = Guest(hypervisor, kvm_host.uri, vm.id)
    guest.boot()
    with hypervisor.terminal(vm.id) as line:
        line.sendall(b"i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done\n")
        guest.wait_for("line 40000")
    missing = {f"line {number}" for number in range(1, 40001)} - set(guest.lines())
    assert len(missing) < 10  # QEMU's port gives a character up that nobody takes in time


def test_boots_from_a_volume_where_that_comes_first(
    kvm_host, tgtd, hypervisor, tmp_path, appliance_image
):
    vm = appliance_vm(tmp_path, appliance_image)
    vm = vm.model_copy(update={"disks": (vm.disks[0].model_copy(update={"position": 1}),)})
    define(hypervisor, vm)
    storage = pool(tmp_path, tgtd)
    volume = Volume(id=uuid4(), size_mib=24, installation=OURS)
    storage.ensure_volume(volume)
    with (tmp_path / "pool" / f"vol-{volume.id}.img").open("r+b") as file:
        file.write(appliance_image.read_bytes())
    connect(hypervisor, storage, volume, vm.id, position=0)
    hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    printed = Guest(hypervisor, kvm_host.uri, vm.id).boot()
    assert f"ROOT {serial(volume.id)}" in printed
    assert f"DISK /dev/vdb {64 * 2048} {serial(vm.disks[0].id)}" in printed


def pool(folder: Path, tgtd) -> DirectoryStorage:
    (folder / "pool").mkdir()
    return DirectoryStorage(
        folder / "pool", Tgt(tgtd.control, "127.0.0.1", tgtd.port), limit_mib=64
    )


def connect(
    hypervisor: KvmHypervisor, storage: DirectoryStorage, volume: Volume, vm: UUID, position: int
) -> Connection:
    initiator = hypervisor.initiator(vm)
    export = Export(id=uuid4(), volume=volume.id, initiator=initiator, installation=OURS)
    chap = Chap(user=export.account, password=SecretStr(uuid4().hex))
    target = storage.ensure_export(export, chap)
    connection = Connection(
        volume=volume.id, vm=vm, initiator=initiator, target=target, position=position
    )
    hypervisor.connect(connection, chap)
    return connection


# --- the restricted network --------------------------------------------------------------------

PORT = 8000
HOSTS_LOOPBACK, OUTSIDE = "10.0.2.2", "192.0.2.1"  # as the guest sees them


@pytest.fixture
def island(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmHost]:
    """A libvirt host in a network of its own, in which somebody listens at home and outside."""
    name = f"clt-{uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("island")
    listener = Process(folder, "listener")
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "address", "add", f"{OUTSIDE}/32", "dev", "lo")
        listener.spawn(
            *("ip", "netns", "exec", name, sys.executable, "-m", "http.server"),
            *("--bind", "0.0.0.0", "--directory", folder, str(PORT)),
        )
        with KvmHost(folder / "kvm", name) as host:
            yield host
    finally:
        listener.stop()
        run("ip", "netns", "delete", name)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def test_a_guest_reaches_neither_the_hosts_loopback_nor_the_outside(
    island, tmp_path, appliance_image
):
    hypervisor = hypervisor_on(island, tmp_path)
    restricted, open_ = (appliance_vm(tmp_path, appliance_image) for _ in range(2))
    define(hypervisor, restricted)
    define_without_restriction(hypervisor, island, open_)
    for vm in (restricted, open_):
        hypervisor.set_power(vm.id, Power.ON, timeout_s=0)
    guests = [Guest(hypervisor, island.uri, vm.id) for vm in (open_, restricted)]
    for guest in guests:
        assert f"NET eth0 {MAC} 10.0.2.15" in guest.boot()
    for address in (HOSTS_LOOPBACK, OUTSIDE):
        answers = [
            guest.tell(f"reach {address} {PORT}", f"REACH {address}:{PORT}") for guest in guests
        ]
        assert [answer.split()[-1] for answer in answers] == ["yes", "no"]


def define_without_restriction(hypervisor: KvmHypervisor, host: KvmHost, vm: Vm) -> None:
    """Define the control: a guest from which both can be reached."""
    for disk in vm.disks:
        hypervisor.ensure_disk(disk)
    log = str(Path(vm.disks[0].datastore).parent / "consoles" / f"vm-{vm.id}.log")
    xml = domain_xml(vm, "qemu", log)
    assert "restrict=on" in xml
    connection = libvirt.open(host.uri)
    try:
        connection.defineXML(xml.replace("restrict=on", "restrict=off"))
    finally:
        connection.close()
