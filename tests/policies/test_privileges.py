"""What of a role is left to a token, and how long a lock-out lasts."""

from hypothesis import given
from hypothesis import strategies as st

from adapters.privileges import EVERYTHING, STOCK, Privilege, Stock
from adapters.types import Scope
from flows.policies.lockout import pause_s
from flows.policies.privileges import LOOKING, known, narrowed, of_nobody, scope_of

ROLES = st.frozensets(st.sampled_from(Privilege))
SCOPES = st.frozensets(st.sampled_from(Scope))


@given(ROLES, SCOPES, st.booleans())
def test_a_token_has_nothing_that_its_role_has_not(role, scopes, read_only):
    assert narrowed(role, scopes, read_only=read_only) <= role


@given(ROLES, SCOPES, SCOPES, st.booleans())
def test_more_scopes_never_take_away(role, some, more, read_only):
    fewer = narrowed(role, some, read_only=read_only)
    assert fewer <= narrowed(role, some | more, read_only=read_only)


@given(ROLES, SCOPES)
def test_what_needs_a_scope_is_there_with_it_alone(role, scopes):
    left = narrowed(role, scopes, read_only=False)
    assert left == {each for each in role if scope_of(each) in {None, *scopes}}


@given(ROLES, SCOPES)
def test_who_only_looks_changes_nothing(role, scopes):
    assert narrowed(role, scopes, read_only=True) <= LOOKING


def test_stock_roles_lie_in_each_other():
    assert STOCK[Stock.USER] < STOCK[Stock.ENTERPRISE_ADMIN] < STOCK[Stock.CLOUD_ADMIN]
    assert STOCK[Stock.CLOUD_ADMIN] == EVERYTHING
    assert of_nobody(operators=False) == STOCK[Stock.ENTERPRISE_ADMIN]


def test_names_of_another_version_are_no_privileges():
    assert known(["VDC_ENUMERATE", "VDC_BURN"]) == {Privilege.VDC_ENUMERATE}


@given(st.integers(0, 10**9))
def test_a_lock_out_grows_and_has_an_end(failures):
    assert pause_s(failures) <= pause_s(failures + 1) <= 900
    assert (pause_s(failures) == 0) == (failures < 5)
