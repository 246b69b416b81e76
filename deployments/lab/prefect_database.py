"""Prefect's own database, migrated once for each version and copied: its server starts sooner."""

import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from adapters.settings import Settings
from deployments.lab import CACHE
from flows.prefect_env import environment


def place(home: Path, cache: Path = CACHE) -> None:
    """Put an empty, migrated database where the server of an installation in `home` looks."""
    place = home / "prefect" / "prefect.db"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        _copy(_template(cache), place)


def _template(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    template = cache / f"prefect-{version('prefect')}.db"
    with (cache / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".prefect-") as scratch:
                env = {**os.environ, **environment(Settings(home=Path(scratch)))}
                upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
                subprocess.run(upgrade, env=env, check=True, capture_output=True)
                made = Path(scratch, "made.db")
                _copy(Path(scratch, "prefect", "prefect.db"), made)
                made.rename(template)
    return template


def _copy(source: Path, target: Path) -> None:
    """Copy with what is still in the write-ahead log."""
    here, there = sqlite3.connect(source), sqlite3.connect(target)
    try:
        here.backup(there)
    finally:
        here.close()
        there.close()
