"""Reset a VM that is on, as its button would: at most once, for nothing undoes or proves it."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.hypervisors.base import Capability
from adapters.types import Power
from flows.abilities import require_ability
from flows.cloud import cloud
from flows.operation import operation
from flows.steps import Effect, step


@operation("vm")
def reset_vm(request: Operation) -> None:
    """Start the VM anew, without asking its guest."""
    require_ability(request.target_id, Capability.RESET)
    press_reset(request.target_id, cloud.inventory.vm(request.target_id).host)


@step("press-reset", Effect.ONCE)
def press_reset(vm: UUID, host: UUID) -> None:
    cloud.hypervisor(host).reset(vm)


@press_reset.look
def _(vm: UUID, host: UUID) -> bool:
    """Whether the VM is on, as it is before and after: of the reset itself nothing is left."""
    return cloud.hypervisor(host).power(vm) is Power.ON
