"""Placement: whatever the hosts are, a VM gets one where it fits, or learns why of each."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Family
from flows.policies.placement import Choice, NoRoom, Room, Wish, choose_host

SMALL = st.integers(0, 8)
WISHES = st.builds(
    Wish,
    family=st.sampled_from(Family),
    cpu=st.integers(1, 8),
    ram_mib=st.integers(1, 8),
    disk_mib=SMALL,
)
OVERCOMMIT = st.sampled_from([0.5, 1.0, 1.5, 4.0])


@st.composite
def rooms(draw):
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    return [
        Room(
            id=UUID(int=100 + ord(name)),
            name=name,
            family=draw(st.sampled_from(Family)),
            cpu=draw(SMALL),
            ram_mib=draw(SMALL),
            cpu_reserved=draw(SMALL),
            ram_reserved_mib=draw(SMALL),
            datastores=tuple(
                (UUID(int=1000 * ord(name) + n), draw(SMALL))
                for n in range(draw(st.integers(0, 3)))
            ),
        )
        for name in names
    ]


def fits(wish: Wish, host: Room, overcommit: float) -> bool:
    return (
        host.family is wish.family
        and host.cpu_reserved + wish.cpu <= int(host.cpu * overcommit)
        and host.ram_reserved_mib + wish.ram_mib <= host.ram_mib
        and any(free >= wish.disk_mib for _, free in host.datastores)
    )


def choose(wish: Wish, hosts: list[Room], overcommit: float) -> Choice | NoRoom:
    try:
        return choose_host(wish, hosts, overcommit)
    except NoRoom as refusal:
        return refusal


@given(WISHES, rooms(), OVERCOMMIT)
def test_a_vm_is_placed_exactly_where_one_fits(wish, hosts, overcommit):
    choice = choose(wish, hosts, overcommit)
    assert isinstance(choice, Choice) == any(fits(wish, host, overcommit) for host in hosts)


@given(WISHES, rooms(), OVERCOMMIT)
def test_no_host_gets_more_than_it_has(wish, hosts, overcommit):
    choice = choose(wish, hosts, overcommit)
    if isinstance(choice, Choice):
        (host,) = (each for each in hosts if each.id == choice.host)
        assert fits(wish, host, overcommit)
        assert dict(host.datastores)[choice.datastore] >= wish.disk_mib
        assert host.name in choice.because


@given(WISHES, rooms(), OVERCOMMIT)
def test_a_refusal_says_of_every_host_why(wish, hosts, overcommit):
    refusal = choose(wish, hosts, overcommit)
    if isinstance(refusal, NoRoom):
        reasons = refusal.details["hosts"]
        assert set(reasons) == {host.name for host in hosts}
        assert all(reasons.values())
        assert refusal.code == "no-room"
        assert all(f"{name}: {why}" in str(refusal) for name, why in reasons.items())


@given(WISHES, rooms(), OVERCOMMIT, st.randoms(use_true_random=False))
def test_the_roomiest_is_chosen_in_whatever_order_they_are_asked(wish, hosts, overcommit, random):
    choice = choose(wish, hosts, overcommit)
    shuffled = random.sample(hosts, len(hosts))
    if isinstance(choice, Choice):
        assert choose(wish, shuffled, overcommit) == choice
        fitting = [host for host in hosts if fits(wish, host, overcommit)]
        roomiest = max(host.ram_mib - host.ram_reserved_mib for host in fitting)
        best = [x for x in fitting if x.ram_mib - x.ram_reserved_mib == roomiest]
        assert choice.host == min(best, key=lambda host: host.name).id


@given(st.lists(WISHES), rooms(), OVERCOMMIT)
def test_one_after_the_other_never_overcommits(wishes, hosts, overcommit):
    by_id = {
        host.id: host.model_copy(update={"cpu_reserved": 0, "ram_reserved_mib": 0})
        for host in hosts
    }
    for wish in wishes:
        choice = choose(wish, list(by_id.values()), overcommit)
        if isinstance(choice, Choice):
            host = by_id[choice.host]
            by_id[host.id] = host.model_copy(
                update={
                    "cpu_reserved": host.cpu_reserved + wish.cpu,
                    "ram_reserved_mib": host.ram_reserved_mib + wish.ram_mib,
                }
            )
    for host in by_id.values():
        assert host.cpu_reserved <= host.cpu * overcommit
        assert host.ram_reserved_mib <= host.ram_mib


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"family": Family.KVM}, "runs kvm, not memory"),
        ({"datastores": ()}, "has no datastore"),
        ({"cpu_reserved": 4}, "0 CPUs free, 1 needed"),
        ({"ram_reserved_mib": 60}, "4 MiB RAM free, 8 needed"),
        ({"datastores": ((UUID(int=2), 3), (UUID(int=3), 5))}, "5 MiB disk free, 16 needed"),
    ],
)
def test_each_reason_has_its_words(changes, why):
    host = Room(
        id=UUID(int=1),
        name="a",
        family=Family.MEMORY,
        cpu=4,
        ram_mib=64,
        cpu_reserved=0,
        ram_reserved_mib=0,
        datastores=((UUID(int=2), 64),),
    ).model_copy(update=changes)
    wish = Wish(family=Family.MEMORY, cpu=1, ram_mib=8, disk_mib=16)
    with pytest.raises(NoRoom) as refused:
        choose_host(wish, [host], cpu_overcommit=1.0)
    assert refused.value.details == {"hosts": {"a": why}}


def test_without_hosts_the_refusal_says_so():
    wish = Wish(family=Family.MEMORY, cpu=1, ram_mib=8, disk_mib=16)
    with pytest.raises(NoRoom, match="there are no hosts"):
        choose_host(wish, [], cpu_overcommit=1.0)
