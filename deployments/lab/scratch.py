"""A folder that is gone at the end, with all that runs in it, however the end comes."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.lab.sweep import sweep


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A new `/tmp/<name>-...`; what a killed predecessor has left is cleaned up first.

    Processes started inside inherit its path in a variable: those that remain are ended. Raises
    `RuntimeError` when there were any, unless it ends by another exception.
    """
    clean_up_after_the_killed(name)
    mark = _mark(name)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ[mark] = str(folder)
        try:
            yield folder
        finally:
            del os.environ[mark]
            left = _remove(folder, mark)
    if left:
        raise RuntimeError(f"left running: {'; '.join(left)}")


def _remove(folder: Path, mark: str) -> list[str]:
    left = sweep(folder, f"{mark}={folder}")
    shutil.rmtree(folder)
    return left


def _mark(name: str) -> str:
    return f"{name.upper().replace('-', '_')}_FOLDER"


def clean_up_after_the_killed(name: str) -> None:
    """End what runs in folders of that name whose makers are gone, and remove them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{name}-*"):
        if folder.stat().st_uid != os.geteuid():  # whoever else may say there what to end
            continue
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # that one is alive
                continue
            _remove(folder, _mark(name))


if __name__ == "__main__":
    clean_up_after_the_killed(sys.argv[1])
