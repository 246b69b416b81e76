"""What Prefect shows of an operation besides its tasks: plan, progress, timeline and receipt.

A courtesy: a thread of its own makes them from our database, and whatever goes wrong there is
logged and holds up nothing. They stay short, however many VMs there are.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Event, Thread
from time import monotonic
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from adapters.database.operations import LeaseLost
from adapters.types import OperationState
from flows import captions
from flows.cloud import cloud
from flows.engine import is_prefect_watching
from flows.outline import Steps, ends, halves

_FEW = 4
_AFTER_FIRST_S = 0.3  # so that nothing of this is in the way of the first step
_LOOK_S = 2.0
_LONG_S = 5.0  # what takes longer has its progress shown
_PATIENCE_S = 5.0  # for the last of them, once the operation has ended
_THREAD = "exhibits"

later: ContextVar[bool] = ContextVar("later", default=False)  # somebody else will `finish`
log = logging.getLogger(__name__)


@contextmanager
def exhibited(operation: UUID, body: Callable[..., None]) -> Iterator[None]:
    """Show an operation while it runs inside, and how it went; another runner shows its own.

    One of few steps is told by its tasks: each exhibit costs Prefect's server as much as a task.
    How it went is shown after its end; where `later` is set, that does not wait for it.
    """
    if not is_prefect_watching() or 0 < sum(map(len, halves(body))) <= _FEW:
        yield
        return
    show, over = _Show(operation, body), Event()
    Thread(target=copy_context().run, args=(show.go_on, over), name=_THREAD).start()
    try:
        yield
    except LeaseLost:
        show.is_ours = False
        raise
    finally:
        over.set()
        if not later.get():
            finish()


def finish() -> None:
    """Let how operations of this process went be shown, for a while."""
    for each in threading.enumerate():
        if each.name == _THREAD:
            each.join(_PATIENCE_S)


class _Show:
    """The exhibits of one run of one operation."""

    def __init__(self, operation: UUID, body: Callable[..., None]) -> None:
        self.is_ours = True
        self._operation = operation
        self._body = body
        self._began = monotonic()
        self._heading = ""
        self._each: Steps = ()
        self._vms: list[UUID] = []
        self._plan: UUID | None = None
        self._text = ""
        self._progress: UUID | None = None

    def go_on(self, over: Event) -> None:
        """Show the plan, then the progress until it is over, then how it went."""
        over.wait(_AFTER_FIRST_S)
        self._courteously(self._show_plan)
        while not over.wait(_LOOK_S):
            self._courteously(self._renew_plan)
            self._courteously(self._show_progress)
        if self.is_ours:
            for each in (self._renew_plan, self._end_progress, self._timeline, self._receipt):
                self._courteously(each)

    def _courteously(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception:
            log.exception("operation %s: %s was not shown", self._operation, show.__name__)

    # --- before -------------------------------------------------------------------------------

    def _show_plan(self) -> None:
        operation = cloud.operations.read(self._operation)
        undone = operation.ended and operation.state is not OperationState.SUCCEEDED
        if operation.kind != self._body.__name__ or undone:
            return  # or it is settled: what was planned is past
        once, self._each = halves(self._body)
        coming, going = (operation.arguments.get(key, []) for key in ("vms", "leaving"))
        asked = {"appliance": [*coming, *going], "vm": [operation.target_id]}
        self._vms = [UUID(str(vm)) for vm in asked.get(operation.target_kind, [])]
        self._heading = captions.heading(operation, once, self._each)
        self._text = self._written()
        self._plan = cast(UUID, create_markdown_artifact(self._text, "plan"))

    def _written(self) -> str:
        shown = cloud.stories.vms(self._vms[: captions.MOST])
        return captions.plan(self._heading, shown, len(self._vms))

    def _renew_plan(self) -> None:
        """Add the hosts once all are reserved; what has been freed again stays as it was."""
        if self._plan and captions.UNPLACED in self._text:
            text = self._written()
            if captions.UNPLACED not in text:
                self._text = text
                client = get_client(sync_client=True)
                client.update_artifact(self._plan, ArtifactUpdate(data=text))

    # --- meanwhile ----------------------------------------------------------------------------

    def _show_progress(self) -> None:
        if not self._vms[1:] or monotonic() - self._began < _LONG_S:
            return
        done, all_ = cloud.stories.done(self._operation, ends(self._each)), len(self._vms)
        told = f"{done} of {all_} VMs done"
        if self._progress:
            update_progress_artifact(self._progress, 100 * done / all_, told)
        else:
            created = create_progress_artifact(100 * done / all_, "progress", told)
            self._progress = cast(UUID, created)

    def _end_progress(self) -> None:
        if self._progress:
            self._show_progress()

    # --- after --------------------------------------------------------------------------------

    def _timeline(self) -> None:
        operation = cloud.operations.read(self._operation)
        rows = captions.timeline(cloud.stories.moments(operation.id))
        create_table_artifact(rows, "timeline", captions.outcome(operation))

    def _receipt(self) -> None:
        operation = cloud.operations.read(self._operation)
        if operation.ended:
            asked, otherwise = cloud.stories.answers(operation.id)
            rows = captions.receipt(cloud.stories.questions(operation.id, captions.MOST))
            told = captions.proof(operation, asked, otherwise)
            create_table_artifact(rows, "receipt", told)
