"""Packages on real tools: a guest boots from what came in as an OVA, with all its disks."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.images.packing import pack, package_of
from adapters.types import Format, OperationState
from deployments.lab.kvm_host import KvmHost
from deployments.lab.tgtd import Tgtd
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests import worlds
from tests.adapters.test_packages import READ, cot
from tests.guest import Guest
from tests.lab import real_world
from tests.lab.real_world import RealWorld

pytestmark = pytest.mark.lab

DATA = b"what the second disk has\n"
DATA_MIB = 3


@pytest.fixture
def world(tmp_path: Path, kvm_host: KvmHost, tgtd: Tgtd) -> Iterator[RealWorld]:
    made = real_world.build(tmp_path / "home", kvm_host, tgtd, power_off_timeout_s=0)
    yield made
    real_world.clear(made)
    cloud.database.engine.dispose()


@pytest.fixture
def package(tmp_path: Path, appliance_image: Path) -> Path:
    """The appliance and a disk of data, streamOptimized."""
    (tmp_path / "data.raw").write_bytes(DATA.ljust(DATA_MIB * 2**20, b"\0"))
    disks = []
    for raw in (appliance_image, tmp_path / "data.raw"):
        disk = tmp_path / f"{raw.stem}.vmdk"
        options = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
        subprocess.run(["qemu-img", "convert", *options, raw, disk], check=True)
        disks.append((disk, raw.stat().st_size))
    told = package_of("demo", disks, cpu=1, ram_mib=96)
    pack(told, [disk for disk, _ in disks], tmp_path / "demo.ova")
    return tmp_path / "demo.ova"


def imported(world: worlds.World, package: Path, name: str = "packed") -> UUID:
    repository, template = cloud.repository(world.datacenter), uuid4()
    upload = repository.scratch(f"upload-{uuid4()}", package.stat().st_size)
    upload.write_bytes(package.read_bytes())
    operation = world.accept(
        "import_package",
        template,
        template={
            "id": str(template),
            "enterprise_id": str(FIRST_ENTERPRISE),
            "datacenter_id": str(world.datacenter),
            "name": name,
        },
        wishes={},
        digest=hashlib.sha256(package.read_bytes()).hexdigest(),
        upload=upload.name,
    )
    ended = FLOWS["import_package"](operation.id)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert not ended.left_behind
    return template


def test_a_guest_boots_from_a_package_and_has_its_other_disk(world, package):
    template = imported(world, package)
    images = cloud.library.images(template)
    assert [(each.format, each.subformat) for each in images] == [
        (Format.VMDK, "streamOptimized")
    ] * 2
    (record,) = cloud.inventory.vms_of(world.appliance("db", template=template))
    with cloud.database.write() as db:
        db.execute(update(models.VirtualMachine).values(ram_mib=96))
    world.run("deploy_vm", record.id)
    vm = cloud.inventory.vm(record.id)
    guest = Guest(cloud.hypervisor(vm.host), world.uri, vm.id)
    printed = guest.boot()
    assert [line.split()[1:3] for line in printed if line.startswith("DISK")] == [
        ["/dev/vda", str(images[0].virtual_size_mib * 2048)],
        ["/dev/vdb", str(DATA_MIB * 2048)],
    ]
    assert guest.tell("head -n 1 /dev/vdb; echo", "what") == DATA.decode().strip()

    # What the guest writes leaves with the VM, and comes back.
    guest.tell("echo written by the guest >/dev/vdb; sync; echo DONE $?", "DONE 0")
    world.run("change_power", vm.id, power="off", former="ON")
    again = imported(world, exported(world, "export_vm", vm.id), "again")
    assert not world.run("undeploy_vm", vm.id).left_behind
    (record,) = cloud.inventory.vms_of(world.appliance("web", template=again))
    with cloud.database.write() as db:
        db.execute(update(models.VirtualMachine).values(ram_mib=96))
    world.run("deploy_vm", record.id)
    vm = cloud.inventory.vm(record.id)
    guest = Guest(cloud.hypervisor(vm.host), world.uri, vm.id)
    guest.boot()
    said = guest.tell("head -n 1 /dev/vdb; echo", "written by")
    assert said == "written by the guest"
    assert not world.run("undeploy_vm", vm.id).left_behind


def exported(world: worlds.World, kind: str, what: UUID) -> Path:
    ended = world.run(kind, what)
    assert not ended.left_behind
    return cloud.repository(world.datacenter).path(f"packages/{ended.id}.ova")


def test_what_is_exported_is_read_by_others(world, tmp_path):
    """By tar, by qemu-img, and by an OVF library that is not ours."""
    ova = exported(world, "export_template", world.template)
    subprocess.run(["tar", "-C", tmp_path, "-xf", ova], check=True)
    (disk,) = tmp_path.glob("*.vmdk")
    (image,) = cloud.library.images(world.template)
    source = cloud.repository(world.datacenter).path(image.path)
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "vmdk", source, disk], check=True)
    told = subprocess.run(
        ["qemu-img", "info", "-f", "vmdk", disk], check=True, capture_output=True, text=True
    ).stdout
    assert "streamOptimized" in told
    assert f"{disk.name}" in " ".join(cot(READ, ova).split())
