"""Capture volumes: what they hold becomes a template's disks, and they stay as they are."""

from uuid import UUID, uuid5

from adapters.database.operations import Operation
from adapters.database.records import NewTemplate
from adapters.packages import Wishes
from adapters.types import Role
from flows.charges import charge_template, lower_template
from flows.create_iscsi_volume import as_volume
from flows.disk_images import path_of, taken_mib
from flows.equipping import equip_template
from flows.import_image import enter_template, offer_template
from flows.operation import operation
from flows.places import at_repository
from flows.survey import survey_volumes
from flows.volume_images import FORM, most_mib, read_volume


@operation("template", role=Role.IMAGES, planned=True)
def capture_volume(request: Operation) -> None:
    """Charge the most it may take, enter the template, read its volumes, equip, and offer it."""
    template = NewTemplate.model_validate(request.arguments["template"])
    wanted = [UUID(volume) for volume in request.arguments["volumes"]]
    volumes = survey_volumes(template.id, wanted)
    charge_template(template, sum(most_mib(each.size_mib) for each in volumes), request.force)
    enter_template(template)
    with at_repository(template.datacenter_id):
        images = [
            read_volume(
                as_volume(volume),
                volume.pool_id,
                uuid5(template.id, f"disk-{position}"),
                path_of(template.id, position, FORM),
                template.datacenter_id,
            )
            for position, volume in enumerate(volumes)
        ]
    equip_template(template.id, Wishes.model_validate(request.arguments["wishes"]))
    offer_template(template.id, images)
    lower_template(template, taken_mib(images))
