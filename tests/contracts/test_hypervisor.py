"""The hypervisor laws, run over every adapter that claims the port.

What an adapter cannot do it says (`capabilities`), and what is asked of it nonetheless it refuses.
"""

import hashlib
import io
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import libvirt
import pytest
from pycdlib import PyCdlib
from pydantic import SecretStr

from adapters.errors import (
    Conflict,
    InUse,
    NotFound,
    OutOfSpace,
    Refused,
    Transient,
    Unsupported,
)
from adapters.guests import Boot, Bus, Firmware, NicKind
from adapters.hypervisors.base import Capability, DisplayKind, Hypervisor
from adapters.hypervisors.kvm import KvmHypervisor
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.hypervisors.vsphere import VsphereHypervisor
from adapters.images.nocloud import seed_image
from adapters.lan import card_of
from adapters.nodes.vsphere import VsphereNode
from adapters.storage.base import BlockStorage
from adapters.storage.directory import DirectoryStorage
from adapters.storage.memory import MemoryStorage
from adapters.storage.tgt import Tgt
from adapters.types import (
    MOST_DISKS,
    Base,
    Chap,
    Connection,
    Disk,
    Export,
    Format,
    HostFacts,
    Nic,
    Power,
    Seed,
    Settings,
    Target,
    Vm,
    Volume,
)
from adapters.vsphere.port_groups import PortGroups
from adapters.vsphere.session import Session
from adapters.world import World
from deployments.lab import appliance
from deployments.lab.kvm_host import KvmHost
from deployments.lab.process import wait_for
from deployments.lab.tgtd import Tgtd
from deployments.lab.vcsim import Vcsim
from tests.guest import Guest

OURS, OTHERS = uuid4(), uuid4()
DIGEST = "ab" * 32
RELEASE_S = 6.0
PATTERN = bytes(range(256)) * 4096
TARGET = Target(host="127.0.0.1", port=1, iqn="iqn.2026-11.test:nowhere")


