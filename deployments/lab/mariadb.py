"""A private MariaDB on a port of the loopback; durable enough for tests only."""

import fcntl
import getpass
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pymysql

from deployments.lab import CACHE
from deployments.lab.process import Process, free_port, wait_for


class MariaDb:
    """A server whose tables are a copy of a template that is made once per version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._process = Process(folder, "mariadbd")
        self._port = 0

    def start(self) -> str:
        """Start the server; answer the SQLAlchemy URL of an empty database."""
        data = self._folder / "mariadb"
        if not data.exists():
            shutil.copytree(_template(), data)
        self._port = self._port or free_port()
        self._process.spawn(
            "mariadbd",
            "--no-defaults",
            f"--user={getpass.getuser()}",
            f"--datadir={data}",
            f"--socket={self._folder / 'mariadb.sock'}",
            f"--pid-file={self._folder / 'mariadbd.own.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self._port}",
            "--skip-log-bin",
            "--performance-schema=OFF",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
        )
        wait_for(self._answers, 30, f"mariadbd ({self._process.log})")
        return self.fresh()

    def fresh(self) -> str:
        """Make another empty database; answer its URL."""
        name = f"lab_{uuid.uuid4().hex}"
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return f"mysql+pymysql://root@127.0.0.1:{self._port}/{name}"

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let it answer nobody while inside; connections stay open, and wait."""
        self._process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send(signal.SIGCONT)

    def stop(self) -> None:
        """End the server and remove its data; may be repeated."""
        self._process.stop(term_s=20)
        shutil.rmtree(self._folder / "mariadb", ignore_errors=True)

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(host="127.0.0.1", port=self._port, user="root")

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"mariadbd ended: {self._process.log.read_text()[-2000:]}")
        with suppress(pymysql.OperationalError):
            self._connect().close()
            return True
        return False


def _template() -> Path:
    """The data directory of an empty server of this version, from the cache."""
    version = subprocess.run(
        ["mariadbd", "--no-defaults", "--version"], check=True, capture_output=True, text=True
    ).stdout.split()[2]
    template = CACHE / f"mariadb-{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "mariadb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # labs that start at once: one makes it
        if not template.exists():
            making = template.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            subprocess.run(
                [
                    "mariadb-install-db",
                    "--no-defaults",
                    f"--user={getpass.getuser()}",
                    f"--datadir={making}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
            )
            making.rename(template)
    return template
