"""Consoles: a VM's serial port or screen over a WebSocket, at the gateway of its datacenter.

A signed address opens one line, once, within a minute. Bytes go both ways as binary messages, as
noVNC speaks them; when either end is through, so is the other. A line costs no thread here, and
whoever is slow is not read from meanwhile.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import ClassVar
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette import status
from starlette.datastructures import Headers

from adapters.errors import AdapterError, Conflict, NotAllowed
from adapters.privileges import Privilege
from adapters.types import VmState
from api.errors import RETRY_AFTER_S, Problem, answer
from api.tickets import Ticket, opened, sign, use_up
from flows.abilities import Capability, require_ability
from flows.cloud import cloud

log = logging.getLogger(__name__)
router = APIRouter(prefix="/gateway")
VALID_S = 60
IDLE = 4408  # close codes from 4000 on are an application's own
_PIECE_BYTES = 2**16
_PROTOCOL = "binary"  # what noVNC and websockify call this


class ConsoleKind(StrEnum):
    """Which of a VM's two lines."""

    SERIAL = "serial"
    DISPLAY = "display"


_ABILITY = {
    ConsoleKind.SERIAL: Capability.TERMINAL,
    ConsoleKind.DISPLAY: Capability.DISPLAY,
}


class Console(Ticket):
    """One line to a VM that somebody may open."""

    use: ClassVar[str] = "console"
    privilege: ClassVar[Privilege] = Privilege.VAPP_PERFORM_ACTIONS

    vm: UUID
    kind: ConsoleKind


def address(console: Console) -> str:
    """The path where this one line may be opened. Raises `Conflict` when off, `Unsupported`."""
    if cloud.inventory.state(console.vm) not in {VmState.ON, VmState.PAUSED}:
        raise Conflict(f"VM {console.vm} is off", code="vm-off")
    require_ability(console.vm, _ABILITY[console.kind])
    return f"{router.prefix}/consoles/{sign(console)}"


@router.websocket("/consoles/{signed}")
async def connect(web: WebSocket, signed: str) -> None:
    """Open the line, and copy bytes until either end is through; or say why not, by HTTP."""
    try:
        _require_origin(web.headers)
        with _one_of_few(web):
            line = await asyncio.to_thread(_open, signed)
            reader, writer = await asyncio.open_connection(sock=line, limit=_PIECE_BYTES)
            try:
                offered = web.scope["subprotocols"]
                await web.accept(_PROTOCOL if _PROTOCOL in offered else None)
                await _join(web, reader, writer)
            finally:
                writer.transport.abort()  # a guest that does not read holds nothing up
    except (AdapterError, Problem) as error:
        await web.send_denial_response(answer(error, f"{router.prefix}/consoles"))


@contextmanager
def _one_of_few(web: WebSocket) -> Iterator[None]:
    lines: set[WebSocket] = web.app.state.consoles
    if len(lines) >= cloud.settings.consoles:
        later = {"Retry-After": str(RETRY_AFTER_S)}
        raise Problem(503, "too-many-consoles", "no more consoles at once", later)
    lines.add(web)
    try:
        yield
    finally:
        lines.remove(web)


def _require_origin(headers: Headers) -> None:
    """Let no page of another site use an address, should it get hold of one."""
    origin = headers.get("origin")
    told = [each.strip() for each in cloud.settings.console_origins.split(",")]
    ours = {headers.get("host"), urlsplit(cloud.settings.api_url).netloc}
    if origin is not None and origin not in told and urlsplit(origin).netloc not in ours:
        raise NotAllowed("consoles are not for pages of other sites", code="foreign-origin")


def _open(signed: str) -> socket.socket:
    console, _ = opened(Console, signed, VALID_S)
    use_up(console)
    hypervisor = cloud.hypervisor(cloud.inventory.vm(console.vm).host)
    if console.kind is ConsoleKind.SERIAL:
        return hypervisor.terminal(console.vm)
    return hypervisor.display(console.vm).line


async def _join(
    web: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Copy both ways until one of them ends, or nothing has come for too long."""
    clock, idle_s = asyncio.get_running_loop().time, cloud.settings.console_idle_s
    code, reason = status.WS_1000_NORMAL_CLOSURE, "the line has ended"
    try:
        async with asyncio.timeout(idle_s) as idle:

            def heard() -> None:
                idle.reschedule(clock() + idle_s)

            ways = {
                asyncio.ensure_future(_out(reader, web, heard)),
                asyncio.ensure_future(_into(web, writer, heard)),
            }
            try:
                ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            for way in ended:
                code = way.result() or code
    except TimeoutError:
        code, reason = IDLE, "idle"
    except (OSError, WebSocketDisconnect):  # either end goes when it likes
        log.debug("console: an end went first", exc_info=True)
    with suppress(RuntimeError, WebSocketDisconnect):  # it has closed its end already
        await web.close(code, reason)


async def _out(reader: asyncio.StreamReader, web: WebSocket, heard: Callable[[], None]) -> None:
    while said := await reader.read(_PIECE_BYTES):
        heard()
        await web.send_bytes(said)


async def _into(
    web: WebSocket, writer: asyncio.StreamWriter, heard: Callable[[], None]
) -> int | None:
    """Pass on what comes; answers why it may not go on, if that is the reason."""
    while (message := await web.receive())["type"] != "websocket.disconnect":
        typed = message.get("bytes")
        if typed is None:
            return status.WS_1003_UNSUPPORTED_DATA
        heard()
        writer.write(typed)
        await writer.drain()
    return None
