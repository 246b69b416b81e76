"""A network namespace: a machine's cables and switches, which nobody outside of it sees."""

import hashlib
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_KEPT = Path("/run/netns")


class Namespace:
    """One namespace, known by the folder that it belongs to: another process can remove it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()
        self.name = f"cloudloom-{digest[:12]}"
        self._record = self.folder / "netns"

    def start(self) -> str:
        """Make it, unless it is there, and answer its name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._record.write_text(self.name)
        if not (_KEPT / self.name).exists():
            _run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self.name

    def stop(self) -> None:
        """Remove it with all that is in it but processes; absent is success."""
        if (_KEPT / self.name).exists():
            _run("ip", "netns", "delete", self.name)
        with suppress(FileNotFoundError):
            self._record.unlink()

    def ip(self, *words: str) -> None:
        """Let `ip` do something there."""
        _run("ip", "-n", self.name, *words)

    def ask(self, *words: str) -> Any:
        """Answer what `ip` says of something there, as values."""
        return json.loads(_run("ip", "-n", self.name, "-json", *words) or "[]")

    def run(self, *command: str) -> str:
        """Run a program there, and answer what it has printed."""
        return _run("ip", "netns", "exec", self.name, *command)

    def __enter__(self) -> Self:
        """Make it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it, whatever happened."""
        self.stop()


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