class Counterpart(Protocol):
    """A host as two installations see it, and what it is asked from outside."""

    ours: Hypervisor
    others: Hypervisor
    datastore: str
    directory: Path  # what that is, seen from here

    def base(self, folder: Path) -> Base:
        """An image of 1 MiB that its disks can lie over."""

    def connection(self, vm: Vm, position: int = 1) -> tuple[Connection, Chap]:
        """A volume that a VM that is off can be given."""

    def storage(self) -> BlockStorage:
        """A storage pool that the host can reach."""

    def guest(self) -> Vm:
        """A VM that is on, and in which an operating system runs."""

    def nic(self) -> Nic:
        """A card that is plugged into a network of the host."""

    def is_plugged(self, vm: UUID, nic: Nic) -> bool:
        """Whether that VM, which is on, has its card there."""

    def deafen(self, vm: UUID) -> None:
        """See to it that the guest, of which no system runs, hears nothing."""

    def photograph(self) -> object:
        """All that is on the host."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        host, facts = uuid4(), HostFacts(cpu=8, ram_mib=8192, version="memory 1")
        self.ours = MemoryHypervisor(self.world, host, OURS, facts)
        self.others = MemoryHypervisor(self.world, host, OTHERS, facts)
        self.directory = folder / "datastore"
        self.datastore = str(self.directory)
        self.world.put("datastore", f"{self.datastore}/missing", {"total_mib": 0})

    def base(self, folder: Path) -> Base:
        return qcow2(folder)

    def connection(self, vm: Vm, position: int = 1) -> tuple[Connection, Chap]:
        return connection_to(vm, position)

    def storage(self) -> BlockStorage:
        return MemoryStorage(self.world, uuid4(), 64)

    def guest(self) -> Vm:
        vm = bare_vm()
        self.ours.ensure_vm(vm)
        self.ours.set_power(vm.id, Power.ON, timeout_s=0)
        return vm

    def nic(self) -> Nic:
        return Nic(id=uuid4(), mac="52:54:00:00:00:01", kind=NicKind.BRIDGE, bridge="br-test")

    def is_plugged(self, vm: UUID, nic: Nic) -> bool:
        return nic.mac in self.world.find("vm", vm)["macs"]

    def deafen(self, vm: UUID) -> None:
        self.ours.guest_keeps(vm)

    def photograph(self) -> object:
        return self.world.everything()


class Kvm:
    def __init__(self, folder: Path, uri: str, netns: str | None = None) -> None:
        self.folder = folder
        self.netns = netns
        self.uri = uri
        self.tgtd = Tgtd(folder / "tgtd")
        self.host = libvirt.open(uri)
        consoles = str(folder / "consoles")
        self.ours = KvmHypervisor(uri, OURS, "qemu", consoles, release_s=RELEASE_S)
        self.others = KvmHypervisor(uri, OTHERS, "qemu", str(folder / "consoles"))
        (folder / "datastore").mkdir()
        self.directory = folder / "datastore"
        self.datastore = str(self.directory)

    def base(self, folder: Path) -> Base:
        return qcow2(folder)

    def connection(self, vm: Vm, position: int = 1) -> tuple[Connection, Chap]:
        return connection_to(vm, position)

    def storage(self) -> BlockStorage:
        port, control = self.tgtd.start()
        (self.folder / "pool").mkdir()
        return DirectoryStorage(
            self.folder / "pool", Tgt(control, "127.0.0.1", port), limit_mib=64
        )

    def guest(self) -> Vm:
        vm = uuid4()
        base = Base(path=str(appliance.build()), format=Format.RAW, digest=DIGEST)
        disk = Disk(
            id=uuid4(), vm=vm, size_mib=64, datastore=self.datastore, base=base, installation=OURS
        )
        self.ours.ensure_disk(disk)
        running = Vm(id=vm, name="a", cpu=1, ram_mib=96, disks=(disk,), installation=OURS)
        self.ours.ensure_vm(running)
        self.ours.set_power(vm, Power.ON, timeout_s=0)
        Guest(self.ours, self.uri, vm).boot()
        return running

    def nic(self) -> Nic:
        return Nic(id=uuid4(), mac="52:54:00:00:00:01", kind=NicKind.BRIDGE, bridge="br-test")

    def is_plugged(self, vm: UUID, nic: Nic) -> bool:
        assert self.netns is not None
        command = ["ip", "-n", self.netns, "-o", "link", "show", "master", nic.bridge]
        cards = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return card_of(nic.id) in cards and nic.mac in self.host.lookupByUUID(vm.bytes).XMLDesc()

    def deafen(self, vm: UUID) -> None:
        """Its firmware never released a disk."""

    def photograph(self) -> object:
        files = {path.name: path.stat().st_size for path in Path(self.datastore).iterdir()}
        domains = {each.XMLDesc() for each in self.host.listAllDomains()}
        return files, domains, {each.XMLDesc() for each in self.host.listAllSecrets()}

    def clean_up(self) -> None:
        for installation in (self.ours, self.others):
            for vm in installation.vms():
                installation.set_power(vm, Power.OFF, timeout_s=0)
                installation.delete_vm(vm)
        self.host.close()
        self.tgtd.stop()  # after the guests: those that lose a disk end slowly


class Vsphere:
    """Runs nothing: what happens in a guest is not asked of it."""

    def __init__(self, folder: Path, vcsim: Vcsim) -> None:
        self.folder = folder
        self.files = vcsim.files()
        self.tgtd = Tgtd(folder / "tgtd")
        login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
        self.session = session = Session(vcsim.address, lambda: login)
        self.ours = VsphereHypervisor(session, OURS)
        self.others = VsphereHypervisor(Session(vcsim.address, lambda: login), OTHERS)
        self.node = VsphereNode(session)
        name = str(uuid4())
        self.directory = self.files / name
        self.directory.mkdir(mode=0o700)
        self.datastore = f"[LocalDS_0] {name}"
        self.pool: BlockStorage | None = None

    def base(self, folder: Path) -> Base:
        raw, image = folder / "base.raw", folder / "base.vmdk"
        raw.write_bytes(PATTERN)
        options = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        subprocess.run(["qemu-img", "convert", *options, "--", raw, image], check=True)
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        copy = Base.copied_to(self.datastore, digest, Format.VMDK, OURS)
        self.node.ensure_copy(str(image), copy)
        return copy

    def connection(self, vm: Vm, position: int = 1) -> tuple[Connection, Chap]:
        self.pool = self.pool or self.storage()
        return exported(self.pool, self.ours, vm, position)

    def storage(self) -> BlockStorage:
        port, control = self.tgtd.start()
        (self.folder / "pool").mkdir()
        return DirectoryStorage(
            self.folder / "pool", Tgt(control, "127.0.0.1", port), limit_mib=64
        )

    def guest(self) -> Vm:
        raise NotImplementedError

    def nic(self) -> Nic:
        with self.session.speaking():
            PortGroups(self.session).ensure("test", "vSwitch0", 42)
        return Nic(id=uuid4(), mac="52:54:00:00:00:01", kind=NicKind.PORT_GROUP, bridge="test")

    def is_plugged(self, vm: UUID, nic: Nic) -> bool:
        with self.session.speaking():
            found = next(each for each in self.session.host.vm if each.name == f"vm-{vm}")
            cards = {
                device.macAddress: (device.backing.deviceName, device.connectable.connected)
                for device in found.config.hardware.device
                if hasattr(device, "macAddress")
            }
        return cards.get(nic.mac) == (nic.bridge, True)

    def deafen(self, vm: UUID) -> None:
        """No guest is asked."""

    def photograph(self) -> object:
        paths = (path for path in self.files.rglob("*") if path.suffix != ".log")
        files = {path: path.stat().st_size for path in paths if path.is_file()}
        with self.ours._session.speaking():
            host = self.ours._session.host
            vms = {
                vm.name: (
                    vm.runtime.powerState,
                    {each.key: each.value for each in vm.config.extraConfig},
                    [str(each.backing) for each in vm.config.hardware.device],
                )
                for vm in host.vm
            }
            adapters = host.configManager.storageSystem.storageDeviceInfo.hostBusAdapter
            targets = [str(x.configuredStaticTarget) for x in adapters if hasattr(x, "iScsiName")]
            return files, vms, [each for each in targets if "iqn" in each]

    def clean_up(self) -> None:
        for installation in (self.ours, self.others):
            for vm in installation.vms():
                installation.set_power(vm, Power.OFF, timeout_s=0)
                installation.delete_vm(vm)
        self.tgtd.stop()


BOOTING = ["memory", pytest.param("kvm", marks=pytest.mark.lab)]


@pytest.fixture(
    params=[
        *BOOTING,
        pytest.param("vcenter", marks=pytest.mark.lab),
        pytest.param("esxi", marks=pytest.mark.lab),
    ]
)
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counterpart]:
    if request.param == "memory":
        yield Memory(tmp_path)
        return
    real: Kvm | Vsphere
    if request.param in {"kvm", "switched"}:
        name = "kvm_host" if request.param == "kvm" else "switched_host"
        host: KvmHost = request.getfixturevalue(name)
        real = Kvm(tmp_path, host.uri, host.netns)
    else:
        real = Vsphere(tmp_path, request.getfixturevalue(request.param))
    try:
        yield real
    finally:
        real.clean_up()


booting = pytest.mark.parametrize("counterpart", BOOTING, indirect=True)
"""For what needs a guest in which something runs."""

plugged = pytest.mark.parametrize(
    "counterpart",
    [
        "memory",
        pytest.param("switched", marks=pytest.mark.lab),
        pytest.param("vcenter", marks=pytest.mark.lab),
        pytest.param("esxi", marks=pytest.mark.lab),
    ],
    indirect=True,
)
"""For what needs a host with a network to be plugged into: KVM in a namespace of its own."""


@pytest.fixture
def ours(counterpart: Counterpart) -> Hypervisor:
    return counterpart.ours


@pytest.fixture
def base(counterpart: Counterpart, tmp_path: Path) -> Base:
    return counterpart.base(tmp_path)


def qcow2(folder: Path) -> Base:
    image = folder / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "--", image, "1M"], check=True)
    return Base(path=str(image), format=Format.QCOW2, digest=DIGEST)


@pytest.fixture
def disk(counterpart: Counterpart, base: Base) -> Disk:
    return Disk(
        id=uuid4(), vm=uuid4(), size_mib=4, datastore=counterpart.datastore, base=base,
        installation=OURS,
    )  # fmt: skip


@pytest.fixture
def vm(disk: Disk) -> Vm:
    """Not defined yet, nor its disk made."""
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01")
    return Vm(
        id=disk.vm, name="one", cpu=1, ram_mib=32, disks=(disk,), nics=(nic,), installation=OURS
    )


@pytest.fixture
def defined(ours: Hypervisor, vm: Vm) -> Vm:
    ours.ensure_disk(vm.disks[0])
    ours.ensure_vm(vm)
    return vm


@pytest.fixture
def running(ours: Hypervisor, defined: Vm) -> Vm:
    ours.set_power(defined.id, Power.ON, timeout_s=0)
    return defined


def bare_vm(installation: UUID = OURS) -> Vm:
    return Vm(id=uuid4(), name="bare", cpu=1, ram_mib=32, installation=installation)


def connection_to(vm: Vm, position: int = 1) -> tuple[Connection, Chap]:
    initiator = f"iqn.2026-11.test:{vm.id}"
    connection = Connection(
        volume=uuid4(), vm=vm.id, initiator=initiator, target=TARGET, position=position
    )
    return connection, Chap(user="user", password=SecretStr("correct horse"))


def changed(value, **fields):
    return value.model_copy(update=fields)


# --- the host ----------------------------------------------------------------------------------


def test_describes_itself(ours):
    facts = ours.describe()
    assert facts.cpu > 0
    assert facts.ram_mib > 0
    assert facts.version


def test_a_datastore_has_room(counterpart, ours):
    capacity = ours.datastore(counterpart.datastore)
    assert 0 < capacity.free_mib <= capacity.total_mib


def test_a_missing_datastore_is_not_found_and_has_no_disks(counterpart, ours, disk):
    elsewhere = changed(disk, datastore=f"{counterpart.datastore}/missing")
    with pytest.raises(NotFound):
        ours.datastore(elsewhere.datastore)
    with pytest.raises(NotFound):
        ours.ensure_disk(elsewhere)
    assert not ours.has_disk(elsewhere)
    ours.delete_disk(elsewhere)


def test_each_vm_or_its_host_is_an_initiator_and_always_the_same(ours):
    one, two = uuid4(), uuid4()
    assert ours.initiator(one) == ours.initiator(one)
    its_own = ours.initiator(one) != ours.initiator(two)
    assert its_own == (Capability.ISCSI_PER_VM in ours.capabilities)
    Export(id=uuid4(), volume=uuid4(), initiator=ours.initiator(one), installation=OURS)


# --- disks -------------------------------------------------------------------------------------


def test_a_disk_is_there_once_made_and_not_before(ours, disk):
    assert not ours.has_disk(disk)
    ours.ensure_disk(disk)
    assert ours.has_disk(disk)
    assert ours.disk_path(disk).startswith(disk.datastore)


def test_a_disk_may_be_as_large_as_its_base(ours, disk):
    equal = changed(disk, size_mib=1)
    ours.ensure_disk(equal)
    ours.ensure_disk(equal)
    assert ours.has_disk(equal)
    ours.delete_disk(equal)
    assert not ours.has_disk(equal)


def test_a_disk_may_be_empty(ours, disk):
    empty = changed(disk, base=None)
    ours.ensure_disk(empty)
    assert ours.has_disk(empty)


def test_making_a_disk_again_changes_nothing(counterpart, ours, disk):
    ours.ensure_disk(disk)
    before = counterpart.photograph()
    ours.ensure_disk(disk)
    assert counterpart.photograph() == before


@pytest.mark.parametrize("fields", [{"size_mib": 8}, {"size_mib": 3}, {"base": None}])
def test_another_disk_of_that_name_is_left_alone(counterpart, ours, disk, fields):
    ours.ensure_disk(disk)
    before = counterpart.photograph()
    for method in (ours.ensure_disk, ours.has_disk, ours.delete_disk):
        with pytest.raises(Conflict):
            method(changed(disk, **fields))
    assert counterpart.photograph() == before


def test_a_disk_over_another_base_is_left_alone(counterpart, ours, disk, base):
    ours.ensure_disk(disk)
    other = changed(base, path=f"{base.path}.other")
    with pytest.raises(Conflict):
        ours.ensure_disk(changed(disk, base=other))


def test_a_disk_without_its_base_is_not_made(counterpart, ours, disk, base):
    before = counterpart.photograph()
    with pytest.raises(NotFound):
        ours.ensure_disk(changed(disk, base=changed(base, path=f"{base.path}.missing")))
    assert counterpart.photograph() == before


def test_a_disk_larger_than_the_datastore_is_not_made(counterpart, ours, disk):
    before = counterpart.photograph()
    with pytest.raises(OutOfSpace):
        ours.ensure_disk(changed(disk, size_mib=2**30))
    assert counterpart.photograph() == before


def test_a_deleted_disk_is_gone_and_may_be_deleted_again(counterpart, ours, disk):
    before = counterpart.photograph()
    ours.ensure_disk(disk)
    ours.delete_disk(disk)
    ours.delete_disk(disk)
    assert not ours.has_disk(disk)
    assert counterpart.photograph() == before


def test_a_disk_in_use_is_not_deleted(ours, running):
    with pytest.raises(InUse) as refusal:
        ours.delete_disk(running.disks[0])
    assert refusal.value.users == (str(running.id),)
    assert ours.has_disk(running.disks[0])


def test_a_disk_is_sent_as_a_guest_would_see_it(counterpart, ours, disk, tmp_path):
    told, target = [], tmp_path / "sent"
    ours.ensure_disk(disk)
    before = counterpart.photograph()
    if Capability.DISK_STREAM not in ours.capabilities:
        with pytest.raises(Unsupported):
            ours.send_disk(disk, target, told.append)
        return
    ours.send_disk(disk, target, told.append)
    assert counterpart.photograph() == before
    assert not ours.is_sending(disk)
    assert told == sorted(told)
    assert max(told) <= 100
    size, content = content_of(target)
    assert size == 4 * 2**20
    assert content in {"", PATTERN + bytes(3 * 2**20)}  # the twin's disks have bytes elsewhere
    with pytest.raises(NotFound):
        ours.send_disk(changed(disk, id=uuid4()), tmp_path / "none", told.append)


def content_of(image: Path) -> tuple[int, bytes | str]:
    """A stream's size and what it holds, be it real or the twin's."""
    if image.read_bytes()[:4] != b"KDMV":
        pretended = json.loads(image.read_text())
        return pretended["virtual_size_bytes"], pretended["content"]
    raw = image.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", "--", image, raw]
    subprocess.run(command, check=True)
    return raw.stat().st_size, raw.read_bytes()


def test_a_disk_is_sent_of_a_vm_that_is_off_and_of_no_other(counterpart, ours, defined, tmp_path):
    if Capability.DISK_STREAM not in ours.capabilities:
        return
    (disk,) = defined.disks
    ours.send_disk(disk, tmp_path / "off", lambda _percent: None)
    ours.set_power(defined.id, Power.ON, timeout_s=0)
    with pytest.raises(InUse) as refusal:
        ours.send_disk(disk, tmp_path / "on", lambda _percent: None)
    assert refusal.value.users == (str(defined.id),)


def test_sending_that_is_broken_off_leaves_the_disk_alone(counterpart, ours, disk, tmp_path):
    def refuse(_percent: float) -> None:
        raise Refused("it was called off")

    if Capability.DISK_STREAM not in ours.capabilities:
        return
    ours.ensure_disk(disk)
    before = counterpart.photograph()
    with pytest.raises(Refused):
        ours.send_disk(disk, tmp_path / "one", refuse)
    ours.stop_sending(disk)
    ours.stop_sending(disk)
    assert not ours.is_sending(disk)
    assert counterpart.photograph() == before
    ours.send_disk(disk, tmp_path / "two", lambda _percent: None)


# --- seeds -------------------------------------------------------------------------------------


@pytest.fixture
def seed(counterpart: Counterpart) -> Seed:
    """Not made yet."""
    return Seed(
        id=uuid4(),
        hostname="one",
        secret=uuid4(),
        datastore=counterpart.datastore,
        installation=OURS,
    )


@pytest.fixture
def seeded(ours: Hypervisor, seed: Seed, counterpart: Counterpart) -> Vm:
    """Defined with a seed."""
    counterpart.directory.mkdir(exist_ok=True)
    ours.ensure_seed(seed, seed_image(seed.id, seed.hostname, USER_DATA))
    vm = changed(bare_vm(), id=seed.id, seed=seed)
    ours.ensure_vm(vm)
    return vm


USER_DATA = "#cloud-config\npassword: s3cret-\N{SNOWMAN}\n"


def test_a_seed_holds_what_it_was_given_and_its_owner_alone_reads_it(counterpart, seed, seeded):
    (file,) = counterpart.directory.glob("seed-*.iso")
    assert not file.stat().st_mode & file.parent.stat().st_mode & 0o077
    image = PyCdlib()
    image.open(str(file))
    read = {}
    for name in ("user-data", "meta-data"):
        for way in ("rr_path", "joliet_path"):
            told = io.BytesIO()
            image.get_file_from_iso_fp(told, **{way: f"/{name}"})
            read[name, way] = told.getvalue().decode()
    image.close()
    assert read["user-data", "rr_path"] == read["user-data", "joliet_path"] == USER_DATA
    assert read["meta-data", "rr_path"] == read["meta-data", "joliet_path"]
    told = json.loads(read["meta-data", "rr_path"])
    assert told == {"instance-id": str(seed.id), "local-hostname": "one"}
    label = subprocess.run(
        ["blkid", "-p", "-s", "LABEL", "-o", "value", file], capture_output=True, check=True
    )
    assert label.stdout == b"CIDATA\n"


def test_a_seed_is_there_once_made_and_not_before(ours, seed):
    assert not ours.has_seed(seed)
    ours.ensure_seed(seed, b"first" * 999)
    assert ours.has_seed(seed)
    assert ours.seeds(seed.datastore) == {seed.id: False}
    ours.delete_seed(seed)
    assert not ours.has_seed(seed)
    ours.delete_seed(seed)


def test_a_seed_is_written_whole_each_time(ours, seed, counterpart):
    counterpart.directory.mkdir(exist_ok=True)
    ours.ensure_seed(seed, b"half")
    before = counterpart.photograph()
    ours.ensure_seed(seed, b"text")
    assert counterpart.photograph() == before
    ours.ensure_seed(seed, b"longer" * 99)
    (file,) = counterpart.directory.glob("seed-*.iso")
    assert file.read_bytes() == b"longer" * 99


def test_a_seed_needs_its_datastore(ours, seed):
    elsewhere = changed(seed, datastore=f"{seed.datastore}/missing")
    with pytest.raises(NotFound):
        ours.ensure_seed(elsewhere, b"text")
    assert not ours.has_seed(elsewhere)
    ours.delete_seed(elsewhere)
    with pytest.raises(NotFound):
        ours.seeds(elsewhere.datastore)


def test_a_vm_is_not_defined_without_its_seed_or_with_another(ours, seed, seeded):
    ours.ensure_vm(seeded)
    with pytest.raises(Conflict):
        ours.has_vm(changed(seeded, seed=None))
    other = changed(seeded, id=uuid4(), seed=changed(seed, id=uuid4()))
    with pytest.raises(NotFound):
        ours.ensure_vm(other)


def test_a_seed_stays_while_its_vm_runs_with_it(ours, seed, seeded):
    assert ours.seeds(seed.datastore) == {seed.id: True}
    with pytest.raises(InUse):
        ours.discard_seed(seed.datastore, seed.id)
    ours.set_power(seeded.id, Power.ON, timeout_s=0)
    with pytest.raises(InUse):
        ours.delete_seed(seed)
    ours.set_power(seeded.id, Power.OFF, timeout_s=0)
    ours.delete_vm(seeded.id)
    ours.discard_seed(seed.datastore, seed.id)
    ours.discard_seed(seed.datastore, seed.id)
    assert ours.seeds(seed.datastore) == {}


def test_another_installations_seeds_are_not_ours(counterpart, ours, seed):
    theirs = changed(seed, installation=OTHERS)
    counterpart.others.ensure_seed(theirs, b"theirs")
    assert ours.seeds(seed.datastore) == {}
    ours.discard_seed(seed.datastore, seed.id)
    assert counterpart.others.has_seed(theirs)


def test_what_a_vm_has_no_seed_for_counts_as_before():
    """Definitions that older versions have made are still themselves."""
    without = bare_vm()
    assert '"seed":null' in without.model_dump_json()
    assert without.digest == changed(without, seed=None).digest
    told = json.loads(without.model_dump_json())
    for word in ("seed", "settings"):
        del told[word]
    text = json.dumps(told, separators=(",", ":"))
    assert without.digest == hashlib.sha256(text.encode()).hexdigest()


# --- VMs ---------------------------------------------------------------------------------------


def test_a_vm_is_there_once_defined_and_off(ours, vm):
    assert not ours.has_vm(vm)
    assert ours.power(vm.id) is None
    ours.ensure_disk(vm.disks[0])
    ours.ensure_vm(vm)
    assert ours.has_vm(vm)
    assert ours.power(vm.id) is Power.OFF
    assert ours.console(vm.id) == b""


def test_defining_a_vm_again_changes_nothing_not_even_its_connections(counterpart, ours, defined):
    connection, chap = counterpart.connection(defined)
    ours.connect(connection, chap)
    before = counterpart.photograph()
    ours.ensure_vm(defined)
    assert counterpart.photograph() == before
    assert ours.has_connection(connection)


def test_another_vm_of_that_id_is_left_alone(counterpart, ours, defined):
    before = counterpart.photograph()
    for method in (ours.ensure_vm, ours.has_vm):
        with pytest.raises(Conflict):
            method(changed(defined, ram_mib=64))
    assert counterpart.photograph() == before


def test_another_installations_vm_is_left_alone(counterpart):
    theirs = bare_vm(OTHERS)
    counterpart.others.ensure_vm(theirs)
    before = counterpart.photograph()
    connection, chap = connection_to(theirs)
    for effect in (
        lambda: counterpart.ours.ensure_vm(changed(theirs, installation=OURS)),
        lambda: counterpart.ours.has_vm(changed(theirs, installation=OURS)),
        lambda: counterpart.ours.delete_vm(theirs.id),
        lambda: counterpart.ours.power(theirs.id),
        lambda: counterpart.ours.set_power(theirs.id, Power.ON, timeout_s=0),
        lambda: counterpart.ours.reset(theirs.id),
        lambda: counterpart.ours.terminal(theirs.id),
        lambda: counterpart.ours.display(theirs.id),
        lambda: counterpart.ours.connect(connection, chap),
        lambda: counterpart.ours.has_connection(connection),
    ):
        with pytest.raises(Conflict):
            effect()
    assert counterpart.photograph() == before


def test_lists_the_vms_of_its_installation_only(counterpart):
    mine, theirs = bare_vm(), bare_vm(OTHERS)
    counterpart.ours.ensure_vm(mine)
    counterpart.others.ensure_vm(theirs)
    counterpart.ours.set_power(mine.id, Power.ON, timeout_s=0)
    assert counterpart.ours.vms() == {mine.id: Power.ON}
    assert counterpart.others.vms() == {theirs.id: Power.OFF}


def test_tells_what_has_changed_since(counterpart, ours, defined):
    counterpart.others.ensure_vm(bare_vm(OTHERS))
    with closing(ours.changes(20)) as changes:
        assert next(changes) == {defined.id: Power.OFF}
        for power in (Power.ON, Power.PAUSED, Power.ON, Power.OFF):
            ours.set_power(defined.id, power, timeout_s=0)
            assert soon(changes) == {defined.id: power}
        ours.delete_vm(defined.id)
        assert soon(changes) == {defined.id: None}
        another = bare_vm()
        ours.ensure_vm(another)
        assert soon(changes) == {another.id: Power.OFF}


def soon(changes):
    """The next news; an answer may say that there is none."""
    return next(filter(None, changes))


def test_tells_now_and_then_that_nothing_has_changed(ours, defined):
    with closing(ours.changes(1)) as changes:
        assert next(changes) == {defined.id: Power.OFF}
        assert next(changes) == {}


def test_lists_the_disks_of_its_installation_and_removes_one_that_no_vm_has(counterpart, vm):
    ours, (disk,) = counterpart.ours, vm.disks
    theirs = changed(disk, id=uuid4(), installation=OTHERS)
    counterpart.others.ensure_disk(theirs)
    ours.ensure_disk(disk)
    assert ours.disks(disk.datastore) == {disk.id: False}
    assert counterpart.others.disks(disk.datastore) == {theirs.id: False}
    ours.ensure_vm(vm)
    assert ours.disks(disk.datastore) == {disk.id: True}
    with pytest.raises(InUse):
        ours.discard_disk(disk.datastore, disk.id)
    ours.delete_vm(vm.id)
    ours.discard_disk(disk.datastore, theirs.id)
    ours.discard_disk(disk.datastore, disk.id)
    ours.discard_disk(disk.datastore, disk.id)
    assert not ours.has_disk(disk)
    assert (ours.disks(disk.datastore), counterpart.others.has_disk(theirs)) == ({}, True)
    counterpart.others.delete_disk(theirs)


def test_a_vm_without_its_disk_is_not_defined(ours, vm):
    with pytest.raises(NotFound):
        ours.ensure_vm(vm)
    assert not ours.has_vm(vm)


def test_a_deleted_vm_is_gone_with_its_connections_but_not_its_disks(counterpart, ours, vm):
    ours.ensure_disk(vm.disks[0])
    before = counterpart.photograph()
    ours.ensure_vm(vm)
    connection, chap = counterpart.connection(vm)
    ours.connect(connection, chap)
    ours.delete_vm(vm.id)
    ours.delete_vm(vm.id)
    assert counterpart.photograph() == before
    assert ours.has_disk(vm.disks[0])
    ours.ensure_vm(vm)
    assert not ours.has_connection(connection)


def test_a_vm_that_is_on_is_not_deleted(ours, running):
    with pytest.raises(InUse):
        ours.delete_vm(running.id)
    assert ours.has_vm(running)


# --- power -------------------------------------------------------------------------------------


def test_is_switched_on_paused_resumed_and_off(ours, defined):
    for power in (Power.ON, Power.PAUSED, Power.ON, Power.PAUSED, Power.OFF):
        for _ in range(2):
            ours.set_power(defined.id, power, timeout_s=0)
            assert ours.power(defined.id) is power


def test_a_deaf_guest_is_forced_off_after_the_timeout(ours, running):
    ours.set_power(running.id, Power.OFF, timeout_s=0.2)
    assert ours.power(running.id) is Power.OFF


def test_what_is_off_is_not_paused(ours, defined):
    with pytest.raises(Refused):
        ours.set_power(defined.id, Power.PAUSED, timeout_s=0)
    assert ours.power(defined.id) is Power.OFF


def test_is_reset_while_it_is_on_and_only_then(counterpart, ours, defined):
    with pytest.raises(Refused):
        ours.reset(defined.id)
    ours.set_power(defined.id, Power.ON, timeout_s=0)
    for _ in range(2):
        ours.reset(defined.id)
        assert ours.power(defined.id) is Power.ON
    ours.set_power(defined.id, Power.PAUSED, timeout_s=0)
    with pytest.raises(Refused):
        ours.reset(defined.id)
    assert ours.power(defined.id) is Power.PAUSED
    with pytest.raises(NotFound):
        ours.reset(uuid4())


@booting
def test_a_reset_guest_starts_anew(counterpart, ours):
    vm = counterpart.guest()
    ours.reset(vm.id)
    wait_for(lambda: ours.console(vm.id).count(b"APPLIANCE-UP") == 2, 90, "second start")


def test_a_vm_that_is_on_is_given_more_and_keeps_it(ours, running):
    if not {Capability.HOT_CPU, Capability.HOT_RAM} & ours.capabilities:
        with pytest.raises(Unsupported):
            ours.set_size(running, running.model_copy(update={"cpu": 2}))
        assert ours.has_vm(running)
        return
    cpu = 2 if Capability.HOT_CPU in ours.capabilities else 1
    ram_mib = 64 if Capability.HOT_RAM in ours.capabilities else 32
    more = running.model_copy(update={"cpu": cpu, "ram_mib": ram_mib})
    for _ in range(2):
        ours.set_size(running, more)
        assert ours.has_vm(more)
    with pytest.raises(Conflict):
        ours.has_vm(running)
    assert ours.power(running.id) is Power.ON
    other = running.model_copy(update={"name": "other", "cpu": cpu})
    with pytest.raises(Conflict):
        ours.set_size(other, other.model_copy(update={"cpu": 1}))
    ours.set_power(running.id, Power.OFF, timeout_s=0)
    assert ours.has_vm(more)


def test_a_vm_that_went_off_has_its_size_at_its_next_start(ours, defined):
    if Capability.HOT_CPU in ours.capabilities:
        more = defined.model_copy(update={"cpu": 2})
        ours.set_size(defined, more)
        ours.set_power(defined.id, Power.ON, timeout_s=0)
        assert ours.has_vm(more)


def test_a_vm_starts_with_as_many_disks_as_it_may_have_and_as_many_nics(ours, disk):
    disks = [
        changed(disk, id=uuid4(), position=n, base=disk.base if n == 0 else None)
        for n in range(MOST_DISKS)
    ]
    for each in disks:
        ours.ensure_disk(each)
    nics = [Nic(id=uuid4(), mac=f"52:54:00:00:00:{n:02x}") for n in range(8)]
    vm = Vm(id=disk.vm, name="m", cpu=1, ram_mib=32, disks=disks, nics=nics, installation=OURS)
    ours.ensure_vm(vm)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.power(vm.id) is Power.ON


@pytest.mark.parametrize("model", ["e1000", "e1000e", "pcnet32"])
def test_a_vm_starts_with_the_cards_that_its_guest_expects(ours, model):
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01", model=model)
    vm = changed(bare_vm(), nics=(nic,))
    ours.ensure_vm(vm)
    assert ours.has_vm(vm)
    with pytest.raises(Conflict):
        ours.has_vm(changed(vm, nics=(changed(nic, model=""),)))
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.power(vm.id) is Power.ON


@plugged
def test_a_card_is_plugged_into_its_network(ours, counterpart):
    nic = counterpart.nic()
    vm = changed(bare_vm(), nics=(nic, Nic(id=uuid4(), mac="52:54:00:00:00:02")))
    ours.ensure_vm(vm)
    assert ours.has_vm(vm)
    with pytest.raises(Conflict):
        ours.has_vm(changed(vm, nics=(changed(nic, bridge="another"), vm.nics[1])))
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.power(vm.id) is Power.ON
    assert counterpart.is_plugged(vm.id, nic)


@plugged
def test_a_running_vm_is_given_a_card_and_has_it_at_its_next_start(ours, counterpart):
    nic = counterpart.nic()
    former = changed(bare_vm(), nics=(changed(nic, id=uuid4(), mac="52:54:00:00:00:02"),))
    vm = changed(former, nics=(*former.nics, nic))
    ours.ensure_vm(former)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert not ours.has_nic(vm.id, nic)
    ours.set_nics(former, vm)
    before = counterpart.photograph()
    ours.set_nics(former, vm)
    assert counterpart.photograph() == before
    assert ours.has_vm(vm)
    assert ours.has_nic(vm.id, nic, whole=True)
    assert counterpart.is_plugged(vm.id, nic)
    assert counterpart.is_plugged(vm.id, former.nics[0])
    assert ours.power(vm.id) is Power.ON
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert counterpart.is_plugged(vm.id, nic)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.set_nics(vm, former)
    assert ours.has_vm(former)
    assert not ours.has_nic(vm.id, nic)


@plugged
def test_what_is_defined_otherwise_is_given_no_card(ours, counterpart):
    former, nic = bare_vm(), counterpart.nic()
    with pytest.raises(NotFound):
        ours.set_nics(former, changed(former, nics=(nic,)))
    assert not ours.has_nic(former.id, nic)
    ours.ensure_vm(former)
    other = changed(former, name="other")
    with pytest.raises(Conflict):
        ours.set_nics(other, changed(other, nics=(nic,)))
    assert not ours.has_nic(former.id, nic)


@plugged
def test_a_restricted_card_neither_comes_nor_goes_while_its_vm_is_on(ours):
    nic = Nic(id=uuid4(), mac="52:54:00:00:00:01")
    former = bare_vm()
    more = changed(former, nics=(nic,))
    ours.ensure_vm(former)
    ours.set_power(former.id, Power.ON, timeout_s=0)
    with pytest.raises(Unsupported) as refusal:
        ours.set_nics(former, more)
    assert refusal.value.code == "nic-not-hot"
    assert ours.has_vm(former)


@pytest.mark.parametrize(
    "counterpart", ["memory", pytest.param("switched", marks=pytest.mark.lab)], indirect=True
)
def test_a_guest_releases_the_card_that_it_is_asked_for_and_keeps_its_others(ours, counterpart):
    """Each has the place that it had, also where one has left between them."""
    first = counterpart.nic()
    second, third = (changed(first, id=uuid4(), mac=f"52:54:00:00:00:0{n}") for n in (2, 3))
    vms = [counterpart.guest()]
    for nics in ((first,), (first, second), (first, second, third), (first, third)):
        vms.append(changed(vms[0], nics=nics))
    for former, now in pairwise([*vms, vms[3], vms[4], vms[0]]):
        taken(ours, former, now)
        assert ours.has_vm(now)
        for nic in (first, second, third):
            assert ours.has_nic(now.id, nic) == (nic in now.nics)
            assert counterpart.is_plugged(now.id, nic) == (nic in now.nics)
    assert ours.power(vms[0].id) is Power.ON


@plugged
def test_a_guest_that_keeps_a_card_is_waited_for_and_not_robbed(ours, counterpart):
    nic = counterpart.nic()
    former = changed(bare_vm(), nics=(nic,))
    vm = changed(former, nics=())
    ours.ensure_vm(former)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    counterpart.deafen(vm.id)
    if isinstance(counterpart, Vsphere):
        ours.set_nics(former, vm)  # a guest is told there, not asked
        assert not ours.has_nic(vm.id, nic)
        return
    for _ in range(2):
        with pytest.raises(Transient):
            ours.set_nics(former, vm)
        with pytest.raises(InUse) as refusal:
            taken(ours, former, vm)
        assert refusal.value.code == "nic-in-use"
        ours.set_nics(vm, former)
        assert ours.has_vm(former)
        assert ours.has_nic(vm.id, nic, whole=True)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.set_nics(former, vm)
    assert not ours.has_nic(vm.id, nic)


def taken(ours: Hypervisor, former: Vm, vm: Vm) -> None:
    """Change a VM's cards as a step does: tried again while it is `Transient`."""
    while True:
        try:
            ours.set_nics(former, vm)
        except Transient:
            continue
        return


