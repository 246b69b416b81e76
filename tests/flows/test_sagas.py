"""The laws of sagas: every operation, at every step, through every fate.

Each case breaks one operation at one step. Afterwards either nothing of it is left, or all of
it is there; and its receipt says so.
"""

import json
import shutil
from collections import Counter
from functools import cache
from typing import Any

import pytest
from sqlalchemy import func, select

from adapters.database import models
from adapters.database.operations import LeaseLost, Operation
from adapters.database.session import engine
from adapters.errors import Refused, Transient
from adapters.types import OperationState, StepState
from flows.catalog import CATALOG, FLOWS
from flows.cloud import cloud
from flows.outline import steps_of
from flows.running import lane_name
from flows.steps import STEPS, Effect
from tests.flows.breaking import Breaker, Place, lapse, places, somebody_else
from tests.flows.conftest import made_folder
from tests.flows.scenarios import SCENARIOS, Scenario, Worlds
from tests.worlds import World, require_ledger_exact


def shape(photo: dict[str, Any]) -> dict[str, Any]:
    """How much of what there is: equal for two worlds that differ only in ids."""
    tables = {name: len(rows) for name, rows in photo["tables"].items()}
    states = sorted(json.loads(row)["state"] for row in photo["tables"]["vms"])
    kinds = Counter(key.split("/")[0] for key in photo["world"])
    return {"tables": tables, "vms": states, "world": kinds, "files": len(photo["files"])}


def clean_run(name: str) -> tuple[tuple[Place, ...], str]:
    """The steps that a scenario takes when nothing goes wrong, and the world's shape after it."""
    return clean_runs()[name]


@cache
def clean_runs() -> dict[str, tuple[tuple[Place, ...], str]]:
    folder = made_folder()
    try:
        worlds = Worlds(folder)
        return {name: run_clean(scenario, worlds.new()) for name, scenario in SCENARIOS.items()}
    finally:
        engine.cache_clear()
        shutil.rmtree(folder)


def run_clean(scenario: Scenario, world: World) -> tuple[tuple[Place, ...], str]:
    ended = FLOWS[scenario.kind](scenario.accept(world).id)
    assert ended.state == "succeeded", ended.error
    after = json.dumps(shape(scenario.photograph()), sort_keys=True)
    return tuple(places(ended)), after


def every_step() -> list[Any]:
    return [
        pytest.param(name, place, id=f"{name}:{place}")
        for name in SCENARIOS
        for place in sorted(clean_run(name)[0], key=str)
    ]


def steps_that(wanted: Any) -> list[Any]:
    return [each for each in every_step() if wanted(STEPS[each.values[1].step])]


def repeatable_steps() -> list[Any]:
    """Every step that another attempt may do again."""
    return steps_that(lambda step: step.effect is not Effect.ONCE)


@pytest.fixture
def breaker(prepared, monkeypatch):
    def make(name: str) -> tuple[Scenario, Breaker, dict[str, Any]]:
        made = Breaker(monkeypatch, prepared.put_back(name))
        made.mind_the_dead()
        made.count_effects()
        return SCENARIOS[name], made, SCENARIOS[name].before()

    return make


def no_way_back(name: str, place: Place) -> bool:
    """Whether a destructive step has been intended when this place is reached."""
    reached = clean_run(name)[0]
    before = reached[: reached.index(place) + 1]
    return any(STEPS[each.step].effect is Effect.REMOVES for each in before)


def require_nothing_left(scenario: Scenario, before: dict[str, Any], ended: Operation) -> None:
    assert scenario.photograph() == before
    require_ledger_exact()
    assert not ended.left_behind
    assert_unlocked()
    lines = cloud.journal.lines(ended.id)
    assert {line.state for line in lines} <= {StepState.UNDONE, StepState.SKIPPED}


def require_all_there(name: str, ended: Operation) -> None:
    scenario = SCENARIOS[name]
    assert json.dumps(shape(scenario.photograph()), sort_keys=True) == clean_run(name)[1]
    require_ledger_exact()
    assert not ended.left_behind
    assert_unlocked()
    for line in cloud.journal.lines(ended.id):
        passing = STEPS[line.name].effect is Effect.TEMPORARY
        assert line.state is (StepState.UNDONE if passing else StepState.DONE), line


