"""A Cloudloom of its own, started as a user starts it: `cloudloom serve` on free ports."""

import os
import sys
from pathlib import Path

import httpx

from adapters.settings import Settings
from deployments.lab import prefect_database
from deployments.lab.process import Process, free_port, wait_for
from flows import waking

_OURS = ("CLOUDLOOM_", "PREFECT_")


class Cloudloom:
    """One installation; everything that it keeps is in `folder`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings` are named as in `adapters.settings`; none of the user's own are taken."""
        self.home = folder.absolute()
        self.port, self.prefect_port = free_port(), free_port()
        self._process = Process(self.home, "serve")
        wanted = {
            "home": str(self.home),
            "port": str(self.port),
            "prefect_port": str(self.prefect_port),
            **settings,
        }
        self.env = {name: x for name, x in os.environ.items() if not name.startswith(_OURS)}
        self.env |= {f"CLOUDLOOM_{name.upper()}": value for name, value in wanted.items()}

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that starts the others, and starts them again."""
        if (pid := self._process.pid) is None:
            raise RuntimeError(f"cloudloom has ended:\n{self.complaints()}")
        return pid

    @property
    def token(self) -> str:
        """The token that it made at its first start."""
        return (self.home / "token").read_text().strip()

    @property
    def prefect_auth(self) -> str:
        """What its Prefect UI asks for."""
        return (self.home / "prefect" / "auth").read_text()

    def start(self) -> None:
        """Start all of it, and wait until it takes work."""
        prefect_database.place(self.home)
        self._process.spawn(sys.executable, "-m", "api.cli", "serve", env=self.env)
        wait_for(self._answers, 320, f"cloudloom ({self._process.log})", every_s=0.1)

    def stop(self) -> None:
        """End it, with its worker and Prefect; may be repeated."""
        self._process.stop(term_s=60)

    def complaints(self, lines: int = 15) -> str:
        """The ends of its logs: for whoever wants to know why something failed."""
        logs = [self._process.log, *sorted(self.home.glob("logs/*.log"))]
        ends = {log.name: log.read_text(errors="replace").splitlines()[-lines:] for log in logs}
        return "\n".join(f"--- {name}\n" + "\n".join(end) for name, end in ends.items() if end)

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"cloudloom ended:\n{self.complaints()}")
        workers = waking.bells(Settings(home=self.home), "main")
        if not (self.home / "token").exists() or not waking.wake(workers):
            return False
        try:
            return httpx.get(f"{self.url}/health/live", timeout=1).is_success
        except httpx.TransportError:
            return False
