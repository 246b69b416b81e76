"""What is used is charged before it is made, and refunded once it is gone."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from adapters.amounts import Charge, Force
from adapters.database.ledger import Ledger
from adapters.database.records import NewTemplate, VolumeRecord
from flows.cloud import cloud
from flows.planning import planning
from flows.policies.limits import within
from flows.steps import Effect, step


def require_within(charges: Sequence[Charge], force: Force | None) -> None:
    """Refuse at once what limits leave no room for; the step that charges has the last word."""
    within(cloud.ledger.preview(charges), forced=force is not None)


def to_deploy(vms: Sequence[UUID]) -> list[Charge]:
    """All that deploying these VMs is charged: they, and the volumes that are carved for them."""
    return cloud.ledger.of_vms(vms) + cloud.ledger.uncarved(vms)


@step("charge-vms")
def charge_vms(target: UUID, vms: list[UUID], force: Force | None) -> None:
    """Charge the CPUs, memory and local disks of all these VMs, or of none."""
    charge(cloud.ledger.of_vms(vms), force)


@charge_vms.plan
def _(target: UUID, vms: list[UUID], force: Force | None) -> None:
    planning().charge(cloud.ledger.of_vms(vms), force)


@charge_vms.undo
def _(target: UUID, vms: list[UUID], force: Force | None) -> None:
    cloud.ledger.refund("vm", vms)


@charge_vms.look
def _(target: UUID, vms: list[UUID], force: Force | None) -> bool:
    return cloud.ledger.has("vm", vms)


@step("charge-volume")
def charge_volume(volume: VolumeRecord, force: Force | None) -> None:
    """Charge the storage of a volume that is to be carved."""
    charge(cloud.ledger.of_volumes([volume]), force)


@charge_volume.plan
def _(volume: VolumeRecord, force: Force | None) -> None:
    planning().charge(cloud.ledger.of_volumes([volume]), force)


@charge_volume.undo
def _(volume: VolumeRecord, force: Force | None) -> None:
    cloud.ledger.refund("volume", [volume.id])


@charge_volume.look
def _(volume: VolumeRecord, force: Force | None) -> bool:
    return cloud.ledger.has("volume", [volume.id])


@step("charge-template")
def charge_template(template: NewTemplate, size_mib: int, force: Force | None) -> None:
    """Charge what a template's image takes in its repository."""
    charge([cloud.ledger.of_template(template, size_mib)], force)


@charge_template.plan
def _(template: NewTemplate, size_mib: int, force: Force | None) -> None:
    planning().charge([cloud.ledger.of_template(template, size_mib)], force)


@charge_template.undo
def _(template: NewTemplate, size_mib: int, force: Force | None) -> None:
    cloud.ledger.refund("template", [template.id])


@charge_template.look
def _(template: NewTemplate, size_mib: int, force: Force | None) -> bool:
    return cloud.ledger.has("template", [template.id])


@step("lower-template", Effect.REMOVES)
def lower_template(template: NewTemplate, size_mib: int) -> None:
    """Charge a template what it takes, which is less than it might have."""
    cloud.ledger.lower([cloud.ledger.of_template(template, size_mib)])


@lower_template.plan
def _(template: NewTemplate, size_mib: int) -> None:
    planning().lower([cloud.ledger.of_template(template, size_mib)])


@lower_template.look
def _(template: NewTemplate, size_mib: int) -> bool:
    uses = [cloud.ledger.of_template(template, size_mib)]
    return cloud.ledger.charged(uses) not in ([], uses)


@step("refund-vm", Effect.REMOVES)
def refund_vm(vm: UUID) -> None:
    cloud.ledger.refund("vm", [vm])


@refund_vm.plan
def _(vm: UUID) -> None:
    planning().refund(cloud.ledger.of_vms([vm]))


@refund_vm.look
def _(vm: UUID) -> bool:
    return cloud.ledger.has("vm", [vm])


@step("refund-volume", Effect.REMOVES)
def refund_volume(volume: UUID) -> None:
    cloud.ledger.refund("volume", [volume])


@refund_volume.look
def _(volume: UUID) -> bool:
    return cloud.ledger.has("volume", [volume])


@step("refund-template", Effect.REMOVES)
def refund_template(template: UUID) -> None:
    cloud.ledger.refund("template", [template])


@refund_template.look
def _(template: UUID) -> bool:
    return cloud.ledger.has("template", [template])


@step("refund-disk", Effect.REMOVES)
def refund_disk(disk: UUID, vm: UUID) -> None:
    """Charge the VM what it uses without its disk, which is a volume by now."""
    cloud.ledger.lower(cloud.ledger.of_vms([vm]))


@refund_disk.plan
def _(disk: UUID, vm: UUID) -> None:
    size_mib = next(x.size_mib for x in cloud.inventory.vm(vm).disks if x.id == disk)
    for charge in cloud.ledger.of_vms([vm]):
        less = charge.amounts.disk_mib - size_mib
        amounts = charge.amounts.model_copy(update={"disk_mib": less})
        planning().lower([charge.model_copy(update={"amounts": amounts})])


@refund_disk.look
def _(disk: UUID, vm: UUID) -> bool:
    uses = cloud.ledger.of_vms([vm])
    return any(each not in uses for each in cloud.ledger.charged(uses))


def charge(charges: Sequence[Charge], force: Force | None, ledger: Ledger | None = None) -> None:
    """Charge all of these, or none, within their limits."""
    ledger = ledger or cloud.ledger
    ledger.charge(charges, partial(within, forced=force is not None), force)
