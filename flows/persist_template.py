"""Persist a template: its disks become volumes that one VM at a time boots from, and keeps."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import Image, NewTemplate, VolumeRecord
from adapters.types import Role, TemplateState, Volume
from flows.charges import charge_volume
from flows.cloud import cloud
from flows.conversions import require_as_published
from flows.create_iscsi_volume import as_volume, carve, enter_volume
from flows.equipping import equip_template
from flows.export_template import survey_template
from flows.fill_volume import FILLER, fill
from flows.import_image import enter_template
from flows.operation import operation
from flows.own_exports import are_open, close_exports
from flows.places import at_repository
from flows.planning import planning
from flows.steps import Effect, step


@operation("template", role=Role.IMAGES, planned=True)
def persist_template(request: Operation) -> None:
    """Enter a template, carve and fill a volume for each disk of another one, offer it."""
    template = NewTemplate.model_validate(request.arguments["template"])
    volumes = [VolumeRecord.model_validate(each) for each in request.arguments["volumes"]]
    source = survey_template(UUID(request.arguments["source"]), template.datacenter_id)
    enter_template(template)
    with at_repository(template.datacenter_id):
        for image, volume in zip(source.images, volumes, strict=True):
            charge_volume(volume, request.force)
            enter_volume(volume)
            carve(volume)
            pour_image(as_volume(volume), volume.pool_id, image, template.datacenter_id)
    equip_template(template.id, source.wishes)
    offer_volumes(template.id, [volume.id for volume in volumes])


@step("pour-image", Effect.TEMPORARY)
def pour_image(volume: Volume, pool: UUID, image: Image, datacenter: UUID) -> None:
    """Copy and compare. What is temporary is the export, as when a VM's disk is copied."""
    require_as_published(image, datacenter)
    fill(volume, pool, cloud.repository(datacenter).path(image.path), image.format)


@pour_image.plan
def _(volume: Volume, pool: UUID, image: Image, datacenter: UUID) -> None:
    planning().copy(f"volume:{volume.id}", volume.size_mib * 2**20)


@pour_image.undo
def _(volume: Volume, pool: UUID, image: Image, datacenter: UUID) -> None:
    close_exports(volume, pool, FILLER)


@pour_image.look
def _(volume: Volume, pool: UUID, image: Image, datacenter: UUID) -> bool:
    return are_open(volume, pool, FILLER)


@step("offer-volumes")
def offer_volumes(template: UUID, volumes: list[UUID]) -> None:
    cloud.persistent.offer(template, volumes)


@offer_volumes.undo
def _(template: UUID, volumes: list[UUID]) -> None:
    cloud.library.withdraw(template)


@offer_volumes.look
def _(template: UUID, volumes: list[UUID]) -> bool:
    return cloud.library.template_state(template) is TemplateState.AVAILABLE
