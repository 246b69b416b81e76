"""What a flow may do, told from its text: its steps in order, and which of them each VM takes."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

from adapters.database.records import VmRecord
from flows.steps import Effect, Step

Steps = tuple[Step[Any, Any], ...]


def steps_of(body: Callable[..., Any]) -> Steps:
    """The steps that a flow's body may take, in the order of its text."""
    return tuple(dict.fromkeys(step for step, _ in _taken(body, set(), in_lane=False)))


@cache
def halves(body: Callable[..., Any]) -> tuple[Steps, Steps]:
    """The steps that are taken once, and those that are taken for each VM."""
    taken = dict(_taken(body, set(), in_lane=False))
    return (
        tuple(step for step, in_lane in taken.items() if not in_lane),
        tuple(step for step, in_lane in taken.items() if in_lane),
    )


def ends(each: Steps) -> set[str]:
    """The steps with which a VM is done: the last that makes, or removes, or what gives it up."""
    first = next((n for n, step in enumerate(each) if step.effect is Effect.REMOVES), len(each))
    return _last(each[:first], Effect.MAKES) | _last(each[first:], Effect.REMOVES)


def _last(each: Steps, effect: Effect) -> set[str]:
    """The last step of this effect, and what may follow it."""
    acting = [n for n, step in enumerate(each) if step.effect is effect]
    return {step.name for step in each[acting[-1] :]} if acting else set()


def _taken(
    fn: Callable[..., Any], seen: set[object], *, in_lane: bool
) -> Iterator[tuple[Step[Any, Any], bool]]:
    """Each with whether it is taken in a lane: by a function that is about one VM."""
    if fn in seen:
        return
    seen.add(fn)
    about = next(iter(inspect.signature(fn).parameters.values()), None)
    in_lane |= about is not None and about.annotation is VmRecord
    for name in _names(ast.parse(textwrap.dedent(inspect.getsource(fn))).body[0]):
        thing = inspect.unwrap(fn).__globals__.get(name)
        if isinstance(thing, Step):
            yield thing, in_lane
        elif isinstance(thing, FunctionType) and thing.__module__.startswith("flows."):
            yield from _taken(thing, seen, in_lane=in_lane)


def _names(node: ast.AST) -> Iterator[str]:
    """The names that are used, in the order of their evaluation: arguments before the call.

    Not those that are only asked for something of theirs: `give_up_vm.name` takes no step.
    """
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        children = [*children[1:], node.func]
    elif isinstance(node, ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp):
        children = [*node.generators, *(x for x in children if x not in node.generators)]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return
    for child in children:
        yield from _names(child)
