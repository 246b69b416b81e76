"""Sagas: steps that run forward, and back when a later one fails.

What makes it safe to kill the runner at any line is kept here and nowhere else:

* a step's intent is in the journal before it runs; a step that is done answers its recorded
  result and is not run again;
* the first attempt looks before it commits the intent; what was there then is never undone;
* every write is conditional on the lease: a runner that has lost it stops before its next
  effect, and whoever takes over ends it first;
* from the intent of a destructive step on, the operation only goes forward, until it is done
  or refused (stuck);
* what can be neither undone nor repeated is begun at most once: where its end is not known, the
  operation fails, and says so.
"""

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import count, groupby
from typing import Any, TypeVar
from uuid import UUID

from pydantic_core import to_jsonable_python

from adapters.database import events
from adapters.database.figures import Took
from adapters.database.journal import Line, Writer
from adapters.database.locks import Locked
from adapters.database.models import Receipt
from adapters.database.operations import Lease, LeaseLost, Operation
from adapters.database.runners import this_runner
from adapters.errors import AdapterError, Conflict, Refused, Transient, problem_of
from adapters.types import Failure, OperationState, StepState
from flows import logs, running, traces
from flows.cloud import cloud
from flows.engine import shown
from flows.receipts import ABSENT, PRESENT, expected, look_back
from flows.runner import Runner, Stopped, in_parallel
from flows.steps import STEPS, Effect, Step, performer

R = TypeVar("R")

# What a temporary thing that was made is on the way forward: there, or being ended already.
_PASSED = {StepState.DONE, StepState.UNDOING, StepState.UNDONE, StepState.SKIPPED}

_BACK = {StepState.UNDONE, StepState.SKIPPED}
_WENT_BACK = {OperationState.FAILED, OperationState.CANCELLED}

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger(__name__)


