"""Capture a VM: what its disks hold becomes a template, and the VM stays as it is."""

from uuid import UUID, uuid5

from adapters.database.operations import Operation
from adapters.database.records import Image, NewTemplate, VmRecord
from adapters.packages import Wishes
from adapters.stills import Stills
from adapters.types import Finding, Role, VmState
from flows.abilities import Capability, require_ability, require_readable
from flows.charges import charge_template, lower_template
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume
from flows.disk_images import HeldDisk, copy_disk, measure_disks, open_stills, path_of, taken_mib
from flows.equipping import equip_template
from flows.fetch_disk import are_seen, fetch_disks
from flows.import_image import enter_template, offer_template
from flows.operation import operation
from flows.places import at_host, converting
from flows.policies.conversion import captured_form
from flows.survey import survey_vm
from flows.upkeep import publish_report
from flows.volume_images import FORM, read_volume


@operation("vm", role=Role.IMAGES, planned=True)
def capture_image(request: Operation) -> None:
    """Charge the most it may take, enter the template, copy the disks, equip, and offer it.

    Those of a VM that is on are copied as they were at one moment.
    """
    require_capturable(cloud.inventory.vm(request.target_id))
    template = NewTemplate.model_validate(request.arguments["template"])
    vm = survey_vm(request.target_id)
    disks = held_disks(vm, [UUID(disk) for disk in request.arguments["disks"]])
    form = captured_form(vm.family)
    most_mib = measure_disks(vm.id, disks, is_on(vm), form, vm.host)
    charge_template(template, most_mib, request.force)
    enter_template(template)
    with converting(vm.datacenter_id), at_host(vm.host):
        stills = moment_of(disks, vm)
        images = [copied(n, disk, stills, template.id, vm) for n, disk in enumerate(disks)]
    equip_template(template.id, Wishes.model_validate(request.arguments["wishes"]))
    offer_template(template.id, images)
    publish_report(request.kind, vm.datacenter_id, [finding_of(vm, stills)])
    lower_template(template, taken_mib(images))


def copied(
    position: int, disk: HeldDisk, stills: Stills | None, template: UUID, vm: VmRecord
) -> Image:
    """Put a disk into the library; of a VM that is off, a volume is read where it is."""
    image, form = uuid5(template, f"disk-{position}"), captured_form(vm.family)
    if disk.volume and not stills:
        path = path_of(template, position, FORM)
        volume = disk.volume
        return read_volume(as_volume(volume), volume.pool_id, image, path, vm.datacenter_id)
    path = path_of(template, position, form)
    shown = stills if are_seen(vm.host) else None
    return copy_disk(disk, shown, form, image, path, vm.datacenter_id, vm.host)


def finding_of(vm: VmRecord, stills: Stills | None) -> Finding:
    """Say of which kind the moment was at which the disks were read."""
    if stills is None:
        state, detail = "off", "as its guest has left them"
    elif stills.quiet:
        state, detail = "quiet", "its guest had written everything, and held still"
    else:
        state, detail = "sudden", "as after a loss of power: no agent answered in its guest"
    return Finding(what="vm", name=vm.name, state=state, detail=detail)


def require_capturable(vm: VmRecord) -> None:
    """Raise `Unsupported` where its host's disks cannot be read, as the VM is now."""
    if is_on(vm):
        require_ability(vm.id, Capability.STILLS)
    else:
        require_readable(vm.id)


def is_on(vm: VmRecord) -> bool:
    """Whether its hypervisor has its disks open."""
    return vm.state in {VmState.ON, VmState.PAUSED}


def moment_of(disks: list[HeldDisk], vm: VmRecord) -> Stills | None:
    """Let the disks of a VM that is on be read as they are now; have sent what has to be."""
    stills = None
    if is_on(vm):
        stills = open_stills(vm.id, [disk.id for disk in disks], vm.datastore, vm.host)
    fetch_disks([each.disk for each in disks if each.disk], vm.host)
    return stills


def held_disks(vm: VmRecord, wanted: list[UUID]) -> list[HeldDisk]:
    """Disks and volumes of a VM by their ids, in the guest's order."""
    local = [
        HeldDisk(id=disk.id, position=disk.position, size_mib=disk.size_mib, disk=vm.disk(disk))
        for disk in vm.local_disks
    ]
    volumes = [
        HeldDisk(id=each.id, position=each.position, size_mib=each.size_mib, volume=each)
        for each in vm.volumes
    ]
    every = sorted([*local, *volumes], key=lambda disk: disk.position)
    return [disk for disk in every if disk.id in wanted]
