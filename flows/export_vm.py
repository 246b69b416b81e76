"""Export a VM that is off: a package of the disks on its host, to be fetched for a while."""

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from adapters.packages import Hardware, WishedNic, Wishes
from adapters.types import Format, Role
from flows.abilities import require_readable
from flows.fetch_disk import disk_file, fetch_disks
from flows.operation import operation
from flows.packing import SourceDisk, enter_package, pack_disks, stream_disk
from flows.places import at_host
from flows.survey import survey_vm


@operation("vm", role=Role.IMAGES)
def export_vm(request: Operation) -> None:
    """Make its disks streamed ones, pack them with a descriptor, and offer the package.

    Volumes are not packed: they are there without the VM, too.
    """
    require_readable(request.target_id)
    vm = survey_vm(request.target_id)
    with at_host(vm.host):
        fetch_disks([vm.disk(each) for each in vm.local_disks], vm.host)
        streamed = [stream_disk(disk, request.id, vm.datacenter_id) for disk in sources(vm)]
        package = pack_disks(
            request.id,
            vm.name,
            request.enterprise_id,
            vm.datacenter_id,
            wishes_of(vm),
            streamed,
            vm.virtual_datacenter_id,
        )
    enter_package(package)


def sources(vm: VmRecord) -> list[SourceDisk]:
    """The disks on its host, in the guest's order; what was sent is a stream already."""
    disks = [vm.disk(each) for each in sorted(vm.local_disks, key=lambda disk: disk.position)]
    files = [(disk, *disk_file(disk, vm.host)) for disk in disks]
    return [
        SourceDisk(id=disk.id, path=str(path), format=format_, is_streamed=format_ is Format.VMDK)
        for disk, path, format_ in files
    ]


def wishes_of(vm: VmRecord) -> Wishes:
    """What the VM has, as far as other products know of it."""
    nics = tuple(WishedNic(network=f"network {n}") for n, _ in enumerate(vm.nics, start=1))
    now = vm.settings
    buses = (now.bus,) * len(vm.local_disks) if now.bus else ()
    has = Hardware(firmware=now.firmware, buses=buses, nics=nics, system=now.system)
    return Wishes(cpu=vm.cpu, ram_mib=vm.ram_mib, hardware=has)
