"""End what labs have left running under a folder: for whoever was killed before their clean-up."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.lab.kvm_host import KvmHost
from deployments.lab.namespace import Namespace
from deployments.lab.process import Process
from deployments.lab.tgtd import Tgtd

_GRACE_S = 3.0


def sweep(folder: Path, mark: str = "") -> list[str]:
    """End every lab under the folder, and all that has `mark` in its environment; say what."""
    ended = []
    for record in sorted(folder.rglob("libvirtd.pid")):
        if Process(record.parent, "libvirtd").alive():  # else its guests are in records of theirs
            ended.append(str(record))
        KvmHost(record.parent).stop()
    for record in sorted(folder.rglob("tgtd.json")):
        ended.append(str(record))
        Tgtd(record.parent).stop()
    for record in sorted(folder.rglob("*.pid")):
        process = Process(record.parent, record.stem)
        if _is_ours(record) and process.alive():
            ended.append(str(record))
            process.stop()
    if mark:
        ended += _end_marked(mark)
    for record in sorted(folder.rglob("netns")):  # when nobody is in it any more
        if not record.is_file():  # a host's `/etc/netns`
            continue
        ended.append(str(record))
        Namespace(record.parent).stop()
    return ended


def _is_ours(record: Path) -> bool:
    """Whether it is a line of /proc/PID/stat, as `Process` writes it, not some program's own."""
    try:
        return re.match(r"\d+ \(", record.read_text()) is not None
    except FileNotFoundError:  # a program that has just been ended has removed its own
        return False


def _end_marked(mark: str) -> list[str]:
    """Kill what carries the mark and does not end by itself, until nothing carries it."""
    ended: list[str] = []
    while left := [process for process in psutil.process_iter() if _has(process, mark)]:
        _, staying = psutil.wait_procs(left, timeout=_GRACE_S)
        for process in staying:
            with suppress(psutil.NoSuchProcess):
                ended.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
        psutil.wait_procs(staying, timeout=10)
    return ended


def _has(process: psutil.Process, mark: str) -> bool:
    name, _, value = mark.partition("=")
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get(name) == value
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended, or somebody else's
        return False


if __name__ == "__main__":
    for what in sweep(Path(sys.argv[1])):
        print(f"ended: {what}")
