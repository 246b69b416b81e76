"""Growth: only what comes on top has to fit, at the VM's own host and in its own datastore."""

from uuid import uuid4

import pytest

from adapters.allocation import Load, Room, Rules, Situation, Store
from adapters.amounts import Amounts
from adapters.types import Family
from flows.policies.growth import require_room
from flows.policies.placement import NoRoom

VM, HOST = uuid4(), uuid4()
STORE = Store(
    id=uuid4(), uuid=uuid4(), directory="/disks", promised_mib=60, total_mib=100, free_mib=90
)
ROOM = Room(
    id=HOST,
    name="one",
    family=Family.MEMORY,
    cpu=4,
    ram_mib=100,
    cpu_reserved=3,
    ram_reserved_mib=90,
    stores=(STORE,),
)


def refusal(more: Amounts, directory: str = "/disks", **changes: object) -> str:
    other = ROOM.model_copy(update={"id": uuid4(), "cpu_reserved": 0, "ram_reserved_mib": 0})
    room = ROOM.model_copy(update=changes)
    now = Situation(hosts=(other, room), rules=Rules(loads={HOST: _load(200, 100)}))
    try:
        require_room(VM, HOST, directory, more, now)
    except NoRoom as error:
        return str(error.details["hosts"]["one"])
    return ""


def _load(cpu: int, ram: int) -> Load:
    return Load(cpu_percent=cpu, ram_percent=ram)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (Amounts(cpu=5, ram_mib=10, disk_mib=40), ""),
        (Amounts(cpu=6), "5 CPUs free, 6 more needed"),
        (Amounts(ram_mib=11), "10 MiB RAM free, 11 more needed"),
        (Amounts(disk_mib=41), "40 MiB disk free, 41 more needed"),
    ],
)
def test_what_comes_on_top_has_to_fit(more: Amounts, why: str) -> None:
    assert refusal(more) == why


def test_what_is_not_more_fits_where_too_much_was_given_away() -> None:
    over = {"cpu_reserved": 9, "ram_reserved_mib": 200}
    assert not refusal(Amounts(disk_mib=1), **over)
    assert refusal(Amounts(cpu=1), **over) == "0 CPUs free, 1 more needed"


def test_a_datastore_that_takes_nothing_new_has_no_room() -> None:
    assert refusal(Amounts(disk_mib=1), stores=()) == "0 MiB disk free, 1 more needed"
    assert not refusal(Amounts(cpu=1), stores=())
