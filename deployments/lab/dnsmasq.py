"""A private dnsmasq in a network namespace, started again whenever it ends."""

import shutil
from pathlib import Path

from deployments.lab.namespace import Namespace
from deployments.lab.process import Process, wait_for

# As a service manager would. It goes with whoever minds it.
_MIND = (
    "trap 'trap - TERM; kill $child; wait; exit' TERM;"
    ' while :; do "$@" & child=$!; wait $child; sleep 0.05; done'
)
_FOLDERS = ("ranges", "hosts", "options", "names")


class Dnsmasq:
    """A server with a folder, as the runbook says; its DNS answers at its address."""

    def __init__(self, folder: Path, namespace: Namespace, interface: str = "lan") -> None:
        self.folder = folder.absolute()
        self._inside = ("ip", "netns", "exec", namespace.name)
        self._interface = interface
        self._process = Process(folder, "minder")
        self._log = self.folder / "dnsmasq.log"
        self._pid = self.folder / "dnsmasq.pid"

    def start(self) -> None:
        """Start it with what is in its folder, and wait until it has read that."""
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        folder = self.folder
        words = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root"),
            *(f"--interface={self._interface}", "--bind-dynamic", "--no-hosts", "--no-resolv"),
            *("--no-ping", "--dhcp-authoritative", f"--log-facility={self._log}"),
            f"--conf-dir={folder}/ranges,*.conf",
            f"--dhcp-hostsfile={folder}/hosts",
            f"--dhcp-optsfile={folder}/options",
            f"--addn-hosts={folder}/names",
            f"--dhcp-leasefile={folder}/dnsmasq.leases",
            f"--pid-file={self._pid}",
        ]
        self._process.spawn("sh", "-c", _MIND, "sh", *self._inside, *words)
        wait_for(self._pid.exists, 10, f"dnsmasq ({self._process.log})")

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()
        if self.folder.is_dir():
            wait_for(lambda: not self._pid.exists(), 10, "end of dnsmasq")

    def forget(self) -> None:
        """Lose all that it was told, and has told; it must not run."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".leases":
                path.unlink()

    def starts(self) -> int:
        """How often it has been started."""
        return self._log.read_text().count(" started, version ")
