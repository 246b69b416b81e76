"""How Prefect sees an operation: a flow run whose tasks are its steps."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import TypeVar
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

R = TypeVar("R")

log = logging.getLogger(__name__)

# A task costs the server 50 ms of CPU: beyond so many, steps are shown by our API alone.
TASKS_A_RUN = 50
_shown: Counter[UUID] = Counter()
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def hidden() -> Iterator[None]:
    """Show no steps inside: a batch of them is one task."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def is_prefect_watching() -> bool:
    """Whether this runs inside a flow run of Prefect's: without the engine, nobody looks there."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None


def shown(name: str, fn: Callable[[], R]) -> R:
    """Call `fn` as a Prefect task of the running flow, or plainly where there is none.

    The task does not retry: a step retries itself, forward and back, by the same law.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or _hidden.get():
        return fn()
    _shown[context.flow_run.id] += 1
    if _shown[context.flow_run.id] > TASKS_A_RUN:
        return fn()
    short = name.split("[", maxsplit=1)[0]
    task = Task(
        partial(_told, short, fn),
        name=short,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return task()


def _told(name: str, fn: Callable[[], R]) -> R:
    """Call `fn`, and log how it went: Prefect shows that beside the run, with its operation."""
    began = monotonic()
    try:
        result = fn()
    except Exception as error:
        log.warning("%s failed after %.2f s: %s", name, monotonic() - began, error)
        raise
    log.info("%s done after %.2f s", name, monotonic() - began)
    return result