def assert_unlocked() -> None:
    """Nothing is locked, but by what has only been accepted, as by a rescan."""
    locks = select(func.count()).select_from(models.Lock).join(models.Operation)
    with cloud.database.read() as db:
        assert db.scalar(locks.where(models.Operation.state != OperationState.ACCEPTED)) == 0


def refuse_before(_do: Any, _arguments: Any) -> None:
    raise Refused("broken before its effect")


def refuse_after(do: Any, arguments: Any) -> None:
    do(**arguments)
    raise Refused("broken after its effect")


@pytest.mark.parametrize("when", [refuse_before, refuse_after], ids=["before", "commits-then"])
@pytest.mark.parametrize(("name", "place"), every_step())
def test_a_step_that_fails_leaves_nothing_or_sticks(name, place, when, breaker):
    scenario, broken, before = breaker(name)
    broken.at(place, when)
    ended = broken.run()
    if not no_way_back(name, place):
        assert ended.state is OperationState.FAILED
        assert "broken" in ended.error["detail"]
        require_nothing_left(scenario, before, ended)
        return
    assert ended.state is OperationState.STUCK
    assert "broken" in ended.error["detail"]
    cloud.operations.resume(ended.id)
    require_all_there(name, broken.resumed())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "place"), repeatable_steps())
def test_killed_and_resumed_repeats_no_effect(name, place, when, breaker):
    _, broken, _ = breaker(name)

    def kill(do, arguments):
        if when == "after":
            do(**arguments)
        broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    already = list(broken.effects)
    require_all_there(name, broken.resumed())
    again = Counter(broken.effects) - Counter(already)
    done_before = {
        (line.name, _first(line.arguments))
        for line in cloud.journal.lines(broken.operation.id)
        if line.attempts == 1 and line.state is StepState.DONE
    }
    twice = [effect for effect, n in Counter(broken.effects).items() if n > 1]
    assert not done_before & set(twice), again


def _first(arguments: dict[str, Any]) -> str:
    return str(next(iter(arguments.values()), ""))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "place"), repeatable_steps())
def test_killed_and_unwound_leaves_nothing(name, place, when, breaker):
    scenario, broken, before = breaker(name)

    def kill(do, arguments):
        if when == "after":
            do(**arguments)
        broken.kill()

    broken.at(place, kill)
    broken.run_until_killed()
    cloud.operations.want(broken.operation.id, "unwind")
    ended = broken.run()
    if no_way_back(name, place):
        require_all_there(name, ended)
        return
    assert ended.state is OperationState.CANCELLED
    require_nothing_left(scenario, before, ended)


@pytest.mark.parametrize("fate", ["undo fails once", "undone twice"])
@pytest.mark.parametrize(("name", "place"), steps_that(lambda step: step.backward))
def test_an_undo_that_stumbles(name, place, fate, breaker, monkeypatch):
    scenario, broken, before = breaker(name)
    if no_way_back(name, place):
        pytest.skip("it is never undone here")
    step = STEPS[place.step]
    undo, failed = step.backward, []

    def stumbling(**arguments):
        if fate == "undone twice":
            undo(**arguments)
        elif not failed:
            failed.append(arguments)
            raise Transient("the undo fails once")
        undo(**arguments)

    monkeypatch.setattr(step, "backward", stumbling)
    broken.at(place, refuse_after)
    ended = broken.run()
    assert ended.state is OperationState.FAILED
    assert fate == "undone twice" or failed
    require_nothing_left(scenario, before, ended)


@pytest.mark.parametrize(("name", "place"), steps_that(lambda s: s.backward and s.question))
def test_an_undo_that_lies_once_leaves_nothing_or_sticks(name, place, breaker, monkeypatch):
    """What it left is seen before the locks go, or is in the way of another undo."""
    scenario, broken, before = breaker(name)
    if no_way_back(name, place):
        pytest.skip("it is never undone here")
    step = STEPS[place.step]
    undo, lied = step.backward, []

    def lying_once(**arguments):
        if lied:
            undo(**arguments)
        lied.append(arguments)

    monkeypatch.setattr(step, "backward", lying_once)
    broken.at(place, refuse_after)
    ended = broken.run()
    assert lied
    if ended.state is not OperationState.STUCK:
        assert ended.state is OperationState.FAILED
        require_nothing_left(scenario, before, ended)


