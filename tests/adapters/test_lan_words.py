"""What servers are told is what they are understood to have: Kea's words, and dnsmasq's."""

import copy
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.lan import Link, Reservation, Route, Subnet
from adapters.networks import dnsmasq_text, kea_json
from adapters.networks.held import Held

OURS, THEIRS = uuid4(), uuid4()
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?", fullmatch=True)
ADDRESSES = st.builds(IPv4Address, st.integers(2**24, 2**32 - 2))


@st.composite
def routes(draw):
    length = draw(st.integers(0, 32))
    to = IPv4Network((draw(ADDRESSES), length), strict=False)
    return Route(to=to, by=draw(ADDRESSES))


@st.composite
def networks(draw, number):
    """A subnet, and cards in it."""
    range_ = IPv4Network(f"10.{number}.0.0/{draw(st.integers(20, 28))}")
    subnet = Subnet(
        id=draw(st.uuids()),
        number=number,
        range=range_,
        gateway=draw(st.sampled_from([None, range_.network_address + 1])),
        dns=tuple(draw(st.lists(ADDRESSES, max_size=3))),
        suffix=".".join(draw(st.lists(LABELS, max_size=3))),
        routes=tuple(draw(st.lists(routes(), max_size=3))),
        relay=draw(st.sampled_from([None, IPv4Address(f"10.255.0.{number}")])),
        mtu=draw(st.sampled_from([1400, 1500, 9000])),
        installation=OURS,
    )
    places = draw(st.lists(st.integers(2, 14), unique=True, max_size=5))
    cards = [
        Reservation(
            id=draw(st.uuids()),
            subnet=subnet.id,
            mac=f"52:54:00:00:{number:02x}:{place:02x}",
            address=range_.network_address + place,
            hostname=draw(st.one_of(st.just(""), LABELS)),
            is_default=draw(st.booleans()),
        )
        for place in places
    ]
    return subnet, cards


@st.composite
def helds(draw):
    made = [draw(networks(number)) for number in range(1, draw(st.integers(1, 4)))]
    subnets = {subnet.id: subnet for subnet, _ in made}
    return Held(subnets, {card.id: card for _, cards in made for card in cards})


@given(helds(), helds(), st.booleans())
def test_kea_understands_and_is_understood(first, second, names):
    theirs = {"id": 99, "subnet": "10.99.0.0/24", "pools": [{"pool": "10.99.0.0/25"}]}
    theirs["reservations"] = []
    base = {"subnet4": [theirs], "dhcp-ddns": {"enable-updates": names}, "valid-lifetime": 600}
    told = kea_json.with_held(base, first, OURS)
    found = kea_json.held(told, OURS)
    assert (found.subnets, found.reservations) == (first.subnets, first.reservations)
    assert kea_json.with_held(told, found, OURS) == told
    before = copy.deepcopy(told)
    after = kea_json.held(kea_json.with_held(told, second, OURS), OURS)
    assert (after.subnets, after.reservations) == (second.subnets, second.reservations)
    assert told == before
    assert [each for each in told["subnet4"] if each["id"] == 99] == [theirs]
    assert {**told, "subnet4": [theirs]} == base
    others = kea_json.held(told, THEIRS)
    assert not others.subnets
    assert len(others.other_subnets) == len(first.subnets) + 1
    assert len(others.other_reservations) == len(first.reservations)


@given(networks(7))
def test_dnsmasq_understands_and_is_understood(made):
    subnet, cards = made
    kept = ["52:54:00:00:00:99,printer,10.7.0.15,12h"]
    told = dnsmasq_text.texts(subnet, cards, kept)
    assert dnsmasq_text.subnet_of(told["ranges"]) == subnet
    ours, others = dnsmasq_text.reservations_of(told["hosts"], subnet)
    assert sorted(ours, key=lambda card: card.address) == sorted(cards, key=lambda c: c.address)
    assert others == kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"suffix": "a b"},
        {"suffix": 'a"\n'},
        {"suffix": "UPPER"},
        {"gateway": "10.8.0.1"},
        {"number": 0},
        {"mtu": 1},
    ],
)
def test_what_would_be_read_otherwise_is_no_subnet(wrong):
    said = {"id": uuid4(), "number": 7, "range": "10.7.0.0/24", "installation": OURS}
    assert Subnet(**said)
    with pytest.raises(ValidationError):
        Subnet(**{**said, **wrong})


@pytest.mark.parametrize("wrong", [{"hostname": "a,b"}, {"hostname": "a\n"}, {"mac": "52:54"}])
def test_what_would_be_read_otherwise_is_no_reservation(wrong):
    said = {"id": uuid4(), "subnet": uuid4(), "mac": "52:54:00:00:00:01", "address": "10.7.0.5"}
    assert Reservation(**said)
    with pytest.raises(ValidationError):
        Reservation(**{**said, **wrong})


@given(st.one_of(st.none(), st.integers(1, 4094)), st.uuids(), st.uuids(), st.uuids())
def test_a_links_name_fits_and_is_its_installations_own(tag, network, mine, other):
    def name(installation: UUID) -> str:
        link = Link(network=network, tag=tag, uplink="eth1", installation=installation)
        return link.name

    assert len(name(mine)) <= 15
    assert name(mine) == name(mine)
    assert (name(mine) == name(other)) == (mine == other)