@pytest.mark.lab
@pytest.mark.parametrize("counterpart", ["vcenter", "esxi"], indirect=True)
def test_what_a_host_has_no_plug_for_is_refused(ours, counterpart):
    with pytest.raises(Unsupported):
        ours.ensure_vm(changed(bare_vm(), nics=(changed(counterpart.nic(), kind="ovs"),)))
    with pytest.raises(NotFound):
        ours.ensure_vm(changed(bare_vm(), nics=(changed(counterpart.nic(), bridge="no"),)))


def test_what_is_not_defined_cannot_be_switched_on_and_is_off(ours):
    nobody = uuid4()
    ours.set_power(nobody, Power.OFF, timeout_s=0)
    for power in (Power.ON, Power.PAUSED):
        with pytest.raises(NotFound):
            ours.set_power(nobody, power, timeout_s=0)
    assert ours.power(nobody) is None


# --- lines -------------------------------------------------------------------------------------


@booting
def test_what_is_typed_is_answered_and_kept(counterpart, ours):
    vm = counterpart.guest()
    with ours.terminal(vm.id) as line:
        line.sendall(b"echo typed\n")
        assert b"typed" in heard(line, b"typed")
    wait_for(lambda: b"echo typed" in ours.console(vm.id), 10, "what was typed")


