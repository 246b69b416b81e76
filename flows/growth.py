"""What a VM that has a host is to use more of is charged before it is given."""

from uuid import UUID

from adapters.amounts import Amounts, Charge, Force
from flows.charges import charge
from flows.cloud import cloud
from flows.planning import planning
from flows.steps import step


@step("charge-growth")
def charge_growth(vm: UUID, uses: Amounts, former: Amounts, force: Force | None) -> None:
    """Charge a VM that has a host as much as it is to use."""
    charge(grown(vm, uses), force)


@charge_growth.plan
def _(vm: UUID, uses: Amounts, former: Amounts, force: Force | None) -> None:
    planning().charge(grown(vm, uses), force)


@charge_growth.undo
def _(vm: UUID, uses: Amounts, former: Amounts, force: Force | None) -> None:
    cloud.ledger.lower(grown(vm, former))


@charge_growth.look
def _(vm: UUID, uses: Amounts, former: Amounts, force: Force | None) -> bool:
    charged = cloud.ledger.charged(grown(vm, uses))
    return any(each.amounts.has_grown(former, uses) for each in charged)


def grown(vm: UUID, uses: Amounts) -> list[Charge]:
    """What a VM is charged that uses so much."""
    return [x.model_copy(update={"amounts": uses}) for x in cloud.ledger.of_vms([vm])]
