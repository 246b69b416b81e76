"""The twin's lines to pretended guests: a thread of this process is at the other end."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_LOOK_MS = 50
_PIECE_BYTES = 4096

VNC = b"RFB 003.008\n"  # the first word of its server


def open_line(
    greeting: bytes,
    answer: Callable[[bytes], bytes],
    is_on: Callable[[], bool],
    hang_up: Callable[[], None],
) -> socket.socket:
    """Open a line that greets, and answers what it hears, until it is closed or the VM is off."""
    ours, theirs = socket.socketpair()

    def talk() -> None:
        hears = select.poll()  # `select` knows no files beyond the first 1,024
        hears.register(ours, select.POLLIN)
        try:
            ours.sendall(greeting)
            while is_on():
                if hears.poll(_LOOK_MS):
                    heard = ours.recv(_PIECE_BYTES)
                    if not heard:
                        return
                    ours.sendall(answer(heard))
        finally:
            hang_up()

    def run() -> None:
        with ours, suppress(ConnectionError):  # who has the line goes when he likes
            talk()

    threading.Thread(target=run, name="twin's line", daemon=True).start()
    return theirs


def security(asks: bool, heard: bytes) -> bytes:  # noqa: FBT001 - as `partial` gives it
    """What a VNC server answers to a client's version: that it asks for a password, or not."""
    return bytes([1, 2 if asks else 1]) if heard == VNC else b""
