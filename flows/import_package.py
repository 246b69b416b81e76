"""Import an uploaded OVA: unpacked and inspected, then put into the library, disk by disk."""

from pathlib import Path
from uuid import UUID, uuid5

from adapters.database.operations import Operation
from adapters.database.records import Image, NewTemplate
from adapters.packages import About, Expected, Wishes
from adapters.types import Identity, Role
from flows.charges import charge_template
from flows.cloud import cloud
from flows.equipping import equip_template, expected_of
from flows.import_image import enter_template, offer_template
from flows.operation import operation
from flows.places import at_repository
from flows.steps import step
from flows.unpacking import UnpackedDisk, unpack_package, unpacked_in
from flows.uploads import measure_upload, take_upload


@operation("template", role=Role.IMAGES, planned=True)
def import_package(request: Operation) -> None:
    """Take the upload, charge it, enter the template, unpack, publish, equip, and offer it."""
    template = NewTemplate.model_validate(request.arguments["template"])
    take_upload(template.id, template.datacenter_id, request.arguments["upload"])
    size_mib = measure_upload(template.id, template.datacenter_id)
    charge_template(template, size_mib, request.force)
    enter_template(template)
    asked = Wishes.model_validate(request.arguments["wishes"])
    shelve_package(template, request.arguments["digest"], asked, expected_of(request))


def shelve_package(template: NewTemplate, digest: str, asked: Wishes, expected: Expected) -> None:
    """Unpack what the operation has taken, publish its disks, and offer them."""
    with at_repository(template.datacenter_id):
        unpacked = unpack_package(template.id, template.datacenter_id, digest)
    images = [published(position, disk, template) for position, disk in enumerate(unpacked.disks)]
    package = unpacked.package
    wishes = Wishes(
        cpu=asked.cpu or package.cpu,
        ram_mib=asked.ram_mib or package.ram_mib,
        hardware=expected.over(package.hardware, len(images)),
        about=(template.about or About()).over(package.about),
    )
    equip_template(template.id, wishes)
    offer_template(template.id, images)


def published(position: int, disk: UnpackedDisk, template: NewTemplate) -> Image:
    """Put a disk in place; answers what the library is to know of it."""
    disk_id = uuid5(template.id, f"disk-{position}")
    path = f"templates/{template.id}/{disk.info.format.disk_name(position)}"
    return Image(
        id=disk_id,
        format=disk.info.format,
        subformat=disk.info.subformat,
        digest=disk.digest,
        path=path,
        virtual_size_mib=disk.info.virtual_size_mib,
        identity=publish_disk(disk_id, template.id, template.datacenter_id, path),
    )


@step("publish-disk")
def publish_disk(disk: UUID, template: UUID, datacenter: UUID, path: str) -> Identity:
    repository = cloud.repository(datacenter)
    if repository.has(path):
        return repository.identity(path)
    return repository.publish(unpacked_in(repository, template) / Path(path).name, path)


@publish_disk.plan
def _(disk: UUID, template: UUID, datacenter: UUID, path: str) -> Identity:
    return Identity(size_bytes=0, modified_ns=0, inode=0)


@publish_disk.undo
def _(disk: UUID, template: UUID, datacenter: UUID, path: str) -> None:
    cloud.repository(datacenter).delete(path)


@publish_disk.look
def _(disk: UUID, template: UUID, datacenter: UUID, path: str) -> bool:
    return cloud.repository(datacenter).has(path)
