"""Read a remote repository's index again: what it lists can be browsed, and installed."""

from pathlib import Path
from uuid import UUID

from pydantic import SecretStr

from adapters.database.operations import Operation
from adapters.images.base import Wanted
from adapters.images.index import INDEX_MAX_BYTES, read
from adapters.types import Role, Source
from flows.cloud import cloud
from flows.fetching import in_time
from flows.operation import operation
from flows.running import epoch, telling
from flows.steps import Effect, step


@operation("template_repository", role=Role.IMAGES)
def refresh_repository(request: Operation) -> None:
    """Download the index, and put what it lists in the place of what it listed before."""
    fetch_index(request.target_id, request.datacenter_id)
    list_packages(request.target_id, request.datacenter_id, request.id)


@step("fetch-index", Effect.TEMPORARY)
def fetch_index(remote: UUID, datacenter: UUID) -> None:
    repository = cloud.repository(datacenter)
    repository.clear(_name(remote))
    folder = repository.scratch(f"{_name(remote)}-{epoch()}", INDEX_MAX_BYTES)
    folder.mkdir()
    wanted = Wanted(INDEX_MAX_BYTES, lambda _size: None, telling(), in_time())
    login = cloud.secrets.read(remote) if cloud.secrets.has(remote) else None
    url = SecretStr(cloud.repositories.remote(remote).url)
    cloud.downloads.fetch(Source(url=url, login=login), folder / "index", wanted)


@fetch_index.undo
def _(remote: UUID, datacenter: UUID) -> None:
    cloud.repository(datacenter).clear(_name(remote))


@fetch_index.look
def _(remote: UUID, datacenter: UUID) -> bool:
    return cloud.repository(datacenter).find_scratch(_name(remote)) is not None


@step("list-packages", Effect.STAYS)
def list_packages(remote: UUID, datacenter: UUID, operation_id: UUID) -> None:
    """All of the index is read before anything is replaced; what it lists is looked at later."""
    folder = cloud.repository(datacenter).find_scratch(_name(remote)) or Path()
    packages = read((folder / "index").read_bytes(), cloud.repositories.remote(remote).url)
    cloud.repositories.refresh(remote, operation_id, packages)


@list_packages.undo
def _(remote: UUID, datacenter: UUID, operation_id: UUID) -> None:
    """What was read stays: it was read whole, or not at all."""


@list_packages.look
def _(remote: UUID, datacenter: UUID, operation_id: UUID) -> bool:
    return cloud.repositories.is_refreshed_by(remote, operation_id)


def _name(remote: UUID) -> str:
    return f"index-{remote}"
