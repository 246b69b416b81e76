"""Placement: whatever the hosts are, a VM gets one where it fits, or learns why of each."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.allocation import Fit, Load, Neighbour, Room, Rules, Situation, Store, Wish
from adapters.guests import Firmware
from adapters.types import Family
from flows.policies.placement import NoRoom, choose_hosts, load_of

SMALL = st.integers(0, 8)
OURS, THEIRS, OTHERS = (UUID(int=n) for n in (1, 2, 3))
RACKS = [UUID(int=n) for n in (11, 12)]
SITE = UUID(int=10)
TENANTS = st.sampled_from([OURS, THEIRS, OTHERS])
LABELS = st.sampled_from(["", "", "x", "y"])
PERCENT = st.sampled_from([50, 100, 150, 400, 0])
FAMILIES = st.sampled_from([Family.MEMORY] * 4 + [Family.KVM])  # most hosts have a chance
LOADS = st.builds(Load, cpu_percent=PERCENT, ram_percent=PERCENT)
WISHES = st.builds(
    Wish,
    family=FAMILIES,
    cpu=st.integers(1, 3),
    ram_mib=st.integers(1, 3),
    disk_mib=st.integers(0, 3),
    enterprise=st.just(OURS),
    tier=st.sampled_from(["", "", "", "gold"]),
    affinity=LABELS,
    anti_affinity=LABELS,
    vlans=st.integers(0, 1),
)


@st.composite
def situations(draw):
    names = draw(st.lists(st.sampled_from("abcd"), unique=True))
    ids = {name: UUID(int=100 + ord(name)) for name in names}
    uuids = [UUID(int=500 + n) for n in range(3)]  # few: some hosts share a datastore
    hosts = [
        Room(
            id=ids[name],
            name=name,
            family=draw(FAMILIES),
            cpu=draw(SMALL),
            ram_mib=draw(SMALL),
            cpu_reserved=draw(st.integers(0, 3)),
            ram_reserved_mib=draw(st.integers(0, 3)),
            stores=tuple(
                Store(
                    id=UUID(int=1000 * ord(name) + n),
                    uuid=uuid,
                    directory=f"/{n}",
                    tier=draw(st.sampled_from(["", "gold"])),
                    promised_mib=draw(st.integers(0, 3)),
                    total_mib=draw(SMALL),
                    free_mib=draw(SMALL),
                )
                for n, uuid in enumerate(
                    draw(st.lists(st.sampled_from(uuids), min_size=1, unique=True))
                )
            ),
            maintenance=draw(st.integers(0, 5)) == 0,
            reserved_for=draw(st.none() | st.none() | st.none() | TENANTS),
            tenants=draw(st.sampled_from([frozenset(), {OURS}, {OTHERS}, {OURS, THEIRS}])),
            datacenter_id=SITE,
            rack_id=draw(st.none() | st.sampled_from(RACKS)),
            vlans_free=draw(st.sampled_from([None, None, None, 0, 1])),
        )
        for name in names
    ]
    rules = Rules(
        default=draw(LOADS),
        loads=draw(st.dictionaries(st.sampled_from([SITE, *RACKS, *ids.values()]), LOADS)),
        fit=draw(st.sampled_from(Fit)),
        excluded=draw(st.frozensets(st.just(frozenset({OURS, THEIRS})))),
        restricted=draw(st.sampled_from([frozenset()] * 4 + [frozenset({OURS})])),
    )
    known = st.sampled_from([*ids.values(), UUID(int=99)])  # the last one has gone
    neighbours = st.builds(Neighbour, host=known, affinity=LABELS, anti_affinity=LABELS)
    return Situation(
        hosts=tuple(hosts), rules=rules, neighbours=tuple(draw(st.lists(neighbours, max_size=3)))
    )


def places(n: int) -> st.SearchStrategy[dict[UUID, Wish]]:
    several = st.lists(WISHES, min_size=1, max_size=n)
    return several.map(lambda all_: {UUID(int=9000 + n): each for n, each in enumerate(all_)})


class Bill:
    """The same arithmetic, done in another way: everything is added up anew for each question."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.placed: list[tuple[Wish, UUID, UUID]] = []  # wish, host, uuid of the datastore

    def allows(self, wish: Wish, host: Room) -> bool:
        rules, load = self.situation.rules, load_of(host, self.situation.rules)
        here = [w for w, where, _ in self.placed if where == host.id] + [wish]
        excluded = any({OURS, each} in rules.excluded for each in host.tenants if each != OURS)
        return (
            host.family is wish.family
            and not host.maintenance
            and host.reserved_for in (None, OURS)
            and (OURS not in rules.restricted or host.reserved_for == OURS)
            and not excluded
            and (host.vlans_free is None or wish.vlans <= host.vlans_free)
            and host.cpu_reserved + sum(w.cpu for w in here) <= host.cpu * load.cpu_percent / 100
            and host.ram_reserved_mib + sum(w.ram_mib for w in here)
            <= host.ram_mib * load.ram_percent / 100
        )

    def holds(self, wish: Wish, store: Store) -> bool:
        """Whether the disk fits, by the word of every host that shares the datastore."""
        more = sum(w.disk_mib for w, _, uuid in self.placed if uuid == store.uuid) + wish.disk_mib
        shared = [x for h in self.situation.hosts for x in h.stores if x.uuid == store.uuid]
        return wish.tier in ("", store.tier) and all(
            more <= each.free_mib and more + each.promised_mib <= each.total_mib for each in shared
        )

    def fits(self, wish: Wish, host: Room) -> bool:
        return self.allows(wish, host) and any(self.holds(wish, each) for each in host.stores)

    def put(self, wish: Wish, host: UUID, store: UUID) -> None:
        (room,) = (each for each in self.situation.hosts if each.id == host)
        (where,) = (each for each in room.stores if each.id == store)
        assert self.allows(wish, room)
        assert self.holds(wish, where)
        self.placed.append((wish, host, where.uuid))


