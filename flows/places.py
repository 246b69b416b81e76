"""Places: few do something at one host or repository at once, whichever workers they have."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Event
from uuid import UUID

from flows.cloud import cloud
from flows.planning import planner
from flows.running import this_saga

_PAUSE_S = 0.2


def at_host(host: UUID) -> AbstractContextManager[None]:
    """Wait for a place at the host, and have it while inside."""
    return _place(f"host:{host}", cloud.settings.sessions_per_host)


def at_repository(datacenter: UUID) -> AbstractContextManager[None]:
    """Wait for a place at the datacenter's repository, and have it while inside."""
    return _place(f"repository:{datacenter}", cloud.settings.sessions_per_repository)


def converting(datacenter: UUID) -> AbstractContextManager[None]:
    """Wait until it is one's enterprise's turn to convert something there."""
    limit = cloud.settings.conversions_per_repository
    return _place(f"conversions:{datacenter}", limit, in_turn=True)


@contextmanager
def _place(thing: str, limit: int, *, in_turn: bool = False) -> Iterator[None]:
    if planner():
        yield
        return
    runner = this_saga().runner
    line_up = partial(cloud.places.line_up, thing, runner.lease)
    ticket = runner.persevere(line_up, forever=True) if in_turn else None
    take = partial(cloud.places.take, thing, limit, runner.lease, ticket)
    try:
        while (number := runner.persevere(take, forever=True)) is None:
            runner.check()
            Event().wait(_PAUSE_S)
    except BaseException:
        if ticket:
            cloud.places.step_out(ticket)
        raise
    try:
        yield
    finally:
        leave = partial(cloud.places.leave, thing, number, runner.lease)
        runner.persevere(leave, forever=True)
