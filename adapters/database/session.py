"""Engines and transactions, alike on SQLite and MySQL/MariaDB.

Time is the database's own, in UTC microseconds (`utc_now`), so that leases mean the same to
every process. On SQLite a writing transaction takes the lock at BEGIN: it waits and is never
refused half-way, and commits reach the disk before they are answered.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import (
    DateTime,
    Engine,
    Executable,
    Insert,
    create_engine,
    event,
)
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from adapters.errors import Transient

_LAST = "last"
R = TypeVar("R")
_WAIT_S = 30  # how long a writer waits for others on SQLite
_SQLITE_PRAGMAS = (
    f"busy_timeout={_WAIT_S * 1000}",
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
)

# MySQL's: too many connections, shutting down; lock wait time-out, deadlock, a savepoint that went
# with a deadlock's transaction; connection killed, refused, lost.
_DEADLOCK = frozenset({1213, 1305})
_DEADLOCKS = 10  # in a row, of one transaction
_TRY_AGAIN = frozenset({1040, 1053, 1205, 1213, 1305, 1927, 2002, 2003, 2006, 2013})


class Deadlock(Transient):
    """The database has undone this transaction in favour of another: do it again at once."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept as UTC with microseconds."""

    impl = DateTime
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What cursors are read as; a decorator does not say so by itself."""
        return datetime

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """MySQL drops microseconds unless told."""
        mysql = dialect.name in {"mysql", "mariadb"}
        return dialect.type_descriptor(DATETIME(fsp=6) if mysql else DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Drop the zone once it is UTC."""
        return value.astimezone(UTC).replace(tzinfo=None) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Say that it is UTC."""
        return value.replace(tzinfo=UTC) if value else None


class utc_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's time, `seconds` from now: a parameter, so statements stay compiled."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(round(seconds * 1_000_000))


@compiles(utc_now, "sqlite")
def _sqlite_now(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"utc_now({compiler.process(element.clauses, **options)})"


@compiles(utc_now, "mysql")
@compiles(utc_now, "mariadb")
def _mysql_now(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    microseconds = compiler.process(element.clauses, **options)
    return f"TIMESTAMPADD(MICROSECOND, {microseconds}, UTC_TIMESTAMP(6))"


def _now_text(microseconds: int) -> str:
    """SQLite has no microseconds of its own; this is how SQLAlchemy writes a datetime there."""
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(microseconds=microseconds)
    return now.isoformat(sep=" ", timespec="microseconds")


@cache
def engine(url: str) -> Engine:
    """This process's engine for a database."""
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=20,
            isolation_level="READ COMMITTED",
            connect_args={"charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'"},
        )
    made = create_engine(url, pool_size=20)

    @event.listens_for(made, "connect")
    def _settings(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.create_function("utc_now", 1, _now_text)
        if connection.execute("PRAGMA page_count").fetchone() == (0,):  # only a new one hears it
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(made, "begin")
    def _begin(connection: Any) -> None:
        reads = connection.get_execution_options().get("reads", False)
        connection.connection.execute("BEGIN" if reads else "BEGIN IMMEDIATE")

    return made


@cache
def _turn(_engine: Engine) -> Lock:
    """Whose turn it is among this process's writers on SQLite."""
    return Lock()


class insert_missing(Insert):  # noqa: N801 - reads as the statement it is
    """An INSERT that leaves rows alone which are there already, and hides no other error."""

    inherit_cache = True


@compiles(insert_missing, "sqlite")
def _sqlite_insert(element: insert_missing, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_insert(element, **options)} ON CONFLICT DO NOTHING"


@compiles(insert_missing, "mysql")
@compiles(insert_missing, "mariadb")
def _mysql_insert(element: insert_missing, compiler: Any, **options: Any) -> str:
    key = compiler.preparer.format_column(next(iter(element.table.primary_key)))
    inserted = compiler.visit_insert(element, **options)
    return f"{inserted} ON DUPLICATE KEY UPDATE {key} = {key}"


class Database:
    """Transactions on one database; a lost or busy one is `Transient`."""

    def __init__(self, url: str) -> None:
        self.engine = engine(url)
        self._reads = self.engine.execution_options(reads=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that may write; commits at the end, or leaves nothing."""
        with (
            _speaking_sql(),
            self._in_turn(),
            Session(self.engine, expire_on_commit=False) as db,
            db.begin(),
        ):
            yield db
            for statement, values in db.info.pop(_LAST, ()):
                db.execute(statement, values)

    def alone(self, act: Callable[[Session], R]) -> R:
        """Do this in a transaction of its own; again when that was the one a deadlock cost."""
        for attempt in range(_DEADLOCKS):
            try:
                with self.write() as db:
                    return act(db)
            except Deadlock:
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - no secret
        with self.write() as db:
            return act(db)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One writer of this process after the other: SQLite would let each sleep and try again.

        Measured with forty writing threads: a fifth of their CPU time was that.
        """
        if self.engine.dialect.name != "sqlite":
            yield
            return
        turn = _turn(self.engine)
        if not turn.acquire(timeout=_WAIT_S):
            raise Transient("database: locked")
        try:
            yield
        finally:
            turn.release()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that only reads, and never waits for a writer on SQLite."""
        with _speaking_sql(), Session(self._reads) as db, db.begin():
            yield db


def write_last(db: Session, statement: Executable, values: dict[str, Any]) -> None:
    """Have this written by the end of the transaction: after it nothing waits, but the commit."""
    db.info.setdefault(_LAST, []).append((statement, values))


def is_last_written(db: Session) -> bool:
    """Whether anything is to be written by the end of the transaction."""
    return bool(db.info.get(_LAST))


class Joined(Database):
    """A database whose every transaction is part of one that is open already."""

    def __init__(self, db: Session) -> None:
        self._db = db

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Take part in the open transaction."""
        yield self._db

    read = write

    def alone(self, act: Callable[[Session], R]) -> R:
        """Do this in the open transaction; a deadlock costs the whole of it."""
        return act(self._db)


@contextmanager
def _speaking_sql() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # of a BEGIN, of which SQLAlchemy knows nothing
        if "database is locked" in str(error):
            raise Transient("database: locked") from error
        raise
    except DBAPIError as error:
        code = error.orig.args[0] if error.orig and error.orig.args else None
        if code in _DEADLOCK:
            raise Deadlock(f"database: {error.orig}") from error
        if error.connection_invalidated or code in _TRY_AGAIN:
            raise Transient(f"database: {error.orig}") from error
        if "database is locked" in str(error.orig):
            raise Transient("database: locked") from error
        raise
