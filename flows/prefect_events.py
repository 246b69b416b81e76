"""Hearing from Prefect that a run waits or was cancelled, also when another machine did it.

Only a wake-up: the look every second finds the same without it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

WAITS = {"prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry"}
CANCELS = {"prefect.flow-run.Cancelling", "prefect.flow-run.Cancelled"}
_AGAIN_S = 2.0

log = logging.getLogger(__name__)


def listen(pool: UUID, heard: Callable[[str, UUID], None]) -> None:
    """Pass on every such event of a work pool, with its run, for ever."""
    while True:
        try:
            asyncio.run(_hear(pool, heard))
        except Exception as error:  # noqa: BLE001 - whatever it is, there is the look behind it
            log.info("Prefect's events are not heard now: %s", error)
        time.sleep(_AGAIN_S)


async def _hear(pool: UUID, heard: Callable[[str, UUID], None]) -> None:
    wanted = EventFilter(
        event=EventNameFilter(name=sorted(WAITS | CANCELS)),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool}"]),
    )
    async with get_events_subscriber(filter=wanted) as events:
        async for event in events:
            heard(event.event, UUID(event.resource.id.rpartition(".")[2]))
