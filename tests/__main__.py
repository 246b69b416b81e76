"""Run pytest in a folder of its own, and leave nothing behind, also when interrupted.

`python -m tests [pytest's arguments]`. Every process of the run inherits the folder's name in its
environment, and makes its temporary files there; those that are still there at the end are told
and killed, and with them the run has failed. A run that was itself killed is cleaned up by the
next one.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from deployments.lab.sweep import sweep

_MARK = "CLOUDLOOM_TESTS"
_PREFIX = "cloudloom-tests-"
_MEMORY = Path("/dev/shm")
_PATIENCE_S = 60


def main(arguments: list[str]) -> int:
    """Answer pytest's exit status, or 1 when the tests have left something running."""
    _clean_up_after_the_killed()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            status = _run(folder, arguments)
        finally:
            left = _remove(folder)
    for what in left:
        sys.stderr.write(f"left running by the tests: {what}\n")
    return status or bool(left)


def _run(folder: Path, arguments: list[str]) -> int:
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        for pytest in started:  # and its workers: they end what they have started
            os.killpg(pytest.pid, signal.SIGINT)
        signal.alarm(_PATIENCE_S)

    def lose_patience(number: int, frame: FrameType | None) -> None:
        for pytest in started:
            os.killpg(pytest.pid, signal.SIGKILL)

    # Before the start: a signal that we inherit as ignored must not be ignored by pytest.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    signal.signal(signal.SIGALRM, lose_patience)
    command = [sys.executable, "-m", "pytest", f"--basetemp={folder / 't'}", *arguments]
    environment = {**os.environ, _MARK: str(folder), "TMPDIR": str(folder)}
    if os.access(_MEMORY, os.W_OK):
        (_MEMORY / folder.name).mkdir()
        environment[f"{_MARK}_MEMORY"] = str(_MEMORY / folder.name)
    started.append(subprocess.Popen(command, env=environment, start_new_session=True))
    return started[0].wait()


def _remove(folder: Path) -> list[str]:
    left = sweep(folder, f"{_MARK}={folder}")
    shutil.rmtree(_MEMORY / folder.name, ignore_errors=True)  # there is none without such a place
    shutil.rmtree(folder)
    return left


def _clean_up_after_the_killed() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.stat().st_uid != os.geteuid():  # whoever else may say there what to end
            continue
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # that run is alive
                continue
            _remove(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