def test_a_terminal_is_for_one_at_a_time(ours, running):
    if Capability.TERMINAL not in ours.capabilities:
        with pytest.raises(Unsupported):
            ours.terminal(running.id)
        return
    with ours.terminal(running.id), pytest.raises(InUse):
        ours.terminal(running.id)
    wait_for(lambda: terminal_is_free(ours, running.id), 10, "the terminal")


def test_a_screen_is_for_several(ours, running):
    if Capability.DISPLAY not in ours.capabilities:
        with pytest.raises(Unsupported):
            ours.display(running.id)
        return
    ours.set_power(running.id, Power.PAUSED, timeout_s=0)
    with ours.display(running.id).line as one, ours.display(running.id).line as two:
        for line in (one, two):
            assert heard(line, b"\n").startswith(b"RFB 003.")


def test_a_screen_asks_for_its_password_and_none_without(ours, running):
    if Capability.DISPLAY not in ours.capabilities:
        return
    assert security(ours, running) == NOTHING
    ours.set_power(running.id, Power.OFF, timeout_s=0)
    ours.delete_vm(running.id)
    closed = changed(running, settings=Settings(screen=uuid4()))
    ours.ensure_vm(closed, SecretStr("password"))
    assert ours.has_vm(closed)
    with pytest.raises(Conflict):
        ours.has_vm(running)
    ours.set_power(running.id, Power.ON, timeout_s=0)
    assert security(ours, closed) == VNC_PASSWORD


