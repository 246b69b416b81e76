"""A VM's disks on its host: overlays of a base that each of them claims while it lives."""

from uuid import UUID

from adapters.database.records import DiskRecord, Image, VmRecord
from adapters.types import Base, Disk
from flows.cloud import cloud
from flows.conversions import bootable, require_as_published
from flows.planning import planning
from flows.running import mark, running
from flows.steps import step


def make_disks(vm: VmRecord) -> dict[UUID, Base]:
    """Make the VM's disks on its host's datastore; answers the bases of those that have one."""
    bases = {}
    for record in vm.local_disks:
        if record.image:
            bases[record.id] = make_overlay(record, record.image, vm)
        else:
            make_disk(vm.disk(record), vm.host)
    return bases


def make_overlay(record: DiskRecord, image: Image, vm: VmRecord) -> Base:
    """Make one disk, over the image itself or the host's copy of it."""
    image = bootable(image, vm.family, vm.datacenter_id)
    base = choose_base(record.id, image, vm.host, vm.datastore, vm.datacenter_id)
    source = cloud.repository(vm.datacenter_id).path(image.path)
    hold_base(record.id, vm.id, base, str(source), vm.host)
    make_disk(vm.disk(record, base), vm.host)
    return base


@step("choose-base")
def choose_base(disk: UUID, image: Image, host: UUID, datastore: str, datacenter: UUID) -> Base:
    """The image itself where the host sees the repository, else a copy on its datastore."""
    require_as_published(image, datacenter)
    cloud.repository(datacenter).leave_mark(cloud.inventory.installation, mark())
    return _base_of(image, host, datastore, datacenter)


@choose_base.plan
def _(disk: UUID, image: Image, host: UUID, datastore: str, datacenter: UUID) -> Base:
    base = _base_of(image, host, datastore, datacenter)
    if base.is_copy and not cloud.node(host).has_copy(base):
        planning().copy(claim_on(base, host), image.identity.size_bytes)
    return base


def _base_of(image: Image, host: UUID, datastore: str, datacenter: UUID) -> Base:
    repository = cloud.repository(datacenter)
    if cloud.node(host).sees(str(repository.root), repository.marker):
        path = str(repository.path(image.path))
        return Base(path=path, format=image.format, digest=image.digest)
    return Base.copied_to(datastore, image.digest, image.format, cloud.inventory.installation)


@step("hold-base")
def hold_base(disk: UUID, vm: UUID, base: Base, source: str, host: UUID) -> None:
    """Claim the base for as long as the disk lives; copy it to the host when it must be there."""
    cloud.claims.claim(claim_on(base, host), f"disk:{disk}")
    if base.is_copy:
        cloud.node(host).ensure_copy(source, base)
    cloud.inventory.set_base(disk, base)


@hold_base.undo
def _(disk: UUID, vm: UUID, base: Base, source: str, host: UUID) -> None:
    release_base(disk, base, host)
    cloud.inventory.set_base(disk, None)


@hold_base.look
def _(disk: UUID, vm: UUID, base: Base, source: str, host: UUID) -> bool:
    return base_held(disk, base, host)


def release_base(disk: UUID, base: Base, host: UUID) -> None:
    """Release the base; a copy on the host goes with its last disk, a library file stays."""
    remover = running()
    if cloud.claims.release(claim_on(base, host), f"disk:{disk}", remover):
        if base.is_copy:
            cloud.node(host).delete_copy(base)
        cloud.claims.removed(claim_on(base, host), remover)


def base_held(disk: UUID, base: Base, host: UUID) -> bool:
    """Whether the disk has its base, or a copy is there that no other disk explains."""
    thing = claim_on(base, host)
    if cloud.claims.has(thing, f"disk:{disk}"):
        return True
    return base.is_copy and not cloud.claims.is_claimed(thing) and cloud.node(host).has_copy(base)


def claim_on(base: Base, host: UUID) -> str:
    """What a disk claims: the library's file, or a datastore's copy, whichever hosts have that."""
    if not base.is_copy:
        return f"file:{base.path}"
    directory = base.path.rpartition("/")[0]
    return f"copy:{cloud.inventory.datastore(host, directory)}:{base.digest}"


@step("make-disk")
def make_disk(disk: Disk, host: UUID) -> None:
    cloud.hypervisor(host).ensure_disk(disk)


@make_disk.undo
def delete_disk(disk: Disk, host: UUID) -> None:
    """Remove the disk from its datastore."""
    cloud.hypervisor(host).delete_disk(disk)


@make_disk.look
def has_disk(disk: Disk, host: UUID) -> bool:
    """Whether the disk is on its datastore."""
    return cloud.hypervisor(host).has_disk(disk)
