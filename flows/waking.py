"""Waking workers: each has a bell, a socket in a folder of its home, machine and pool.

A ring carries no message; it makes the worker look now. A bell whose worker has been killed
answers nothing, and is taken away by whoever rings it.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.settings import Settings

log = logging.getLogger(__name__)


def bells(settings: Settings, pool: str) -> Path:
    """Where the bells of this machine's workers for a pool are, each named by its pid."""
    return settings.home.absolute() / "workers" / socket.gethostname() / pool


def wake(folder: Path) -> int:
    """Let all workers there look now, and answer how many; without one, their own look comes."""
    there = folder.iterdir() if folder.is_dir() else []
    return sum(ring(folder, each.name) for each in there)


def ring(folder: Path, name: str) -> bool:
    """Ring one bell; False when nobody is there to hear it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire, _short(folder / name) as path:
        wire.settimeout(0)
        try:
            wire.sendto(b"!", path)
        except BlockingIOError:  # it has not heard the rings before yet
            return True
        except ConnectionRefusedError:
            (folder / name).unlink(missing_ok=True)
            return False
        except OSError as error:
            log.debug("no worker %s to wake: %s", name, error)
            return False
    return True


class Bell:
    """A worker's own bell, which `connection.wait` can wait for."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / str(os.getpid())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def hang_up(self) -> None:
        """Be there to be woken; who sees the bell knows that its worker is ready."""
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._place.unlink(missing_ok=True)
        with _short(self._place) as path:
            self._socket.bind(path)

    def fileno(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    def heed(self) -> None:
        """Take all rings so far as one."""
        try:
            while self._socket.recv(16):
                pass
        except BlockingIOError:
            return

    def ring(self) -> None:
        """Ring it from another thread of the worker."""
        ring(self._place.parent, self._place.name)

    def take_down(self) -> None:
        """Be woken no more."""
        self._place.unlink(missing_ok=True)
        self._socket.close()


@contextmanager
def _short(place: Path) -> Iterator[str]:
    """A socket's path may have 107 bytes; a folder may have more, and is named by a number."""
    try:
        folder = os.open(place.parent, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        yield str(place)
        return
    try:
        yield f"/proc/self/fd/{folder}/{place.name}"
    finally:
        os.close(folder)