def test_a_vm_is_told_what_to_start_from(ours, defined):
    ours.delete_vm(defined.id)
    other = changed(defined, settings=Settings(boot=(Boot.NETWORK, Boot.DISK)))
    ours.ensure_vm(other)
    assert ours.has_vm(other)
    with pytest.raises(Conflict):
        ours.has_vm(defined)
    ours.set_power(other.id, Power.ON, timeout_s=0)
    assert ours.power(other.id) is Power.ON


@pytest.mark.parametrize("bus", [Bus.SATA, Bus.IDE, Bus.LSISAS, Bus.PVSCSI])
def test_disks_and_volumes_hang_where_the_guest_expects_them(counterpart, ours, vm, bus):
    more = tuple(
        Disk(
            id=uuid4(), vm=vm.id, position=n, size_mib=1, datastore=counterpart.datastore,
            installation=OURS,
        )
        for n in range(1, MOST_DISKS - 1)
    )  # fmt: skip
    seed = Seed(
        id=vm.id, hostname="a", secret=uuid4(), datastore=counterpart.datastore, installation=OURS
    )
    wanted = changed(vm, disks=(*vm.disks, *more), seed=seed, settings=Settings(bus=bus))
    for disk in wanted.disks:
        ours.ensure_disk(disk)
    ours.ensure_seed(seed, seed_image(seed.id, seed.hostname, USER_DATA))
    ours.ensure_vm(wanted)
    assert ours.has_vm(wanted)
    with pytest.raises(Conflict):
        ours.has_vm(changed(wanted, settings=Settings()))
    connection, chap = counterpart.connection(wanted, MOST_DISKS - 1)
    connection = connection.model_copy(update={"bus": bus})
    ours.connect(connection, chap)
    ours.connect(connection, chap)
    assert ours.has_connection(connection)
    ours.disconnect(connection)
    assert not ours.has_connection(connection)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    with pytest.raises(Unsupported):
        ours.connect(connection, chap)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.delete_vm(vm.id)
    assert ours.power(vm.id) is None


