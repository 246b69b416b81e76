"""The lab's programs: each remembered on disk by pid and start time, so that anyone can end it."""

import os
import secrets
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

# The child writes its own record before it becomes the program: a parent that is interrupted
# right after the fork leaves nothing behind that could not be found again.
_RECORD = 'cat "/proc/$$/stat" >"$0.new" && mv -- "$0.new" "$0" && exec "$@"'
_PORTS = range(20000, 32768)  # below those that the kernel gives to whoever takes any
_given: set[int] = set()


def wait_for(
    predicate: Callable[[], object], timeout_s: float, what: str, *, every_s: float = 0.02
) -> None:
    """Poll until the predicate holds; raise `TimeoutError` naming `what` when it does not.

    What a single look takes counts as a second at the most: a machine that stands still meanwhile
    uses up nobody's patience.
    """
    waited_s, looked_at = 0.0, time.monotonic()
    while not predicate():
        if waited_s > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)
        now = time.monotonic()
        waited_s += min(now - looked_at, every_s + 1.0)
        looked_at = now


def free_port() -> int:
    """Answer a TCP port of the loopback that was free a moment ago; no port twice."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def copied(program: str, folder: Path) -> Path:
    """A copy of a program in the folder: AppArmor's profiles go by path, and know no labs."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise RuntimeError(f"{program} is not installed")
    return Path(shutil.copy2(found, folder / program))


def signal_if(
    pid: int, is_ours: Callable[[], object], number: signal.Signals, *, wait_s: float = 0.0
) -> None:
    """Signal a process that is still ours when looked at, wait for its end; hit no stranger."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_ours():
            with suppress(ProcessLookupError):  # it ended by itself in between
                signal.pidfd_send_signal(handle, number)
            end = select.poll()
            end.register(handle, select.POLLIN)
            end.poll(wait_s * 1000)
    finally:
        os.close(handle)


class Process:
    """One program, recorded in `<folder>/<name>.pid`, its output in `<folder>/<name>.log`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.record = folder.absolute() / f"{name}.pid"
        self.log = folder.absolute() / f"{name}.log"

    def spawn(self, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Start the program in a session of its own, and remember it."""
        if self.alive():
            raise RuntimeError(f"{self.name} is running already")
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.unlink(missing_ok=True)
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _RECORD, str(self.record), *map(str, command)],
            dict(os.environ if env is None else env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE],  # Python ignores it, programs should not
        )
        wait_for(lambda: self.record.exists() or _reap(pid), 10, f"start of {self.name}")

    @property
    def pid(self) -> int | None:
        """Its pid while that very process runs; children of ours that ended are reaped."""
        if not self.record.exists():
            return None
        pid, started, _ = _parse(self.record.read_text())
        try:
            _, started_now, dead = _parse(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None
        if started_now != started:
            return None
        if dead:
            _reap(pid)
            return None
        return pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self.pid is not None

    def stop(self, *, term_s: float = 5.0, kill_s: float = 5.0) -> None:
        """End it: SIGTERM, after `term_s` SIGKILL; gone already is success."""
        for number, timeout_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, kill_s)):
            self.send(number)
            try:
                wait_for(lambda: not self.alive(), timeout_s, f"end of {self.name}")
            except TimeoutError:
                if number is signal.SIGKILL:
                    raise
            else:
                break
        self.record.unlink(missing_ok=True)

    def kill(self, *, timeout_s: float = 5.0) -> None:
        """End it the hard way, as a crash would."""
        self.send(signal.SIGKILL)
        wait_for(lambda: not self.alive(), timeout_s, f"death of {self.name}")

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it runs."""
        pid = self.pid
        if pid is not None:
            signal_if(pid, self.alive, number)


def _parse(stat: str) -> tuple[int, int, bool]:
    """Pid, start time in clock ticks since boot, and whether dead, of a line of /proc/PID/stat."""
    pid, _, rest = stat.partition(" ")
    fields = rest.rpartition(")")[2].split()
    dead = fields[0] == "Z" and int(fields[17]) <= 1  # a dead leader's threads may go on
    return int(pid), int(fields[19]), dead


def _reap(pid: int) -> bool:
    """Collect a child that has ended; whether there was one."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else's
        return False
