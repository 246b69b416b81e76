"""Volumes in the library: what a volume holds becomes an image there, whole or not at all."""

from uuid import UUID

from adapters.database.records import Image
from adapters.errors import Refused
from adapters.forms import Form
from adapters.types import Identity, Volume
from flows.cloud import cloud
from flows.own_exports import are_open, close_exports, open_export
from flows.planning import planning
from flows.running import epoch, mark, telling
from flows.steps import step

FORM = Form.QCOW2  # that they have in the library
_SURPLUS = 1024  # the part of an image's size that its tables are, at most


@step("read-volume")
def read_volume(volume: Volume, pool: UUID, image: UUID, path: str, datacenter: UUID) -> Image:
    """Copy and compare, under a name of this attempt's own; publish by a rename.

    The volume is only read: whatever dies, it is what it was.
    """
    repository, whose = cloud.repository(datacenter), _reader(image)
    close_exports(volume, pool, whose)
    if not repository.has(path):
        repository.leave_mark(cloud.inventory.installation, mark())
        repository.clear(whose)
        scratch = repository.scratch(f"{whose}-{epoch()}", most_mib(volume.size_mib) * 2**20)
        opened = open_export(volume, pool, whose)
        cloud.images.read_target(*opened, scratch, FORM, telling())
        same = cloud.images.equals_target(scratch, FORM.format, *opened)
        close_exports(volume, pool, whose)
        if not same:
            raise Refused("the image does not equal the volume it is of", code="copy-differs")
        repository.publish(scratch, path)
    digest = repository.digest(repository.path(path))
    return _image(volume, image, path, digest, repository.identity(path))


@read_volume.plan
def _(volume: Volume, pool: UUID, image: UUID, path: str, datacenter: UUID) -> Image:
    """As large as it may become; its bytes are not known either."""
    size_bytes = most_mib(volume.size_mib) * 2**20
    planning().copy(path, volume.size_mib * 2**20)
    identity = Identity(size_bytes=size_bytes, modified_ns=0, inode=0)
    return _image(volume, image, path, image.hex, identity)


@read_volume.undo
def _(volume: Volume, pool: UUID, image: UUID, path: str, datacenter: UUID) -> None:
    close_exports(volume, pool, _reader(image))
    cloud.repository(datacenter).clear(_reader(image))
    cloud.repository(datacenter).delete(path)


@read_volume.look
def _(volume: Volume, pool: UUID, image: UUID, path: str, datacenter: UUID) -> bool:
    repository, whose = cloud.repository(datacenter), _reader(image)
    there = repository.has(path) or repository.find_scratch(whose) is not None
    return there or are_open(volume, pool, whose)


def most_mib(size_mib: int) -> int:
    """How much of the repository a volume's image may take."""
    return size_mib + -(-size_mib // _SURPLUS) + 1


def _reader(image: UUID) -> str:
    return f"read-{image}"


def _image(volume: Volume, image: UUID, path: str, digest: str, identity: Identity) -> Image:
    return Image(
        id=image,
        format=FORM.format,
        digest=digest,
        path=path,
        virtual_size_mib=volume.size_mib,
        identity=identity,
    )