def test_a_vm_starts_by_the_firmware_that_its_guest_expects(counterpart, ours, vm):
    assert Firmware.BIOS in ours.firmwares()
    wanted = changed(vm, settings=Settings(firmware=Firmware.EFI, system="debian12_64Guest"))
    before = counterpart.photograph()
    ours.ensure_disk(vm.disks[0])
    if Firmware.EFI not in ours.firmwares():
        with pytest.raises(Unsupported):
            ours.ensure_vm(wanted)
    else:
        ours.ensure_vm(wanted)
        assert ours.has_vm(wanted)
        with pytest.raises(Conflict):
            ours.has_vm(vm)
        ours.set_power(vm.id, Power.ON, timeout_s=0)
        assert ours.power(vm.id) is Power.ON
        ours.set_power(vm.id, Power.OFF, timeout_s=0)
        ours.delete_vm(vm.id)
    ours.delete_disk(vm.disks[0])
    assert counterpart.photograph() == before


NOTHING, VNC_PASSWORD = 1, 2  # kinds of security, in RFB's numbers


def security(ours, vm):
    """The one kind of security that a VM's screen offers."""
    with ours.display(vm.id).line as line:
        line.sendall(heard(line, b"\n"))
        line.settimeout(90)
        return tuple(line.recv(2))[1]


