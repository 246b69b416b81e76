"""What only libvirt hosts do: sizes of overlays, strangers, lost and silent daemons."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import libvirt
import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from pydantic import SecretStr

from adapters.errors import Conflict, Transient
from adapters.hypervisors.domain_xml import connection_xml, domain_xml, secret_id, serial
from adapters.hypervisors.kvm import KvmHypervisor
from adapters.hypervisors.libvirt_session import Session
from adapters.storage.directory import DirectoryStorage
from adapters.storage.tgt import Tgt
from adapters.types import (
    Base,
    Chap,
    Connection,
    Disk,
    Export,
    Format,
    Power,
    Settings,
    Vm,
    Volume,
)
from deployments.lab import CACHE
from deployments.lab.kvm_host import KvmHost
from deployments.lab.process import Process, wait_for
from deployments.lab.tgtd import Tgtd

pytestmark = pytest.mark.lab

OURS = uuid4()
MIB = 2**20


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmHost]:
    """A host of the test's own, to be hurt."""
    with KvmHost(tmp_path_factory.mktemp("own")) as own:
        yield own


@pytest.fixture
def libvirtd(host: KvmHost) -> Process:
    return Process(host.folder, "libvirtd")


def kvm_on(host: KvmHost, folder: Path) -> KvmHypervisor:
    return KvmHypervisor(host.uri, OURS, "qemu", str(folder / "consoles"))


def bare_vm() -> Vm:
    return Vm(id=uuid4(), name="bare", cpu=1, ram_mib=32, installation=OURS)


def start(kvm: KvmHypervisor) -> Vm:
    vm = bare_vm()
    kvm.ensure_vm(vm)
    kvm.set_power(vm.id, Power.ON, timeout_s=0)
    return vm


def guest_pid(host: KvmHost, vm: Vm) -> int:
    return int((host.folder / f"state/libvirt/qemu/vm-{vm.id}.pid").read_text())


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


# --- disks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_mib", "made_mib"), [(2, 8), (8, 8), (16, 16)])
def test_an_overlay_is_at_least_as_large_as_its_base(kvm_host, tmp_path, asked_mib, made_mib):
    kvm = kvm_on(kvm_host, tmp_path)
    disk = overlay(tmp_path, asked_mib)
    kvm.ensure_disk(disk)
    assert kvm.has_disk(disk)
    assert virtual_mib(kvm, disk) == made_mib
    assert [path.name for path in tmp_path.glob("*/*.qcow2")] == [
        f"disk-{disk.id}.{disk.installation}.qcow2"
    ]
    Path(disk.base.path).unlink()  # it must not take the base to remove an overlay
    kvm_on(kvm_host, tmp_path).delete_disk(disk)
    assert not list(tmp_path.glob("*/*.qcow2"))


def test_what_an_attempt_killed_while_measuring_left_goes_with_the_disk(kvm_host, tmp_path):
    kvm = kvm_on(kvm_host, tmp_path)
    disk = overlay(tmp_path, 8)
    left_over = Path(disk.datastore, f"size-{disk.id}.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "--", left_over, "1M"], check=True)
    kvm.delete_disk(disk)
    assert not left_over.exists()


def test_believes_the_directory_and_not_what_libvirt_remembers(kvm_host, tmp_path):
    kvm = kvm_on(kvm_host, tmp_path)
    disk = overlay(tmp_path, 8)
    kvm.ensure_disk(disk)
    aside = Path(kvm.disk_path(disk)).rename(tmp_path / "aside")
    assert not kvm.has_disk(disk)
    aside.rename(kvm.disk_path(disk))
    assert kvm.has_disk(disk)


def test_a_file_that_is_no_disk_of_ours_is_left_alone(kvm_host, tmp_path):
    kvm = kvm_on(kvm_host, tmp_path)
    disk = overlay(tmp_path, 8)
    Path(kvm.disk_path(disk)).write_bytes(b"precious")
    for method in (kvm.ensure_disk, kvm.has_disk, kvm.delete_disk):
        with pytest.raises(Conflict):
            method(disk)
    assert Path(kvm.disk_path(disk)).read_bytes() == b"precious"


def overlay(folder: Path, size_mib: int) -> Disk:
    """A disk over a base of 8 MiB."""
    image = folder / "base"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "--", image, "8M"], check=True)
    (folder / "datastore").mkdir()
    base = Base(path=str(image), format=Format.QCOW2, digest="00" * 32)
    return Disk(
        id=uuid4(), vm=uuid4(), size_mib=size_mib, datastore=str(folder / "datastore"), base=base,
        installation=OURS,
    )  # fmt: skip