def chosen(wishes, situation):
    try:
        return choose_hosts(wishes, situation)
    except NoRoom as refusal:
        return refusal


@given(places(1), situations())
def test_a_vm_is_placed_exactly_where_one_fits(wishes, situation):
    (wish,) = wishes.values()
    somewhere = any(Bill(situation).fits(wish, host) for host in situation.hosts)
    assert isinstance(chosen(wishes, situation), NoRoom) != somewhere


@given(places(6), situations())
def test_whatever_is_placed_nothing_is_over_committed(wishes, situation):
    choices = chosen(wishes, situation)
    if not isinstance(choices, NoRoom):
        assert choices.keys() == wishes.keys()
        bill = Bill(situation)
        for vm, choice in choices.items():
            bill.put(wishes[vm], choice.host, choice.datastore)
            assert choice.because


@given(places(4), situations())
def test_a_refusal_says_of_every_host_why(wishes, situation):
    refusal = chosen(wishes, situation)
    if isinstance(refusal, NoRoom):
        reasons = refusal.details["hosts"]
        assert set(reasons) == {host.name for host in situation.hosts}
        assert all(reasons.values())
        assert refusal.code == "no-room"
        assert UUID(refusal.details["vm"]) in wishes
        assert all(f"{name}: {why}" in str(refusal) for name, why in reasons.items())


