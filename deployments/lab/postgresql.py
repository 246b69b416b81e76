"""A private PostgreSQL on a port of the loopback; durable enough for tests only.

It refuses to run as root. Here it is told that root's files are those of `postgres`, whom its
package has made: other users could not enter the folders that tests have.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import uuid
from importlib.metadata import version
from pathlib import Path

from pydantic import SecretStr

from adapters.settings import Settings
from deployments.lab import CACHE
from deployments.lab.process import Process, free_port, wait_for
from flows.prefect_env import environment

_PROGRAMS = "/usr/lib/postgresql"
_PREFECT = "prefect"  # a database that is migrated, and empty
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=32MB",
    "dynamic_shared_memory_type=mmap",  # goes with its data, also when it is killed
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
)


class Postgresql:
    """A server whose tables are a copy of a template that is made once per version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._process = Process(folder, "postgres")
        self._port = 0

    def start(self) -> None:
        """Start the server."""
        data = self._folder / "postgresql"
        if not data.exists():
            shutil.copytree(_template(), data)
        self._serve(data)

    def fresh(self) -> str:
        """Make another database, migrated for Prefect; answer its SQLAlchemy URL."""
        name = f"lab_{uuid.uuid4().hex}"
        self._ask(f"CREATE DATABASE {name} TEMPLATE {_PREFECT}")
        return self._url(name)

    def stop(self) -> None:
        """End the server and remove its data; may be repeated."""
        self._process.send(signal.SIGINT)  # fast: SIGTERM would wait for its clients
        self._process.stop(term_s=20)
        shutil.rmtree(self._folder / "postgresql", ignore_errors=True)

    def make(self, data: Path) -> None:
        """Make a new server's data, with the database that others are copies of."""
        initdb = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        _run(*_unprivileged(), _program("initdb"), *initdb, "--no-sync", f"--pgdata={data}")
        self._serve(data)
        try:
            self._ask(f"CREATE DATABASE {_PREFECT}")
            settings = Settings(
                home=self._folder, prefect_database_url=SecretStr(self._url(_PREFECT))
            )
            upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            _run(*upgrade, env={**os.environ, **environment(settings)})
        finally:
            self.stop()

    def _serve(self, data: Path) -> None:
        self._port = self._port or free_port()
        settings = [word for each in _SETTINGS for word in ("-c", each)]
        where = ["-D", str(data), "-p", str(self._port)]
        self._process.spawn(*_unprivileged(), _program("postgres"), *where, *settings)
        wait_for(self._answers, 30, f"postgres ({self._process.log})")

    def _url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self._port}/{database}"

    def _ask(self, question: str) -> None:
        where = ["--host=127.0.0.1", f"--port={self._port}", "--username=postgres", "--no-psqlrc"]
        _run(_program("psql"), *where, "--quiet", f"--command={question}", "postgres")

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"postgres ended: {self._process.log.read_text()[-2000:]}")
        asked = ["--quiet", "--host=127.0.0.1", f"--port={self._port}"]
        return subprocess.run([_program("pg_isready"), *asked], check=False).returncode == 0


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["unshare", "--ipc", "--user", "--map-user=postgres", "--map-group=postgres", "--"]


def _program(name: str) -> str:
    """The newest version's: Debian keeps them out of the path."""
    found = sorted(Path(_PROGRAMS).glob(f"*/bin/{name}"), key=lambda each: int(each.parts[-3]))
    if not found:
        raise RuntimeError(f"no {name} under {_PROGRAMS}: install the package postgresql")
    return str(found[-1])


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env
    )
    return done.stdout


def _template() -> Path:
    """The data directory of such a server, from the cache."""
    number = _run(_program("postgres"), "--version").split()[2]
    template = CACHE / f"postgresql-{number}-prefect-{version('prefect')}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # labs that start at once: one makes it
        if not template.exists():
            making = template.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            Postgresql(making).make(making / "data")
            (making / "data").rename(template)
            shutil.rmtree(making)
    return template
