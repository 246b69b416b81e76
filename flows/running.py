"""What is running here: a step finds its operation, its runner's number and its lane."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from flows.saga import Saga

_TOLD_EVERY_S = 1.0
_WHOLE = 100.0

lane_name: ContextVar[str] = ContextVar("lane_name", default="")
lane_host: ContextVar[str] = ContextVar("lane_host", default="")
step_key: ContextVar[str] = ContextVar("step_key", default="")
saga: ContextVar["Saga"] = ContextVar("saga")


def this_saga() -> "Saga":
    """The saga that is running here."""
    return saga.get()


def running() -> UUID:
    """The operation that is running here."""
    return this_saga().operation.id


def mark() -> str:
    """The running operation as a name that sorts by when it was accepted, and ends with its id."""
    row = this_saga().operation
    return f"{row.accepted_at:%Y%m%dT%H%M%S.%f}.{row.id}"


def telling() -> Callable[[float], None]:
    """How a long step says which percentage of it is done: it is written down once a second."""
    here, key, told_at = this_saga(), step_key.get(), [time.monotonic()]

    def tell(percent: float) -> None:
        if percent >= _WHOLE or time.monotonic() > told_at[0] + _TOLD_EVERY_S:
            told_at[0] = time.monotonic()
            here.writer.note(key, int(percent))

    return tell


def epoch() -> int:
    """Which runner of the operation this is, from 1: names what only this attempt may use."""
    return this_saga().lease.epoch