@booting
def test_lines_end_with_the_vm(ours, running):
    display = ours.display(running.id)
    assert display.kind is DisplayKind.VNC
    with display.line as screen, ours.terminal(running.id) as terminal:
        ours.set_power(running.id, Power.OFF, timeout_s=0)
        heard(screen, None)
        heard(terminal, None)


def test_there_is_no_line_to_what_is_off_or_not_there(ours, defined):
    for open_line in (ours.terminal, ours.display):
        with pytest.raises(Conflict) as refusal:
            open_line(defined.id)
        assert refusal.value.code == "vm-off"
        with pytest.raises(NotFound):
            open_line(uuid4())


def heard(line: socket.socket, until: bytes | None) -> bytes:
    """What comes until those bytes, or until the end."""
    line.settimeout(90)
    all_of_it = b""
    while piece := line.recv(4096):
        all_of_it += piece
        if until is not None and until in all_of_it:
            return all_of_it
    assert until is None, all_of_it
    return all_of_it


def terminal_is_free(ours: Hypervisor, vm: UUID) -> bool:
    try:
        ours.terminal(vm).close()
    except InUse:
        return False
    return True


# --- connections -------------------------------------------------------------------------------


def test_a_connection_is_there_once_made_and_not_before(counterpart, ours, defined):
    connection, chap = counterpart.connection(defined)
    assert not ours.has_connection(connection)
    ours.connect(connection, chap)
    assert ours.has_connection(connection)


