"""Figures: what a monitoring system may ask of the database, at a bounded cost.

Durations are added up by the runners when they leave an operation, in buckets: these totals only
grow, whatever history is trimmed and however many processes come and go.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy import BigInteger, String, Table, bindparam, delete, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database import models
from adapters.database.conventions import Base
from adapters.database.session import Database, insert_missing, utc_now
from adapters.types import OperationState, Value

BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000, 600_000)
BEYOND_MS = 2**31 - 1
GONE_S = 60.0  # a worker that has been silent for so long is not counted


class Duration(Base):
    """How often something of this name took so long, and ended so; `retries` of all of them."""

    __tablename__ = "durations"
    what: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16), primary_key=True)
    within_ms: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    times: Mapped[int] = mapped_column(BigInteger())
    seconds: Mapped[float]
    retries: Mapped[int] = mapped_column(BigInteger())


class WorkerRow(Base):
    """A worker as it has last spoken of itself."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    datacenter: Mapped[str]
    slots: Mapped[int]
    busy: Mapped[int]
    seen_at: Mapped[datetime]


class Took(NamedTuple):
    """One thing that took its time: an operation or a step."""

    what: str
    name: str
    outcome: str
    seconds: float
    retries: int = 0


class Bucket(Value):
    """A row of the totals."""

    what: str
    name: str
    outcome: str
    within_ms: int
    times: int
    seconds: float
    retries: int


class Slots(Value):
    """What a worker has to offer."""

    name: str
    datacenter: str
    slots: int
    busy: int


_DURATIONS = cast(Table, Duration.__table__)
_WORKERS = cast(Table, WorkerRow.__table__)
_KEY = ("what", "name", "outcome", "within_ms")
_ADD = (
    update(_DURATIONS)
    .where(*(_DURATIONS.c[each] == bindparam(f"its_{each}") for each in _KEY))
    .values(
        times=_DURATIONS.c.times + bindparam("more_times"),
        seconds=_DURATIONS.c.seconds + bindparam("more_seconds"),
        retries=_DURATIONS.c.retries + bindparam("more_retries"),
    )
)


class Figures:
    """The figures of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, took: Sequence[Took]) -> None:
        """Add to the totals, in one order: runners must not wait for each other in a ring."""
        buckets: dict[tuple[str, str, str, int], list[Took]] = defaultdict(list)
        for each in took:
            ends = (bound for bound in BUCKETS_MS if each.seconds * 1000 <= bound)
            buckets[each.what, each.name, each.outcome, next(ends, BEYOND_MS)].append(each)
        keys = sorted(buckets)
        if not keys:
            return
        fresh = [dict(zip(_KEY, key, strict=True)) for key in keys]
        more = [
            {
                **{f"its_{name}": part for name, part in zip(_KEY, key, strict=True)},
                "more_times": len(buckets[key]),
                "more_seconds": sum(each.seconds for each in buckets[key]),
                "more_retries": sum(each.retries for each in buckets[key]),
            }
            for key in keys
        ]
        with self._database.write() as db:
            none = {"times": 0, "seconds": 0.0, "retries": 0}
            db.execute(insert_missing(_DURATIONS), [{**each, **none} for each in fresh])
            db.execute(_ADD, more)

    def durations(self) -> list[Bucket]:
        """All totals: as many rows as there are names, outcomes and buckets that were met."""
        query = select(_DURATIONS).order_by(*(_DURATIONS.c[each] for each in _KEY))
        with self._database.read() as db:
            return [Bucket.model_construct(**row) for row in db.execute(query).mappings()]

    def operations(self) -> list[tuple[str, OperationState, int]]:
        """How many operations there are of each kind and state: of an index alone."""
        row = models.Operation
        query = select(row.kind, row.state, func.count()).group_by(row.state, row.kind)
        with self._database.read() as db:
            return [(kind, state, number) for kind, state, number in db.execute(query)]

    def queued(self) -> list[tuple[str, str, int]]:
        """How many operations of each datacenter and kind are accepted and have no runner."""
        row = models.Operation
        query = (
            select(models.Datacenter.name, row.kind, func.count(row.id))
            .join(models.Datacenter, models.Datacenter.id == row.datacenter_id)
            .where(row.state == OperationState.ACCEPTED, row.runner_host.is_(None))
            .group_by(models.Datacenter.name, row.kind)
        )
        with self._database.read() as db:
            return [(where, kind, number) for where, kind, number in db.execute(query)]

    def datacenters(self) -> list[str]:
        """The names of all, those without work too: a depth of 0 is told."""
        with self._database.read() as db:
            return list(db.scalars(select(models.Datacenter.name)))

    def report(self, worker: Slots) -> None:
        """Keep what a worker says of itself, and forget those that have long been silent."""
        values = worker.model_dump() | {"seen_at": utc_now()}
        with self._database.write() as db:
            db.execute(delete(_WORKERS).where(_WORKERS.c.name == worker.name))
            db.execute(_WORKERS.insert().values(values))
            db.execute(delete(_WORKERS).where(_WORKERS.c.seen_at < utc_now(-GONE_S)))

    def workers(self) -> list[Slots]:
        """Those that have spoken lately."""
        columns = [_WORKERS.c[name] for name in Slots.model_fields]
        query = select(*columns).where(_WORKERS.c.seen_at >= utc_now(-GONE_S))
        with self._database.read() as db:
            return [Slots(**row) for row in db.execute(query).mappings()]
