"""Disks on a simulated vCenter: what a guest wrote comes back, what the dead left goes."""

import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import Conflict, InUse, Unsupported
from adapters.hypervisors.vsphere import VsphereHypervisor
from adapters.types import Chap, Power, Seed
from adapters.vsphere.datastores import Place, machine
from adapters.vsphere.session import Session
from deployments.lab.vcsim import Vcsim
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.flows.scenarios import SCENARIOS
from tests.lab import vsphere_world
from tests.labs import started

pytestmark = pytest.mark.lab

WRITTEN = b"a guest wrote this" * 1000


@pytest.fixture
def world(tmp_path, vcenter, tgtd):
    made = vsphere_world.build(tmp_path / "home", vcenter, tgtd, power_off_timeout_s=0)
    yield made
    vsphere_world.clear(made)
    cloud.database.engine.dispose()


@pytest.fixture
def vm(world):
    """Off, after its guest has written to its disk; with a volume, which is never sent."""
    (made,) = cloud.inventory.vms_of(world.appliance("db"))
    world.volume("data", made.id)
    world.run("deploy_vm", made.id)
    world.run("change_power", made.id, power="off", former="ON")
    with flat_of(world, made.id).open("r+b") as disk:
        disk.seek(4096)
        disk.write(WRITTEN)
    return made.id


def flat_of(world, vm) -> Path:
    disk = cloud.inventory.vm(vm).local_disks[0]
    return min(world.files.glob(f"*/disk-{disk.id}.*-flat.vmdk"), key=lambda path: len(path.name))


def equal(a: Path, a_format: str, b: Path) -> bool:
    command = ["qemu-img", "compare", "-q", "-f", a_format, "-F", "raw", "--", a, b]
    return subprocess.run(command, check=False).returncode == 0


def test_a_package_has_what_the_guest_wrote(world, vm, tmp_path):
    before = vsphere_world.things_on(world.hosts[0], world.files)
    exported = world.run("export_vm", vm)
    package = cloud.repository(world.datacenter).path(f"packages/{exported.id}.ova")
    subprocess.run(["tar", "-xf", package, "-C", tmp_path], check=True)
    (disk,) = tmp_path.glob("*.vmdk")
    assert equal(disk, "vmdk", flat_of(world, vm))
    assert vsphere_world.things_on(world.hosts[0], world.files) == before
    assert not list((world.home / "repository" / "incoming").glob("fetched-*"))


def test_a_vm_that_is_on_is_captured_by_a_snapshot_that_goes_again(world, tmp_path):
    operation = SCENARIOS["capture_image-sent-on"].accept(world)
    vm = operation.target_id
    with flat_of(world, vm).open("r+b") as disk:
        disk.write(WRITTEN)
    before = vsphere_world.things_on(world.hosts[0], world.files)
    ended = FLOWS["capture_image"](operation.id)
    assert ended.state == "succeeded", ended.error
    assert not ended.left_behind
    template = operation.arguments["template"]["id"]
    (image,) = cloud.library.images(UUID(template))
    path = cloud.repository(world.datacenter).path(image.path)
    assert equal(path, image.format, flat_of(world, vm))
    hypervisor = cloud.hypervisor(world.hosts[0])
    assert hypervisor.power(vm) is Power.ON
    assert not hypervisor.has_stills(vm, [], "")
    assert vsphere_world.things_on(world.hosts[0], world.files) == before


def test_a_disk_is_sent_of_a_vm_that_is_on_only_while_there_are_stills(world, tmp_path):
    hypervisor = cloud.hypervisor(world.hosts[0])
    (record,) = cloud.inventory.vms_of(world.appliance("db"))
    world.run("deploy_vm", record.id)
    record = cloud.inventory.vm(record.id)
    disk = record.disk(record.local_disks[0])
    hypervisor.open_stills(record.id, [disk.id], disk.datastore)
    hypervisor.open_stills(record.id, [disk.id], disk.datastore)
    wanted, own = tmp_path / "wanted", flat_of(world, record.id)
    wanted.write_bytes(own.read_bytes())
    with own.with_name(own.name.replace("-flat", "-000001-flat")).open("r+b") as written:
        written.write(WRITTEN)  # as a guest does under a snapshot
    assert hypervisor.has_disk(disk)
    hypervisor.send_disk(disk, tmp_path / "still", lambda _percent: None)
    hypervisor.close_stills(record.id, [disk.id], disk.datastore)
    hypervisor.close_stills(record.id, [disk.id], disk.datastore)
    assert equal(tmp_path / "still", "vmdk", wanted)
    assert own.read_bytes().startswith(WRITTEN)
    with pytest.raises(InUse):
        hypervisor.send_disk(disk, tmp_path / "none", lambda _percent: None)
    hypervisor.set_power(record.id, Power.OFF, timeout_s=0)
    with pytest.raises(Conflict):
        hypervisor.open_stills(record.id, [disk.id], disk.datastore)


def test_a_vm_goes_with_a_snapshot_that_was_left(world):
    hypervisor = cloud.hypervisor(world.hosts[0])
    before = vsphere_world.things_on(world.hosts[0], world.files)
    (record,) = cloud.inventory.vms_of(world.appliance("db"))
    world.run("deploy_vm", record.id)
    hypervisor.open_stills(record.id, [], "")
    world.run("undeploy_vm", record.id)
    after = vsphere_world.things_on(world.hosts[0], world.files)
    assert (after["vms"], after["targets"]) == (before["vms"], before["targets"])
    assert not list((world.files / str(world.datacenter)).glob("disk-*"))


