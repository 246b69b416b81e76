"""The journal: one line per step, written before the step runs and kept when it has ended.

Every write is conditional on the runner's lease (`Operations.holding`). Lines change state;
they are never deleted. A line keeps what was found before the first attempt, and that only.

A runner writes through one thread, which commits together what the lanes have gathered: a step
waits for its own intent, not for the outcome of the one before. Entries are committed in the
order in which they were made, so that an intent is never there without that outcome.
"""

import logging
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Column, Executable, Table, bindparam, select, update
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import TELL
from adapters.database.operations import Lease, Operations
from adapters.database.session import insert_missing, utc_now
from adapters.errors import Transient
from adapters.types import StepState, Value

_STEPS = cast(Table, models.Step.__table__)
_LINE = (_STEPS.c.operation_id == bindparam("its_operation")) & (
    _STEPS.c.key == bindparam("its_key")
)
# Again after a lost answer to its commit, an intent is there already: it is the same.
_INTEND = insert_missing(_STEPS).values(started_at=utc_now())
_ATTEMPT = (
    update(_STEPS)
    .where(_LINE)
    .values(
        state=bindparam("its_state"),
        arguments=bindparam("its_arguments"),
        epoch=bindparam("its_epoch"),
        attempts=_STEPS.c.attempts + 1,
        percent=None,
    )
)
_NOTE = update(_STEPS).where(_LINE).values(percent=bindparam("its_percent"))
_STUMBLE = update(_STEPS).where(_LINE).values(error=bindparam("its_error"))
_SETTLE = (
    update(_STEPS)
    .where(_LINE)
    .values(state=bindparam("its_state"), error=bindparam("its_error"), ended_at=utc_now())
)
_FINISH = _SETTLE.values(result=bindparam("its_result"))

_LINGER_S = 0.002  # how long an outcome waits for the next intent, to be committed with it
_RETRY_S = 0.2
_MANY = 8  # entries, of many lanes
_MOST = 500  # entries in one transaction

log = logging.getLogger(__name__)


class Line(Value):
    """One step of an operation, as the journal has it."""

    key: str
    name: str
    lane: str
    host: str = ""
    layer: int
    position: int
    arguments: dict[str, Any]
    found: bool
    state: StepState
    attempts: int
    epoch: int = 0
    result: Any = None
    error: str | None = None
    percent: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Journal:
    """The lines of all operations."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def lines(self, operation: UUID) -> list[Line]:
        """An operation's lines, in the order of their intents."""
        return self._read(operation, *(_STEPS.c[name] for name in Line.model_fields))

    def intents(self, operation: UUID, names: Collection[str] | None = None) -> list[Line]:
        """Its lines without what the steps answered, all or those of some steps: much less."""
        columns = (_STEPS.c[name] for name in Line.model_fields if name != "result")
        return self._read(operation, *columns, names=names)

    def _read(
        self, operation: UUID, *columns: Column[Any], names: Collection[str] | None = None
    ) -> list[Line]:
        query = select(*columns).where(_STEPS.c.operation_id == operation)
        if names is not None:
            query = query.where(_STEPS.c.name.in_(names))
        with self._operations.database.read() as db:
            rows = db.execute(query.order_by(_STEPS.c.position)).mappings().all()
        return [Line.model_construct(**row) for row in rows]

    def start_over(self, lease: Lease, keys: Collection[str]) -> None:
        """Forget outcomes, not intents: a newer version of the flow does these lines anew."""
        with self._operations.holding(lease) as db:
            mine = (_STEPS.c.operation_id == lease.operation) & _STEPS.c.key.in_(keys)
            db.execute(update(_STEPS).where(mine).values(state=StepState.PENDING))

    def writer(self, lease: Lease) -> "Writer":
        """What the lease's runner writes with."""
        return Writer(self._operations, lease)


@dataclass(frozen=True)
class _Entry:
    statement: Executable | None = None
    values: dict[str, Any] = field(default_factory=dict)
    awaited: bool = True
    unless_wished: bool = False
    written: Future[str | None] = field(default_factory=Future)


