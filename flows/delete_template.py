"""Delete a template: from its first bytes on there is no way back; what VMs need stays."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import Image
from adapters.errors import InUse
from adapters.types import Role, TemplateState
from flows.charges import refund_template, refund_volume
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume
from flows.delete_iscsi_volume import remove_volume, strike_volume
from flows.drop_conversions import drop_conversion
from flows.operation import operation
from flows.running import running
from flows.steps import Effect, step
from flows.survey import survey_volumes


@operation("template", role=Role.IMAGES)
def delete_template(request: Operation) -> None:
    """Offer it no more, unless in use; remove its files, volumes, conversions, charges, rows."""
    template, datacenter = request.target_id, UUID(request.arguments["library"])
    retire_template(template, datacenter, TemplateState(request.arguments["former"]))
    for image in survey_images(template):
        remove_image(image, datacenter)
    for image in survey_its_conversions(template):
        drop_conversion(image, datacenter)
    wanted = [UUID(volume) for volume in request.arguments.get("volumes", ())]
    volumes = survey_volumes(template, wanted)
    for volume in volumes:
        remove_volume(as_volume(volume), volume.pool_id)
    if not volumes:
        refund_template(template)
    strike_template(template)
    for volume in volumes:
        strike_volume(volume.id)
        refund_volume(volume.id)


@step("retire-template")
def retire_template(template: UUID, datacenter: UUID, former: TemplateState) -> None:
    """Nobody makes a VM of it any more: it is DELETING. Refused while a VM or a disk needs it."""
    for image in _in_place(template):
        if users := cloud.claims.holders(_file(image, datacenter)):
            raise InUse(f"{image.path} is in use by {users[0]}", users=users)
    cloud.library.retire(template)


@retire_template.undo
def _(template: UUID, datacenter: UUID, former: TemplateState) -> None:
    cloud.library.set_template_state(template, former)


@retire_template.look
def _(template: UUID, datacenter: UUID, former: TemplateState) -> bool:
    return cloud.library.template_state(template) in {None, TemplateState.DELETING}


@step("survey-images")
def survey_images(template: UUID) -> list[Image]:
    """What was put in place for it, and is needed by no disk."""
    return _in_place(template)


@step("survey-its-conversions")
def survey_its_conversions(template: UUID) -> list[Image]:
    """Those that no other template has, by whose images they could be asked for."""
    return cloud.library.only_its(template)


@step("remove-image", Effect.REMOVES)
def remove_image(image: Image, datacenter: UUID) -> None:
    cloud.claims.begin_removal(_file(image, datacenter), running())
    cloud.repository(datacenter).delete(image.path)
    cloud.claims.removed(_file(image, datacenter), running())


@remove_image.look
def _(image: Image, datacenter: UUID) -> bool:
    return cloud.repository(datacenter).has(image.path)


@step("strike-template", Effect.REMOVES)
def strike_template(template: UUID) -> None:
    cloud.library.forget_template(template)


@strike_template.look
def _(template: UUID) -> bool:
    return cloud.library.template_state(template) is not None


def _in_place(template: UUID) -> list[Image]:
    return [image for image in cloud.library.images(template) if image.path]


def _file(image: Image, datacenter: UUID) -> str:
    return f"file:{cloud.repository(datacenter).path(image.path)}"