def virtual_mib(kvm: KvmHypervisor, disk: Disk) -> int:
    with Path(kvm.disk_path(disk)).open("rb") as file:
        return int.from_bytes(file.read(32)[24:], "big") // MIB


def test_a_console_goes_with_its_vm_whichever_home_removes_it(kvm_host, tmp_path):
    first, second = (kvm_on(kvm_host, tmp_path / home) for home in ("first", "second"))
    vm = start(first)
    assert [log.name for log in (tmp_path / "first" / "consoles").iterdir()] == [f"vm-{vm.id}.log"]
    assert second.console(vm.id) == first.console(vm.id)
    second.set_power(vm.id, Power.OFF, timeout_s=0)
    second.delete_vm(vm.id)
    assert not list((tmp_path / "first" / "consoles").iterdir())


# --- strangers ---------------------------------------------------------------------------------


def test_a_strangers_domain_of_that_name_is_left_alone(host, tmp_path):
    kvm, vm = kvm_on(host, tmp_path), bare_vm()
    stranger = domain_xml(vm, "qemu", "/dev/null").replace(f"<uuid>{vm.id}", f"<uuid>{uuid4()}")
    connection = libvirt.open(host.uri)
    connection.defineXML(stranger)
    for method in (kvm.ensure_vm, kvm.has_vm):
        with pytest.raises(Conflict):
            method(vm)
    assert connection.numOfDefinedDomains() == 1
    connection.close()


# --- half a connection ------------------------------------------------------------------------

NEXT = libvirt.VIR_DOMAIN_AFFECT_CONFIG


def test_what_a_killed_attempt_did_by_half_is_found_and_made_whole(host, tgtd, tmp_path):
    kvm = kvm_on(host, tmp_path)
    vm = start(kvm)
    connection, chap = exported(kvm, tgtd, tmp_path, vm)
    text = connection_xml(connection, secret_id(connection.volume, vm.id), chap.user)
    session = libvirt.open(host.uri)
    domain = session.lookupByUUID(vm.id.bytes)

    domain.attachDeviceFlags(text, NEXT)  # not as it runs
    assert kvm.has_connection(connection)
    kvm.disconnect(connection)
    assert not kvm.has_connection(connection)

    domain.attachDeviceFlags(text, NEXT)
    kvm.connect(connection, chap)
    assert shown(domain, connection) == {"now": True, "next": True}

    domain.detachDeviceFlags(text, NEXT)  # only as it runs
    assert kvm.has_connection(connection)
    kvm.connect(connection, chap)
    assert shown(domain, connection) == {"now": True, "next": True}
    session.close()


def shown(domain: libvirt.virDomain, connection: Connection) -> dict[str, bool]:
    name = serial(connection.volume)
    inactive = libvirt.VIR_DOMAIN_XML_INACTIVE
    return {"now": name in domain.XMLDesc(), "next": name in domain.XMLDesc(inactive)}


def exported(kvm: KvmHypervisor, tgtd: Tgtd, folder: Path, vm: Vm) -> tuple[Connection, Chap]:
    (folder / "pool").mkdir()
    storage = DirectoryStorage(
        folder / "pool", Tgt(tgtd.control, "127.0.0.1", tgtd.port), limit_mib=64
    )
    volume = Volume(id=uuid4(), size_mib=1, installation=OURS)
    storage.ensure_volume(volume)
    initiator = kvm.initiator(vm.id)
    export = Export(id=uuid4(), volume=volume.id, initiator=initiator, installation=OURS)
    chap = Chap(user=export.account, password=SecretStr(uuid4().hex))
    target = storage.ensure_export(export, chap)
    return Connection(volume=volume.id, vm=vm.id, initiator=initiator, target=target), chap


# --- daemons -----------------------------------------------------------------------------------


def test_a_lost_daemon_is_transient_and_found_again(host, tmp_path):
    kvm = kvm_on(host, tmp_path)
    vm = start(kvm)
    host.crash()
    with pytest.raises(Transient):
        kvm.power(vm.id)
    host.start()
    assert kvm.power(vm.id) is Power.ON


def test_a_daemon_that_falls_silent_is_transient(host, libvirtd):
    session = Session(host.uri, open_s=1, silence_s=3)
    connection = session()
    libvirtd.send(signal.SIGSTOP)
    try:
        with pytest.raises(libvirt.libvirtError):
            connection.getInfo()
        with pytest.raises(Transient):
            session()
    finally:
        libvirtd.send(signal.SIGCONT)
    assert session().getInfo()


