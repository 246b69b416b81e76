"""Turns among our own processes on one machine: a lock of the folder that they all know."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import Transient

_LOOK_S = 0.02


@contextmanager
def locked(folder: Path, patience_s: float) -> Iterator[None]:
    """Be alone inside; the kernel ends the lock with whoever holds it. Raises `Transient`."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Transient(f"{folder} is not there: {error}") from error
    try:
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Transient(f"others are at work in {folder}") from None
                time.sleep(_LOOK_S)
            else:
                break
        yield
    finally:
        os.close(handle)
