"""The world of the memory adapters: one SQLite file shared by all processes.

Things are rows (kind, id, properties). Every port method of a memory adapter passes through
`call`, where a test or a demonstration can have set a fate for it:

* `delay_s`: take that long, or until the fates are forgotten;
* `fails`: raise `Transient` before anything happens;
* `refuses`: raise `Refused` before anything happens;
* `commits-then-fails`: do it, then raise `Transient`;
* `lies`: answer as if it had been done, and do nothing.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from adapters.errors import AdapterError, Refused, Transient

R = TypeVar("R")

LOOK_S = 0.2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS things (kind TEXT, id TEXT, properties TEXT, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS fates (method TEXT, fate TEXT, times INTEGER, delay_s REAL);
CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, method TEXT, thing TEXT);
"""


class World:
    """Things by kind and id, and the fates of the calls that make them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        with self._transaction() as db:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is not None and db.in_transaction:  # of the call that this is part of
            yield db
            return
        if db is None:
            db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")  # a pretended world may be lost with the power
            self._local.db = db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def find(self, kind: str, key: object) -> dict[str, Any] | None:
        """The properties of a thing, or None."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT properties FROM things WHERE kind = ? AND id = ?", (kind, str(key))
            ).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, kind: str, key: object, properties: dict[str, Any]) -> None:
        """Make a thing, or replace its properties."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO things VALUES (?, ?, ?)",
                (kind, str(key), json.dumps(properties, sort_keys=True)),
            )

    def remove(self, kind: str, key: object) -> None:
        """Remove a thing; absent is success."""
        with self._transaction() as db:
            db.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, str(key)))

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every thing of a kind, by id."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT id, properties FROM things WHERE kind = ? ORDER BY id", (kind,)
            ).fetchall()
        return {key: json.loads(properties) for key, properties in rows}

    def everything(self) -> dict[str, dict[str, Any]]:
        """A photograph: every thing as `kind/id`; equal photographs are equal worlds."""
        with self._transaction() as db:
            rows = db.execute("SELECT kind || '/' || id, properties FROM things").fetchall()
        return {key: json.loads(properties) for key, properties in rows}

    def set_fate(
        self, method: str, fate: str = "", *, times: int = 1, delay_s: float = 0.0
    ) -> None:
        """Decide what the next calls of `method` (as in `storage.ensure_volume`) meet."""
        with self._transaction() as db:
            db.execute("INSERT INTO fates VALUES (?, ?, ?, ?)", (method, fate, times, delay_s))

    def forget_fates(self) -> None:
        """Let every call from now on meet nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM fates")

    def calls(self, method: str) -> list[str]:
        """The things that `method` was called for, in order: shows that no effect is repeated."""
        with self._transaction() as db:
            rows = db.execute("SELECT thing FROM calls WHERE method = ? ORDER BY id", (method,))
            return [thing for (thing,) in rows.fetchall()]

    def call(self, method: str, thing: object, effect: Callable[[], R], lie: R) -> R:
        """Run `effect` as the fates have it; `lie` is what a liar answers."""
        with self._transaction() as db:
            fate, delay_s, met = self._next_fate(db, method, str(thing))
            if not (fate or delay_s):
                try:
                    return effect()
                except AdapterError as error:  # the transaction keeps that it was called
                    refusal = error
        if not (fate or delay_s):
            raise refusal
        self._sleep(delay_s, met)
        if fate == "fails":
            raise Transient(f"{method}: told to fail")
        if fate == "refuses":
            raise Refused(f"{method}: told to refuse")
        if fate == "lies":
            return lie
        answer = effect()
        if fate == "commits-then-fails":
            raise Transient(f"{method}: told to fail after its effect")
        return answer

    def _sleep(self, delay_s: float, fate: int) -> None:
        for _ in range(int(delay_s / LOOK_S)):
            time.sleep(LOOK_S)
            with self._transaction() as db:
                if not db.execute("SELECT 1 FROM fates WHERE rowid = ?", (fate,)).fetchone():
                    return
        time.sleep(delay_s % LOOK_S)

    @staticmethod
    def _next_fate(db: sqlite3.Connection, method: str, thing: str) -> tuple[str, float, int]:
        """Its word, its delay, and its number."""
        db.execute("INSERT INTO calls (method, thing) VALUES (?, ?)", (method, thing))
        row = db.execute(
            "SELECT rowid, fate, delay_s FROM fates WHERE method = ? AND times > 0 LIMIT 1",
            (method,),
        ).fetchone()
        if row is None:
            return "", 0.0, 0
        db.execute("UPDATE fates SET times = times - 1 WHERE rowid = ?", (row[0],))
        return row[1], row[2], row[0]
