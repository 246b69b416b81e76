"""The image gateway: bytes go straight into a datacenter's repository.

A signed URL allows one transfer, once, for an hour. The body is written piece by piece, off the
event loop, to a scratch file that goes when the transfer does not arrive whole. A body of several
files, `multipart/form-data`, is written to a scratch folder in the same way.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from adapters.amounts import Force
from adapters.database.operations import Request as Request_
from adapters.database.records import NewTemplate
from adapters.errors import BadImage, Transient
from adapters.images.arriving import ArrivingFile, ArrivingSet
from adapters.images.base import ImageRepository
from adapters.packages import PACKAGE, Wishes
from adapters.privileges import Privilege
from adapters.types import Format, Value
from api import tokens
from api.dependencies import Send, sender
from api.errors import Problem
from api.multipart import MEDIA_TYPE, Multipart
from api.once import Once
from api.planning import PlannedStarter, starter_of
from api.reports import Operation
from api.starting import Starter
from api.tickets import Ticket, opened, sign, use_up
from flows.charges import require_within
from flows.cloud import cloud
from flows.unpacking import package_in
from flows.uploads import size_of, take_upload

router = APIRouter(prefix="/gateway", tags=["gateway"])
_VALID_S = 3600
_ACCEPTED: dict[str, Any] = {"status_code": 202, "responses": {202: {"model": Operation}}}
_PIECE_BYTES = 2**20


class Import(Value):
    """What becomes a template, as whoever will send it says."""

    template: NewTemplate
    force: Force | None
    format: str
    digest: str | None
    wishes: Wishes
    size_bytes: int | None


class Transfer(Ticket):
    """One upload that somebody may make: which template it becomes, and for whom."""

    use: ClassVar[str] = "transfer"
    privilege: ClassVar[Privilege] = Privilege.APPLIB_UPLOAD_IMAGE

    route: str
    key: str | None
    request: str
    template: NewTemplate
    force: Force | None = None
    format: Format | Literal["ova"]
    digest: str | None
    wishes: Wishes = Wishes()  # that win over a package's own
    size_bytes: int | None = None  # as it was said
    plan: UUID | None = None  # that it carries out

    @property
    def scratch(self) -> str:
        """The name of its file in the repository's incoming folder."""
        return f"upload-{self.id}"

    @property
    def wish(self) -> "Import":
        """What was asked for: the same of a plan, and of what carries it out."""
        said = self.model_dump(include=set(Import.model_fields))
        return Import.model_validate(said)

    @property
    def stand_ins(self) -> dict[str, Any]:
        """What stands for what is known only once all has been sent, while looking ahead."""
        return {"upload": "upload", "digest": self.digest or ""}

    def request_of(self, starter: Starter, digest: str, **more: Any) -> Request_:
        """The import that is started once it has been sent."""
        return starter.request(
            "import_package" if self.format == PACKAGE else "import_image",
            self.template.id,
            self.template.name,
            self.template.datacenter_id,
            template=self.template,
            digest=digest,
            upload=self.scratch,
            force=self.force,
            **self.arguments,
            **more,
        )

    @property
    def first_file(self) -> str:
        """What a form's first file is called."""
        return f"disk-0.{PACKAGE}" if self.format == PACKAGE else self.format.disk_file

    @property
    def arguments(self) -> dict[str, Any]:
        """What only an import of this kind is asked."""
        return {"wishes": self.wishes} if self.format == PACKAGE else {"format": self.format}


class Arriving(Protocol):
    """What a body becomes."""

    def write(self, piece: bytes) -> None:
        """Take its next piece."""

    def finish(self) -> str:
        """It has come whole; answers its SHA-256."""

    def close(self) -> None:
        """Let go of it, whole or not."""


def address(transfer: Transfer) -> str:
    """The path where this one transfer may be made."""
    return f"/gateway/uploads/{sign(transfer)}"


