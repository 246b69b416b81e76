"""Capture a VM: what its disks hold becomes a template, and the VM stays as it is."""

from uuid import UUID, uuid5

from adapters.database.operations import Operation
from adapters.database.records import NewTemplate, VmRecord
from adapters.packages import Wishes
from adapters.stills import Stills
from adapters.types import Role, VmState
from flows.abilities import Capability, require_ability, require_readable
from flows.charges import charge_template, lower_template
from flows.disk_images import HeldDisk, copy_disk, measure_disks, open_stills, path_of, taken_mib
from flows.fetch_disk import are_seen, fetch_disks
from flows.import_image import enter_template, offer_template
from flows.import_package import equip_template
from flows.operation import operation
from flows.places import at_host, converting
from flows.policies.conversion import captured_form
from flows.survey import survey_vm


@operation("vm", role=Role.IMAGES, planned=True)
def capture_image(request: Operation) -> None:
    """Charge the most it may take, enter the template, copy the disks, equip, and offer it.

    Those of a VM that is on are copied as they were at one moment.
    """
    template = NewTemplate.model_validate(request.arguments["template"])
    vm = survey_vm(request.target_id)
    disks = held_disks(vm, [UUID(disk) for disk in request.arguments["disks"]])
    require_capturable(vm)
    form = captured_form(vm.family)
    most_mib = measure_disks(vm.id, disks, is_on(vm), form, vm.host)
    charge_template(template, most_mib, request.force)
    enter_template(template)
    with converting(vm.datacenter_id), at_host(vm.host):
        stills = moment_of(vm, disks)
        images = [
            copy_disk(
                disk,
                stills,
                form,
                uuid5(template.id, f"disk-{position}"),
                path_of(template.id, position, form),
                vm.datacenter_id,
                vm.host,
            )
            for position, disk in enumerate(disks)
        ]
    equip_template(template.id, Wishes.model_validate(request.arguments["wishes"]))
    offer_template(template.id, images)
    lower_template(template, taken_mib(images))


def require_capturable(vm: VmRecord) -> None:
    """Raise `Unsupported` where its host's disks cannot be read, as the VM is now."""
    if is_on(vm):
        require_ability(vm.id, Capability.STILLS)
    else:
        require_readable(vm.id)


def is_on(vm: VmRecord) -> bool:
    """Whether its hypervisor has its disks open."""
    return vm.state in {VmState.ON, VmState.PAUSED}


def moment_of(vm: VmRecord, disks: list[HeldDisk]) -> Stills | None:
    """Let the disks of a VM that is on be read as they are now; have sent what has to be."""
    stills = None
    if is_on(vm):
        stills = open_stills(vm.id, [disk.id for disk in disks], vm.datastore, vm.host)
    fetch_disks([each.disk for each in disks if each.disk], vm.host)
    return stills if are_seen(vm.host) else None


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
