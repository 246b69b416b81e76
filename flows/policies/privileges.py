"""Privileges: what of a role's is left to a token, and what one that is nobody's stands for."""

from collections.abc import Iterable

from adapters.privileges import EVERYTHING, STOCK, Privilege, Stock
from adapters.types import Scope

# What a token does only with a scope, whoever's it is.
BEYOND: dict[Scope, frozenset[Privilege]] = {
    Scope.ADMIN: frozenset(
        {
            Privilege.ENTERPRISE_ADMINISTER_ALL,
            Privilege.USERS_MANAGE_USERS,
            Privilege.USERS_MANAGE_ENTERPRISE,
            Privilege.USERS_MANAGE_ROLES,
            Privilege.API_TOKENS_MANAGE,
        }
    ),
    Scope.APPROVE: frozenset({Privilege.OPERATION_APPROVE}),
}
LOOKING = frozenset(
    {
        Privilege.ENTERPRISE_ENUMERATE,
        Privilege.ENTERPRISE_RESOURCE_SUMMARY_ENT,
        Privilege.PHYS_DC_ENUMERATE,
        Privilege.PHYS_DC_RETRIEVE_DETAILS,
        Privilege.VDC_ENUMERATE,
        Privilege.APPLIB_VIEW,
        Privilege.USERS_VIEW,
        Privilege.USERS_VIEW_PRIVILEGES,
        Privilege.OPERATION_VIEW,
        Privilege.EVENTLOG_VIEW_ENTERPRISE,
        Privilege.EVENTLOG_VIEW_ALL,
    }
)


def scope_of(privilege: Privilege) -> Scope | None:
    """The scope without which no token does this."""
    return next((scope for scope, more in BEYOND.items() if privilege in more), None)


def narrowed(
    granted: Iterable[Privilege], scopes: Iterable[Scope], *, read_only: bool
) -> frozenset[Privilege]:
    """What a token may do, of what its user's role grants."""
    given = set(scopes)
    beyond = {each for scope, more in BEYOND.items() if scope not in given for each in more}
    left = frozenset(granted) - beyond
    return left & LOOKING if read_only else left


def known(names: Iterable[str]) -> frozenset[Privilege]:
    """Of stored names those that this version knows: another one may have had more."""
    return frozenset(Privilege(name) for name in names if name in EVERYTHING)


def of_nobody(*, operators: bool) -> frozenset[Privilege]:
    """What a token that is no user's stands for: its enterprise's administrator.

    The operators' own enterprise has those of the whole cloud.
    """
    return STOCK[Stock.CLOUD_ADMIN if operators else Stock.ENTERPRISE_ADMIN]