def test_connecting_again_changes_nothing(counterpart, ours, defined):
    connection, chap = counterpart.connection(defined)
    ours.connect(connection, chap)
    before = counterpart.photograph()
    ours.connect(connection, chap)
    assert counterpart.photograph() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 2},
        {"host": "127.0.0.2"},
        {"iqn": "iqn.2026-11.test:else"},
        {"lun": 2},
        {"initiator": "iqn.2026-11.test:another"},
        {"position": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_connection_that_leads_elsewhere_is_left_alone(counterpart, ours, defined, fields):
    connection, chap = counterpart.connection(defined)
    ours.connect(connection, chap)
    if fields.keys() <= connection.target.model_fields_set | {"lun"}:
        fields = {"target": changed(connection.target, **fields)}
    before = counterpart.photograph()
    with pytest.raises(Conflict):
        ours.connect(changed(connection, **fields), chap)
    with pytest.raises(Conflict):
        ours.has_connection(changed(connection, **fields))
    assert counterpart.photograph() == before


@pytest.mark.parametrize("position", [0, 1], ids=["of a disk", "of another volume"])
def test_a_taken_position_is_left_alone(counterpart, ours, defined, position):
    other, chap = counterpart.connection(defined, 1)
    ours.connect(other, chap)
    before = counterpart.photograph()
    connection, chap = connection_to(defined, position)
    with pytest.raises(Conflict):
        ours.connect(connection, chap)
    assert not ours.has_connection(connection)
    assert counterpart.photograph() == before


def test_nothing_is_connected_to_a_vm_that_is_not_there(counterpart, ours):
    before = counterpart.photograph()
    connection, chap = connection_to(bare_vm())
    with pytest.raises(NotFound):
        ours.connect(connection, chap)
    assert not ours.has_connection(connection)
    ours.disconnect(connection)
    assert counterpart.photograph() == before


def test_disconnecting_leaves_nothing_and_may_be_repeated(counterpart, ours, defined):
    before = counterpart.photograph()
    connection, chap = counterpart.connection(defined)
    ours.connect(connection, chap)
    ours.disconnect(connection)
    ours.disconnect(connection)
    assert not ours.has_connection(connection)
    assert counterpart.photograph() == before


def test_a_running_vm_is_given_a_volume_and_has_it_at_its_next_start(counterpart, ours):
    vm, storage = bare_vm(), counterpart.storage()
    ours.ensure_vm(vm)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    connection, chap = exported(storage, ours, vm)
    assert not ours.has_connection(connection)
    if Capability.HOT_ATTACH not in ours.capabilities:
        with pytest.raises(Unsupported):
            ours.connect(connection, chap)
        assert not ours.has_connection(connection)
        return
    ours.connect(connection, chap)
    assert ours.has_connection(connection)
    before = counterpart.photograph()
    ours.connect(connection, chap)
    assert counterpart.photograph() == before
    with pytest.raises(Conflict):
        ours.connect(changed(connection, position=2), chap)
    with pytest.raises(Conflict):
        ours.connect(changed(connection, volume=uuid4()), chap)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    assert ours.has_connection(connection)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.has_connection(connection)


def test_a_vm_is_given_at_once_only_a_volume_that_lets_it_in(counterpart, ours):
    vm, storage = bare_vm(), counterpart.storage()
    ours.ensure_vm(vm)
    if Capability.HOT_ATTACH in ours.capabilities:
        ours.set_power(vm.id, Power.ON, timeout_s=0)
    connection, chap = exported(storage, ours, vm)
    storage.delete_export(export_of(connection))
    with pytest.raises(Transient):
        ours.connect(connection, chap)
    assert not ours.has_connection(connection)
    storage.ensure_export(export_of(connection), chap)
    ours.connect(connection, chap)
    assert ours.has_connection(connection)


@booting
def test_a_guest_releases_the_volume_that_it_is_asked_for(counterpart, ours):
    vm, storage = counterpart.guest(), counterpart.storage()
    connection, chap = exported(storage, ours, vm, position=1)
    for _ in range(2):
        ours.connect(connection, chap)
        for _ in range(2):
            released(ours, connection)
            assert not ours.has_connection(connection)
    assert ours.power(vm.id) is Power.ON


def test_a_guest_that_keeps_a_volume_is_waited_for_and_not_robbed(counterpart, ours):
    vm, storage = bare_vm(), counterpart.storage()
    ours.ensure_vm(vm)
    connection, chap = exported(storage, ours, vm)
    ours.connect(connection, chap)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    counterpart.deafen(vm.id)
    for _ in range(2):  # who asks once more is waited for once more
        if Capability.HOT_ATTACH in ours.capabilities:
            with pytest.raises(Transient):
                ours.disconnect(connection)
        with pytest.raises(InUse) as refusal:
            released(ours, connection)
        assert refusal.value.users == (str(vm.id),)
        assert ours.has_connection(connection)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.disconnect(connection)
    assert not ours.has_connection(connection)


@booting
def test_a_paused_guest_releases_nothing(counterpart, ours):
    vm, storage = counterpart.guest(), counterpart.storage()
    connection, chap = exported(storage, ours, vm, position=1)
    ours.connect(connection, chap)
    ours.set_power(vm.id, Power.PAUSED, timeout_s=0)
    with pytest.raises(Transient):
        ours.disconnect(connection)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    released(ours, connection)
    assert not ours.has_connection(connection)


def released(ours: Hypervisor, connection: Connection) -> None:
    """Disconnect as a step does: tried again while it is `Transient`."""
    while True:
        try:
            ours.disconnect(connection)
        except Transient:
            continue
        return


def test_a_vm_starts_only_when_its_volume_lets_it_in(counterpart, ours):
    vm, storage = bare_vm(), counterpart.storage()
    ours.ensure_vm(vm)
    connection, chap = exported(storage, ours, vm)
    ours.connect(connection, chap)
    storage.delete_export(export_of(connection))
    with pytest.raises(Transient):
        ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.power(vm.id) is Power.OFF
    storage.ensure_export(export_of(connection), chap)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    assert ours.power(vm.id) is Power.ON


def exported(
    storage: BlockStorage, ours: Hypervisor, vm: Vm, position: int = 0
) -> tuple[Connection, Chap]:
    """A volume, exported to the VM."""
    volume = Volume(id=uuid4(), size_mib=1, installation=OURS)
    storage.ensure_volume(volume)
    connection = Connection(
        volume=volume.id,
        vm=vm.id,
        initiator=ours.initiator(vm.id),
        target=TARGET,
        position=position,
    )
    export = export_of(connection)
    chap = Chap(user=export.account, password=SecretStr(uuid4().hex))
    return changed(connection, target=storage.ensure_export(export, chap)), chap


def export_of(connection: Connection) -> Export:
    return Export(
        id=connection.volume, volume=connection.volume, initiator=connection.initiator,
        installation=OURS,
    )  # fmt: skip
