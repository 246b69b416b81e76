"""Operations: accepted, leased to one runner at a time, ended, settled.

A lease is the operation's own row: `epoch` counts its runners, `due_at` is when it expires by
the database's time. Taking it is one UPDATE; whatever a runner writes is conditional on its
epoch (`holding`), in the same transaction, so a runner that was overtaken writes nothing more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from pydantic import Field
from sqlalchemy import CursorResult, Table, Update, bindparam, delete, select, update
from sqlalchemy.orm import Session

from adapters.amounts import Force
from adapters.database import models
from adapters.database.events import tell_of
from adapters.database.intents import Intent, intend
from adapters.database.locks import lock
from adapters.database.runners import Runner, machine
from adapters.database.session import Database, utc_now
from adapters.errors import AdapterError, Conflict, NotFound
from adapters.types import OperationState, Value

_OPERATIONS = cast(Table, models.Operation.__table__)

ENDED = frozenset(
    {
        OperationState.SUCCEEDED,
        OperationState.FAILED,
        OperationState.CANCELLED,
        OperationState.ABANDONED,
    }
)


class LeaseLost(AdapterError):
    """Another runner has, or may have, the operation: stop before the next effect."""

    code = "lease-lost"


class Operation(Value):
    """An operation's row, as a value."""

    id: UUID
    kind: str
    version: str
    state: OperationState
    target_kind: str
    target_id: UUID
    target_name: str
    arguments: dict[str, Any]
    objects: list[UUID]
    enterprise_id: UUID
    datacenter_id: UUID
    requested_by: str
    wish: str | None
    error: dict[str, Any] | None
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    provisional: bool
    left_behind: bool
    epoch: int
    attempt: int
    flow_run_id: UUID | None
    due_at: datetime | None
    traceparent: str | None = None

    @property
    def force(self) -> Force | None:
        """Who lets it pass soft limits, and why; if anybody does."""
        given = self.arguments.get("force")
        return Force.model_validate(given) if given else None

    @property
    def ended(self) -> bool:
        """Whether its outcome is known; the receipt may still be provisional."""
        return self.state in ENDED


class Lease(Value):
    """One runner's hold on an operation, and whom it was taken from."""

    operation: UUID
    epoch: int
    former: Runner | None


class Request(Value):
    """What is asked for: which flow, of what, with which arguments; and what it locks."""

    id: UUID
    kind: str
    version: str
    target_kind: str
    target_id: UUID
    target_name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    enterprise_id: UUID
    datacenter_id: UUID
    requested_by: str
    locks: tuple[tuple[str, UUID], ...] = ()
    intents: tuple[Intent, ...] = ()
    waits_s: float | None = None  # how long for approval; None: it may begin at once
    traceparent: str | None = None  # the trace that it belongs to, as W3C has it
    by_itself: bool = False  # nobody asked: told of only when it goes wrong
    virtual_datacenter_id: UUID | None = None  # that its target is in


def as_value(row: models.Operation) -> Operation:
    """The value of a row."""
    return Operation(**{name: getattr(row, name) for name in Operation.model_fields})


def accept(db: Session, request: Request) -> Operation:
    """Write down what was asked for, and lock what it is about. Raises `Locked`."""
    fields = request.model_dump(exclude={"locks", "intents", "waits_s", "by_itself"})
    waits = request.waits_s is not None
    row = models.Operation(
        **fields,
        objects=[str(each) for _, each in request.locks],
        state=OperationState.WAITING if waits else OperationState.ACCEPTED,
        accepted_at=utc_now(),
        due_at=utc_now(request.waits_s or 0.0),
        provisional=False,
        left_behind=False,
        epoch=0,
        attempt=0,
    )
    db.add(row)
    db.flush()
    lock(db, request.id, request.locks)
    intend(db, request.id, request.intents)
    db.refresh(row)
    if not request.by_itself:
        tell_of(db, row, "accepted", waits=waits)
    return as_value(row)


def _rows(db: Session, change: Update) -> int:
    return cast(CursorResult[Any], db.execute(change)).rowcount


def let_go(row: models.Operation) -> None:
    """Nobody runs the operation any more, nor has to."""
    row.runner_host = row.runner_pid = row.runner_started = row.due_at = None


def _runner(row: models.Operation) -> Runner | None:
    if row.runner_host and row.runner_pid and row.runner_started:
        return Runner(host=row.runner_host, pid=row.runner_pid, started=row.runner_started)
    return None