@pytest.mark.parametrize(
    ("name", "place"), steps_that(lambda s: s.effect is Effect.MAKES and s.question)
)
def test_what_was_there_before_stays(name, place, breaker):
    """Already there, made by another: success, and the way back does not touch it."""
    _, broken, _ = breaker(name)
    step = STEPS[place.step]
    question, do, asked = step.question, step.do, []

    def found(**arguments):
        if not asked and lane_name.get() == place.lane:  # another lane may be stopped before
            asked.append(arguments)
            do(**arguments)
        return question(**arguments)

    undo, undone = step.backward, []
    broken.monkeypatch.setattr(step, "question", found)
    broken.monkeypatch.setattr(step, "backward", lambda **x: undone.append(x) or undo(**x))
    broken.at(place, refuse_after)
    ended = broken.run()
    assert ended.state in {OperationState.FAILED, OperationState.STUCK}
    line = next(x for x in cloud.journal.lines(ended.id) if x.found and x.name == place.step)
    assert line.state is StepState.SKIPPED
    assert line.arguments not in undone


@pytest.mark.parametrize(
    ("name", "place"), steps_that(lambda s: s.effect is Effect.MAKES and s.question)
)
def test_a_step_is_undone_by_its_own_undo(name, place, breaker):
    """Not only by those of earlier steps, which take its effect away with theirs."""
    scenario, broken, before = breaker(name)
    step, answers = STEPS[place.step], []

    def there_and_back(do, arguments):
        do(**arguments)
        answers.append(step.question(**arguments))
        step.backward(**arguments)
        answers.append(step.question(**arguments))
        raise Refused("there and back")

    broken.at(place, there_and_back)
    ended = broken.run()
    assert answers == [True, False]
    require_nothing_left(scenario, before, ended)


@pytest.mark.parametrize(("name", "place"), steps_that(lambda s: s.effect is Effect.REMOVES))
def test_a_removal_that_lies_shows_in_the_receipt(name, place, breaker):
    _, broken, _ = breaker(name)
    broken.at(place, lambda do, arguments: None)
    ended = broken.run()
    if ended.state is OperationState.STUCK:  # a later step is refused, for it is still there
        cloud.operations.abandon(ended.id, "it lies", "tests")
        ended = broken.run()
    assert ended.left_behind
    key = key_at(place, ended)
    with cloud.database.read() as db:
        receipt = db.get_one(models.Receipt, (ended.id, key))
        assert (receipt.expected, receipt.answer) == ("absent", "present")


def key_at(place: Place, operation: Operation) -> str:
    """The journal's key of a call."""
    lines = cloud.journal.lines(operation.id)
    return [x.key for x in lines if (x.name, x.lane) == (place.step, place.lane)][place.nth]


@pytest.mark.parametrize(("name", "place"), repeatable_steps())
def test_a_runner_that_was_overtaken_stops_before_its_next_effect(name, place, breaker):
    _, broken, _ = breaker(name)

    def overtaken(do, arguments):
        lapse(broken.operation)
        cloud.operations.claim(broken.operation.id, somebody_else())
        return do(**arguments)

    broken.at(place, overtaken)
    lines = len(cloud.journal.lines(broken.operation.id))
    with pytest.raises(LeaseLost):
        broken.run()
    after = cloud.journal.lines(broken.operation.id)
    overtaken_at = [line for line in after if line.state is StepState.RUNNING]
    assert lines < len(after)
    assert place.step in {line.name for line in overtaken_at}
    lapse(broken.operation)
    require_all_there(name, broken.resumed())


@pytest.mark.parametrize(("name", "place"), repeatable_steps())
def test_a_transient_failure_is_tried_again(name, place, breaker):
    _, broken, _ = breaker(name)

    def stumble(do, arguments):
        do(**arguments)
        raise Transient("lost the answer")

    broken.at(place, stumble)
    require_all_there(name, broken.resumed())


def test_every_flow_has_a_scenario():
    asked = {scenario.kind for scenario in SCENARIOS.values()} | {"unwind_operation"}
    assert asked == {flow.kind for flow in CATALOG}


def test_every_step_is_reached_by_a_scenario():
    reached = {place.step for name in SCENARIOS for place in clean_run(name)[0]}
    assert set(STEPS) - reached <= {"give-up-vm", "settle-operation", "send-operation"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_readme_names_every_step_that_is_taken(name):
    named = {step.name for step in steps_of(FLOWS[SCENARIOS[name].kind].body)}
    assert {place.step for place in clean_run(name)[0]} <= named
