"""Permissions: what a route needs is said beside it, `dependencies=[needs(Privilege.X)]`.

Who lacks a privilege is told so before anything is looked for: it says nothing of what is there.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import Depends
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute

from adapters.privileges import Privilege
from adapters.types import Scope
from api import tokens
from api.dependencies import Caller
from api.errors import Problem
from flows.policies.privileges import scope_of


class Needs:
    """Lets through who has the privileges; without any, whoever shows a good token."""

    def __init__(self, *privileges: Privilege) -> None:
        self.privileges = privileges

    async def __call__(self, caller: Caller) -> None:
        """Raise `Problem` when he has not."""
        require(caller, *self.privileges)


def needs(*privileges: Privilege) -> Any:
    """What a route needs, as one of its dependencies."""
    return Depends(Needs(*privileges))


def require(caller: tokens.Caller, *privileges: Privilege) -> None:
    """Raise `Problem` when the caller has not all of these."""
    for each in privileges:
        if each not in caller.privileges:
            raise _lacking(caller, each)


def require_scope(caller: tokens.Caller, scope: Scope) -> None:
    """Raise `Problem` when the caller's token has not been given this scope."""
    if scope not in caller.scopes:
        raise _unscoped(scope)


def require_no_mightier(caller: tokens.Caller, privileges: Iterable[Privilege]) -> None:
    """Raise `Problem` when these are more than his own: nobody gives away, or rules over, more."""
    if more := sorted(set(privileges) - caller.privileges):
        text = f"that takes privileges that you have not: {', '.join(more)}"
        lacking = Problem(403, "privilege-missing", text)
        lacking.details = {"privilege": more[0], "privileges": more}
        raise lacking


def needed(route: APIRoute) -> tuple[Privilege, ...] | None:
    """What a route says that it needs; None where it says nothing."""
    for each in route.dependencies:
        needs_ = each.dependency if isinstance(each, Dependency) else None
        if isinstance(needs_, Needs):
            return needs_.privileges
    return None


def _lacking(caller: tokens.Caller, privilege: Privilege) -> Problem:
    scope = scope_of(privilege)
    if privilege in caller.granted and scope and scope not in caller.scopes:
        return _unscoped(scope)
    lacking = Problem(403, "privilege-missing", f"this needs the privilege {privilege}")
    lacking.details = {"privilege": privilege}
    return lacking


def _unscoped(scope: Scope) -> Problem:
    lacking = Problem(403, "scope-missing", f"this needs a token with the scope {scope}")
    lacking.details = {"scope": scope}
    return lacking
