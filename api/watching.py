"""Watching: one question to the database answers everybody who waits for an operation.

Waiters are futures: five hundred of them hold no thread and no connection.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import func, select

from adapters.database import models
from adapters.database.operations import ENDED
from adapters.errors import Transient
from adapters.types import OperationState
from flows.cloud import cloud

T = TypeVar("T")
Ask = Callable[[Iterable[UUID]], Mapping[UUID, T]]

log = logging.getLogger(__name__)
_PAUSE_S = 0.2
_RESTING = ENDED | {OperationState.STUCK}


@dataclass(frozen=True)
class Glance:
    """How an operation stands: equal marks mean that nothing has changed."""

    state: OperationState
    mark: str

    @property
    def resting(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state in _RESTING


@dataclass(eq=False)
class _Waiter(Generic[T]):
    about: UUID
    wants: Callable[[T], bool]
    glance: asyncio.Future[T]


class Watch(Generic[T]):
    """Those who wait in one event loop; `ask` answers how all that they wait for stands."""

    def __init__(self, ask: Ask[T]) -> None:
        self._ask = ask
        self._waiters: set[_Waiter[T]] = set()
        self._polling: asyncio.Task[None] | None = None

    async def until(self, about: UUID, wants: Callable[[T], bool], timeout_s: float) -> T | None:
        """Wait until it stands as wanted; None when that takes too long."""
        waiter = _Waiter(about, wants, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            return await asyncio.wait_for(waiter.glance, timeout_s)
        except TimeoutError:
            return None
        finally:
            self._waiters.discard(waiter)

    async def close(self) -> None:
        """Stop asking."""
        if self._polling:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def _poll(self) -> None:
        while self._waiters:
            waiting = {waiter.about for waiter in self._waiters}
            glances: Mapping[UUID, T] = {}
            try:
                glances = await asyncio.to_thread(self._ask, waiting)
            except Transient:
                log.warning("the database does not answer; those who wait wait on")
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                for waiter in self._waiters:
                    if not waiter.glance.done():
                        waiter.glance.set_exception(error)
                return
            for waiter in self._waiters:
                found = glances.get(waiter.about)
                if found is not None and not waiter.glance.done() and waiter.wants(found):
                    waiter.glance.set_result(found)
            await asyncio.sleep(_PAUSE_S)


def glance(operations: Iterable[UUID]) -> dict[UUID, Glance]:
    """How these operations stand, by one query."""
    row, line = models.Operation, models.Step
    query = (
        select(
            row.id,
            row.state,
            row.epoch,
            row.wish,
            row.attempt,
            row.flow_run_id,
            row.provisional,
            row.left_behind,
            func.count(line.key),
            func.sum(line.attempts),
            func.count(line.ended_at),
            func.max(line.ended_at),
            func.count(line.error),
        )
        .outerjoin(line, line.operation_id == row.id)
        .where(row.id.in_(operations))
        .group_by(row.id)
    )
    with cloud.database.read() as db:
        return {
            each[0]: Glance(each[1], sha256(repr(tuple(each)).encode()).hexdigest()[:16])
            for each in db.execute(query)
        }
