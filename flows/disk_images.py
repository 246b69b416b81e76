"""Disks in the library: what a VM's disk holds becomes an image there, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from adapters.database.records import Image, VolumeRecord
from adapters.errors import Unsupported
from adapters.forms import Form
from adapters.stills import Stills
from adapters.types import Disk, Format, Identity, Value
from flows.abilities import Capability, stilling
from flows.cloud import cloud
from flows.fetch_disk import disk_file
from flows.planning import planning
from flows.running import epoch, mark, telling
from flows.steps import Effect, step
from flows.volume_images import most_mib


class HeldDisk(Value):
    """A disk or volume that a VM has."""

    id: UUID
    position: int
    size_mib: int
    disk: Disk | None = None
    volume: VolumeRecord | None = None


@step("measure-disks")
def measure_disks(
    vm: UUID,
    disks: list[HeldDisk],
    is_on: bool,  # noqa: FBT001 - a fact
    form: Form,
    host: UUID,
) -> int:
    """The most that their images may take, in MiB: a guest that is on may fill its disks."""
    return -(-sum(_most_bytes(disk, is_on, form, host) for disk in disks) // 2**20)


measure_disks.plan(measure_disks.do)


@step("open-stills", Effect.TEMPORARY)
def open_stills(vm: UUID, disks: list[UUID], datastore: str, host: UUID) -> Stills:
    """Let disks of a VM that is on be read as they are now; an agent keeps its guest quiet."""
    return stilling(host).open_stills(vm, disks, datastore)


@open_stills.plan
def _(vm: UUID, disks: list[UUID], datastore: str, host: UUID) -> Stills:
    return Stills(socket="", quiet=False)


@open_stills.undo
def _(vm: UUID, disks: list[UUID], datastore: str, host: UUID) -> None:
    stilling(host).close_stills(vm, disks, datastore)


@open_stills.look
def _(vm: UUID, disks: list[UUID], datastore: str, host: UUID) -> bool:
    return stilling(host).has_stills(vm, disks, datastore)


@step("copy-disk")
def copy_disk(
    disk: HeldDisk, stills: Stills | None, form: Form, image: UUID, path: str,
    datacenter: UUID, host: UUID,
) -> Image:  # fmt: skip
    """Copy it under a name of this attempt's own, publish it, look at it as if it were anybody's.

    The disk is only read: whatever dies, it is what it was.
    """
    repository = cloud.repository(datacenter)
    if not repository.has(path):
        repository.leave_mark(cloud.inventory.installation, mark())
        repository.clear(_copied(image))
        needed = _most_bytes(disk, stills is not None, form, host)
        scratch = repository.scratch(f"{_copied(image)}-{epoch()}", needed)
        if stills:
            cloud.images.convert_still(stills, disk.id, scratch, form, telling())
        else:
            cloud.images.convert(*_file(disk, host), scratch, form, telling())
        repository.publish(scratch, path)
    published, most = repository.path(path), cloud.settings.max_virtual_mib
    info = cloud.images.inspect(published, form.format, max_virtual_mib=most)
    return Image(
        id=image,
        format=info.format,
        subformat=info.subformat,
        digest=repository.digest(published),
        path=path,
        virtual_size_mib=info.virtual_size_mib,
        identity=repository.identity(path),
    )


@copy_disk.plan
def _(
    disk: HeldDisk, stills: Stills | None, form: Form, image: UUID, path: str,
    datacenter: UUID, host: UUID,
) -> Image:  # fmt: skip
    """As large as it may become; its bytes are not known either."""
    size_bytes = _most_bytes(disk, stills is not None, form, host)
    planning().copy(path, size_bytes)
    return Image(
        id=image,
        format=form.format,
        subformat=form.subformat,
        digest=image.hex,
        path=path,
        virtual_size_mib=disk.size_mib,
        identity=Identity(size_bytes=size_bytes, modified_ns=0, inode=0),
    )


@copy_disk.undo
def _(
    disk: HeldDisk, stills: Stills | None, form: Form, image: UUID, path: str,
    datacenter: UUID, host: UUID,
) -> None:  # fmt: skip
    cloud.repository(datacenter).clear(_copied(image))
    cloud.repository(datacenter).delete(path)


@copy_disk.look
def _(
    disk: HeldDisk, stills: Stills | None, form: Form, image: UUID, path: str,
    datacenter: UUID, host: UUID,
) -> bool:  # fmt: skip
    repository = cloud.repository(datacenter)
    return repository.has(path) or repository.find_scratch(_copied(image)) is not None


def path_of(template: UUID, position: int, form: Form) -> str:
    """Where the library has the image of a template's disk."""
    return f"templates/{template}/{form.format.disk_name(position)}"


def taken_mib(images: Sequence[Image]) -> int:
    """What images take, in MiB that are begun."""
    return -(-sum(image.identity.size_bytes for image in images) // 2**20)


def _most_bytes(disk: HeldDisk, is_on: bool, form: Form, host: UUID) -> int:  # noqa: FBT001 - a fact
    seen = Capability.DISK_FILES in cloud.hypervisor(host).capabilities
    if disk.disk and seen and not is_on:
        return cloud.images.measure(*_file(disk, host), form)
    return most_mib(disk.size_mib) * 2**20


def _file(disk: HeldDisk, host: UUID) -> tuple[Path, Format]:
    if disk.disk is None:
        raise Unsupported(f"volume {disk.id} is not read while its VM is on")
    return disk_file(disk.disk, host)


def _copied(image: UUID) -> str:
    return f"copied-{image}"
