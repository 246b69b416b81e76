"""tus 1.0.0 (https://tus.io): an upload in several goes, each of which may break off.

The file in the repository is all there is of an upload: as long as it is, so much has come. Its
address is encrypted, and says the rest; so any process goes on with what another one has begun.
The last go starts the import, and is answered with where that is. A VMDK of several files is one
upload, too: its descriptor, then the extents in the order in which that names them.
"""

import asyncio
import binascii
import re
import time
from collections import OrderedDict
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from adapters.errors import BadImage, InUse, NotFound, Refused
from adapters.images.arriving import GrowingFile, GrowingSet, Summed, SummedSet
from adapters.types import Format
from api import tokens, transfers
from api.dependencies import Send, sender
from api.errors import Problem
from api.once import Replay
from api.receiving import pieces
from api.tickets import opened, sign, use_up
from api.transfers import Transfer, require_small
from flows.charges import require_within
from flows.cloud import cloud

VERSION = "1.0.0"
_EXTENSIONS = "creation,expiration,termination"
_MEDIA_TYPE = "application/offset+octet-stream"
_VALID_S = 7 * 86400  # the longest that an upload may take in all
_PATIENCE_S = 30.0  # with a sender who says nothing: a lost one must not keep others out
_REMEMBERED = 256
_NUMBER = re.compile("[0-9]{1,19}")
_NO_CONTENT: dict[str, Any] = {"status_code": 204, "response_class": Response}


class Resumable(Transfer):
    """A transfer that has begun, in as many goes as it takes."""

    length: int
    sizes: tuple[int, ...] = ()  # of a set: its descriptor's, then its extents' as that names them

    @property
    def has_come(self) -> int | None:
        """How much there is of it."""
        path = cloud.repository(self.template.datacenter_id).find_scratch(self.scratch)
        if path is None or not path.is_dir():
            return path.stat().st_size if path else None
        return sum(each.stat().st_size for each in path.iterdir())


Growing = GrowingFile | GrowingSet
_seen: OrderedDict[UUID, Summed | SummedSet] = OrderedDict()  # of what this process was sent


def is_spoken(request: Request) -> bool:
    """Whether a request to a transfer's address is one of this protocol."""
    return request.method == "POST" and "tus-resumable" in request.headers


def require_version(request: Request) -> None:
    """Raise `Problem` unless the client speaks this version."""
    if request.headers.get("tus-resumable") != VERSION:
        told = {"Tus-Version": VERSION}
        raise Problem(412, "tus-version", f"Tus-Resumable has to be {VERSION}", told)


# Not in OpenAPI, whose clients know neither these headers nor all of these methods.
router = APIRouter(prefix="/gateway", include_in_schema=False)
_SPOKEN = [Depends(require_version)]
Sender = Annotated[Send, Depends(sender)]


@router.options("/uploads/{signed}", **_NO_CONTENT)
async def describe_upload(signed: str) -> Response:  # noqa: ARG001 - the same for all
    """Tell what of tus is understood."""
    limit = str(cloud.settings.max_upload_mib * 2**20)
    told = {"Tus-Version": VERSION, "Tus-Extension": _EXTENSIONS, "Tus-Max-Size": limit}
    return Response(status_code=204, headers=told)


@router.head("/uploads/{signed}", dependencies=_SPOKEN, response_class=Response)
async def read_upload(signed: str, send: Sender) -> Response:
    """Tell how much has come; once all has, `Location` is the import's."""
    return await asyncio.to_thread(_state, signed, send)


@router.patch("/uploads/{signed}", dependencies=_SPOKEN, **_NO_CONTENT)
async def continue_upload(signed: str, request: Request, send: Sender) -> Response:
    """Take what comes next, as far as it comes; with the last of it, start the import."""
    upload, caller = await asyncio.to_thread(_opened, signed)
    offset = _said(request, "upload-offset")
    if request.headers.get("content-type", "") != _MEDIA_TYPE:
        raise Problem(415, "unsupported-media-type", f"the body has to be {_MEDIA_TYPE}")
    growing = await asyncio.to_thread(_growing, upload)
    if growing is None:
        _require_offset(offset, upload.length)
        return _arrived(upload)
    try:
        _require_offset(offset, growing.size)
        _require_fit(upload, offset + _said(request, "content-length", 0))
        async for piece in pieces(request, _PATIENCE_S):
            _require_fit(upload, growing.size + len(piece))
            await asyncio.to_thread(_write, upload, growing, piece)
        if growing.size < upload.length:
            return _answer(upload, growing.size)
        return await asyncio.to_thread(_finish, upload, caller, growing, send)
    finally:
        await asyncio.shield(asyncio.to_thread(_leave, upload, growing))


