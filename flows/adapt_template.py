"""Adapt a template's guest to KVM: a new template, of disks that have drivers for it.

The guest conversion is a step before the library takes anything in; the template that the guest
came in as stays what it is.
"""

from pathlib import Path
from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import NewTemplate
from adapters.forms import Form
from adapters.packages import Adapted, Hardware, Wishes
from adapters.types import Format, Role, Value
from flows.charges import charge_template
from flows.cloud import cloud
from flows.equipping import equip_template
from flows.export_template import sources, survey_template
from flows.import_image import enter_template, offer_template
from flows.import_package import published
from flows.operation import operation
from flows.packing import SourceDisk
from flows.places import at_repository
from flows.steps import Effect, step
from flows.unpacking import UnpackedDisk, folder_of


class AdaptedGuest(Value):
    """A guest that is ready for KVM: its disks, in the attempt's folder, and what it expects."""

    disks: list[UnpackedDisk]
    expects: Adapted

    @property
    def size_mib(self) -> int:
        """What its disks take."""
        return -(-sum(disk.info.file_size_bytes for disk in self.disks) // 2**20)


@operation("template", role=Role.IMAGES)
def adapt_template(request: Operation) -> None:
    """Prepare copies of a template's disks for KVM, charge, enter, publish, equip, and offer them.

    Refused before anything is begun where the tool for it is not installed.
    """
    cloud.guest_tool.require()
    template = NewTemplate.model_validate(request.arguments["template"])
    source = survey_template(UUID(request.arguments["source"]), template.datacenter_id)
    hardware = source.wishes.hardware
    with at_repository(template.datacenter_id):
        disks = sources(source, template.datacenter_id)
        guest = adapt_guest(template.id, template.datacenter_id, disks, hardware)
    charge_template(template, guest.size_mib, request.force)
    enter_template(template)
    images = [published(position, disk, template) for position, disk in enumerate(guest.disks)]
    equip_template(template.id, _wishes(source.wishes, guest.expects, len(images)))
    offer_template(template.id, images)


def _wishes(former: Wishes, expects: Adapted, disks: int) -> Wishes:
    """What it wished for, on the bus and the network cards that it has drivers for now."""
    nics = [x.model_copy(update={"model": expects.nic}) for x in former.hardware.nics]
    now = {"buses": (expects.bus,) * disks, "nics": tuple(nics)}
    return former.model_copy(update={"hardware": former.hardware.model_copy(update=now)})


@step("adapt-guest", Effect.TEMPORARY)
def adapt_guest(
    template: UUID, datacenter: UUID, disks: list[SourceDisk], hardware: Hardware
) -> AdaptedGuest:
    """Have copies prepared in a folder of the repository; look at them like at anybody's."""
    repository = cloud.repository(datacenter)
    pairs = [(Path(disk.path), disk.format) for disk in disks]
    needed = sum(cloud.images.measure(path, has, Form.QCOW2) for path, has in pairs)
    folder = repository.scratch(folder_of(template), needed)
    expects = cloud.guest_tool.adapt(pairs, hardware.firmware, folder)
    ready = []
    for position, _ in enumerate(disks):
        path = folder / Format.QCOW2.disk_name(position)
        most = cloud.settings.max_virtual_mib
        info = cloud.images.inspect(path, Format.QCOW2, max_virtual_mib=most)
        ready.append(UnpackedDisk(info=info, digest=repository.digest(path)))
    return AdaptedGuest(disks=ready, expects=expects)


@adapt_guest.undo
def _(template: UUID, datacenter: UUID, disks: list[SourceDisk], hardware: Hardware) -> None:
    cloud.repository(datacenter).clear(folder_of(template))


@adapt_guest.look
def _(template: UUID, datacenter: UUID, disks: list[SourceDisk], hardware: Hardware) -> bool:
    return cloud.repository(datacenter).find_scratch(folder_of(template)) is not None
