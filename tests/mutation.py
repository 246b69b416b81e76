"""`python -m tests.mutation`: would the tests notice if an undo, a look or a check were missing?

Each mutant runs in a process of its own, forked when everything is imported and the clean runs
are known. It lives where pytest is told (`CLOUDLOOM_MUTANT`, read by tests/flows/conftest.py);
the code knows nothing of it. A mutant that no selected test kills is a hole in the tests.
"""

import ast
import importlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from rich.table import Table

from adapters.database import operations
from adapters.database.operations import Operations
from flows.steps import STEPS

VARIABLE = "CLOUDLOOM_MUTANT"
JOBS = 2
HANGS_S = 60  # a mutant for which a test waits so long has been noticed

# Parts of one step: what it is replaced by.
PARTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "undo": ("backward", lambda **_: None),
    "look-false": ("question", lambda **_: False),
    "look-true": ("question", lambda **_: True),
}
# Checks of the lease: the function, what is in it once, and what is there instead.
_EPOCH = '_OPERATIONS.c.epoch == bindparam("its_epoch"),'
CHECKS = {
    "holding-epoch": (Operations.__init__, _EPOCH, _EPOCH.replace("==", ">=")),
    "holding-expiry": (Operations.__init__, "_OPERATIONS.c.due_at > utc_now(),", ""),
    "claim-expiry": (Operations.claim, ", models.Operation.due_at <= utc_now()", ""),
}
SAGAS = [f"tests/flows/test_{name}.py" for name in ("sagas", "fates", "give_up")]
LEASES = ["tests/flows/test_sagas.py", "tests/adapters/test_database.py"]


def plant(mutant: str) -> None:
    """Become the mutant, `<part> <step>` or a check; without a name, stay as written."""
    if mutant in CHECKS:
        _replace(*CHECKS[mutant])
    elif mutant:
        part, name = mutant.split()
        attribute, instead = PARTS[part]
        setattr(STEPS[name], attribute, instead)


def _replace(method: Callable[..., Any], line: str, instead: str) -> None:
    source = textwrap.dedent(inspect.getsource(method))
    if source.count(line) != 1:
        raise LookupError(f"{method.__name__} has not one {line!r}")
    names = vars(operations).copy()
    exec(compile(source.replace(line, instead), operations.__file__, "exec"), names)
    setattr(Operations, method.__name__, names[method.__name__])


def mutants() -> list[str]:
    """Every mutant there is."""
    of_steps = [
        f"{part} {step.name}"
        for step in STEPS.values()
        for part, (attribute, _) in PARTS.items()
        if (fn := getattr(step, attribute)) and not (part == "undo" and _does_nothing(fn))
    ]
    return [*CHECKS, *of_steps]


def _does_nothing(fn: Callable[..., Any]) -> bool:
    """Whether a function says in its docstring why it has no body to lose."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(fn)))
    body = cast(ast.FunctionDef, ast.parse(source).body[0]).body
    return all(isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant) for x in body)


@dataclass(frozen=True)
class Hunt:
    """Selects what may kill a mutant, likeliest first, and notes what did."""

    mutant: str
    note: Path

    @property
    def files(self) -> list[str]:
        return LEASES if self.mutant in CHECKS else SAGAS

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        ranked = [(self._rank(item), n, item) for n, item in enumerate(items)]
        reached = [each for each in ranked if each[0] is not None]
        items[:] = [item for _, _, item in sorted(reached, key=lambda each: each[:2])]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.note.exists():
            self.note.write_text(report.nodeid.removeprefix("tests/"))

    def _rank(self, item: pytest.Item) -> tuple[int, int] | None:
        """Low for the likeliest and cheapest; None for what cannot reach it, or needs a lab."""
        if item.get_closest_marker("lab"):
            return None
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        scenario, place = parameters.get("name"), parameters.get("place")
        if self.mutant in CHECKS:
            return 0, steps_in(scenario)
        if place is None:
            return 2, 0
        step = self.mutant.split()[1]
        if place.step == step:
            return 1, steps_in(scenario)
        return (3, steps_in(scenario)) if scenario == shortest_way_to(step) else None


def steps_in(scenario: str | None) -> int:
    """How many steps a scenario takes, which is what its tests cost."""
    return len(clean_runs(scenario)) if scenario else 0


@cache
def shortest_way_to(step: str) -> str | None:
    """The scenario of the fewest steps, of which this is one."""
    from tests.flows.scenarios import SCENARIOS

    ways = [x for x in SCENARIOS if any(place.step == step for place in clean_runs(x))]
    return min(ways, key=steps_in, default=None)


def clean_runs(scenario: str) -> Sequence[Any]:
    """The steps that a scenario takes, known since before the first fork."""
    from tests.flows.test_sagas import clean_run

    return clean_run(scenario)[0]


def hunt(mutant: str, note: Path) -> int:
    """Run what may kill the mutant, in this process; answer pytest's exit status."""
    os.environ[VARIABLE] = mutant
    chase = Hunt(mutant, note)
    # everything is imported already: too late to rewrite assertions
    arguments = ["-x", "-q", "--assert=plain", "-o", f"timeout={HANGS_S}"]
    without = [f"-pno:{plugin}" for plugin in ("randomly", "cacheprovider", "xdist")]
    return int(pytest.main([*arguments, *without, *chase.files], plugins=[chase]))


def main(asked: Sequence[str]) -> int:
    """Hunt every mutant, or those whose names have one of these words; answer the exit status."""
    importlib.import_module("tests.flows.test_fates")  # every flow, and every clean run
    todo = [x for x in mutants() if not asked or any(word in x for word in asked)][::-1]
    survived = 0
    table = Table("mutant", "killed by", "s", title=f"{len(todo)} mutants")
    folder = Path(tempfile.mkdtemp(prefix="cloudloom-mutants-"))
    running: dict[int, tuple[str, Path, float]] = {}
    console = Console(width=160)
    try:
        while todo or running:
            while todo and len(running) < JOBS:
                mutant = todo.pop()
                note = folder / mutant
                running[_start(mutant, note)] = mutant, note, time.monotonic()
            pid, status = os.wait()
            mutant, note, began = running.pop(pid)
            outcome = os.waitstatus_to_exitcode(status)
            killed = outcome == pytest.ExitCode.TESTS_FAILED
            if outcome not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
                console.print(note.with_suffix(".log").read_text(), highlight=False, markup=False)
            verdict = note.read_text() if killed else f"SURVIVED ({outcome})"
            survived += not killed
            took = f"{time.monotonic() - began:.0f}"
            console.print(f"{mutant}: {verdict} ({took} s)", highlight=False, markup=False)
            table.add_row(mutant, verdict.replace("[", r"\["), took)
    finally:
        for pid in running:  # we were interrupted: they clean up after themselves
            os.kill(pid, signal.SIGINT)
            os.waitpid(pid, 0)
        shutil.rmtree(folder)
    console.print(table)
    console.print(f"{survived} survived")
    return int(survived > 0)


def _start(mutant: str, note: Path) -> int:
    sys.stdout.flush()
    if child := os.fork():
        return child
    status = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        log = os.open(note.with_suffix(".log"), os.O_CREAT | os.O_WRONLY)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
        status = hunt(mutant, note)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