@given(places(4), situations(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_and_their_datastores_decides_nothing(wishes, situation, random):
    hosts = [
        host.model_copy(update={"stores": tuple(random.sample(host.stores, len(host.stores)))})
        for host in random.sample(situation.hosts, len(situation.hosts))
    ]
    again = chosen(wishes, situation.model_copy(update={"hosts": tuple(hosts)}))
    first = chosen(wishes, situation)
    if isinstance(first, NoRoom):
        assert isinstance(again, NoRoom)
        assert again.details == first.details
    else:
        assert again == first


@given(places(5), situations())
def test_what_can_be_placed_one_after_the_other_is_placed(wishes, situation):
    """Each where the policy alone would put it, then counted as reserved: that is no less."""
    left, bill = situation, Bill(situation)
    for vm, wish in wishes.items():
        one = chosen({vm: wish}, left)
        if isinstance(one, NoRoom):
            return
        choice = one[vm]
        bill.put(wish, choice.host, choice.datastore)
        left = counted(left, wish, choice)
    assert not isinstance(chosen(wishes, situation), NoRoom)


def counted(situation, wish, choice):
    """The situation as the database would tell it once that is reserved."""
    uuid = next(
        store.uuid
        for host in situation.hosts
        for store in host.stores
        if store.id == choice.datastore
    )
    hosts = tuple(
        host.model_copy(
            update={
                "cpu_reserved": host.cpu_reserved + wish.cpu * (host.id == choice.host),
                "ram_reserved_mib": host.ram_reserved_mib
                + wish.ram_mib * (host.id == choice.host),
                "stores": tuple(
                    store.model_copy(
                        update={
                            "promised_mib": store.promised_mib
                            + wish.disk_mib * (store.uuid == uuid),
                            "free_mib": store.free_mib - wish.disk_mib * (store.uuid == uuid),
                        }
                    )
                    for store in host.stores
                ),
            }
        )
        for host in situation.hosts
    )
    near = Neighbour(host=choice.host, affinity=wish.affinity, anti_affinity=wish.anti_affinity)
    neighbours = (*situation.neighbours, near)
    return situation.model_copy(update={"hosts": hosts, "neighbours": neighbours})


# --- what weighs -------------------------------------------------------------------------------


def host(name: str, **changes) -> Room:
    store = Store(
        id=UUID(int=ord(name)), uuid=UUID(int=ord(name)), directory="/d", total_mib=64, free_mib=64
    )
    fields = {
        "id": UUID(int=1000 + ord(name)),
        "name": name,
        "family": Family.MEMORY,
        "cpu": 4,
        "ram_mib": 64,
        "stores": (store,),
        "datacenter_id": SITE,
    }
    return Room(**{**fields, **changes})


def wish(**changes) -> Wish:
    fields = {"family": Family.MEMORY, "cpu": 1, "ram_mib": 8, "disk_mib": 16, "enterprise": OURS}
    return Wish(**{**fields, **changes})


def names(wishes, hosts, neighbours=(), **rules) -> str:
    """The hosts that are chosen, by their letters."""
    situation = Situation(hosts=tuple(hosts), rules=Rules(**rules), neighbours=tuple(neighbours))
    wanted = {UUID(int=n): each for n, each in enumerate(wishes)}
    by_id = {each.id: each.name for each in hosts}
    found = choose_hosts(wanted, situation)
    return "".join(by_id[found[vm].host] for vm in wanted)


def test_progressive_fills_a_host_before_the_next():
    assert names([wish()] * 5, [host("a"), host("b")], fit=Fit.PROGRESSIVE) == "aaaab"
    half = host("b", cpu_reserved=2)
    assert names([wish()], [host("a"), half], fit=Fit.PROGRESSIVE) == "b"


def test_performance_spreads():
    assert names([wish()] * 4, [host("a"), host("b")], fit=Fit.PERFORMANCE) == "abab"


def test_room_is_what_is_short():
    """CPUs are short here, however much memory there is."""
    hosts = [host("a", cpu=2, ram_mib=10_000), host("b", cpu=4)]
    assert names([wish()], hosts, fit=Fit.PERFORMANCE) == "b"


@pytest.mark.parametrize("fit", Fit)
def test_vms_that_would_be_apart_are_while_there_are_hosts(fit):
    hosts = [host("a"), host("b"), host("c", cpu=0)]
    assert sorted(names([wish(anti_affinity="db")] * 2, hosts, fit=fit)) == ["a", "b"]
    assert {*names([wish(anti_affinity="db")] * 3, hosts, fit=fit)} == {*"ab"}  # none is refused


@pytest.mark.parametrize("fit", Fit)
def test_vms_that_would_be_together_are_while_there_is_room(fit):
    hosts = [host("a"), host("b")]
    near = names([wish(affinity="web")] * 5, hosts, fit=fit)
    assert sorted(near.count(x) for x in "ab") == [1, 4]


def test_those_who_are_there_already_count():
    a, b = host("a"), host("b", cpu_reserved=1)
    there = [Neighbour(host=b.id, affinity="web", anti_affinity="")]
    assert names([wish(affinity="web")], [a, b], there) == "b"
    there = [Neighbour(host=a.id, affinity="", anti_affinity="db")]
    assert names([wish(anti_affinity="db")], [a, b], there) == "b"


def test_the_largest_first_where_their_order_does_not_work_out():
    small, large = wish(cpu=1), wish(cpu=4, ram_mib=9)
    assert names([small, large], [host("a"), host("b")]) == "ab"
    assert names([small, small, large], [host("a"), host("b")]) == "bba"


def test_the_datastore_of_the_tier_with_the_most_room():
    stores = tuple(
        Store(
            id=UUID(int=n), uuid=UUID(int=n), directory=f"/{n}", tier=tier, total_mib=m, free_mib=m
        )
        for n, (tier, m) in enumerate([("", 100), ("gold", 20), ("gold", 30)])
    )
    situation = Situation(hosts=(host("a", stores=stores),), rules=Rules())
    for tier, n in (("", 0), ("gold", 2)):
        (choice,) = choose_hosts({OURS: wish(tier=tier)}, situation).values()
        assert choice.datastore == UUID(int=n)


def test_a_shared_datastore_is_counted_once():
    shared = {"uuid": UUID(int=7), "directory": "/nfs", "total_mib": 40, "free_mib": 40}
    hosts = [host(name, stores=(Store(id=UUID(int=n), **shared),)) for n, name in enumerate("ab")]
    assert names([wish()] * 2, hosts) == "ab"
    with pytest.raises(NoRoom, match="8 MiB disk free, 16 needed"):
        names([wish()] * 3, hosts)


def test_a_percent_is_rounded_down():
    default = Load(cpu_percent=150, ram_percent=100)
    assert names([wish()], [host("a", cpu=1)], default=default) == "a"
    with pytest.raises(NoRoom, match="0 CPUs free, 1 needed"):
        names([wish()] * 2, [host("a", cpu=1)], default=default)


def test_no_more_is_promised_to_disks_than_there_is():
    store = Store(id=OURS, uuid=OURS, directory="/d", total_mib=64, free_mib=64, promised_mib=40)
    with pytest.raises(NoRoom, match="8 MiB disk free, 16 needed"):
        names([wish()] * 2, [host("a", stores=(store,))])


def test_of_a_shared_datastore_the_worst_news_count():
    stores = [
        Store(id=UUID(int=n), uuid=UUID(int=7), directory="/nfs", total_mib=40, free_mib=free)
        for n, free in enumerate([40, 8, 40])
    ]
    hosts = [host(name, stores=(store,)) for name, store in zip("abc", stores, strict=True)]
    with pytest.raises(NoRoom, match="8 MiB disk free, 16 needed"):
        names([wish()], hosts)


@pytest.mark.parametrize("fit", Fit)
def test_equals_are_told_apart_by_name_and_id(fit):
    stores = tuple(
        Store(id=UUID(int=n), uuid=UUID(int=n), directory="/d", total_mib=64, free_mib=64)
        for n in (1, 2)
    )
    hosts = [host("a", stores=stores), host("b", stores=stores)]
    turned = [host(x, stores=stores[::-1]) for x in "ba"]
    for some in (hosts, turned):
        situation = Situation(hosts=tuple(some), rules=Rules(fit=fit))
        (choice,) = choose_hosts({OURS: wish()}, situation).values()
        assert (choice.host, choice.datastore) == (hosts[0].id, UUID(int=2))


def test_the_most_specific_load_rule_holds():
    rack = host("a", rack_id=RACKS[0])
    loads = {
        SITE: Load(cpu_percent=1, ram_percent=1),
        RACKS[0]: Load(cpu_percent=2, ram_percent=2),
        rack.id: Load(cpu_percent=3, ram_percent=3),
    }
    default = Load(cpu_percent=4, ram_percent=4)
    for percent, about in ((3, rack.id), (2, RACKS[0]), (1, SITE), (4, None)):
        assert load_of(rack, Rules(default=default, loads=loads)).cpu_percent == percent
        loads.pop(about, None)


# --- what is said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"family": Family.KVM}, "runs kvm, not memory"),
        ({"firmwares": frozenset({Firmware.BIOS})}, "starts no VM by efi"),
        ({"maintenance": True}, "is in maintenance"),
        ({"reserved_for": THEIRS}, "is reserved for another enterprise"),
        ({"tenants": frozenset({OTHERS})}, "has VMs that the enterprise must not share a host"),
        ({"vlans_free": 0, "rack": "r"}, "0 VLANs free in rack r, 1 needed"),
        ({"rack_id": RACKS[0]}, "takes no new VMs, by a load rule"),
        ({"stores": ()}, "has no datastore"),
        ({"stores": (), "silent": "does not answer: gone"}, "does not answer: gone"),
        ({"cpu_reserved": 4}, "0 CPUs free, 1 needed"),
        ({"cpu_reserved": 9}, "0 CPUs free, 1 needed"),
        ({"ram_reserved_mib": 60}, "4 MiB RAM free, 8 needed"),
    ],
)
def test_each_reason_has_its_words(changes, why):
    can = {"firmwares": frozenset(Firmware)}
    rules = {
        "loads": {RACKS[0]: Load(cpu_percent=0, ram_percent=100)},
        "excluded": frozenset({frozenset({OURS, OTHERS})}),
    }
    with pytest.raises(NoRoom) as refused:
        names([wish(vlans=1, firmware="efi")], [host("a", **{**can, **changes})], **rules)
    assert refused.value.details["hosts"]["a"].startswith(why)
    assert refused.value.waits == ("silent" in changes)


