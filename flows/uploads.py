"""Uploads: what the gateway has left in a repository becomes an import's own."""

from pathlib import Path
from typing import NoReturn
from uuid import UUID

from adapters.errors import NotFound
from adapters.images.base import ImageRepository
from flows.cloud import cloud
from flows.planning import planning
from flows.steps import Effect, step

SIZE_MIB = "size_mib"  # of what is not there yet


@step("take-upload", Effect.TEMPORARY)
def take_upload(template: UUID, datacenter: UUID, upload: str) -> None:
    """Make the gateway's file, or folder of a set, this operation's own."""
    cloud.repository(datacenter).rename_scratch(upload, f"import-{template}")


@take_upload.undo
def _(template: UUID, datacenter: UUID, upload: str) -> None:
    cloud.repository(datacenter).clear(upload)
    cloud.repository(datacenter).clear(f"import-{template}")


@take_upload.look
def _(template: UUID, datacenter: UUID, upload: str) -> bool:
    return cloud.repository(datacenter).find_scratch(f"import-{template}") is not None


@step("measure-upload")
def measure_upload(template: UUID, datacenter: UUID) -> int:
    """How much of the repository the upload takes."""
    return size_of(cloud.repository(datacenter).find_scratch(f"import-{template}") or gone())


@measure_upload.plan
def _(template: UUID, datacenter: UUID) -> int:
    """What was said that it will take, by who plans to send it."""
    size_mib: int = planning().foreseen(SIZE_MIB)
    planning().copy(f"upload:{template}", size_mib * 2**20)
    return size_mib


def size_of(upload: Path) -> int:
    """What a file, or a folder of them, takes, in MiB that are begun."""
    files = upload.iterdir() if upload.is_dir() else [upload]
    return -(-sum(each.stat().st_size for each in files) // 2**20)


def taken(repository: ImageRepository, template: UUID, name: str) -> Path:
    """The upload that this operation took; of a set, the file that is called so."""
    if path := repository.find_scratch(f"import-{template}"):
        return path / name if path.is_dir() else path
    return gone()


def gone() -> NoReturn:
    """Raise `NotFound`."""
    raise NotFound("the uploaded file is gone", code="upload-missing")
