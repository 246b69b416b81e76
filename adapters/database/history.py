"""History: what ended long ago is forgotten, a batch a transaction: nothing grows for ever.

What somebody may still need stays: operations that have not ended, that are to be looked at
again, or that hold a lock.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, or_, select

from adapters.database import events, models, people
from adapters.database.operations import ENDED
from adapters.database.plans import PlanRow
from adapters.database.session import Database, utc_now
from adapters.types import OperationState

BATCH = 200
_DAY_S = 86_400
_PAGES = 10_000  # at most as many are given back at once: the others wait meanwhile


class History:
    """What the database remembers of what is over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forget_operations(self, datacenter: UUID, days: float, evidence_days: float) -> int:
        """Forget the oldest batch, lines and receipts included; answers how many.

        Those that left something behind are evidence, which has a time of its own.
        """
        locked = select(models.Lock.operation_id)
        query = (
            select(models.Operation.id)
            .where(
                models.Operation.datacenter_id == datacenter,
                models.Operation.state.in_(ENDED),
                models.Operation.due_at.is_(None),
                models.Operation.runner_host.is_(None),
                models.Operation.id.not_in(locked),
                or_(
                    and_(_ended_before(days), ~models.Operation.left_behind),
                    _ended_before(evidence_days),
                ),
            )
            .order_by(models.Operation.ended_at)
            .limit(BATCH)
        )
        with self._database.write() as db:
            over = list(db.scalars(query))
            for table in (models.Receipt, models.Step):
                db.execute(delete(table).where(table.operation_id.in_(over)))
            db.execute(delete(models.Operation).where(models.Operation.id.in_(over)))
            return len(over)

    def forget_keys(self, days: float) -> int:
        """Forget the answers to old idempotency keys; answers how many."""
        row = models.IdempotencyKey
        query = select(row).where(row.created_at < utc_now(-days * _DAY_S)).limit(BATCH)
        with self._database.write() as db:
            old = list(db.scalars(query))
            for each in old:
                db.delete(each)
            return len(old)

    def forget_events(self, days: float) -> int:
        """Forget the oldest batch of events; answers how many."""
        row = events.EventRow
        query = select(row.id).where(row.at < utc_now(-days * _DAY_S)).order_by(row.at)
        with self._database.write() as db:
            old = list(db.scalars(query.limit(BATCH)))
            db.execute(delete(row).where(row.id.in_(old)))
            return len(old)

    def forget_plans(self, days: float) -> int:
        """Forget plans that have long been invalid; answers how many."""
        query = select(PlanRow.id).where(PlanRow.valid_until < utc_now(-days * _DAY_S))
        with self._database.write() as db:
            old = list(db.scalars(query.limit(BATCH)))
            db.execute(delete(PlanRow).where(PlanRow.id.in_(old)))
            return len(old)

    def forget_sessions(self, days: float) -> int:
        """Forget sessions that have long ended, and whose answers are forgotten; how many."""
        row = people.ApiToken
        query = (
            select(row.id)
            .where(row.session, row.expires_at < utc_now(-days * _DAY_S))
            .where(row.id.not_in(select(models.IdempotencyKey.token_id)))
            .limit(BATCH)
        )
        with self._database.write() as db:
            old = list(db.scalars(query))
            db.execute(delete(row).where(row.id.in_(old)))
            return len(old)

    def last_answer(self, kind: str, datacenter: UUID, step: str) -> Any:
        """What a step of the last such operation that succeeded there has answered, or None."""
        query = (
            select(models.Step.result)
            .join(models.Operation)
            .where(
                models.Operation.kind == kind,
                models.Operation.datacenter_id == datacenter,
                models.Operation.state == OperationState.SUCCEEDED,
                models.Step.name == step,
            )
            .order_by(models.Operation.accepted_at.desc())
            .limit(1)
        )
        with self._database.read() as db:
            return db.scalars(query).first()

    def runs_in_use(self, datacenter: UUID) -> list[UUID]:
        """The flow runs of operations that have not ended: to be retried, or looked at."""
        query = select(models.Operation.flow_run_id).where(
            models.Operation.datacenter_id == datacenter,
            models.Operation.state.not_in(ENDED),
            models.Operation.flow_run_id.is_not(None),
        )
        with self._database.read() as db:
            return [run for run in db.scalars(query) if run]

    def compact(self) -> None:
        """Give free pages back to the file system; MariaDB fills them again by itself."""
        if self._database.engine.dialect.name == "sqlite":
            with self._database.write() as db:
                connection: Any = db.connection().connection.driver_connection
                # `execute` would stop after the first page
                connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


def _ended_before(days: float) -> ColumnElement[bool]:
    return models.Operation.ended_at < utc_now(-days * _DAY_S)
