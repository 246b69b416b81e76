"""Lifecycle: the table in its docstring is what it does, and appliances follow their VMs."""

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import Conflict
from adapters.types import ApplianceState, Power, VmState
from flows.policies import lifecycle
from flows.policies.lifecycle import appliance_state, require, state_of


def table() -> dict[str, set[VmState]]:
    """The docstring's rows: deeds, and the states that allow them."""
    allowed: dict[str, set[VmState]] = {}
    of_vms, _, _ = (lifecycle.__doc__ or "").partition("\n\n| operation's state |")
    for line in of_vms.splitlines():
        if line.startswith("| ") and not line.startswith("| operation"):
            deeds, states = (cell.strip() for cell in line.strip("|").split("|"))
            for deed in deeds.split(", "):
                allowed[deed] = _states(states)
    return allowed


def _states(cell: str) -> set[VmState]:
    if cell.startswith("any but "):
        return set(VmState) - {VmState(cell.removeprefix("any but "))} - {VmState.LOCKED}
    return {VmState(state) for state in cell.split(", ")}


def test_the_table_names_every_deed():
    assert set(table()) == set(lifecycle._ALLOWED)


@pytest.mark.parametrize("state", VmState)
@pytest.mark.parametrize("deed", sorted(table()))
def test_a_deed_is_allowed_where_the_table_says(deed, state):
    if state in table()[deed]:
        require(deed, "db", state)
        return
    with pytest.raises(Conflict) as refused:
        require(deed, "db", state)
    assert refused.value.code == "wrong-state"
    assert str(refused.value) == f"cannot {deed} VM db: it is {state}"


def test_a_locked_vm_allows_nothing():
    assert all(VmState.LOCKED not in states for states in table().values())


def test_every_power_is_a_state():
    assert [state_of(power) for power in Power] == [VmState.ON, VmState.OFF, VmState.PAUSED]


HERE = {VmState.CONFIGURED, VmState.ON, VmState.OFF, VmState.PAUSED}


@pytest.mark.parametrize("states", [*combinations_with_replacement(VmState, 3)], ids="-".join)
def test_an_appliance_is_what_its_vms_are(states):
    state = appliance_state(states)
    if VmState.UNKNOWN in states:
        assert state is ApplianceState.UNKNOWN
    elif VmState.LOCKED in states:
        assert state is ApplianceState.LOCKED
    elif set(states) == {VmState.NOT_ALLOCATED}:
        assert state is ApplianceState.NOT_DEPLOYED
    else:
        whole = set(states) <= HERE
        assert state is (ApplianceState.DEPLOYED if whole else ApplianceState.NEEDS_SYNC)


@pytest.mark.parametrize("states", [*combinations_with_replacement(VmState, 3)], ids="-".join)
def test_an_appliance_that_a_vm_leaves_is_not_in_line(states):
    as_it_is, state = appliance_state(states), appliance_state(states, leaving=True)
    if as_it_is is ApplianceState.DEPLOYED:
        as_it_is = ApplianceState.NEEDS_SYNC
    assert state is as_it_is


@given(st.lists(st.sampled_from(VmState), max_size=5), st.randoms(use_true_random=False))
def test_neither_order_nor_number_matter(states, random):
    more = random.sample(states, len(states)) + states[:2]
    assert appliance_state(more) is appliance_state(states)


def test_an_appliance_without_vms_is_not_deployed():
    assert appliance_state([]) is ApplianceState.NOT_DEPLOYED


def test_what_destroys_is_refused_of_what_is_protected():
    assert {"undeploy", "reset"} <= lifecycle.DESTROYS
    for deed in lifecycle.DESTROYS:
        lifecycle.require_unprotected(deed, [])
        with pytest.raises(Conflict) as refused:
            lifecycle.require_unprotected(deed, ["d", "c", "b", "a"])
        assert str(refused.value) == f"cannot {deed} what is protected: a, b, c, ..."
        assert refused.value.details == {"vms": ["a", "b", "c", "d"]}
    for deed in set(table()) - lifecycle.DESTROYS:
        lifecycle.require_unprotected(deed, ["a"])
