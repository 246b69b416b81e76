"""The schema's versions: made by Alembic from the first table on."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, select

from adapters.database import (
    conventions,
    events,
    figures,
    icons,
    indexes,
    ledger,
    models,
    packages,
    people,
    plans,
    repositories,
    ways,
)
from adapters.database.session import Database
from adapters.errors import Conflict, Transient
from adapters.privileges import STOCK, Stock

PARTS = (
    events,
    figures,
    icons,
    indexes,
    ledger,
    models,
    packages,
    plans,
    repositories,
    ways,
)  # whoever knows this module knows all of it
METADATA = conventions.Base.metadata
_PATIENCE_S = 300
FIRST_ENTERPRISE = conventions.FIRST_ENTERPRISE


def migrate(database: Database, home: Path) -> None:
    """Bring the schema up to date, and seed what every installation has."""
    with _alone(database, home) as connection:
        command.upgrade(_config(connection), "head")
        connection.commit()
        with database.write() as db:
            if db.scalars(select(models.Installation)).one_or_none() is None:
                db.add(models.Installation(id=uuid4()))
                db.add(models.Enterprise(id=FIRST_ENTERPRISE, name="default"))
            for stock in Stock:  # a new version may know more privileges
                role = people.Role(id=stock.id, enterprise_id=None, name=stock, blocked=True)
                role.privileges = sorted(STOCK[stock])
                db.merge(role)


def go_back(database: Database, home: Path, revision: str) -> None:
    """Take the schema back to an older one: what only a newer one can hold is lost."""
    with _alone(database, home) as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def differences(connection: Connection) -> list[object]:
    """What the migrations and the models disagree about; empty when they are equal."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, METADATA))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _tables_may_be_made_anew(connection: Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew, which must not empty those that refer to it."""
    raw: Any = connection.connection.driver_connection  # SQLAlchemy would begin a transaction
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
        if broken := raw.execute("PRAGMA foreign_key_check").fetchall():
            raise Conflict(f"a migration left rows that refer to nothing: {broken[:5]}")
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


@contextmanager
def _alone(database: Database, home: Path) -> Iterator[Connection]:
    """Connect, one process at a time: of this machine on SQLite, else of all on the database."""
    if database.engine.dialect.name == "sqlite":
        home.mkdir(parents=True, exist_ok=True)
        with (home / "migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (
                database.engine.connect() as connection,  # the first one ever changes the file
                _tables_may_be_made_anew(connection),
            ):
                yield connection
        return
    name = func.sha1(func.database())
    with database.engine.connect() as connection:
        if connection.scalar(select(func.get_lock(name, _PATIENCE_S))) != 1:
            raise Transient("another process migrates the database")
        try:
            yield connection
        finally:
            connection.execute(select(func.release_lock(name)))