def test_each_thread_has_a_connection_and_leaves_it_to_the_next(host):
    session = Session(host.uri)

    def numbers(*, at_once: int) -> set[int]:
        together = Barrier(at_once)

        def ask(_n: int) -> int:
            together.wait(90)
            return id(session())

        with ThreadPoolExecutor(at_once) as pool:
            return set(pool.map(ask, range(at_once)))

    two = numbers(at_once=2)
    assert len(two) == 2
    assert numbers(at_once=2) == two


# --- the private host --------------------------------------------------------------------------


def test_stopping_ends_guests_and_may_be_repeated(host, tmp_path):
    pid = guest_pid(host, start(kvm_on(host, tmp_path)))
    assert runs(pid)
    for _ in range(2):
        host.stop()
        assert not runs(pid)


def test_stopping_after_a_crash_ends_guests_too(host, tmp_path):
    pid = guest_pid(host, start(kvm_on(host, tmp_path)))
    host.crash()
    assert runs(pid)
    host.stop()
    assert not runs(pid)


def test_another_process_can_stop_it_from_its_folder(host, libvirtd, tmp_path):
    pid = guest_pid(host, start(kvm_on(host, tmp_path)))
    KvmHost(host.folder).stop()
    assert not runs(pid)
    assert not libvirtd.alive()


HOLD = """
import sys, time
from pathlib import Path
from threading import Barrier
from deployments.lab.kvm_host import KvmHost
with KvmHost(Path(sys.argv[1]), cache=Path(sys.argv[2])):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("starting", [True, False], ids=["starting", "running"])
def test_an_interrupted_owner_leaves_nothing(tmp_path_factory, starting):
    folder = tmp_path_factory.mktemp("own")
    libvirtd = Process(folder, "libvirtd")
    cache = folder / "cache-of-nothing" if starting else CACHE  # then it takes 8 s
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, cache],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as owner:  # fmt: skip
        if starting:
            wait_for(libvirtd.alive, 20, "start")
        else:
            assert owner.stdout.read(2) == b"up"
        owner.send_signal(signal.SIGINT)
        assert owner.wait(30) != 0
    assert not libvirtd.alive()


def test_touches_nothing_of_the_systems(host):
    mounts = Path("/proc/mounts").read_text()
    assert str(host.folder) not in mounts
    assert str(host.folder) not in Path("/etc/libvirt/libvirtd.conf").read_text()
    connection = libvirt.open(host.uri)
    assert connection.numOfNetworks() == connection.numOfDefinedNetworks() == 0  # no virbr0
    connection.close()


def test_a_record_of_another_process_is_never_signalled(tmp_path):
    mine = Process(tmp_path, "mine")
    mine.spawn("sleep", "60")
    try:
        pid, _, rest = mine.record.read_text().partition(" ")
        fields = rest.split()
        fields[20] = str(int(fields[20]) + 1)  # as if the pid had been used again
        stale = Process(tmp_path, "stale")
        stale.record.write_text(" ".join([pid, *fields]))
        assert not stale.alive()
        stale.stop()
        assert mine.alive()
    finally:
        mine.stop()
    assert not mine.alive()


# --- screens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("password", "opens"), [("s3sam0pn", True), ("another", False)])
def test_a_screen_opens_for_its_password_alone(kvm_host, tmp_path, password, opens):
    kvm = kvm_on(kvm_host, tmp_path)
    vm = bare_vm().model_copy(update={"settings": Settings(screen=uuid4())})
    kvm.ensure_vm(vm, SecretStr("s3sam0pn"))
    try:
        kvm.set_power(vm.id, Power.ON, timeout_s=0)
        with kvm.display(vm.id).line as line:
            line.settimeout(90)
            line.sendall(line.recv(12))
            assert line.recv(2) == b"\x01\x02"  # one kind of security: a password
            line.sendall(b"\x02")
            line.sendall(answer(line.recv(16), password))
            assert (line.recv(4) == bytes(4)) is opens
    finally:
        kvm.set_power(vm.id, Power.OFF, timeout_s=0)
        kvm.delete_vm(vm.id)


def answer(challenge: bytes, password: str) -> bytes:
    """A viewer's answer: the challenge by DES, of which VNC reads keys backwards, bit by bit."""
    key = bytes(int(f"{each:08b}"[::-1], 2) for each in password.encode().ljust(8, b"\0"))
    cipher = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return cipher.update(challenge) + cipher.finalize()
