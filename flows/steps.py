"""Steps: what operations are made of.

A step with an effect declares three functions with the same arguments, under one permanent
name: do, undo, and look (is it there?). One that only decides needs no more than do. What kind
of effect it has (`Effect`) says when it is undone, and what its receipt expects. One whose answer
its flow goes by, or that is charged, or copies, declares a fourth, for plans: what do would
answer, without doing it.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, validate_call
from pydantic_core import to_jsonable_python

from adapters.database.intents import Intent

P = ParamSpec("P")
R = TypeVar("R")


class Effect(StrEnum):
    """What becomes of a step's effect."""

    MAKES = "makes"  # undone on the way back
    REMOVES = "removes"  # destructive: no undo, and no way back for its operation
    TEMPORARY = "temporary"  # undone on the way back, and at the end of the way forward too
    STAYS = "stays"  # once done it stays, as in the library; undo clears a half-done one
    ONCE = "once"  # neither undone nor repeated: what was begun is never begun again

    @property
    def binds(self) -> bool:
        """Whether nobody may ask its operation to go back once this has been begun."""
        return self in {Effect.REMOVES, Effect.ONCE}


class Performer(Protocol):
    """Whoever runs steps: a saga."""

    def perform(self, step: "Step[Any, Any]", key: str, arguments: dict[str, Any]) -> Any:
        """Run a step, or answer what it answered before."""


STEPS: dict[str, "Step[Any, Any]"] = {}
performer: ContextVar[Performer] = ContextVar("performer")


class Step(Generic[P, R]):
    """A function, the way back from it, and the question whether its effect is there."""

    def __init__(self, name: str, do: Callable[P, R], effect: Effect) -> None:
        if name in STEPS:
            raise ValueError(f"two steps are called {name}")
        self.name = name
        self.module = do.__module__
        self.effect = effect
        self.signature = inspect.signature(do)
        self.do: Callable[..., R] = validate_call(do)
        self.backward: Callable[..., None] | None = None
        self.question: Callable[..., bool] | None = None
        self.foresight: Callable[..., R] | None = None
        self._answer = TypeAdapter(get_type_hints(do).get("return", Any))
        STEPS[name] = self

    def undo(self, fn: Callable[P, None]) -> Callable[P, None]:
        """Declare the way back; it takes the same arguments, never the result."""
        self.backward = validate_call(fn)
        return fn

    def look(self, fn: Callable[P, bool]) -> Callable[P, bool]:
        """Declare how to ask the backend whether the effect is there."""
        self.question = validate_call(fn)
        return fn

    def plan(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Declare what it would answer as things are planned so far; nothing is done."""
        self.foresight = validate_call(fn)
        return fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = to_jsonable_python(dict(bound.arguments))
        return cast(R, performer.get().perform(self, self.key(*args, **kwargs), arguments))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Tell the calls of one step in an operation apart: by the first argument, or its id."""
        what = next(iter(self.signature.bind(*args, **kwargs).arguments.values()), None)
        return self.name if what is None else f"{self.name}[{getattr(what, 'id', what)}]"

    def intent(self, *args: P.args, **kwargs: P.kwargs) -> Intent:
        """The call as an operation is accepted with it, to be undone even if it never begins."""
        bound = self.signature.bind(*args, **kwargs)
        arguments = to_jsonable_python(dict(bound.arguments))
        return Intent(key=self.key(*args, **kwargs), name=self.name, arguments=arguments)

    def recorded(self, result: Any) -> R:
        """The typed value of a result as the journal keeps it."""
        return cast(R, self._answer.validate_python(result))

    def schema(self) -> str:
        """What a journal line of this step looks like; its change makes a new version."""
        hints = {k: v for k, v in get_type_hints(self.do).items() if k != "return"}
        arguments = {name: TypeAdapter(hint).json_schema() for name, hint in hints.items()}
        return json.dumps([self.name, self.effect, arguments], sort_keys=True)


def step(name: str, effect: Effect = Effect.MAKES) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step; the name is a promise that journals rely on."""
    return lambda do: Step(name, do, effect)


def version(modules: frozenset[str]) -> str:
    """The version of a flow: a digest of the schemas of all steps in the modules it uses."""
    schemas = sorted(each.schema() for each in STEPS.values() if each.module in modules)
    return hashlib.sha256("\n".join(schemas).encode()).hexdigest()
