"""The image gateway: bytes go straight into a datacenter's repository.

A signed URL allows one transfer, once, for an hour. The body is written piece by piece, off the
event loop, to a scratch file that goes when the transfer does not arrive whole. A body of several
files, `multipart/form-data`, is written to a scratch folder in the same way. Who speaks tus sends
in several goes (`api.tus`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request, Response

from adapters.images.arriving import ArrivingFile, ArrivingSet
from adapters.images.base import ImageRepository
from api import tokens, transfers, tus
from api.dependencies import Send, sender
from api.multipart import MEDIA_TYPE, Multipart
from api.once import Once
from api.receiving import pieces
from api.reports import Operation
from api.tickets import opened, use_up
from api.transfers import Transfer, require_small
from flows.cloud import cloud
from flows.uploads import size_of

router = APIRouter(prefix="/gateway", tags=["gateway"])
_ACCEPTED: dict[str, Any] = {"status_code": 202, "responses": {202: {"model": Operation}}}


class Arriving(Protocol):
    """What a body becomes."""

    def write(self, piece: bytes) -> None:
        """Take its next piece."""

    def finish(self) -> str:
        """It has come whole; answers its SHA-256."""

    def close(self) -> None:
        """Let go of it, whole or not."""


@router.put("/uploads/{signed}", operation_id="upload_by_put", **_ACCEPTED)
@router.post("/uploads/{signed}", operation_id="upload_by_post", **_ACCEPTED)
async def upload(
    signed: str, request: Request, send: Annotated[Send, Depends(sender)]
) -> Response:
    """Take an image, and start its import; or, asked by tus, make an upload in several goes."""
    if tus.is_spoken(request):
        return await tus.posted(signed, request, send)
    transfer, caller = await asyncio.to_thread(opened, Transfer, signed, transfers.VALID_S)
    tokens.acting(caller)
    length = _declared_length(request)
    once = await asyncio.to_thread(_begin, transfer, caller)
    repository = await asyncio.to_thread(cloud.repository, transfer.template.datacenter_id)
    async with _scratch(repository, transfer.scratch, length) as path:
        kind = request.headers.get("content-type", "")
        arriving = await asyncio.to_thread(_arriving, kind, path, transfer.first_file)
        digest = await _receive(request, arriving)
        size_mib = await asyncio.to_thread(size_of, path)
        done = (transfer, caller, once, send, digest, size_mib)
        started: Response = await asyncio.to_thread(transfers.start, *done)
        return started


def _begin(transfer: Transfer, caller: tokens.Caller) -> Once:
    """Use the transfer up: a second request with it is refused, whatever becomes of the first."""
    once = transfer.once(caller)
    use_up(transfer)
    return once


def _declared_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    length = int(text) if text.isdecimal() else 0
    require_small(length)
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
    """Write the body down; answers its SHA-256."""
    arrived = 0
    try:
        async for piece in pieces(request):
            arrived += len(piece)
            require_small(arrived)
            await asyncio.to_thread(arriving.write, piece)
        return await asyncio.to_thread(arriving.finish)
    finally:
        await asyncio.shield(asyncio.to_thread(arriving.close))
