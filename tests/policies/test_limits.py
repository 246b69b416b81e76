"""Limits: hard ones are never passed, soft ones only by force, and what is less always fits."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.amounts import Amounts, Charge, Level, Standing
from adapters.errors import Refused
from flows.policies.limits import (
    HardLimitExceeded,
    SoftLimitExceeded,
    require_settable,
    within,
)

RESOURCES = list(Amounts.model_fields)
SMALL = st.integers(0, 5)
AMOUNTS = st.builds(Amounts, **dict.fromkeys(RESOURCES[:3], SMALL))
IDS = st.integers(1, 3).map(lambda n: UUID(int=n))
STANDINGS = st.builds(
    Standing,
    level=st.sampled_from(Level),
    id=IDS,
    soft=AMOUNTS,
    hard=AMOUNTS,
    used=AMOUNTS,
    more=AMOUNTS,
)


def beyond(standing: Standing, limits: Amounts) -> set[str]:
    """The resources of which more is asked for than a limit leaves."""
    after = standing.used + standing.more
    return {
        name
        for name, limit in limits.items()
        if limit and getattr(standing.more, name) and getattr(after, name) > limit
    }


@given(st.lists(STANDINGS, max_size=3), st.booleans())
def test_what_is_allowed_is_within_every_hard_limit_and_every_refusal_says_why(standings, forced):
    hard = [(x.level, name) for x in standings for name in sorted(beyond(x, x.hard))]
    soft = [(x.level, name) for x in standings for name in sorted(beyond(x, x.soft))]
    try:
        fits = within(standings, forced=forced)
    except HardLimitExceeded as refusal:
        told = [(x["level"], x["resource"]) for x in refusal.details["exceeded"]]
        assert sorted(told) == sorted(hard)
        assert hard
    except SoftLimitExceeded as refusal:
        told = [(x["level"], x["resource"]) for x in refusal.details["exceeded"]]
        assert sorted(told) == sorted(soft)
        assert (soft, hard, forced) == (soft or [0], [], False)
    else:
        assert not hard
        assert fits == (not soft)
        assert fits or forced


@given(st.lists(STANDINGS, max_size=3))
def test_what_asks_for_no_more_always_fits(standings):
    assert within([x.model_copy(update={"more": Amounts()}) for x in standings])


@given(STANDINGS)
def test_less_fits_where_more_does(standing):
    less = standing.model_copy(update={"more": standing.more.beyond(Amounts(cpu=1, ram_mib=1))})
    try:
        within([standing])
    except Refused:
        return
    assert within([less])


@given(STANDINGS, AMOUNTS, AMOUNTS)
def test_limits_that_are_set_hold_or_are_not_lower_than_they_were(standing, soft, hard):
    try:
        require_settable(standing, soft, hard)
    except Refused:
        return
    for former, new in ((standing.soft, soft), (standing.hard, hard)):
        for name, limit in new.items():
            was, used = getattr(former, name), getattr(standing.used, name)
            assert limit == 0 or limit >= used or (was and limit >= was)
    assert all(n <= (getattr(hard, name) or n) for name, n in soft.items())


@given(STANDINGS)
def test_limits_may_be_set_as_they_are_and_be_raised(standing):
    hard = Amounts(
        **{k: n and max(n, getattr(standing.soft, k)) for k, n in standing.hard.items()}
    )
    was = standing.model_copy(update={"hard": hard})
    require_settable(was, was.soft, was.hard)
    raised = Amounts(**{name: n and n + 1 for name, n in hard.items()})
    require_settable(was, was.soft, raised)
    require_settable(was, Amounts(), Amounts())


@given(st.lists(AMOUNTS, max_size=4))
def test_amounts_add_up_and_nothing_is_beyond_itself(amounts):
    total = sum(amounts, start=Amounts())
    for name in RESOURCES:
        assert getattr(total, name) == sum(getattr(each, name) for each in amounts)
    assert all(each.beyond(total) == Amounts() for each in amounts)


@pytest.mark.parametrize("vdc", [None, UUID(int=3)])
def test_what_is_in_no_virtual_datacenter_counts_for_none(vdc):
    charge = Charge(
        kind="template",
        id=UUID(int=9),
        enterprise_id=UUID(int=1),
        datacenter_id=UUID(int=2),
        virtual_datacenter_id=vdc,
        amounts=Amounts(),
    )
    assert len(charge.holders) == (3 if vdc else 2)