class Writer:
    """One runner's way to the journal. A database that is away is waited for."""

    def __init__(self, operations: Operations, lease: Lease) -> None:
        self._operations = operations
        self._lease = lease
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._many = False  # entries were there the last time
        self._thread = Thread(
            target=copy_context().run, args=(self._serve,), name="journal", daemon=True
        )
        self._thread.start()

    def intend(self, line: Line, *, unless_wished: bool = False) -> str | None:
        """Write down what is about to be done; it is on disk when this returns.

        With `unless_wished`, answer what somebody wishes instead: wish and intent, one is first.
        """
        fields = line.model_dump(exclude={"started_at"}) | {"epoch": self._lease.epoch}
        values = {"operation_id": self._lease.operation, **fields}
        return self._write(_Entry(_INTEND, values, unless_wished=unless_wished))

    def attempt(self, line: Line, state: StepState) -> None:
        """Another attempt at the line begins, `running` forward or `undoing` back."""
        now = {"its_state": state, "its_arguments": line.arguments, "its_epoch": self._lease.epoch}
        self._write(_Entry(_ATTEMPT, self._of(line.key, now)))

    def stumble(self, key: str, error: str) -> None:
        """An attempt failed; the line goes on showing why."""
        self._write(_Entry(_STUMBLE, self._of(key, {"its_error": error}), awaited=False))

    def note(self, key: str, percent: int) -> None:
        """A long step is so far."""
        self._write(_Entry(_NOTE, self._of(key, {"its_percent": percent}), awaited=False))

    def settle(
        self, key: str, state: StepState, *, result: Any = None, error: str | None = None
    ) -> None:
        """Write the outcome, in its turn; only a step that is done has a result."""
        values = self._of(key, {"its_state": state, "its_error": error})
        if state is StepState.DONE:
            self._write(_Entry(_FINISH, {**values, "its_result": result}, awaited=False))
        else:
            self._write(_Entry(_SETTLE, values, awaited=False))

    def tell(self, event: dict[str, Any]) -> None:
        """Write an event with what is committed next."""
        self._write(_Entry(TELL, event, awaited=False))

    def flush(self) -> None:
        """Wait until all that was written is on disk."""
        self._write(_Entry())

    def close(self) -> None:
        """Write what is left, and no more."""
        self._entries.put(None)
        self._thread.join()

    def _of(self, key: str, values: dict[str, Any]) -> dict[str, Any]:
        return {"its_operation": self._lease.operation, "its_key": key, **values}

    def _write(self, entry: _Entry) -> str | None:
        self._entries.put(entry)
        return entry.written.result() if entry.awaited else None

    def _serve(self) -> None:
        failed: BaseException | None = None
        while gathered := self._gather():
            entries = [entry for entry in gathered if entry]
            try:
                answers = [] if failed else self._commit(entries)
            except BaseException as error:  # noqa: BLE001 - whoever waits for an entry gets it
                failed = error
            for n, entry in enumerate(entries):
                if failed:
                    entry.written.set_exception(failed)
                else:
                    entry.written.set_result(answers[n])
            if None in gathered:
                return

    def _gather(self) -> list[_Entry | None]:
        """Everything there is; an outcome alone waits a moment for the next intent.

        So does all that comes while many lanes write: a commit costs more than an entry.
        """
        gathered = [self._entries.get()]
        while len(gathered) < _MOST and (last := gathered[-1]):
            at_once = last.awaited and not self._many
            try:
                gathered.append(self._entries.get(timeout=0 if at_once else _LINGER_S))
            except Empty:
                break
        self._many = len(gathered) > _MANY
        return gathered

    def _commit(self, entries: Sequence[_Entry]) -> list[str | None]:
        if not any(entry.statement is not None for entry in entries):
            return [None] * len(entries)
        while True:
            try:
                with self._operations.holding(self._lease) as db:
                    return self._execute(db, entries)
            except Transient as error:
                log.warning("operation %s: not written yet: %s", self._lease.operation, error)
                time.sleep(_RETRY_S)

    def _execute(self, db: Session, entries: Sequence[_Entry]) -> list[str | None]:
        """Intents first, then the rest in its order: alike entries side by side are one call."""
        wishes: dict[int, str | None] = {}
        for (_, unless_wished), group in groupby(sorted(entries, key=_is_no_intent), key=_kind):
            alike = list(group)
            wish = self._wish(db) if unless_wished else None
            if alike[0].statement is not None and not wish:
                db.execute(alike[0].statement, [entry.values for entry in alike])
            wishes |= {id(entry): wish for entry in alike}
        return [wishes[id(entry)] for entry in entries]

    def _wish(self, db: Session) -> str | None:
        return db.get_one(models.Operation, self._lease.operation).wish


def _is_no_intent(entry: _Entry) -> bool:
    return entry.statement is not _INTEND


def _kind(entry: _Entry) -> tuple[int, bool]:
    return id(entry.statement), entry.unless_wished
