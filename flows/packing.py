"""Packing: disks, of a template or a VM, become a package in the repository."""

from pathlib import Path
from uuid import UUID

from adapters.database.packages import KeptPackage
from adapters.forms import Form
from adapters.images.packing import pack, package_of
from adapters.packages import Wishes
from adapters.types import Format, Value
from flows.cloud import cloud
from flows.running import epoch, mark
from flows.steps import Effect, step


class SourceDisk(Value):
    """A disk that is to be packed: a file of the library, or of a host that is this one."""

    id: UUID
    path: str
    format: Format
    is_streamed: bool = False


class StreamedDisk(Value):
    """A disk as packages have them: the library's own file, or one made for this package."""

    path: str
    virtual_size_bytes: int


@step("stream-disk", Effect.TEMPORARY)
def stream_disk(disk: SourceDisk, package: UUID, datacenter: UUID) -> StreamedDisk:
    """Make a streamOptimized VMDK of a disk that is none; look at it as if it were anybody's."""
    repository, path = cloud.repository(datacenter), Path(disk.path)
    if not disk.is_streamed:
        repository.clear(_streamed(disk, package))
        needed = cloud.images.measure(path, disk.format, Form.VMDK_STREAM)
        target = repository.scratch(f"{_streamed(disk, package)}-{epoch()}", needed)
        cloud.images.convert(path, disk.format, target, Form.VMDK_STREAM, lambda _percent: None)
        path = target
    most = cloud.settings.max_virtual_mib
    info = cloud.images.inspect(path, Format.VMDK, max_virtual_mib=most)
    return StreamedDisk(path=str(path), virtual_size_bytes=info.virtual_size_bytes)


@stream_disk.undo
def _(disk: SourceDisk, package: UUID, datacenter: UUID) -> None:
    cloud.repository(datacenter).clear(_streamed(disk, package))


@stream_disk.look
def _(disk: SourceDisk, package: UUID, datacenter: UUID) -> bool:
    return cloud.repository(datacenter).find_scratch(_streamed(disk, package)) is not None


@step("pack-disks")
def pack_disks(
    package: UUID, name: str, enterprise: UUID, datacenter: UUID, wishes: Wishes,
    disks: list[StreamedDisk], virtual_datacenter: UUID | None = None,
) -> KeptPackage:  # fmt: skip
    """Write the archive under a name of this attempt's own, and publish it by a rename."""
    repository = cloud.repository(datacenter)
    if not repository.has(_path(package)):
        repository.leave_mark(cloud.inventory.installation, mark())
        repository.clear(_packed(package))
        files = [(Path(disk.path), disk.virtual_size_bytes) for disk in disks]
        needed = sum(path.stat().st_size for path, _ in files)
        scratch = repository.scratch(f"{_packed(package)}-{epoch()}", needed)
        pack(package_of(name, files, **dict(wishes)), [path for path, _ in files], scratch)
        repository.publish(scratch, _path(package))
    return KeptPackage(
        id=package,
        enterprise_id=enterprise,
        datacenter_id=datacenter,
        name=name,
        path=_path(package),
        size_bytes=repository.identity(_path(package)).size_bytes,
        digest=repository.digest(repository.path(_path(package))),
        virtual_datacenter_id=virtual_datacenter,
    )


@pack_disks.undo
def _(
    package: UUID, name: str, enterprise: UUID, datacenter: UUID, wishes: Wishes,
    disks: list[StreamedDisk], virtual_datacenter: UUID | None = None,
) -> None:  # fmt: skip
    cloud.repository(datacenter).clear(_packed(package))
    cloud.repository(datacenter).delete(_path(package))


@pack_disks.look
def _(
    package: UUID, name: str, enterprise: UUID, datacenter: UUID, wishes: Wishes,
    disks: list[StreamedDisk], virtual_datacenter: UUID | None = None,
) -> bool:  # fmt: skip
    return cloud.repository(datacenter).has(_path(package))


@step("enter-package")
def enter_package(package: KeptPackage) -> None:
    cloud.packages.enter(package)


@enter_package.undo
def _(package: KeptPackage) -> None:
    cloud.packages.forget(package.id)


@enter_package.look
def _(package: KeptPackage) -> bool:
    return cloud.packages.has(package.id)


def _streamed(disk: SourceDisk, package: UUID) -> str:
    return f"streamed-{package}-{disk.id}"


def _packed(package: UUID) -> str:
    return f"packed-{package}"


def _path(package: UUID) -> str:
    return f"packages/{package}.ova"
