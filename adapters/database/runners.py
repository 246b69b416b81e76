"""Runners: the processes that operations are leased to."""

import os
import socket
from functools import cache
from pathlib import Path

import psutil

from adapters.types import Value


class Runner(Value):
    """A process on a machine, told from later ones with its pid by its start time."""

    host: str
    pid: int
    started: float

    def alive_here(self) -> psutil.Process | None:
        """The process, when it is one of this machine, still the same, and not just unreaped."""
        if self.host != machine() or not psutil.pid_exists(self.pid):
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


@cache
def machine() -> str:
    """Where a pid says which process: this machine since this boot, or a container of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pids = Path("/proc/self/ns/pid").stat().st_ino
    return f"{socket.gethostname()}/{boot}/{pids}"


def this_runner() -> Runner:
    """The calling process."""
    pid = os.getpid()
    return Runner(host=machine(), pid=pid, started=psutil.Process(pid).create_time())
