"""Runners: who has an operation by its lease, keeps it, tries again, and stops in time."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_never
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential

from adapters import programs
from adapters.database.operations import Lease, LeaseLost
from adapters.database.runners import this_runner
from adapters.errors import AdapterError, Transient
from flows.cloud import cloud

R = TypeVar("R")

log = logging.getLogger(__name__)


class Stopped(AdapterError):
    """Another lane failed, or somebody asked to stop."""

    code = "stopped"


class Runner:
    """One holder of an operation's lease; `heed` is told, again and again, what people wish."""

    def __init__(self, lease: Lease, heed: Callable[[str], None]) -> None:
        self.lease = lease
        self._heed = heed
        self._stop = threading.Event()
        self._lost = threading.Event()

    @property
    def has_lost(self) -> bool:
        """Whether somebody else may have the operation by now."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `LeaseLost` or `Stopped` where no further effect may begin."""
        if self.has_lost:
            raise LeaseLost(f"operation {self.lease.operation}: lease lost")
        if self._stop.is_set():
            raise Stopped("stopped")

    def halt(self) -> None:
        """Let no lane begin another effect, and end the programs of those that run."""
        self._stop.set()
        programs.stop_all(programs.runner.get())

    def go_on(self) -> None:
        """Let effects begin again: those of the way back."""
        self._stop.clear()

    def persevere(
        self,
        fn: Callable[[], R],
        *,
        forever: bool = False,
        told: Callable[[Transient], None] | None = None,
    ) -> R:
        """Try again while it is Transient: some times, or until the lease is lost.

        `told` hears of each failure.
        """
        settings = cloud.settings
        retrying = Retrying(
            retry=retry_if_exception(
                lambda e: isinstance(e, Transient) and not self._stop.is_set()
            ),
            stop=stop_never if forever else stop_after_attempt(1 + settings.retries),
            wait=wait_exponential(settings.retry_delay_s, max=settings.retry_delay_max_s),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                try:
                    return fn()
                except Transient as error:
                    self.check()
                    if told:
                        told(error)
                    raise
        raise AssertionError("unreachable: the last attempt answers or raises")

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the lease while inside, after ending whoever had it before."""
        lease = self.lease
        programs.runner.set(f"{lease.operation}/{lease.epoch}")
        former = lease.former
        if former and former != this_runner() and (process := former.alive_here()):
            process.kill()
            process.wait(timeout=10)
        programs.end_others(str(lease.operation), lease.epoch)
        done = threading.Event()
        keeper = threading.Thread(
            target=copy_context().run, args=(self._keep_lease, done), name="lease", daemon=True
        )
        keeper.start()
        try:
            yield
        except Exception:
            cloud.operations.leave(lease)
            raise
        finally:
            done.set()
            keeper.join()

    def _keep_lease(self, done: threading.Event) -> None:
        while not done.wait(min(1.0, cloud.settings.lease_s / 4)):
            try:
                wish = cloud.operations.renew(self.lease)
            except LeaseLost:
                self._lost.set()
                self.halt()
                return
            except Transient:  # the database is away: the lease itself says for how long
                log.warning("operation %s: lease not renewed", self.lease.operation)
                continue
            if wish:
                self._heed(wish)


def in_parallel(calls: Sequence[Callable[[], R]], at_once: int) -> list[R]:
    """Call all, some at a time, and wait; raise the first error that is not just `Stopped`."""
    with ThreadPoolExecutor(max(1, min(len(calls), at_once))) as pool:
        called = [pool.submit(copy_context().run, call) for call in calls]
    errors = [error for each in called if (error := each.exception())]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Stopped))
    return [each.result() for each in called]