def test_who_is_restricted_gets_reserved_hosts_alone():
    hosts = [host("a"), host("b", reserved_for=OURS)]
    assert names([wish()] * 2, hosts, restricted=frozenset({OURS})) == "bb"
    with pytest.raises(NoRoom, match="a: is not reserved for the enterprise"):
        names([wish()], hosts[:1], restricted=frozenset({OURS}))


def test_a_silent_host_without_room_is_not_waited_for():
    with pytest.raises(NoRoom) as refused:
        names([wish()], [host("a", silent="away", stores=(), cpu=0)])
    assert not refused.value.waits


def test_a_choice_says_why():
    situation = Situation(hosts=(host("a"), host("b", cpu=1)), rules=Rules())
    (choice,) = choose_hosts({OURS: wish(anti_affinity="db")}, situation).values()
    assert choice.because == (
        "a: 0 of db are there; room for 4 like it, the most (performance); 64 MiB free in /d"
    )


def test_without_hosts_the_refusal_says_so():
    with pytest.raises(NoRoom, match="there are no hosts"):
        names([wish()], [])


NETWORKED = {  # a host, a VM, and why they do not fit
    "has no uplink for networks": ({"unlinked": "has no uplink for networks"}, {"linked": True}),
    "rack r does not carry VLAN 120": (
        {"rack": "r", "vlans": frozenset({110})},
        {"tags": frozenset({110, 120})},
    ),
    "has no 8021q": ({"untagged": "has no 8021q"}, {"tagged": True, "vlans": 1}),
    "not even that one": (
        {"untagged": "not even that one", "wired": frozenset({7})},
        {"tags": frozenset({8})},
    ),
}


@pytest.mark.parametrize("reason", NETWORKED)
def test_a_host_without_a_vms_networks_says_why(reason):
    host, wish = NETWORKED[reason]
    store = Store(id=UUID(int=1), uuid=UUID(int=2), directory="/d", total_mib=9, free_mib=9)
    room = Room(
        id=UUID(int=3), name="h", family=Family.KVM, cpu=9, ram_mib=9, stores=(store,)
    )  # fmt: skip
    wanted = Wish(family=Family.KVM, cpu=1, ram_mib=1, disk_mib=1)
    rules = Rules()

    def chosen(room: Room, wish: Wish) -> object:
        return choose_hosts({UUID(int=4): wish}, Situation(hosts=(room,), rules=rules))

    unfit, asking = room.model_copy(update=host), wanted.model_copy(update=wish)
    assert chosen(unfit, wanted)
    assert chosen(room, asking)
    with pytest.raises(NoRoom, match=reason):
        chosen(unfit, asking)