def test_no_snapshot_is_taken_of_a_vm_with_volumes(world, vm):
    hypervisor = cloud.hypervisor(world.hosts[0])
    world.run("change_power", vm, power="on", former="OFF")
    with pytest.raises(Unsupported):
        hypervisor.open_stills(vm, [], "")
    assert not hypervisor.has_stills(vm, [], "")


def test_a_persistent_vm_boots_from_a_volume_that_has_what_the_guest_wrote(world, vm, tmp_path):
    wanted = tmp_path / "wanted"
    wanted.write_bytes(flat_of(world, vm).read_bytes())
    volume = {
        "id": str(uuid4()),
        "name": "boot",
        "virtual_datacenter_id": str(world.vdc),
        "pool_id": str(world.pool),
        "size_mib": 16,
    }
    ended = world.run("persist_vm", vm, volume=volume)
    assert not ended.left_behind
    files = (world.home / "pool").glob(f"*{volume['id']}*")
    assert equal(max(files, key=lambda path: path.stat().st_size), "raw", wanted)
    hypervisor = cloud.hypervisor(world.hosts[0])
    world.run("change_power", vm, power="on", former="OFF")
    assert hypervisor.power(vm) is Power.ON
    assert not list((world.files / str(world.datacenter)).glob("disk-*"))


def test_what_a_killed_sender_has_left_at_the_host_is_seen_and_goes(world, vm):
    hypervisor = cloud.hypervisor(world.hosts[0])
    record = cloud.inventory.vm(vm)
    disk = record.disk(record.local_disks[0])
    leave_machine(hypervisor, f"export-{disk.id}", hypervisor.disk_path(disk), disk.size_mib)
    assert hypervisor.is_sending(disk)
    hypervisor.stop_sending(disk)
    assert not hypervisor.is_sending(disk)
    assert hypervisor.has_disk(disk)


def test_the_machine_that_a_killed_maker_has_left_goes_with_its_disk(world, vm):
    hypervisor = cloud.hypervisor(world.hosts[0])
    record = cloud.inventory.vm(vm)
    disk = record.disk(record.local_disks[0])
    leave_machine(hypervisor, f"overlay-{disk.id}", hypervisor.disk_path(disk), disk.size_mib)
    hypervisor.delete_disk(disk)
    with hypervisor._session.speaking():
        assert hypervisor._session.child(f"overlay-{disk.id}") is None
    assert not hypervisor.has_disk(disk)


def leave_machine(hypervisor, name, path, size_mib):
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=path, diskMode="persistent")
    with hypervisor._session.speaking():
        spec = machine(name, "LocalDS_0", backing, size_mib, is_new=False)
        hypervisor._session.create(spec)


def test_what_killed_uploads_have_left_goes_also_where_the_inventory_has_folders(vcenter, world):
    session = cloud.hypervisor(world.hosts[0])._session
    with session.speaking():
        folder = session.folder.CreateFolder(f"Discovered virtual machine {uuid4()}")
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName="[LocalDS_0]", diskMode="persistent", thinProvisioned=True
        )
        left = session.create(machine(f"upload-1-{uuid4().hex}", "LocalDS_0", backing, 1)).name
        (vm,) = cloud.inventory.vms_of(world.appliance("db"))
    world.run("deploy_vm", vm.id)
    with session.speaking():
        assert session.child(left) is None
        session.wait(folder.Destroy_Task())


def test_of_two_datacenters_of_one_name_the_hosts_own_has_its_files(tmp_path):
    with started(Vcsim(tmp_path)) as vcsim:
        login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
        session = Session(vcsim.address, lambda: login)
        with session.speaking() as content:
            europe, asia = map(content.rootFolder.CreateFolder, ("Europe", "Asia"))
            session.wait(europe.MoveIntoFolder_Task([session.datacenter]))
            asia.CreateDatacenter(session.datacenter.name)
        hypervisor = VsphereHypervisor(session, uuid4())
        seed = Seed(
            id=uuid4(),
            hostname="web",
            secret=uuid4(),
            datastore="[LocalDS_0]",
            installation=hypervisor._installation,
        )
        hypervisor.ensure_seed(seed, b"a seed")
        assert hypervisor.has_seed(seed)
        assert [path.read_bytes() for path in vcsim.files().glob("seed-*")] == [b"a seed"]


def test_what_a_guest_has_printed_goes_with_its_vm(world, vm):
    console = world.files / str(world.datacenter) / f"console-{vm}.log"
    console.write_bytes(b"READY")
    assert cloud.hypervisor(world.hosts[0]).console(vm) == b"READY"
    world.run("undeploy_vm", vm)
    assert not console.exists()


def test_what_a_killed_copy_has_left_is_written_over_and_goes_with_its_disk(world, vm):
    hypervisor, record = cloud.hypervisor(world.hosts[0]), cloud.inventory.vm(vm)
    disk = record.disk(record.local_disks[0])
    larger = disk.model_copy(update={"id": uuid4(), "size_mib": disk.size_mib * 2})
    path = Place.parse(hypervisor.disk_path(larger))
    for made in (True, False):
        with hypervisor._session.speaking():
            hypervisor._datastores.create(str(path.folder / f"part-{path.name}"), 1)
        if made:
            hypervisor.ensure_disk(larger)
            assert hypervisor.has_disk(larger)
        hypervisor.delete_disk(larger)
        assert not list(world.files.glob(f"*/*{larger.id}*"))
