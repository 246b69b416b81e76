"""A VM's serial console in this terminal, until Ctrl-] or the end of either."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from api.client import Refusal, trust

LEAVE = b"\x1d"  # Ctrl-]
_PIECE_BYTES = 4096


def talk(url: str) -> str:
    """Be the terminal; answers why it ended. Raises `Refusal`."""
    try:
        return asyncio.run(_talk(url))
    except InvalidStatus as error:
        raise Refusal.of(error.response.body, f"the gateway says {error}") from error
    except (InvalidHandshake, OSError) as error:
        text = f"the gateway does not answer: {error}"
        raise Refusal({"code": "unreachable", "detail": text}) from error


async def _talk(url: str) -> str:
    ca = os.environ.get("CLOUDLOOM_CA")
    secure = trust(Path(ca) if ca else None) if url.startswith("wss:") else None
    spoken = [Subprotocol("binary")]
    async with connect(url, subprotocols=spoken, compression=None, ssl=secure) as web:
        with _raw(sys.stdin.fileno()):
            ways = {asyncio.ensure_future(_hear(web)), asyncio.ensure_future(_type(web))}
            ended, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in rest:
                way.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            return ended.pop().result()


async def _hear(web: ClientConnection) -> str:
    try:
        while True:
            said = await web.recv(decode=False)
            os.write(sys.stdout.fileno(), said)
    except ConnectionClosed:
        return web.close_reason or "the gateway is gone"


async def _type(web: ClientConnection) -> str:
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    loop.add_reader(terminal, lambda: typed.put_nowait(os.read(terminal, _PIECE_BYTES)))
    try:
        while (keys := await typed.get()) and LEAVE not in keys:
            await web.send(keys)
        await web.send(keys.partition(LEAVE)[0])
    except ConnectionClosed:
        pass
    finally:
        loop.remove_reader(terminal)
    return "left"


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Let every key through as it is, where somebody types them."""
    if not os.isatty(terminal):
        yield
        return
    former = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, former)
