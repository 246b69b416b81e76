"""Turns at a server that knows none: of all our runners, one at a time is at it.

Where they share a MariaDB or MySQL, by the server's row, which a transaction holds for as long as
its connection lives. On SQLite they are of one machine: by a folder, as a transaction would hold
up all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from adapters.database import models
from adapters.database.session import Database
from adapters.networks.locks import locked

PATIENCE_S = 20.0


class Turns:
    """The turns of one installation's runners."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    @contextmanager
    def at(self, server: UUID) -> Iterator[None]:
        """Be alone at a DHCP server while inside. Raises `Transient` when that takes too long."""
        if self._database.engine.dialect.name == "sqlite":
            folder = self._folder / "dhcp" / str(server)
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder, PATIENCE_S):
                yield
        else:
            with self._database.write() as db:
                db.get(models.DhcpServer, server, with_for_update=True)
                yield
