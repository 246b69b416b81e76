"""Conversions: made once for all who need them, under a name of the attempt's own until whole."""

from pathlib import Path
from uuid import UUID

from adapters.database.records import Conversion, Image
from adapters.errors import Conflict, Refused
from adapters.types import Family
from flows.cloud import cloud
from flows.places import converting
from flows.planning import planner, planning
from flows.policies.conversion import needed_form
from flows.running import epoch, telling
from flows.steps import Effect, step

_LARGE_BYTES = 2**28  # for less, measuring would cost more than it saves


def bootable(image: Image, family: Family, datacenter: UUID) -> Image:
    """The image that a VM of this family starts from: itself, or its conversion."""
    wanted = needed_form(family, image.form)
    if wanted is None:
        return image
    made = Conversion.to(wanted, image, datacenter)
    planned = found.foreseen(made.id) if (found := planner()) else None
    if converted := cloud.library.converted(made) or planned:
        return converted
    raise Conflict(f"image {image.id} is not there as {wanted.value} yet", code="not-converted")


def require_as_published(image: Image, datacenter: UUID) -> None:
    """Refuse to make anything of a file that is not, or no longer, what it was."""
    if cloud.repository(datacenter).identity(image.path) != image.identity:
        raise Refused(f"{image.path} is not the file that was published", code="image-changed")
    if cloud.library.is_condemned(image):
        raise Refused(f"{image.path} is damaged", code="image-damaged")


def convert(conversion: Conversion, operation_id: UUID) -> None:
    """Convert one image, unless that has been done."""
    with converting(conversion.datacenter_id):
        open_scratch(f"{operation_id}-{conversion.id}", conversion.datacenter_id)
        convert_disk(conversion, operation_id)


@step("open-scratch", Effect.TEMPORARY)
def open_scratch(prefix: str, datacenter: UUID) -> None:
    cloud.repository(datacenter).verify()


@open_scratch.undo
def _(prefix: str, datacenter: UUID) -> None:
    cloud.repository(datacenter).clear(prefix)


@open_scratch.look
def _(prefix: str, datacenter: UUID) -> bool:
    return cloud.repository(datacenter).find_scratch(prefix) is not None


@step("convert-disk", Effect.STAYS)
def convert_disk(conversion: Conversion, operation_id: UUID) -> None:
    """Convert under a name of this attempt's own, publish by a rename, remember the digest."""
    if _is_there(conversion):
        return
    repository = cloud.repository(conversion.datacenter_id)
    require_as_published(conversion.source, conversion.datacenter_id)
    cloud.library.enqueue(conversion)
    repository.clear(f"{operation_id}-{conversion.id}")
    source, has = repository.path(conversion.source.path), conversion.source.format
    needed = cloud.images.measure(source, has, conversion.form)
    folder = repository.scratch(f"{operation_id}-{conversion.id}-{epoch()}", needed)
    folder.mkdir()
    scratch = folder / conversion.format.disk_file  # a set's descriptor names its files so
    way = _way(conversion, folder)
    cloud.images.convert(source, has, scratch, conversion.form, telling(), way)
    digest = repository.digest(scratch)
    try:
        identity = repository.publish(scratch, conversion.path)
        cloud.library.finish(conversion, digest, identity)
    except Conflict:  # another operation was first; its bytes may differ, its content does not
        if not _keep_published(conversion):
            text = (
                f"{conversion.path} is damaged, and disks are overlays of it: undeploy their VMs"
            )
            raise Refused(text, code="conversion-damaged") from None


@convert_disk.plan
def _(conversion: Conversion, operation_id: UUID) -> None:
    if not _is_there(conversion):
        planning().copy(conversion.path, conversion.source.identity.size_bytes)
        planning().foresee(conversion.id, conversion.planned())


@convert_disk.undo
def _(conversion: Conversion, operation_id: UUID) -> None:
    """What has its name is whole, and may be another operation's by now: it is kept."""
    if not _keep_published(conversion):
        cloud.library.give_up(conversion)


@convert_disk.look
def _(conversion: Conversion, operation_id: UUID) -> bool:
    return _is_there(conversion)


def _is_there(conversion: Conversion) -> bool:
    """Whether it was finished, and nobody has removed it since."""
    finished = cloud.library.converted(conversion) is not None
    return finished and cloud.repository(conversion.datacenter_id).has(conversion.path)


def _way(conversion: Conversion, folder: Path) -> str:
    """The fastest way in this repository, measured before the first large conversion."""
    where, has, form = conversion.datacenter_id, conversion.source.form, conversion.form
    if has is None:  # a kind that is not made here, so there is no sample of it
        return ""
    if (known := cloud.ways.known(where, has, form)) is not None:
        return known
    if conversion.source.identity.size_bytes < _LARGE_BYTES:
        return ""
    way = cloud.images.fastest(folder, has, form)
    cloud.ways.remember(where, has, form, way)
    return way


def _keep_published(conversion: Conversion) -> bool:
    """Write down what is in place, unless that is nothing, or not what it once was."""
    repository = cloud.repository(conversion.datacenter_id)
    if not repository.has(conversion.path):
        return False
    digest = repository.digest(repository.path(conversion.path))
    if cloud.library.expected_digest(conversion) not in {"", digest}:
        return False
    cloud.library.finish(conversion, digest, repository.identity(conversion.path))
    return True
