"""Permissions: what a route needs is said beside it, `dependencies=[needs(Privilege.X)]`.

Who lacks a privilege is told so before anything is looked for: it says nothing of what is there.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from adapters.privileges import Privilege
from adapters.types import Scope
from api import tokens
from api.dependencies import Caller
from api.errors import Problem
from flows.policies.privileges import scope_of

_BEARER = HTTPBearer(auto_error=False, description="`cl_...`, as it was told once.")
_Shown = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


def needs(*privileges: Privilege) -> Any:
    """What a route needs, as one of its dependencies; nothing more than a good token: `needs()`.

    OpenAPI tells it, too: as what the bearer has to have.
    """

    async def let_through(caller: Caller, _token: _Shown) -> None:  # `Admission` has asked for it
        require(caller, *privileges)

    return Security(let_through, scopes=list(privileges))


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
