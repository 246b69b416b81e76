"""What is limited: amounts of resources, what they are charged for, and levels that limit them."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from adapters.types import Value

Amount = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Level(StrEnum):
    """Where use is limited, the widest first: each lies within the one before."""

    ENTERPRISE = "enterprise"
    DATACENTER = "datacenter"  # of an enterprise in a datacenter
    VIRTUAL_DATACENTER = "virtual-datacenter"


class Amounts(Value):
    """How much of each resource; as a limit, 0 is none."""

    cpu: Amount = 0
    ram_mib: Amount = 0
    disk_mib: Amount = 0  # on hosts' datastores
    storage_mib: Amount = 0  # volumes
    vlans: Amount = 0
    public_addresses: Amount = 0
    repository_mib: Amount = 0  # templates, which no virtual datacenter has

    def __add__(self, other: Self) -> Self:
        """Both together."""
        return self.model_copy(update={name: getattr(other, name) + n for name, n in self})

    def beyond(self, other: Self) -> Self:
        """What there is more of here than there."""
        return self.model_copy(update={k: max(0, n - getattr(other, k)) for k, n in self})

    def has_grown(self, former: Self, wanted: Self) -> bool:
        """Whether there is as much here as is wanted of what there was less of."""
        return all(getattr(self, k) >= n for k, n in wanted if n > getattr(former, k))

    def items(self) -> Iterator[tuple[str, int]]:
        """Each resource with its amount, in order."""
        return iter(self)


class Charge(Value):
    """What one thing (`kind` and `id`) uses, and where it counts."""

    kind: str
    id: UUID
    enterprise_id: UUID
    datacenter_id: UUID
    virtual_datacenter_id: UUID | None
    amounts: Amounts

    @property
    def holders(self) -> dict[Level, UUID]:
        """Whose limits it counts for."""
        found = {Level.ENTERPRISE: self.enterprise_id, Level.DATACENTER: self.datacenter_id}
        if self.virtual_datacenter_id:
            found[Level.VIRTUAL_DATACENTER] = self.virtual_datacenter_id
        return found


class Standing(Value):
    """How one level stands: its limits, what is used, and how much more is asked for."""

    level: Level
    id: UUID
    soft: Amounts = Amounts()
    hard: Amounts = Amounts()
    used: Amounts = Amounts()
    more: Amounts = Amounts()


class Force(Value):
    """Who passes soft limits, and why."""

    by: str
    reason: str
