"""Import an uploaded image: inspected before any tool opens it, then put into the library."""

from pathlib import Path
from uuid import UUID, uuid5

from adapters.database.operations import Operation
from adapters.database.records import Image, NewTemplate
from adapters.errors import BadImage
from adapters.packages import Expected
from adapters.types import Format, Identity, ImageInfo, Role, TemplateState
from flows.charges import charge_template
from flows.cloud import cloud
from flows.equipping import equip_image, expected_of
from flows.operation import operation
from flows.places import at_repository
from flows.planning import planning
from flows.steps import step
from flows.uploads import SIZE_MIB, measure_upload, take_upload, taken


@operation("template", role=Role.IMAGES, planned=True)
def import_image(request: Operation) -> None:
    """Take the upload, charge it, write the template down, inspect, publish, and offer it."""
    template = NewTemplate.model_validate(request.arguments["template"])
    declared, digest = Format(request.arguments["format"]), request.arguments["digest"]
    take_upload(template.id, template.datacenter_id, request.arguments["upload"])
    size_mib = measure_upload(template.id, template.datacenter_id)
    charge_template(template, size_mib, request.force)
    enter_template(template)
    shelve(template, declared, digest, expected_of(request))


def shelve(template: NewTemplate, declared: Format, digest: str, expected: Expected) -> None:
    """Inspect what the operation has taken, publish it, and offer it."""
    with at_repository(template.datacenter_id):
        info = inspect_upload(template.id, template.datacenter_id, declared, digest)
    path = f"templates/{template.id}/{declared.disk_file}"
    image = Image(
        id=uuid5(template.id, "disk-0"),
        format=info.format,
        subformat=info.subformat,
        digest=digest,
        path=path,
        virtual_size_mib=info.virtual_size_mib,
        identity=publish_image(template.id, template.datacenter_id, path),
    )
    equip_image(template.id, expected)
    offer_template(template.id, [image])


@step("enter-template")
def enter_template(template: NewTemplate) -> None:
    cloud.library.enter_template(template)


@enter_template.undo
def _(template: NewTemplate) -> None:
    cloud.library.forget_template(template.id)


@enter_template.look
def _(template: NewTemplate) -> bool:
    return cloud.library.template_state(template.id) is not None


@step("inspect-upload")
def inspect_upload(template: UUID, datacenter: UUID, declared: Format, digest: str) -> ImageInfo:
    """Refuse an image that is not what was declared, or that reaches outside of itself."""
    repository = cloud.repository(datacenter)
    upload = taken(repository, template, declared.disk_file)
    info = cloud.images.inspect(upload, declared, max_virtual_mib=cloud.settings.max_virtual_mib)
    if repository.digest(upload) != digest:
        raise BadImage("the image is not the one that was sent", code="image-digest-mismatch")
    return info


@inspect_upload.plan
def _(template: UUID, datacenter: UUID, declared: Format, digest: str) -> ImageInfo:
    """What was declared; how large its disk is, only inspection finds."""
    size_bytes = planning().foreseen(SIZE_MIB) * 2**20
    return ImageInfo(format=declared, virtual_size_bytes=0, file_size_bytes=size_bytes)


@step("publish-image")
def publish_image(template: UUID, datacenter: UUID, path: str) -> Identity:
    repository = cloud.repository(datacenter)
    if repository.has(path):
        return repository.identity(path)
    return repository.publish(taken(repository, template, Path(path).name), path)


@publish_image.plan
def _(template: UUID, datacenter: UUID, path: str) -> Identity:
    size_bytes = planning().foreseen(SIZE_MIB) * 2**20
    return Identity(size_bytes=size_bytes, modified_ns=0, inode=0)


@publish_image.undo
def _(template: UUID, datacenter: UUID, path: str) -> None:
    cloud.repository(datacenter).delete(path)


@publish_image.look
def _(template: UUID, datacenter: UUID, path: str) -> bool:
    return cloud.repository(datacenter).has(path)


@step("offer-template")
def offer_template(template: UUID, images: list[Image]) -> None:
    cloud.library.offer(template, images)


@offer_template.undo
def _(template: UUID, images: list[Image]) -> None:
    cloud.library.withdraw(template)


@offer_template.look
def _(template: UUID, images: list[Image]) -> bool:
    return cloud.library.template_state(template) is TemplateState.AVAILABLE
