"""What lies in an inbox: looked at, borrowed by its import, and gone once it is a template."""

from pathlib import Path
from uuid import UUID, uuid5

from adapters.errors import NotFound, Refused
from adapters.images import inbox
from adapters.images.base import ImageRepository
from adapters.images.manifest import certificates
from adapters.images.ova import take_apart
from adapters.packages import PACKAGE
from adapters.placed import Placed, Shape
from adapters.types import Format, Value
from flows.cloud import cloud
from flows.policies.inbox import format_of, name_for, why_left
from flows.running import epoch
from flows.steps import Effect, step
from flows.uploads import size_of


class Looked(Value):
    """What something in an inbox is: fit to be imported by this operation, or why it is left."""

    placed: Placed
    importer: UUID | None = None
    enterprise: UUID | None = None
    digest: str = ""
    why: str = ""
    detail: str = ""


@step("look-at-found", Effect.TEMPORARY)
def look_at_found(placed: Placed, datacenter: UUID) -> Looked:
    """Refuse nothing: what must not become a template is left where it is, and told of."""
    enterprise = cloud.library.enterprise_called(placed.owner)
    if why := "" if enterprise else "unknown-enterprise":
        return Looked(placed=placed, why=why)
    if why := why_left(placed, cloud.settings.inbox_quiet_s):
        return Looked(placed=placed, why=why)
    importer, under_way = _importer(placed, datacenter)
    if under_way:
        return Looked(placed=placed, why="being-imported", detail=f"operation {importer}")
    if enterprise and cloud.library.has_name(enterprise, datacenter, name_for(placed)):
        return Looked(placed=placed, why="name-taken", detail=name_for(placed))
    repository = cloud.repository(datacenter)
    repository.clear(_looked_at(placed))
    try:
        digest = _inspected(repository, placed)
    except Refused as error:
        return Looked(placed=placed, why=error.code, detail=str(error))
    finally:
        repository.clear(_looked_at(placed))
    return Looked(placed=placed, importer=importer, enterprise=enterprise, digest=digest)


@look_at_found.undo
def _(placed: Placed, datacenter: UUID) -> None:
    cloud.repository(datacenter).clear(_looked_at(placed))


@look_at_found.look
def _(placed: Placed, datacenter: UUID) -> bool:
    return cloud.repository(datacenter).find_scratch(_looked_at(placed)) is not None


@step("take-found", Effect.TEMPORARY)
def take_found(template: UUID, datacenter: UUID, placed: Placed) -> None:
    """Borrow it as this operation's own; where it was put it stays meanwhile."""
    repository, name = cloud.repository(datacenter), f"import-{template}"
    if repository.find_scratch(name) is None:
        attempt = f"found-{template}-{epoch()}"
        _borrow(repository, placed, attempt)
        repository.rename_scratch(attempt, name)


@take_found.undo
def _(template: UUID, datacenter: UUID, placed: Placed) -> None:
    cloud.repository(datacenter).clear(f"found-{template}")
    cloud.repository(datacenter).clear(f"import-{template}")


@take_found.look
def _(template: UUID, datacenter: UUID, placed: Placed) -> bool:
    return cloud.repository(datacenter).find_scratch(f"import-{template}") is not None


@step("clear-found", Effect.REMOVES)
def clear_found(template: UUID, datacenter: UUID, placed: Placed) -> None:
    """It is a template by now; what was put there anew meanwhile stays."""
    inbox.take_away(cloud.repository(datacenter), placed.path, placed.identity)


@clear_found.look
def _(template: UUID, datacenter: UUID, placed: Placed) -> bool:
    """Whether it is there, the same as it was."""
    try:
        return inbox.identity_of(cloud.repository(datacenter), placed.path) == placed.identity
    except NotFound:
        return False


def _importer(placed: Placed, datacenter: UUID) -> tuple[UUID, bool]:
    """The operation that is to import it, and whether it is under way already.

    One that has ended has failed, or its file would be gone: then it is another one's turn.
    """
    again, this = 0, f"{placed.identity.size_bytes}/{placed.identity.modified_ns}"
    while True:
        importer = uuid5(datacenter, f"{placed.path}/{this}/{again}")
        if not cloud.operations.is_known(importer):
            return importer, False
        if not cloud.operations.read(importer).ended:
            return importer, True
        again += 1


def _inspected(repository: ImageRepository, placed: Placed) -> str:
    """Look into it as into an upload; answers its digest. Raises `Refused`."""
    borrowed = _borrow(repository, placed, f"{_looked_at(placed)}-{epoch()}")
    most = cloud.settings.max_virtual_mib
    if (kind := format_of(placed)) == PACKAGE:
        folder = repository.scratch(f"{_looked_at(placed)}-disks", size_of(borrowed) * 2**20)
        trusted = certificates(cloud.settings.package_certificates)
        take_apart(borrowed, folder, cloud.images, max_virtual_mib=most, trusted=trusted)
    else:
        cloud.images.inspect(borrowed, Format(kind), max_virtual_mib=most)
    return repository.digest(borrowed)


def _borrow(repository: ImageRepository, placed: Placed, name: str) -> Path:
    """Have it as if it had been sent; answers the image, or the package."""
    scratch = repository.scratch(name, 0)
    inbox.borrow(repository, placed.path, scratch)
    return inbox.as_set(scratch) if placed.shape is Shape.SET else scratch


def _looked_at(placed: Placed) -> str:
    return f"looked-{placed.id}"
