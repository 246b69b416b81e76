"""What we use of Prefect 3.8.8 beyond its documented interface; nothing else of ours does.

* `prefect.flow_engine.run_flow`: run a flow run that somebody else has created and taken.
* `prefect.context.SyncClientContext`: the one client that an engine uses, kept between runs.
* `prefect.events.worker.EventsWorker`: the thread with the websocket that tells of task runs.
* `prefect.server.database.configurations.AioSqliteConfiguration.begin_transaction`: replaced in
  the embedded server.

A test holds that other modules import documented ones only, and that this is the version pinned.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import SyncClientContext
from prefect.events.worker import EventsWorker
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

VERSION = "3.8.8"

log = logging.getLogger(__name__)


@contextmanager
def kept_warm() -> Iterator[None]:
    """Keep one client and one websocket open for all flow runs inside, and send no heartbeats.

    A heartbeat thread would end a second after its flow; the worker vouches for its children.
    What Prefect does not hear in some seconds, the worker will tell it.
    """
    ours = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: 2}
    quiet = temporary_settings(ours)
    with quiet, SyncClientContext.get_or_create() as context:
        try:
            context.client.hello()
        except httpx.HTTPError as error:  # the first run will connect
            log.info("not connected to Prefect yet: %s", error)
        EventsWorker.instance()
        yield


def run_here(flow: Flow[..., Any], run: FlowRun) -> Exception | None:
    """Be the engine of a flow run; answers what it failed with.

    One with a deployment starts a thread, a websocket and a GET to watch for suspension, which
    we do not use: it runs as if it had none. And it is not asked for what we know.
    """
    count = (run.run_count or 0) + 1  # once it is Running
    unwatched = run.model_copy(update={"deployment_id": None, "run_count": count})
    with _spared(update_flow_run=None, read_flow_run=unwatched):
        state: Any = run_flow(flow, unwatched, run.parameters, return_type="state")
    failure = getattr(state.data, "result", None) if state.is_failed() else None
    return failure if isinstance(failure, Exception) else None


@contextmanager
def _spared(**answers: Any) -> Iterator[None]:
    """Answer the first request of each of these names ourselves: they precede the first step.

    `update_flow_run` tells of retries, which our flows have not; `read_flow_run` asks for the
    run, which the engine keeps up to date itself.
    """
    client = get_client(sync_client=True)

    def spare(name: str, answer: Any) -> None:
        def first(*_args: Any, **_named: Any) -> Any:
            delattr(client, name)
            return answer

        setattr(client, name, first)

    for name, answer in answers.items():
        spare(name, answer)
    try:
        yield
    finally:
        for name in answers:
            vars(client).pop(name, None)


def take_lock_at_begin() -> None:
    """Let every transaction of a server on SQLite take the write lock when it begins.

    They begin DEFERRED and read first; if somebody wrote in between, SQLite refuses at once
    ("database is locked"), and clients wait seconds before they retry.
    """
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration

    @asynccontextmanager
    async def begin_transaction(
        _self: AioSqliteConfiguration,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: FBT001, FBT002 - Prefect's signature
    ) -> AsyncIterator[AsyncSessionTransaction]:
        async with session.begin() as transaction:
            mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:  # what it reads meanwhile in another session must not wait for itself
                SQLITE_BEGIN_MODE.reset(mode)
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[assignment]
