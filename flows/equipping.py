"""Equipping: what a template wishes for its VMs is written down with it."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.packages import Expected, Hardware, Wishes
from flows.cloud import cloud
from flows.steps import step


def expected_of(request: Operation) -> Expected:
    """What whoever imports says of the guest."""
    return Expected.model_validate(request.arguments.get("expects", {}))


def equip_image(template: UUID, expected: Expected) -> None:
    """Write down what was said of the guest in one image, if anything was."""
    if expected != Expected():
        equip_template(template, Wishes(hardware=expected.over(Hardware(), 1)))


@step("equip-template")
def equip_template(template: UUID, wishes: Wishes) -> None:
    cloud.equipment.equip(template, wishes)


@equip_template.undo
def _(template: UUID, wishes: Wishes) -> None:
    cloud.equipment.strip(template)


@equip_template.look
def _(template: UUID, wishes: Wishes) -> bool:
    return cloud.equipment.is_equipped(template)
