"""The laws of stills, over every hypervisor that has them: disks as they were at one moment."""

import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from adapters.errors import Conflict, NotFound, Transient
from adapters.forms import Form
from adapters.hypervisors.base import Capability
from adapters.hypervisors.stills import Stilling
from adapters.images.memory import MemoryImageTool, write_image
from adapters.images.qemu_img import QemuImg
from adapters.stills import Stills
from adapters.types import Base, Disk, Format, Power, Vm
from tests.contracts.test_hypervisor import (  # noqa: F401 - fixtures
    DIGEST,
    OURS,
    Counterpart,
    Kvm,
    Memory,
    counterpart,
    exported,
    ours,
)

HAVING = ["memory", pytest.param("kvm", marks=pytest.mark.lab)]
pytestmark = pytest.mark.parametrize("counterpart", HAVING, indirect=True)
MIB = 2**20


@pytest.fixture
def written(counterpart: Counterpart, tmp_path: Path) -> Base:  # noqa: F811
    """An image with something on it."""
    image = tmp_path / "written.qcow2"
    if isinstance(counterpart, Memory):
        write_image(image, Format.QCOW2, 4 * MIB, "written")
        counterpart.directory.mkdir()
    else:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "--", image, "4M"], check=True)
        how = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", "--", image]
        subprocess.run(how, check=True, capture_output=True)
    return Base(path=str(image), format=Format.QCOW2, digest=DIGEST)


@pytest.fixture
def vm(counterpart: Counterpart, ours: Stilling, written: Base) -> Vm:  # noqa: F811
    """It is on, and has a disk."""
    disk = Disk(
        id=uuid4(), vm=uuid4(), size_mib=4, datastore=counterpart.datastore, base=written,
        installation=OURS,
    )  # fmt: skip
    made = Vm(id=disk.vm, name="one", cpu=1, ram_mib=32, disks=(disk,), installation=OURS)
    counterpart.ours.ensure_disk(disk)
    counterpart.ours.ensure_vm(made)
    counterpart.ours.set_power(made.id, Power.ON, timeout_s=0)
    return made


def read(counterpart: Counterpart, stills: Stills, disk: UUID, folder: Path) -> Path:  # noqa: F811
    image = folder / f"{uuid4()}.qcow2"
    tool(counterpart).convert_still(stills, disk, image, Form.QCOW2, lambda _percent: None)
    return image


def tool(counterpart: Counterpart) -> MemoryImageTool | QemuImg:  # noqa: F811
    real = isinstance(counterpart, Kvm)
    return QemuImg(stalled_s=20) if real else MemoryImageTool(counterpart.world)


def equal(counterpart: Counterpart, image: Path, base: Base) -> bool:  # noqa: F811
    return tool(counterpart).equal(image, Format.QCOW2, Path(base.path), base.format)


def test_who_has_stills_says_so(ours):  # noqa: F811
    assert Capability.STILLS in ours.capabilities


def test_a_disk_is_read_while_its_vm_is_on_and_stays_as_it_is(
    counterpart, ours, vm, written, tmp_path  # noqa: F811
):  # fmt: skip
    disks, before = [vm.disks[0].id], counterpart.photograph()
    assert not ours.has_stills(vm.id, disks, counterpart.datastore)
    for _ in range(2):
        stills = ours.open_stills(vm.id, disks, counterpart.datastore)
        assert not stills.quiet
        assert ours.has_stills(vm.id, disks, counterpart.datastore)
        assert equal(counterpart, read(counterpart, stills, disks[0], tmp_path), written)
    for _ in range(2):
        ours.close_stills(vm.id, disks, counterpart.datastore)
        assert not ours.has_stills(vm.id, disks, counterpart.datastore)
    assert counterpart.photograph() == before
    assert ours.power(vm.id) is Power.ON
    with pytest.raises(Transient):
        read(counterpart, stills, disks[0], tmp_path)


def test_a_paused_vms_disks_are_read_too(counterpart, ours, vm, written, tmp_path):  # noqa: F811
    ours.set_power(vm.id, Power.PAUSED, timeout_s=0)
    disks = [vm.disks[0].id]
    stills = ours.open_stills(vm.id, disks, counterpart.datastore)
    assert not stills.quiet
    assert equal(counterpart, read(counterpart, stills, disks[0], tmp_path), written)
    ours.close_stills(vm.id, disks, counterpart.datastore)
    assert ours.power(vm.id) is Power.PAUSED


def test_a_volume_is_read_like_a_disk(counterpart, ours, vm, tmp_path):  # noqa: F811
    storage = counterpart.storage()
    connection, chap = exported(storage, ours, vm, position=1)
    ours.connect(connection, chap)
    disks = [vm.disks[0].id, connection.volume]
    stills = ours.open_stills(vm.id, disks, counterpart.datastore)
    image = read(counterpart, stills, connection.volume, tmp_path)
    assert tool(counterpart).inspect(image, Format.QCOW2, max_virtual_mib=99)
    ours.close_stills(vm.id, disks, counterpart.datastore)
    assert ours.has_connection(connection)
    assert not ours.has_stills(vm.id, disks, counterpart.datastore)


def test_there_are_no_stills_of_what_is_off_or_not_there(counterpart, ours, vm):  # noqa: F811
    disks, where = [vm.disks[0].id], counterpart.datastore
    with pytest.raises(NotFound):
        ours.open_stills(uuid4(), disks, where)
    with pytest.raises(NotFound):
        ours.open_stills(vm.id, [uuid4()], where)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    with pytest.raises(Conflict):
        ours.open_stills(vm.id, disks, where)
    assert not ours.has_stills(vm.id, disks, where)
    ours.close_stills(vm.id, disks, where)
    ours.close_stills(uuid4(), disks, where)


def test_stills_end_with_their_vm(counterpart, ours, vm):  # noqa: F811
    disks, where = [vm.disks[0].id], counterpart.datastore
    ours.open_stills(vm.id, disks, where)
    ours.set_power(vm.id, Power.OFF, timeout_s=0)
    ours.close_stills(vm.id, disks, where)
    assert not ours.has_stills(vm.id, disks, where)
    ours.set_power(vm.id, Power.ON, timeout_s=0)
    ours.open_stills(vm.id, disks, where)
    ours.close_stills(vm.id, disks, where)