@router.put("/uploads/{signed}", operation_id="upload_by_put", **_ACCEPTED)
@router.post("/uploads/{signed}", operation_id="upload_by_post", **_ACCEPTED)
async def upload(
    signed: str, request: Request, send: Annotated[Send, Depends(sender)]
) -> Response:
    """Take an image, and start its import."""
    transfer, caller = await asyncio.to_thread(opened, Transfer, signed, _VALID_S)
    tokens.acting(caller)
    length = _declared_length(request)
    once = await asyncio.to_thread(_begin, transfer, caller)
    repository = await asyncio.to_thread(cloud.repository, transfer.template.datacenter_id)
    async with _scratch(repository, transfer.scratch, length) as path:
        kind = request.headers.get("content-type", "")
        arriving = await asyncio.to_thread(_arriving, kind, path, transfer.first_file)
        digest = await _receive(request, arriving)
        if transfer.digest not in {None, digest}:
            text = "what arrived is not what was declared"
            raise BadImage(text, code="image-digest-mismatch")
        size_mib = await asyncio.to_thread(size_of, path)
        asked = partial(starter_of, caller, once, send, transfer.route, plan=transfer.plan)
        starter = await asyncio.to_thread(asked)
        return await asyncio.to_thread(_start, transfer, starter, digest, size_mib, path)


def _begin(transfer: Transfer, caller: tokens.Caller) -> Once:
    """Use the transfer up: a second request with it is refused, whatever becomes of the first."""
    once = Once(caller, transfer.route, transfer.key, transfer.request.encode())
    use_up(transfer)
    return once


def _declared_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    length = int(text) if text.isdecimal() else 0
    _require_small(length)
    return length


@asynccontextmanager
async def _scratch(
    repository: ImageRepository, name: str, needed_bytes: int
) -> AsyncIterator[Path]:
    """A file that is gone again unless all goes well."""
    path = await asyncio.to_thread(repository.scratch, name, needed_bytes)
    try:
        yield path
    except BaseException:
        await asyncio.shield(asyncio.to_thread(repository.clear, name))
        raise


def _arriving(content_type: str, path: Path, first: str) -> Arriving:
    if content_type.lower().startswith(MEDIA_TYPE):
        return Multipart(content_type, ArrivingSet(path, first))
    return ArrivingFile(path)


async def _receive(request: Request, arriving: Arriving) -> str:
    """Write the body down, at least a piece at a time; answers its SHA-256."""
    arrived, waiting = 0, bytearray()
    try:
        async for chunk in request.stream():
            waiting += chunk
            arrived += len(chunk)
            _require_small(arrived)
            if len(waiting) >= _PIECE_BYTES:
                await asyncio.to_thread(arriving.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(arriving.write, bytes(waiting))
        return await asyncio.to_thread(arriving.finish)
    except ClientDisconnect as error:
        raise Transient("the transfer was cut off", code="transfer-cut-off") from error
    finally:
        await asyncio.shield(asyncio.to_thread(arriving.close))


def _require_small(size_bytes: int) -> None:
    limit_mib = cloud.settings.max_upload_mib
    if size_bytes > limit_mib * 2**20:
        raise Problem(413, "upload-too-large", f"at most {limit_mib} MiB are taken")


def _start(
    transfer: Transfer, starter: PlannedStarter, digest: str, size_mib: int, path: Path
) -> Response:
    template = transfer.template
    uses = [cloud.ledger.of_template(template, size_mib)]
    taken = take_upload.intent(template.id, template.datacenter_id, transfer.scratch)
    planned = transfer.plan and transfer.format == PACKAGE
    package = package_in(path) if planned else None
    starter.foresee(transfer.stand_ins, size_mib=size_mib, ova=package)
    return starter.start(
        lambda _db: transfer.request_of(starter, digest, intents=[taken]),
        lambda: require_within(uses, transfer.force),
        wish=transfer.wish,
    )
