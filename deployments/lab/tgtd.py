"""A private iSCSI server: tgtd on a port of the loopback, with a control number of its own."""

import json
import secrets
import socket
import subprocess
from pathlib import Path

from deployments.lab.process import Process, free_port, wait_for

_SOCKETS = Path("/var/run/tgtd")  # compiled into tgtd
_CONTROLS = range(1000, 32768)  # a short in tgtd; the system's own daemon has 0


class Tgtd:
    """A tgtd that keeps its port and control number, so that its initiators find it again."""

    def __init__(self, folder: Path) -> None:
        self._numbers = folder.absolute() / "tgtd.json"
        self._process = Process(folder, "tgtd")

    @property
    def port(self) -> int:
        """The portal's port on 127.0.0.1; chosen by the first start."""
        return self._chosen()["port"]

    @property
    def control(self) -> int:
        """The number for `tgtadm -C`; chosen by the first start."""
        return self._chosen()["control"]

    def start(self) -> tuple[int, int]:
        """Start it, or go on with the one that runs; answer port and control number."""
        if not self._numbers.exists():
            self._numbers.parent.mkdir(parents=True, exist_ok=True)
            numbers = {"port": free_port(), "control": _free_control()}
            self._numbers.write_text(json.dumps(numbers))
        if not self._process.alive():
            _SOCKETS.mkdir(exist_ok=True)
            # One thread a LUN: the default of 16 costs thousands of threads.
            self._process.spawn(
                *("tgtd", "-f", "-C", str(self.control), "-t", "1"),
                *("--iscsi", f"portal=127.0.0.1:{self.port}"),
            )
        wait_for(self._answers, 10, f"tgtd ({self._process.log})")
        return self.port, self.control

    def crash(self) -> None:
        """Kill it; it forgets its targets, and the next start has the same port."""
        self._process.kill()

    def stop(self) -> None:
        """End it and remove its control socket; may be repeated."""
        if not self._numbers.exists():
            return
        self._process.kill()  # it ignores SIGTERM while it has targets, and buffers nothing itself
        self._process.stop()
        for name in (f"socket.{self.control}", f"socket.{self.control}.lock"):
            (_SOCKETS / name).unlink(missing_ok=True)
        self._numbers.unlink()

    def _chosen(self) -> dict[str, int]:
        numbers: dict[str, int] = json.loads(self._numbers.read_text())
        return numbers

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"tgtd ended: {self._process.log.read_text()}")
        show = ["tgtadm", "-C", str(self.control), "--op", "show", "--mode", "target"]
        if subprocess.run(show, check=False, capture_output=True).returncode:
            return False
        with socket.socket() as portal:
            return portal.connect_ex(("127.0.0.1", self.port)) == 0


def _free_control() -> int:
    """A control number that nobody has; at random, so that labs starting at once differ."""
    while True:
        number = secrets.choice(_CONTROLS)
        if not (_SOCKETS / f"socket.{number}").exists():
            return number
