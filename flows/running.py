"""What is running here: a step finds its operation, its runner's number and its lane."""

from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from flows.saga import Saga

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


def epoch() -> int:
    """Which runner of the operation this is, from 1: names what only this attempt may use."""
    return this_saga().lease.epoch
