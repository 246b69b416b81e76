"""Addressing: nothing is given twice, nothing that may not be given, and all that may be."""

from ipaddress import IPv4Address, IPv4Network
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import Conflict, OutOfSpace, Refused
from adapters.lan import macs
from flows.policies.addressing import (
    Server,
    Space,
    free,
    new_range,
    next_places,
    picked,
    server_for,
    span,
)

NET = IPv4Network("10.1.2.0/26")
ADDRESSES = st.integers(-5, 70).map(lambda n: NET.network_address + n)
SPANS = st.lists(
    st.one_of(
        ADDRESSES.map(str), st.tuples(ADDRESSES, ADDRESSES).map(lambda two: f"{two[0]}-{two[1]}")
    ),
    max_size=5,
)
RANGES = st.builds(
    lambda start, prefix: IPv4Network((start, prefix), strict=False),
    st.integers(int(IPv4Address("192.168.0.0")), int(IPv4Address("192.168.3.255"))),
    st.integers(22, 30),
)


def may_have(said: list[str]) -> set[int]:
    """What may be given, by looking at one address after the other."""
    shut = [span(each) for each in said]
    return {
        n
        for n in range(1, NET.num_addresses - 1)
        if not any(first <= NET.network_address + n <= last for first, last in shut)
    }


@given(SPANS, st.sets(st.integers(0, 63)))
def test_what_is_free_is_all_that_may_be_given_and_is_not_taken(said, taken):
    space = Space(range=NET, excluded=tuple(said))
    assert list(free(space, taken)) == sorted(may_have(said) - taken)
    assert space.capacity == len(may_have(said))
    assert {n for n in range(-3, 70) if space.may_give(n)} == may_have(said)


@given(SPANS, st.sets(st.integers(0, 63)), st.integers(0, 70))
def test_many_at_once_are_the_first_ones_or_none(said, taken, count):
    space = Space(range=NET, excluded=tuple(said))
    left = sorted(may_have(said) - taken)
    if count <= len(left):
        assert next_places(space, taken, count, "n") == left[:count]
        return
    with pytest.raises(OutOfSpace) as refusal:
        next_places(space, taken, count, "n")
    assert refusal.value.code == "range-exhausted"
    assert refusal.value.details == {"network": "n", "free": len(left), "asked": count}


@given(SPANS, st.sets(st.integers(0, 63)), ADDRESSES)
def test_one_that_is_picked_is_had_or_refused_for_what_it_is(said, taken, address):
    space = Space(range=NET, excluded=tuple(said))
    place = space.place(address)
    if place not in may_have(said):
        with pytest.raises(Refused) as refusal:
            picked(space, taken, address, "n")
        assert refusal.value.code == "address-not-given"
    elif place in taken:
        with pytest.raises(Conflict) as conflict:
            picked(space, taken, address, "n")
        assert conflict.value.code == "address-taken"
    else:
        assert picked(space, taken, address, "n") == place


def test_a_large_range_is_not_walked_through():
    space = Space(range=IPv4Network("10.0.0.0/8"), excluded=("10.0.0.1-10.200.0.0",))
    assert space.capacity == 2**24 - 2 - 200 * 2**16
    assert next_places(space, set(), 1, "n") == [200 * 2**16 + 1]


@pytest.mark.parametrize("said", ["", "10.0.0", "10.0.0.1-", "10.0.0.1-2", "a-b", "1.1.1.1-1-1"])
def test_what_is_no_span_is_refused(said):
    with pytest.raises(Refused) as refusal:
        span(said)
    assert refusal.value.code == "invalid-range"


@given(st.lists(st.lists(RANGES, max_size=4), max_size=3), RANGES)
def test_a_server_is_the_first_that_the_range_has_for_itself(known, wanted):
    servers = [Server(id=uuid4(), name="s", ranges=tuple(each)) for each in known]
    fit = [x.id for x in servers if not any(wanted.overlaps(each) for each in x.ranges)]
    if fit:
        assert server_for(wanted, servers) == fit[0]
        return
    with pytest.raises(Conflict) as refusal:
        server_for(wanted, servers)
    assert refusal.value.code == "no-dhcp-server"


@given(st.lists(RANGES, max_size=12), st.lists(RANGES, max_size=3), st.integers(22, 30))
def test_a_new_range_overlaps_nothing_and_is_the_first_such(known, beside, prefix):
    server = Server(id=uuid4(), name="s", ranges=tuple(known))
    found = new_range([server], beside, prefix)
    whole = IPv4Network("192.168.0.0/16").subnets(new_prefix=prefix)
    first = next(each for each in whole if not any(each.overlaps(x) for x in known + beside))
    assert found == (first, server.id)


def test_no_new_range_where_no_server_has_room():
    full = Server(id=uuid4(), name="s", ranges=(IPv4Network("0.0.0.0/0"),))
    assert new_range([full]) is None
    assert new_range([]) is None
    empty = Server(id=uuid4(), name="t")
    assert new_range([full, empty]) == (IPv4Network("192.168.0.0/24"), empty.id)
    narrow = Server(id=uuid4(), name="n", ranges=(IPv4Network("192.168.0.0/16"),))
    assert new_range([narrow]) == (IPv4Network("172.16.0.0/24"), narrow.id)


@given(st.uuids())
def test_a_nics_macs_are_always_the_same_ones_and_of_our_prefix(nic: UUID):
    first = macs(nic)
    again = macs(nic)
    some = [next(first) for _ in range(3)]
    assert some == [next(again) for _ in range(3)]
    assert all(each.startswith("52:54:00:") and len(each) == 17 for each in some)
