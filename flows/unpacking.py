"""Unpacking: an upload that is a package becomes inspected disks in a folder of the repository."""

from pathlib import Path
from uuid import UUID

from adapters.errors import BadImage
from adapters.forms import Form
from adapters.images.base import ImageRepository
from adapters.images.manifest import certificates
from adapters.images.ova import Ova, take_apart
from adapters.images.ovf import read
from adapters.images.untrusted import UntrustedFile
from adapters.packages import PACKAGE, Package
from adapters.plans import PlannedDisk
from adapters.types import Format, ImageInfo, Value
from flows.cloud import cloud
from flows.planning import planning
from flows.policies.conversion import needed_form
from flows.steps import Effect, step
from flows.uploads import gone, size_of, taken


class UnpackedDisk(Value):
    """A disk that came out of a package, in the attempt's folder."""

    info: ImageInfo
    digest: str


class Unpacked(Value):
    """What came out of a package."""

    package: Package
    disks: list[UnpackedDisk]


@step("unpack-package", Effect.TEMPORARY)
def unpack_package(template: UUID, datacenter: UUID, digest: str) -> Unpacked:
    """Refuse a package that is not what was sent, or not what it says, or with an unsafe disk."""
    repository = cloud.repository(datacenter)
    upload = _package(repository, template)
    if repository.digest(upload) != digest:
        raise BadImage("the package is not the one that was sent", code="image-digest-mismatch")
    folder = repository.scratch(folder_of(template), size_of(upload) * 2**20)
    most, trusted = (
        cloud.settings.max_virtual_mib,
        certificates(cloud.settings.package_certificates),
    )
    found = take_apart(upload, folder, cloud.images, max_virtual_mib=most, trusted=trusted)
    disks = [
        UnpackedDisk(info=info, digest=repository.digest(folder / info.format.disk_name(position)))
        for position, info in enumerate(found.images)
    ]
    return Unpacked(package=found.package, disks=disks)


@unpack_package.plan
def _(template: UUID, datacenter: UUID, digest: str) -> Unpacked:
    """What the descriptor says, which whoever plans has sent."""
    package: Package = planning().foreseen(PACKAGE)
    sizes = {file.name: file.size_bytes or 0 for file in package.files}
    planning().notice(
        "the package",
        vm=package.name,
        cpu=package.cpu or "not said",
        ram_mib=package.ram_mib or "not said",
        disks=", ".join(f"{x.file} of {x.capacity_bytes} bytes" for x in package.disks),
    )
    disks = []
    for disk in package.disks:
        planning().copy(f"package:{template}:{disk.file}", sizes[disk.file])
        info = ImageInfo(
            format=disk.format,
            virtual_size_bytes=disk.capacity_bytes,
            file_size_bytes=sizes[disk.file],
        )
        disks.append(UnpackedDisk(info=info, digest=""))
        # A package's VMDKs are streams, as good as always.
        has = Form.VMDK_STREAM if disk.format is Format.VMDK else Form.of(disk.format)
        foresee_disk(datacenter, disk.file, info, has)
    return Unpacked(package=package, disks=disks)


def foresee_disk(datacenter: UUID, file: str, info: ImageInfo, has: Form | None) -> None:
    """A disk would come of this, and become what families that are there boot."""
    families = sorted({host.family for host in cloud.inventory.situation(datacenter).hosts})
    becomes = {x: (needed_form(x, has) or has or info.format).value for x in families}
    told = {"file": file, "format": info.format, "becomes": becomes}
    planning().disks.append(PlannedDisk(**told, virtual_size_mib=info.virtual_size_mib))


@unpack_package.undo
def _(template: UUID, datacenter: UUID, digest: str) -> None:
    cloud.repository(datacenter).clear(folder_of(template))


@unpack_package.look
def _(template: UUID, datacenter: UUID, digest: str) -> bool:
    return cloud.repository(datacenter).find_scratch(folder_of(template)) is not None


def described(descriptor: bytes) -> Package:
    """A package as its descriptor says: nothing else is there yet. Raises `BadPackage`."""
    return read(descriptor)


def package_in(upload: Path) -> Package:
    """The package that a file is, or the one in a folder, by its headers. Raises `BadPackage`."""
    path = upload / f"disk-0.{PACKAGE}" if upload.is_dir() else upload
    with UntrustedFile.open(path) as file:
        return Ova(file, certificates(cloud.settings.package_certificates)).package


def package_of(datacenter: UUID, upload: str) -> Package:
    """The package that has arrived under this name. Raises `BadPackage`."""
    return package_in(cloud.repository(datacenter).find_scratch(upload) or gone())


def unpacked_in(repository: ImageRepository, template: UUID) -> Path:
    """The folder with the disks that came out."""
    return repository.find_scratch(folder_of(template)) or gone()


def _package(repository: ImageRepository, template: UUID) -> Path:
    """The archive, which may have been sent in a form; or the folder of its files."""
    archive = taken(repository, template, f"disk-0.{PACKAGE}")
    return archive if archive.exists() else archive.parent


def folder_of(template: UUID) -> str:
    """What the folder is called that a template's disks wait in."""
    return f"unpacked-{template}"
