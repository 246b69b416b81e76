"""What only some hypervisors can do, asked for before anything is begun: by ability, not type."""

from uuid import UUID

from adapters.errors import Unsupported
from adapters.hypervisors.base import Capability
from flows.cloud import cloud

__all__ = ["Capability", "require_ability"]


def require_ability(vm: UUID, ability: Capability) -> None:
    """Raise `Unsupported` where the VM's host cannot do that."""
    record = cloud.inventory.vm(vm)
    if ability not in cloud.hypervisor(record.host).capabilities:
        raise Unsupported(f"the host of VM {record.name} has no {ability}")
