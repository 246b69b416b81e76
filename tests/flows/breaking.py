"""Breaking a running saga at one step, in every way that it has to survive."""

import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.operations import LeaseLost, Operation, Operations
from adapters.database.runners import Runner
from adapters.database.session import utc_now
from adapters.settings import Settings
from adapters.types import OperationState
from flows import running
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.steps import STEPS


class Killed(BaseException):
    """SIGKILL, as far as one process can pretend: nothing of ours runs after it."""


@dataclass(frozen=True)
class Place:
    """One call of a step: by its name, its lane, and the how-manieth of these it is."""

    step: str
    lane: str
    nth: int

    def __str__(self) -> str:
        return "/".join(filter(None, (self.lane, self.step, str(self.nth) if self.nth else "")))


def places(operation: Operation) -> list[Place]:
    """Every call of a step that an operation made."""
    found: list[Place] = []
    for line in cloud.journal.lines(operation.id):
        nth = sum((place.step, place.lane) == (line.name, line.lane) for place in found)
        found.append(Place(line.name, line.lane, nth))
    return found


@dataclass
class Breaker:
    """Replaces what a step does at one place; everything else stays as it is."""

    monkeypatch: pytest.MonkeyPatch
    operation: Operation
    dead: bool = False
    effects: list[tuple[str, str]] = field(default_factory=list)

    def at(
        self, place: Place, instead: Callable[[Callable[..., Any], dict[str, Any]], Any]
    ) -> None:
        """Call `instead(do, arguments)` the first time that the step is done there."""
        step, seen, done = STEPS[place.step], [0], [False]
        do = step.do

        def broken(**arguments: Any) -> Any:
            if running.this_saga().operation.id != self.operation.id:
                return do(**arguments)
            if running.lane_name.get() != place.lane or done[0]:
                return do(**arguments)
            seen[0] += 1
            if seen[0] <= place.nth:
                return do(**arguments)
            done[0] = True
            return instead(do, arguments)

        self.monkeypatch.setattr(step, "do", broken)

    def kill(self) -> None:
        """From now on this runner writes nothing and begins nothing."""
        self.dead = True
        raise Killed

    def count_effects(self) -> None:
        """Note every completed call of a step's do, by step and first argument."""
        for step in STEPS.values():
            self.monkeypatch.setattr(step, "do", self._counted(step.name, step.do))

    def _counted(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(**arguments: Any) -> Any:
            if self.dead:
                raise Killed
            answer = do(**arguments)
            self.effects.append((name, str(next(iter(arguments.values()), ""))))
            return answer

        return counted

    def mind_the_dead(self) -> None:
        """Let nothing of a killed runner reach the journal."""
        holding = Operations.holding

        @contextmanager
        def unless_dead(operations: Operations, lease: Any) -> Any:
            if self.dead and threading.current_thread().name == "lease":
                raise LeaseLost("its process is dead")  # a thread ends with it, without a word
            if self.dead:
                raise Killed
            with holding(operations, lease) as db:
                yield db

        self.monkeypatch.setattr(Operations, "holding", unless_dead)

    def run(self) -> Operation:
        """Run the operation as its own flow, as a new runner would."""
        self.dead = False
        return FLOWS[self.operation.kind](self.operation.id)

    def run_until_killed(self) -> None:
        with pytest.raises(Killed):
            self.run()
        self.dead = False
        lapse(self.operation)

    def resumed(self) -> Operation:
        ended = self.run()
        assert ended.state is OperationState.SUCCEEDED, ended.error
        return ended


def lapse(operation: Operation) -> None:
    """Let the lease lapse, as time would."""
    with cloud.database.write() as db:
        db.execute(
            update(models.Operation)
            .where(models.Operation.id == operation.id)
            .values(due_at=utc_now())
        )


def somebody_else() -> Runner:
    """A runner of another machine."""
    return Runner(host="elsewhere/boot", pid=1, started=1.0)


def run_and_die(settings: Settings, operation: Operation, place: Place, words: Path) -> None:
    """Carry an operation out in this process, which kills itself right after the step's effect.

    Should it not, `words` has why.
    """
    cloud.become(settings)
    assert FLOWS[operation.kind].version == operation.version  # it is of the steps as they are
    broken = Breaker(pytest.MonkeyPatch(), operation)
    broken.at(place, lambda do, told: (do(**told), os.kill(os.getpid(), signal.SIGKILL)))
    try:
        ended = broken.run()
        words.write_text(f"{ended.state}: {ended.error}")
    except BaseException as error:  # noqa: BLE001 - it is the parent that fails for it
        words.write_text("".join(traceback.format_exception(error)))
