"""Reading a VM's disks: where they are, or, of hosts that show no files, as they were sent."""

from pathlib import Path
from uuid import UUID

from adapters.images.base import ImageRepository
from adapters.images.repository import INCOMING
from adapters.types import Disk, Format
from flows.abilities import Capability
from flows.cloud import cloud
from flows.planning import planning
from flows.running import epoch, running, telling
from flows.steps import Effect, step


def fetch_disks(disks: list[Disk], host: UUID) -> None:
    """See to it that `disk_file` can tell where these are, until the operation ends."""
    if not are_seen(host):
        for disk in disks:
            fetch_disk(disk, host)


def are_seen(host: UUID) -> bool:
    """Whether disks can be read where they are."""
    return Capability.DISK_FILES in cloud.hypervisor(host).capabilities


def disk_file(disk: Disk, host: UUID) -> tuple[Path, Format]:
    """Where the content of a disk is that was fetched, if it had to be."""
    if are_seen(host):
        return Path(cloud.hypervisor(host).disk_path(disk)), Format.QCOW2
    return _repository(host).path(f"{INCOMING}/{_fetched(disk)}"), Format.VMDK


@step("fetch-disk", Effect.TEMPORARY)
def fetch_disk(disk: Disk, host: UUID) -> None:
    """Have the host send it, under a name of the attempt's own until whole; look at it."""
    hypervisor, repository = cloud.hypervisor(host), _repository(host)
    hypervisor.stop_sending(disk)
    repository.clear(_fetched(disk))
    part = f"{_fetched(disk)}-{epoch()}"
    arriving = repository.scratch(part, 0)  # nobody knows how much it will be
    hypervisor.send_disk(disk, arriving, telling())
    most = cloud.settings.max_virtual_mib
    cloud.images.inspect(arriving, Format.VMDK, max_virtual_mib=most)
    repository.rename_scratch(part, _fetched(disk))


@fetch_disk.plan
def _(disk: Disk, host: UUID) -> None:
    planning().copy(f"disk:{disk.id}", disk.size_mib * 2**20)


@fetch_disk.undo
def _(disk: Disk, host: UUID) -> None:
    cloud.hypervisor(host).stop_sending(disk)
    _repository(host).clear(_fetched(disk))


@fetch_disk.look
def _(disk: Disk, host: UUID) -> bool:
    if cloud.hypervisor(host).is_sending(disk):
        return True
    return _repository(host).find_scratch(_fetched(disk)) is not None


def _fetched(disk: Disk) -> str:
    return f"fetched-{running()}-{disk.id}"


def _repository(host: UUID) -> ImageRepository:
    return cloud.repository(cloud.inventory.host(host).datacenter_id)
