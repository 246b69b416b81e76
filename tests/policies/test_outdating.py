"""What has changed since a plan was shown, in words."""

from uuid import UUID

import pytest

from adapters.amounts import Amounts, Charge
from adapters.plans import Copy, Outlook, Placement, PlannedStep
from flows.policies.outdating import PlanOutdated, require_as_shown

VM, HOST, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
MAKE = PlannedStep(name="make-disk", what="d", lane="db", digest="1")
DEFINE = PlannedStep(name="define-vm", what="v", lane="db", digest="1")
CHARGE = Charge(
    kind="vm",
    id=VM,
    enterprise_id=HOST,
    datacenter_id=HOST,
    virtual_datacenter_id=None,
    amounts=Amounts(cpu=1),
)


def there(host: UUID, name: str) -> dict[UUID, Placement]:
    where = {"host": host, "datastore": host, "host_name": name, "directory": "/", "because": ""}
    return {VM: Placement(**where, name="db")}


SHOWN = Outlook(
    steps=(MAKE, DEFINE),
    placement=there(HOST, "one"),
    copies=(Copy(what="base", size_bytes=8),),
    charges=(CHARGE,),
    seen={"vm db": {"cpu": "1"}},
)


def changed(**changes) -> list[str]:
    with pytest.raises(PlanOutdated) as refusal:
        require_as_shown(SHOWN, SHOWN.model_copy(update=changes))
    assert refusal.value.code == "plan-outdated"
    return refusal.value.details["changed"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"copies": ()}, {"copies": (Copy(what="base", size_bytes=7),)}],
)
def test_what_stays_and_less_to_copy_is_no_change(changes):
    require_as_shown(SHOWN, SHOWN.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"placement": there(OTHER, "two")}, "db would go to two, not to one"),
        ({"placement": {}}, "db would not be placed any more"),
        ({"copies": (Copy(what="base", size_bytes=9),)}, "9 bytes would be copied for base"),
        ({"copies": (Copy(what="x", size_bytes=1),)}, "1 bytes would be copied for x"),
        ({"charges": ()}, f"vm {VM} would not be charged"),
        (
            {"charges": (CHARGE.model_copy(update={"amounts": Amounts(cpu=2)}),)},
            f"vm {VM} would be charged cpu 2, not 1",
        ),
        ({"seen": {"vm db": {"cpu": "2"}}}, "vm db: cpu is 2, was 1"),
        ({"steps": (MAKE,)}, "define-vm[v] of db would not be done"),
        (
            {"steps": (MAKE, DEFINE, MAKE.model_copy(update={"what": "e"}))},
            "make-disk[e] of db would be done, too",
        ),
        (
            {"steps": (MAKE, DEFINE.model_copy(update={"digest": "2"}))},
            "define-vm[v] of db would be told something else",
        ),
        ({"steps": (DEFINE, MAKE)}, "steps would be in another order"),
    ],
)
def test_what_would_be_otherwise_is_told(changes, told):
    assert changed(**changes) == [told]


def test_much_is_summed_up():
    steps = tuple(MAKE.model_copy(update={"what": str(n)}) for n in range(30))
    told = changed(steps=steps)
    assert len(told) == 21
    assert told[-1] == "and 12 more"
