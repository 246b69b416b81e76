"""Receipts: when an operation has ended, every effect it meant is asked for, and written down.

After success, what was to be made is there and what was to be removed is not. After a way back,
what was not there before is not there now. Only backends are asked, by each step's own look.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime

from adapters.database.journal import Line
from adapters.database.models import Receipt
from adapters.database.operations import Operation
from adapters.database.receipts import UNKNOWN
from adapters.errors import AdapterError, Conflict, NotFound
from adapters.types import OperationState, StepState
from flows.steps import STEPS, Effect

PRESENT, ABSENT = "present", "absent"
_QUESTIONS_AT_ONCE = 8


def look_back(operation: Operation, lines: Sequence[Line]) -> list[Receipt]:
    """Ask about every effect, some at a time; one that cannot be asked is not as expected."""
    asked = [line for line in lines if expected(operation, line)]
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        looks = [pool.submit(copy_context().run, _ask, operation, line) for line in asked]
        return [look.result() for look in looks]


def expected(operation: Operation, line: Line) -> str:
    """What the look is to answer; empty where there is nothing to ask.

    Of an operation that failed, what is still done was meant to stay: the rest was undone.
    """
    step = STEPS[line.name]
    if step.question is None:
        return ""
    if line.found and step.effect is not Effect.REMOVES:
        return PRESENT  # it was there before us, and still is
    if step.effect in {Effect.STAYS, Effect.ONCE}:
        return PRESENT if line.state is StepState.DONE else ""
    kept = operation.state is OperationState.FAILED and line.state is StepState.DONE
    made = kept or operation.state is OperationState.SUCCEEDED
    return PRESENT if made and step.effect is Effect.MAKES else ABSENT


def _ask(operation: Operation, line: Line) -> Receipt:
    question = STEPS[line.name].question
    wanted = expected(operation, line)
    try:
        answer = PRESENT if question and question(**line.arguments) else ABSENT
    except (Conflict, NotFound) as other:  # what stands there, if anything, is not ours
        answer = f"{ABSENT} ({other})"
    except Exception as error:  # noqa: BLE001 - not even a defect of a look keeps the locks
        answer = f"{UNKNOWN}: {error if isinstance(error, AdapterError) else type(error).__name__}"
    return Receipt(
        operation_id=operation.id,
        key=line.key,
        query=f"{line.name}: is it there? {line.arguments}",
        expected=wanted,
        answer=answer,
        as_expected=answer.split(" ")[0] == wanted,
        looked_at=datetime.now(UTC),
    )