class Operations:
    """The operations of a database."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self.database = database
        self.lease_s = lease_s
        self._hold = (  # made once: it is a part of every write of every runner
            update(_OPERATIONS)
            .where(
                _OPERATIONS.c.id == bindparam("whose"),
                _OPERATIONS.c.epoch == bindparam("its_epoch"),
                _OPERATIONS.c.due_at > utc_now(),
            )
            .values(due_at=utc_now(lease_s))
        )

    def accept(self, request: Request) -> Operation:
        """Accept in a transaction of its own."""
        with self.database.write() as db:
            return accept(db, request)

    def read(self, operation: UUID) -> Operation:
        """The operation. Raises `NotFound`."""
        with self.database.read() as db:
            if row := db.get(models.Operation, operation):
                return as_value(row)
        raise NotFound(f"no operation {operation}")

    def is_known(self, operation: UUID) -> bool:
        """Whether there is such an operation."""
        with self.database.read() as db:
            return db.get(models.Operation, operation) is not None

    def due(self, datacenter: UUID, limit: int = 100) -> list[Operation]:
        """A datacenter's operations that somebody has to look after now.

        Those that no run has been made for come first: a long queue must not hide them.
        """
        query = (
            select(models.Operation)
            .where(
                models.Operation.due_at <= utc_now(),
                models.Operation.datacenter_id == datacenter,
            )
            .order_by(models.Operation.attempt > models.Operation.epoch, models.Operation.due_at)
            .limit(limit)
        )
        with self.database.read() as db:
            return [as_value(row) for row in db.scalars(query)]

    def unfinished(self, kind: str, datacenter: UUID | None) -> bool:
        """Whether a datacenter's operation of this kind has not ended."""
        query = select(models.Operation.id).where(
            models.Operation.kind == kind,
            models.Operation.datacenter_id == datacenter,
            models.Operation.state.not_in(ENDED),
        )
        with self.database.read() as db:
            return db.scalars(query.limit(1)).first() is not None

    def unfinished_steps(self) -> set[str]:
        """The names of the steps of all operations that have not ended."""
        query = (
            select(models.Step.name)
            .join(models.Operation, models.Operation.id == models.Step.operation_id)
            .where(models.Operation.state.not_in(ENDED))
            .distinct()
        )
        with self.database.read() as db:
            return set(db.scalars(query))

    def claim(self, operation: UUID, runner: Runner) -> Lease:
        """Become the operation's runner. Raises `LeaseLost` while another one is."""
        with self.database.write() as db:
            row = db.get(models.Operation, operation, with_for_update=True)
            if row is None:
                raise NotFound(f"no operation {operation}")
            former = _runner(row)
            taken = _rows(
                db,
                update(models.Operation)
                .where(models.Operation.id == operation, models.Operation.due_at <= utc_now())
                .where(models.Operation.state != OperationState.WAITING)
                .values(
                    epoch=models.Operation.epoch + 1,
                    runner_host=runner.host,
                    runner_pid=runner.pid,
                    runner_started=runner.started,
                    due_at=utc_now(self.lease_s),
                ),
            )
            if taken != 1:
                raise LeaseLost(f"operation {operation}: another run has it, or nobody may")
            db.refresh(row)
            return Lease(operation=operation, epoch=row.epoch, former=former)

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[Session]:
        """Open a transaction that only the lease's holder commits; it renews the lease too."""
        with self.database.write() as db:
            whose = {"whose": lease.operation, "its_epoch": lease.epoch}
            if cast(CursorResult[Any], db.execute(self._hold, whose)).rowcount != 1:
                raise LeaseLost(f"operation {lease.operation}: epoch {lease.epoch} has ended")
            yield db

    def renew(self, lease: Lease) -> str | None:
        """Say that the runner lives; answers what somebody wishes meanwhile."""
        with self.holding(lease) as db:
            return db.scalars(
                select(models.Operation.wish).where(models.Operation.id == lease.operation)
            ).one()

    def begin(self, lease: Lease, version: str) -> None:
        """Go forward: `running`, at this version of the flow."""
        with self.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            row.state = OperationState.RUNNING
            row.version = version
            if row.started_at is None:
                tell_of(db, row, "started")
            row.started_at = row.started_at or utc_now()

    def turn_back(self, lease: Lease, error: dict[str, Any]) -> None:
        """Go back: `unwinding`, because of the first error."""
        with self.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            row.error = row.error or error
            if row.state is not OperationState.UNWINDING:
                tell_of(db, row, "unwinding", error=row.error)
            row.state = OperationState.UNWINDING

    def end(
        self, lease: Lease, state: OperationState, error: dict[str, Any] | None = None
    ) -> None:
        """The outcome is known: tell everybody. Locks stay until `settle`."""
        with self.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            row.state = state
            row.ended_at = utc_now()
            if error or state is OperationState.SUCCEEDED:  # whatever it was stuck at
                row.error = error
            tell_of(db, row, state, error=row.error)

    def stick(self, lease: Lease, error: dict[str, Any], *, going_back: bool = False) -> None:
        """An undo or a destructive step was refused: an operator has to look.

        What was going back is wished to go on so: half undone is no place to go forward from.
        """
        with self.holding(lease) as db:
            row = db.get_one(models.Operation, lease.operation)
            row.state = OperationState.STUCK
            row.error = error
            if going_back:
                row.wish = row.wish or "unwind"
            let_go(row)
            tell_of(db, row, "stuck", error=error)

    def locked_by(self, operation: UUID) -> tuple[UUID, ...]:
        """The objects that an operation has."""
        query = select(models.Lock.object_id).where(models.Lock.operation_id == operation)
        with self.database.read() as db:
            return tuple(db.scalars(query))

    def leave(self, lease: Lease) -> None:
        """Say that the runner works on it no more, held or lost: nobody has to end it for it."""
        with self.database.write() as db:
            db.execute(
                update(models.Operation)
                .where(models.Operation.id == lease.operation)
                .where(models.Operation.epoch == lease.epoch)
                .values(runner_host=None, runner_pid=None, runner_started=None)
            )

    def bury(self, dead: Callable[[Runner], bool]) -> None:
        """Let the leases of this machine's dead runners lapse at once, instead of in time."""
        with self.database.write() as db:
            held = select(models.Operation).where(
                models.Operation.due_at > utc_now(), models.Operation.runner_host == machine()
            )
            for row in db.scalars(held):
                if (runner := _runner(row)) and dead(runner):
                    row.due_at = utc_now()

    def want(self, operation: UUID, wish: str) -> Operation:
        """Ask for `cancel` or `unwind`; a stuck operation is taken up again for it."""
        with self.database.write() as db:
            row = self._live(db, operation)
            row.wish = wish
            tell_of(db, row, f"{wish}-asked")
            return self._take_up(db, row)

    def resume(self, operation: UUID) -> Operation:
        """Take a stuck operation up again, the way it was going."""
        with self.database.write() as db:
            row = self._live(db, operation)
            if row.state != OperationState.STUCK:
                raise Conflict(f"operation {operation} is {row.state}", code="not-stuck")
            tell_of(db, row, "resumed")
            return self._take_up(db, row)

    def abandon(self, operation: UUID, reason: str, who: str) -> Operation:
        """Give a stuck operation up: its locks go, its receipt lists what may remain."""
        with self.database.write() as db:
            row = self._live(db, operation)
            if row.state != OperationState.STUCK:
                raise Conflict(f"operation {operation} is {row.state}", code="not-stuck")
            row.state = OperationState.ABANDONED
            row.error = {**(row.error or {}), "abandoned_by": who, "reason": reason}
            row.ended_at = utc_now()
            row.due_at = utc_now()
            db.execute(delete(models.Lock).where(models.Lock.operation_id == operation))
            tell_of(db, row, "abandoned", reason=reason)
            db.refresh(row)
            return as_value(row)

    @staticmethod
    def _live(db: Session, operation: UUID) -> models.Operation:
        row = db.get(models.Operation, operation, with_for_update=True, populate_existing=True)
        if row is None:
            raise NotFound(f"no operation {operation}")
        if row.state in ENDED:
            raise Conflict(f"operation {operation} has {row.state}", code="operation-ended")
        return row

    @staticmethod
    def _take_up(db: Session, row: models.Operation) -> Operation:
        if row.state == OperationState.STUCK:
            row.state = OperationState.UNWINDING if row.wish else OperationState.RUNNING
            row.due_at = utc_now()
            db.flush()
            db.refresh(row)
        return as_value(row)

    def sent(self, operation: UUID, attempt: int, flow_run: UUID) -> None:
        """Remember the flow run of an attempt: the newest is the one to look at."""
        with self.database.write() as db:
            db.execute(
                update(models.Operation)
                .where(models.Operation.id == operation, models.Operation.attempt <= attempt)
                .values(attempt=attempt, flow_run_id=flow_run)
            )
