"""Lanes: an appliance's VMs come up, or go, in parallel, some at a time at each host.

Many lanes are shown in Prefect as one task a host: a task costs its server more than a VM costs
us. Their steps are in the journal all the same.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from uuid import UUID

from flows import logs
from flows.cloud import cloud
from flows.engine import TASKS_A_RUN, hidden, shown
from flows.places import at_host
from flows.planning import planner
from flows.runner import in_parallel
from flows.running import lane_host, lane_name, this_saga

_STEPS_A_LANE = 8  # about as many as bringing up a VM takes
_HOSTS_AT_ONCE = 64


@dataclass(frozen=True)
class Lane:
    """What is done for one VM at its host."""

    name: str
    host: UUID
    run: Callable[[], None]


def lanes(*layers: Sequence[Lane]) -> None:
    """Run each layer's lanes in parallel, one layer after the other; a failure stops them all."""
    if planner():
        _plan(layers)
        return
    in_batches = sum(map(len, layers)) * _STEPS_A_LANE > TASKS_A_RUN
    for layer in layers:
        at: dict[UUID, deque[Lane]] = {}
        for lane in layer:
            at.setdefault(lane.host, deque()).append(lane)
        run = _run_batch if in_batches else _run_host
        this_saga().next_layer()
        in_parallel([partial(run, host, lanes) for host, lanes in at.items()], _HOSTS_AT_ONCE)
        this_saga().next_layer()


def _plan(layers: Sequence[Sequence[Lane]]) -> None:
    for lane in chain.from_iterable(layers):
        token = lane_name.set(lane.name)
        try:
            lane.run()
        finally:
            lane_name.reset(token)


def _run_batch(host: UUID, waiting: deque[Lane]) -> None:
    def run() -> None:
        with hidden():
            _run_host(host, waiting)

    with logs.telling(host=str(host)):
        shown(f"host[{host}]", run)


def _run_host(host: UUID, waiting: deque[Lane]) -> None:
    limit = cloud.settings.sessions_per_host
    serve = partial(_serve, host, waiting)
    in_parallel([serve] * min(limit, len(waiting)), limit)


def _serve(host: UUID, waiting: deque[Lane]) -> None:
    try:
        with at_host(host):
            lane_host.set(str(host))
            while lane := _next(waiting):
                lane_name.set(lane.name)
                lane.run()
    except BaseException:
        this_saga().runner.halt()
        raise


def _next(waiting: deque[Lane]) -> Lane | None:
    try:
        return waiting.popleft()
    except IndexError:  # another place at the host has taken the last
        return None
