"""Bodies that are never in memory whole."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from adapters.errors import Transient

PIECE_BYTES = 2**20


async def pieces(request: Request, patience_s: float | None = None) -> AsyncIterator[bytes]:
    """A body, at least a piece at a time, as far as it comes.

    Raises `Transient` behind the last of it where that is too early: the sender is gone, or has
    been silent for too long.
    """
    waiting, stream = bytearray(), request.stream()
    cut: Exception | None = None
    while True:
        try:
            async with asyncio.timeout(patience_s):
                waiting += await anext(stream)
        except StopAsyncIteration:
            break
        except (ClientDisconnect, TimeoutError) as error:
            cut = error
            break
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
    if cut:
        raise Transient("the transfer was cut off", code="transfer-cut-off") from cut