class Saga:
    """One runner's way through one operation."""

    writer: Writer

    def __init__(self, operation: Operation, lease: Lease) -> None:
        self.operation = operation
        self.lease = lease
        self.runner = Runner(lease, self._heed)
        self._turned = False
        self.lost: dict[str, Failure] = {}  # lanes that failed, and were undone alone
        self.partly: AdapterError | None = None  # why it ends failed, although the rest is kept
        self.refusal: Exception | None = None  # of a lane's undo: where it is stuck in the end
        self._called: set[str] = set()
        self._tried: dict[str, int] = {}  # how often, what is on its way
        self._took: list[Took] = []
        self._handed: set[UUID] = set()
        self._layer = 0
        self._known = {line.key: line for line in cloud.journal.lines(operation.id)}
        self._position = count(
            1 + max((line.position for line in self._known.values()), default=0)
        )
        self._begun = any(line.attempts for line in self._known.values())
        self._no_way_back = _binds(self._known.values())

    # --- the way of the whole operation -------------------------------------------------------

    def go(self, body: Callable[[Operation], None], version: str) -> None:
        """Run the operation forward or back, as its row says, and settle it."""
        was = self.operation
        if not was.ended:
            if self._no_way_back:
                self._go_forward(body, version)
            elif was.wish or was.state is OperationState.UNWINDING:
                self._go_back(Stopped(f"asked to {was.wish or 'unwind'}"))
            elif self._begun and was.version != version:
                self._go_back(Conflict("its flow has changed since", code="version-changed"))
            else:
                self._go_forward(body, version)
        self.operation = now = cloud.operations.read(was.id)
        if now.ended_at and not was.ended:
            took_s = (now.ended_at - now.accepted_at).total_seconds()
            log.info("%s %s after %.3f s", now.kind, now.state, took_s)
            self._took.append(Took("operation", now.kind, now.state, took_s))
        if now.ended:
            self._settle()

    def _go_forward(self, body: Callable[[Operation], None], version: str) -> None:
        if self._begun and self.operation.version != version:
            cloud.journal.start_over(self.lease, _anew(self._known.values()))
            self._known = {line.key: line for line in cloud.journal.lines(self.operation.id)}
        cloud.operations.begin(self.lease, version)
        try:
            body(self.operation)
            self.runner.check()
            self._end_temporaries()
        except LeaseLost:
            raise
        except Exception as error:
            if self.runner.has_lost:
                raise LeaseLost(f"operation {self.operation.id}: lease lost") from error
            log.warning("operation %s failed", self.operation.id, exc_info=error)
            if _destroys(self._lines()):
                cloud.operations.stick(self.lease, problem_of(error))
            else:
                self._go_back(error)
        else:
            self._end_forward()

    def _end_forward(self) -> None:
        if self.refusal:
            cloud.operations.stick(self.lease, problem_of(self.refusal))
        elif self.partly:
            failed = OperationState.FAILED
            cloud.operations.end(self.lease, failed, problem_of(self.partly))
        else:
            cloud.operations.end(self.lease, OperationState.SUCCEEDED)

    def _end_temporaries(self) -> None:
        names = {name for name, each in STEPS.items() if each.effect is Effect.TEMPORARY}
        passing = {line.key for line in self._lines(names) if line.state not in _BACK}
        if passing and (refusal := self._unwind(passing)):
            raise refusal

    def _go_back(self, error: Exception) -> None:
        self._turned = True
        self.runner.go_on()
        wished = cloud.operations.read(self.operation.id)
        cloud.operations.turn_back(self.lease, problem_of(error))
        if refusal := self._unwind():
            cloud.operations.stick(self.lease, problem_of(refusal), going_back=True)
            return
        asked = wished.error is None or wished.error["code"] == Stopped.code
        cancelled = asked and wished.wish is not None
        outcome = OperationState.CANCELLED if cancelled else OperationState.FAILED
        cloud.operations.end(self.lease, outcome)

    def _settle(self) -> None:
        """Write down what is there, and let the locks go."""
        lines = self._lines()
        if self.operation.provisional:
            self._settle_again(lines)
            return
        receipts = self._look_back(lines)
        again = self.operation.state in _WENT_BACK and bool(receipts)
        timeout_s = cloud.settings.backend_timeout_s
        cloud.receipts.settle(self.lease, receipts, timeout_s if again else None)

    def _settle_again(self, lines: list[Line]) -> None:
        """Look again at what was to go, while it is known who had it since."""
        operation, timeout_s = self.operation, cloud.settings.backend_timeout_s
        if not _is_recent(operation):
            cloud.receipts.settle(self.lease, [], None)
            return
        try:
            ours = self._not_superseded(lines)
        except Locked:  # by a later one, which may find what is left, or take it over
            cloud.receipts.settle(self.lease, [], timeout_s)
            return
        superseded = {line.key for line in lines} - {line.key for line in ours}
        receipts = self._look_back([x for x in ours if expected(operation, x) == ABSENT])
        again = not all(each.as_expected for each in receipts)
        cloud.receipts.settle(self.lease, receipts, timeout_s if again else None, superseded)

    def _look_back(self, lines: list[Line]) -> list[Receipt]:
        """Look at what is there; what is seen to be left is undone once more, and looked at again.

        A later operation would find it there already, and its own undo would leave it.
        """
        receipts = look_back(self.operation, lines)
        left = {x.key for x in receipts if (x.expected, x.answer) == (ABSENT, PRESENT)}
        if not left or self.operation.state not in _WENT_BACK:
            return receipts
        log.warning("left behind, and undone once more: %s", ", ".join(sorted(left)))
        self._unwind(left)
        return look_back(self.operation, lines)

    def _not_superseded(self, lines: list[Line]) -> list[Line]:
        """The lines about no object that a later operation has changed: what is there is its own.

        What a line is about, its arguments say; one that does not say may be about any.
        """
        operation = self.operation
        theirs = cloud.receipts.lock_again(self.lease)
        if theirs.isdisjoint(operation.objects):
            return lines
        ours = {*operation.objects, operation.id, *_ids_in(operation.arguments)} - theirs
        about = {each.key: _ids_in(each.arguments) for each in lines}
        return [x for x in lines if about[x.key] & ours and not about[x.key] & theirs]

    # --- forward ------------------------------------------------------------------------------

    def perform(self, step: Step[Any, Any], key: str, arguments: dict[str, Any]) -> Any:
        """Run a step, or answer what it answered before."""
        if key in self._called:
            raise RuntimeError(f"{key} is called twice in one operation")
        self._called.add(key)
        line = self._known.get(key)
        done = _PASSED if step.effect is Effect.TEMPORARY else {StepState.DONE}
        if line and line.state in done:
            return step.recorded(line.result)
        with self._observed(key, step.name):
            return shown(key, lambda: self._forward(step, key, arguments))

    def intent(self, key: str) -> Line | None:
        """The line of a step that a former runner has begun."""
        return self._known.get(key)

    def _intend(self, step: Step[Any, Any], key: str, arguments: dict[str, Any]) -> Line:
        """Look, then write down what was found and that the first attempt begins."""
        self.runner.check()
        found = False
        if question := step.question:
            found = self.runner.persevere(partial(question, **arguments))
        line = Line(
            key=key,
            name=step.name,
            lane=running.lane_name.get(),
            host=running.lane_host.get(),
            layer=self._layer,
            position=next(self._position),
            arguments=arguments,
            found=found,
            state=StepState.RUNNING,
            attempts=1,
        )
        self.runner.check()
        first = step.effect.binds and not self._no_way_back
        if wish := self.writer.intend(line, unless_wished=first):
            raise Stopped(f"asked to {wish}")
        self._no_way_back |= first
        return line

    def _forward(self, step: Step[Any, Any], key: str, arguments: dict[str, Any]) -> Any:
        known = self._known.get(key)
        once = step.effect is Effect.ONCE
        if known and once:
            raise _unrepeated(key)
        anew = known is not None and known.state is StepState.PENDING
        line = known or self._intend(step, key, arguments)
        if anew:  # by a newer version, whose arguments may be others
            line = line.model_copy(update={"arguments": arguments})
        intended = [] if known else [line]  # the intent of a fresh line is its first attempt

        def attempt() -> Any:
            self.runner.check()
            if intended:
                intended.clear()
            else:
                self.writer.attempt(line, StepState.RUNNING)
            return step.do(**line.arguments)

        try:
            result = (
                _only(attempt, key)
                if once
                else self._persevere(attempt, key, forever=self._no_way_back)
            )
        except LeaseLost:
            raise
        except Exception as error:
            if not (anew and step.question is None and isinstance(error, Refused)):
                self.writer.settle(key, StepState.FAILED, error=str(error))
                raise
            result = step.recorded(line.result)  # what it told before is gone by now
        self.writer.settle(key, StepState.DONE, result=to_jsonable_python(result))
        return result

    def next_layer(self) -> None:
        """What follows is undone before what came so far."""
        self._layer += 1

    # --- back ---------------------------------------------------------------------------------

    def _unwind(self, only: set[str] | None = None) -> Exception | None:
        """Undo what is not undone yet, or these; later layers first, lanes in parallel.

        Answers what an undo was refused with.
        """
        lines = [
            x for x in self._lines() if (x.state not in _BACK if only is None else x.key in only)
        ]
        lines.sort(key=lambda line: (-line.layer, line.lane, -line.position))
        for _, in_layer in groupby(lines, key=lambda line: line.layer):
            by_lane = [list(lane) for _, lane in groupby(in_layer, key=lambda line: line.lane)]
            undone = in_parallel([partial(self._undo_lane, each) for each in by_lane], 16)
            if refusal := next(filter(None, undone), None):
                return refusal
        self.writer.flush()
        return None

    def _undo_lane(self, newest_first: Sequence[Line]) -> Exception | None:
        for line in newest_first:
            try:
                self._undo(line)
            except LeaseLost:
                raise
            except Exception as error:
                log.exception("undo of %s refused", line.key)
                self.writer.stumble(line.key, str(error))
                return error
        return None

    def undo_lane(self, but: str) -> None:
        """Undo alone what this lane has done, all but the step of that name, which asks for it.

        Raises what an undo was refused with, or `Stopped`.
        """
        mine = [x for x in self._lines() if x.lane == running.lane_name.get() and x.name != but]
        if refusal := self._undo_lane([x for x in reversed(mine) if x.state not in _BACK]):
            raise refusal

    def _undo(self, line: Line) -> None:
        backward = STEPS[line.name].backward
        if line.found or backward is None:
            self.writer.settle(line.key, StepState.SKIPPED)
            return

        def attempt() -> None:
            self.writer.attempt(line, StepState.UNDOING)
            backward(**line.arguments)

        with self._observed(line.key, line.name, back=True):
            forever = not self.operation.ended  # what has ended is looked at again
            shown(f"undo {line.key}", lambda: self._persevere(attempt, line.key, forever=forever))
        self.writer.settle(line.key, StepState.UNDONE)

    def _lines(self, names: Collection[str] | None = None) -> list[Line]:
        self.writer.flush()
        return cloud.journal.intents(self.operation.id, names)

    # --- what happens meanwhile -----------------------------------------------------------

    @contextmanager
    def _observed(self, key: str, step: str, *, back: bool = False) -> Iterator[None]:
        """Let logs, traces and figures know of a step, or of its undo."""
        name = f"undo {key}" if back else key
        told = {"step": name, "lane": running.lane_name.get()}
        began, outcome = time.monotonic(), "refused" if back else "failed"
        token = running.step_key.set(key)
        with logs.telling(**told), traces.span(name, **told):
            try:
                yield
                outcome = "undone" if back else "done"
            except (LeaseLost, Stopped):
                outcome = "stopped"
                raise
            finally:
                took_s, again = time.monotonic() - began, self._tried.pop(key, 1) - 1
                self._took.append(Took("step", step, outcome, took_s, again))
                running.step_key.reset(token)

    def witness(self, secret: UUID) -> None:
        """Tell once of each secret that this runner is handed, with what is committed next.

        Who loses its lease or dies before has its intent in the journal, which names the same.
        """
        if secret not in self._handed:
            self._handed.add(secret)
            step = running.step_key.get()
            self.writer.tell(events.secret_read(self._story, secret, step))

    @cached_property
    def _story(self) -> dict[str, Any]:
        with cloud.database.read() as db:
            return events.story(db, self.operation.id)

    def report(self) -> None:
        """Add what it took to the figures; those of a killed runner are lost."""
        try:
            cloud.figures.add(self._took)
        except Transient as error:
            log.warning("figures of %d steps are lost: %s", len(self._took), error)

    def _persevere(self, fn: Callable[[], R], key: str, *, forever: bool) -> R:
        def tried() -> R:
            self._tried[key] = self._tried.get(key, 0) + 1
            return fn()

        def told(error: Transient) -> None:
            self.writer.stumble(key, str(error))
            log.warning("%s does not work yet: %s", key, error)

        return self.runner.persevere(tried, forever=forever, told=told)

    def _heed(self, wish: str) -> None:
        """Stop for what somebody wishes, unless that was heard, or is too late."""
        if self.operation.wish or self._turned or self._no_way_back:
            return
        self.operation = self.operation.model_copy(update={"wish": wish})
        self.runner.halt()
        if self._turned:  # meanwhile, by itself: nobody stops the way back
            self.runner.go_on()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be what runs here, and keep the lease, while inside."""
        performs, runs = performer.set(self), running.saga.set(self)
        try:
            with self.runner.holding():
                self.writer = cloud.journal.writer(self.lease)
                try:
                    yield
                finally:
                    self.writer.close()
        finally:
            performer.reset(performs)
            running.saga.reset(runs)


def _is_recent(operation: Operation) -> bool:
    """Whether no operation that came later may be forgotten yet; clocks may differ."""
    ended, kept = operation.ended_at, timedelta(days=cloud.settings.history_days)
    return ended is not None and datetime.now(UTC) - ended < kept * 0.9


def _ids_in(arguments: dict[str, Any]) -> set[UUID]:
    return {UUID(each) for each in _ID.findall(str(arguments))}


def _destroys(lines: Iterable[Line]) -> bool:
    return any(STEPS[each.name].effect is Effect.REMOVES for each in lines)


def _binds(lines: Iterable[Line]) -> bool:
    return any(STEPS[each.name].effect.binds for each in lines)


def _only(attempt: Callable[[], R], key: str) -> R:
    try:
        return attempt()
    except Transient as error:
        raise _unrepeated(key) from error


def _unrepeated(key: str) -> Refused:
    text = f"{key} was begun, and may have been done or not: it is not repeated"
    return Refused(text, code="not-repeated")


def _anew(lines: Iterable[Line]) -> set[str]:
    """The keys of what a newer version of a forward-only operation does anew: everything.

    Past the last moment to undo what was made, only what destroys: the rest was its preparation.
    """
    known = {line.key: STEPS[line.name] for line in lines}
    made = any(x.question and x.effect is not Effect.REMOVES for x in known.values())
    return {key for key, x in known.items() if x.effect is Effect.REMOVES or not made}


def execute(
    operation: UUID, kinds: frozenset[str], body: Callable[[Operation], None], version: str
) -> Operation:
    """Be the runner of an operation of these kinds until it has ended, or is stuck.

    Raises `Conflict` for an operation of another kind, `LeaseLost` when another run has it.
    """
    row = cloud.operations.read(operation)
    told = {"operation": str(operation), "kind": row.kind}
    with logs.telling(**told), traces.span(row.kind, row.traceparent, **told):
        return _execute(row, kinds, body, version)


def _execute(
    row: Operation, kinds: frozenset[str], body: Callable[[Operation], None], version: str
) -> Operation:
    if kinds and row.kind not in kinds:
        raise Conflict(f"operation {row.id} is {row.kind}", code="another-kind")
    if not (kinds or row.ended) and _binds(cloud.journal.lines(row.id)):
        raise Conflict(f"operation {row.id} can only go forward", code="no-way-back")
    lease = cloud.operations.claim(row.id, this_runner())
    log.info("%s %s, by runner %d of it", row.kind, row.target_name, lease.epoch)
    saga = Saga(cloud.operations.read(row.id), lease)
    try:
        with saga.held():
            saga.go(body, version)
    finally:
        saga.report()
    return cloud.operations.read(row.id)
