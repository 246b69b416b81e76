"""Export a template: a package that other products read is made, and waits to be fetched."""

from uuid import UUID

from adapters.database.equipment import Described
from adapters.database.operations import Operation
from adapters.errors import Refused
from adapters.forms import Form
from adapters.types import Role
from flows.cloud import cloud
from flows.operation import operation
from flows.packing import SourceDisk, enter_package, pack_disks, stream_disk
from flows.places import at_repository
from flows.steps import step


@operation("template", role=Role.IMAGES)
def export_template(request: Operation) -> None:
    """Make what is no streamed disk one, pack them with a descriptor, and offer the package."""
    datacenter = request.datacenter_id
    template = survey_template(request.target_id, datacenter)
    with at_repository(datacenter):
        streamed = [
            stream_disk(disk, request.id, datacenter) for disk in sources(template, datacenter)
        ]
        package = pack_disks(
            request.id,
            template.name,
            template.enterprise_id,
            datacenter,
            template.wishes,
            streamed,
        )
    enter_package(package)


@step("survey-template")
def survey_template(template: UUID, datacenter: UUID) -> Described:
    """What it is. Refused while a file of it is not what was published."""
    described = cloud.equipment.described(template, cloud.library.images(template))
    repository = cloud.repository(datacenter)
    for image in described.images:
        if repository.identity(image.path) != image.identity:
            text = f"{image.path} is not the file that was published"
            raise Refused(text, code="image-changed")
    return described


survey_template.plan(survey_template.do)


def sources(template: Described, datacenter: UUID) -> list[SourceDisk]:
    """The disks as they are in the library."""
    return [
        SourceDisk(
            id=image.id,
            path=str(cloud.repository(datacenter).path(image.path)),
            format=image.format,
            is_streamed=Form.of(image.format, image.subformat) is Form.VMDK_STREAM,
        )
        for image in template.images
    ]