@router.delete("/uploads/{signed}", dependencies=_SPOKEN, **_NO_CONTENT)
async def end_upload(signed: str) -> Response:
    """Give an upload up: what has come of it goes."""
    return await asyncio.to_thread(_end, signed)


async def posted(signed: str, request: Request, send: Send) -> Response:
    """Begin an upload; or do what a client means that can only GET and POST."""
    require_version(request)
    meant = request.headers.get("x-http-method-override", "POST")
    if meant == "PATCH":
        return await continue_upload(signed, request, send)
    if meant == "DELETE":
        return await end_upload(signed)
    sizes = _sizes(request.headers.get("upload-metadata", ""))
    return await asyncio.to_thread(_create, signed, _said(request, "upload-length"), sizes)


def _create(signed: str, length: int, sizes: tuple[int, ...]) -> Response:
    transfer, caller = opened(Transfer, signed, transfers.VALID_S)
    tokens.acting(caller)
    if length == 0:
        raise Problem(400, "invalid-header", "Upload-Length has to be more than nothing")
    if sizes and (sum(sizes) != length or not sizes[0] or transfer.format is not Format.VMDK):
        text = "only a VMDK has several sizes, and Upload-Length is all of them"
        raise Problem(400, "invalid-header", text)
    require_small(length)
    transfer.once(caller)
    template = transfer.template
    uses = [cloud.ledger.of_template(template, -(-length // 2**20))]
    require_within(uses, transfer.force)
    use_up(transfer)
    repository = cloud.repository(template.datacenter_id)
    place = repository.scratch(transfer.scratch, length)
    if sizes:
        GrowingSet.begin(place, transfer.first_file)
    else:
        GrowingFile.begin(place)
    upload = Resumable(**transfer.model_dump(), length=length, sizes=sizes)
    return _answer(upload, 0, 201, where=f"/gateway/uploads/{sign(upload)}")


def _opened(signed: str) -> tuple[Resumable, tokens.Caller]:
    upload, caller = opened(Resumable, signed, _VALID_S)
    tokens.acting(caller)
    return upload, caller


def _state(signed: str, send: Send) -> Response:
    upload, caller = _opened(signed)
    size = upload.has_come
    if cloud.operations.is_known(upload.operation):
        return _arrived(upload, 200)
    if size is None:
        raise _gone()
    if size == upload.length:
        return _completed(upload, caller, send)
    return _answer(upload, size, 200)


def _completed(upload: Resumable, caller: tokens.Caller, send: Send) -> Response:
    """Start the import that the last go has not: whoever hears that all has come sends no more."""
    try:
        growing = _growing(upload)
    except Problem:  # somebody is at it
        return _answer(upload, upload.length, 200)
    if growing is None:
        return _arrived(upload, 200)
    try:
        answer = _finish(upload, caller, growing, send)
    finally:
        _leave(upload, growing)
    answer.status_code = 200
    return answer


def _growing(upload: Resumable) -> Growing | None:
    """The file, had alone; None where all has come. Raises `NotFound`, `Problem`."""
    path = cloud.repository(upload.template.datacenter_id).find_scratch(upload.scratch)
    growing: Growing | None = None
    try:
        with suppress(NotFound):  # its import may just have taken it
            growing = _opened_file(upload, path) if path else None
    except InUse as error:
        raise Problem(423, "transfer-under-way", "somebody sends it: try again later") from error
    has_arrived = cloud.operations.is_known(upload.operation)
    if growing and has_arrived:
        growing.close()
    if growing is None and not has_arrived:
        raise _gone()
    return None if has_arrived else growing


def _opened_file(upload: Resumable, path: Path) -> Growing:
    seen = _seen.get(upload.id)
    if not upload.sizes:
        return GrowingFile(path, seen if isinstance(seen, Summed) else None)
    so_far = seen if isinstance(seen, SummedSet) else None
    return GrowingSet(path, upload.first_file, upload.sizes, so_far)


def _write(upload: Resumable, growing: Growing, piece: bytes) -> None:
    """Take a piece; what can become nothing is given up at once."""
    try:
        growing.write(piece)
    except BadImage:
        cloud.repository(upload.template.datacenter_id).clear(upload.scratch)
        raise


def _finish(upload: Resumable, caller: tokens.Caller, growing: Growing, send: Send) -> Response:
    """Start the import; what is refused now leaves nothing behind."""
    repository = cloud.repository(upload.template.datacenter_id)
    try:
        digest = growing.finish()
        size_mib = -(-growing.size // 2**20)
        once = upload.once(caller)
        started = transfers.start(upload, caller, once, send, digest, size_mib)
    except Replay as replay:  # an equal request was faster
        repository.clear(upload.scratch)
        return _answer(upload, upload.length, where=replay.answer.location)
    except Refused:
        repository.clear(upload.scratch)
        raise
    answer = _arrived(upload)
    answer.background = started.background
    return answer


def _leave(upload: Resumable, growing: Growing) -> None:
    """Let the next one send; what was seen of the file is remembered for him."""
    seen = growing.seen
    growing.close()
    _seen.pop(upload.id, None)
    if seen and seen.size < upload.length:
        _seen[upload.id] = seen
    while len(_seen) > _REMEMBERED:
        _seen.popitem(last=False)


def _end(signed: str) -> Response:
    upload, _ = _opened(signed)
    growing = _growing(upload)
    if growing is None:
        raise Problem(409, "transfer-arrived", "it has arrived: its import can be cancelled")
    try:
        cloud.repository(upload.template.datacenter_id).clear(upload.scratch)
    finally:
        growing.close()
    return Response(status_code=204)


def _arrived(upload: Resumable, status: int = 204) -> Response:
    return _answer(upload, upload.length, status, where=f"/v1/operations/{upload.operation}")


def _answer(
    upload: Resumable, offset: int, status: int = 204, where: str | None = None
) -> Response:
    told = {"Upload-Offset": str(offset), "Upload-Length": str(upload.length)}
    if where:
        told["Location"] = where
    if offset < upload.length:
        until = time.time() + cloud.settings.scratch_hours * 3600
        told["Upload-Expires"] = formatdate(until, usegmt=True)
    return Response(status_code=status, headers=told)


def _said(request: Request, header: str, otherwise: int | None = None) -> int:
    """A header's number. Raises `Problem`."""
    text = request.headers.get(header, "" if otherwise is None else str(otherwise))
    if not _NUMBER.fullmatch(text):
        raise Problem(400, "invalid-header", f"{header} has to be a number")
    return int(text)


def _sizes(metadata: str) -> tuple[int, ...]:
    """Of a set, what `sizes` says: how long each of its files is. Raises `Problem`."""
    said = (each.split() for each in metadata.split(","))
    for words in said:
        if words[:1] == ["sizes"]:
            with suppress(ValueError):  # of base64, ASCII, and numbers
                told = binascii.a2b_base64(words[1] if words[1:] else "", strict_mode=True)
                numbers = told.decode("ascii").split()
                if 1 < len(numbers) <= GrowingSet.MOST_FILES and all(
                    map(_NUMBER.fullmatch, numbers)
                ):
                    return tuple(map(int, numbers))
            text = "sizes has to be how long each file is, in numbers with spaces between"
            raise Problem(400, "invalid-header", text)
    return ()


def _require_offset(said: int, known: int) -> None:
    if said != known:
        raise Problem(409, "transfer-offset", f"{known} bytes have come: go on from there")


def _require_fit(upload: Resumable, size: int) -> None:
    if size > upload.length:
        raise Problem(413, "upload-too-large", f"it was to be {upload.length} bytes")


def _gone() -> NotFound:
    return NotFound("the upload is gone: begin anew", code="upload-missing")
