"""Prefect's database stays bounded: shown through the real engine, with days of seconds."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4, uuid5

import pytest
from sqlalchemy import column, func, inspect, select, table
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.database import models
from adapters.database.operations import Operation
from adapters.types import OperationState
from deployments.lab.process import wait_for
from flows import dispatch, prefect_env
from flows.cloud import cloud
from tests.flows.test_engine import Stack, asked_for, engine

pytestmark = pytest.mark.engine
__all__ = ["engine"]
DAY_S = 86_400
# What trimming itself, and what is scheduled, leave for a while: less than 100 operations do.
LEFT = {
    "flow_run": 60,
    "flow_run_state": 150,
    "task_run": 100,
    "task_run_state": 200,
    "log": 100,
    "logs of no run": 1,
    "events": 600,
    "event_resources": 3000,
}
FEW = 30  # of everything else
SHORT = {
    "history_days": 20 / DAY_S,
    "prefect_events_days": 20 / DAY_S,
    "slots": 4,
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    return Stack(settings=SHORT)


def prefects_rows() -> dict[str, int]:
    """How many rows each table of Prefect's database has."""
    return asyncio.run(_counted(prefect_env.environment(cloud.settings)))


async def _counted(env: dict[str, str]) -> dict[str, int]:
    database = create_async_engine(env["PREFECT_API_DATABASE_CONNECTION_URL"])
    async with database.connect() as db:
        tables = await db.run_sync(lambda connection: inspect(connection).get_table_names())
        count = select(func.count())
        counted = {x: await db.scalar(count.select_from(table(x))) for x in tables}
        run = column("flow_run_id")
        counted["logs of no run"] = await db.scalar(
            count.select_from(table("log", run)).where(run.is_(None))
        )
    await database.dispose()
    return counted


@pytest.mark.parametrize(
    "operations", [100, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_prefects_database_stays_bounded(engine, operations):
    """However many there were: once they are over for long enough, Prefect knows of none."""
    world, _ = engine
    at_first = prefects_rows()
    leave_what_is_gone(200)
    asked = [asked_for(world, f"volume-{n}", 1) for n in range(operations)]
    for operation in asked:
        dispatch.send(operation)
    assert {ended_in(each, 3000).state for each in asked} == {OperationState.SUCCEEDED}
    counts: list[int] = []
    wait_for(lambda: has_settled(counts), 600, "Prefect to write down the task runs", every_s=2)
    wait_for(lambda: trimmed_to(at_first), 250, "the end of what is over", every_s=4)


def leave_what_is_gone(how_many: int) -> None:
    """Workers of which each restart leaves one, and logs that arrived after their run's end."""
    prefect, run = dispatch.client(), uuid4()
    for n in range(how_many):
        prefect.send_worker_heartbeat("main", f"gone: {n}", 1)
    late = {"name": "flows", "level": 20, "message": "late", "flow_run_id": str(run)}
    prefect.create_logs([{**late, "timestamp": f"{datetime.now(UTC)}"}] * how_many)


def has_settled(counts: list[int]) -> bool:
    """Whether as many task runs are known as were twice before: they are written down later."""
    counts.append(prefects_rows()["task_run"])
    return len(counts) > 2 and len(set(counts[-3:])) == 1


def trimmed_to(at_first: dict[str, int]) -> bool:
    """Trim once more; whether no more is left than what trimming itself leaves for a while."""
    run = dispatch.client().create_flow_run_from_deployment(
        dispatch._deployment("trim_history", "main")
    )
    trim = uuid5(run.id, "trim_history")
    wait_for(lambda: cloud.operations.is_known(trim), 120, "the start of trimming", every_s=0.2)
    wait_for(lambda: cloud.operations.read(trim).ended, 240, "the end of trimming", every_s=0.2)
    rows = prefects_rows()
    more = {table: rows[table] - at_first[table] for table in rows}
    with cloud.database.read() as db:
        known = db.scalar(select(func.count()).select_from(models.Operation))
    most = {**dict.fromkeys(rows, FEW), **LEFT}
    return known < LEFT["flow_run"] and all(more[table] < n for table, n in most.items())


def ended_in(operation: Operation, patience_s: float) -> Operation:
    wait_for(lambda: cloud.operations.read(operation.id).ended, patience_s, "the end", every_s=0.5)
    return cloud.operations.read(operation.id)
