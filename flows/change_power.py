"""Switch a deployed VM on or off, pause it, or let it go on."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.hypervisors.base import Capability
from adapters.types import Power, VmState
from flows.abilities import require_ability
from flows.cloud import cloud
from flows.operation import operation
from flows.policies.lifecycle import power_of, state_of
from flows.steps import step
from flows.vm_networks import ready_cards


@operation("vm")
def change_power(request: Operation) -> None:
    """Switch the VM, and record its state."""
    vm = cloud.inventory.vm(request.target_id)
    former, wanted = VmState(request.arguments["former"]), Power(request.arguments["power"])
    if wanted is Power.PAUSED:
        require_ability(vm.id, Capability.PAUSE)
    switch_vm(vm.id, vm.host, wanted, power_of(former))
    record_state(vm.id, state_of(wanted), former)


@step("switch-vm")
def switch_vm(vm: UUID, host: UUID, power: Power, former: Power) -> None:
    if power is Power.ON:
        ready_cards(vm)
    cloud.hypervisor(host).set_power(vm, power, timeout_s=cloud.settings.power_off_timeout_s)


@switch_vm.undo
def _(vm: UUID, host: UUID, power: Power, former: Power) -> None:
    if former is not Power.OFF:
        ready_cards(vm)
    hypervisor = cloud.hypervisor(host)
    if former is Power.PAUSED and hypervisor.power(vm) is Power.OFF:
        hypervisor.set_power(vm, Power.ON, timeout_s=0)  # what is off is not paused
    hypervisor.set_power(vm, former, timeout_s=0)


@switch_vm.look
def has_power(vm: UUID, host: UUID, power: Power, former: Power) -> bool:
    """Whether the hypervisor says so."""
    return cloud.hypervisor(host).power(vm) is power


@step("record-state")
def record_state(vm: UUID, state: VmState, former: VmState) -> None:
    cloud.inventory.set_state(vm, state)


@record_state.undo
def _(vm: UUID, state: VmState, former: VmState) -> None:
    cloud.inventory.set_state(vm, former)


@record_state.look
def _(vm: UUID, state: VmState, former: VmState) -> bool:
    return cloud.inventory.state(vm) is state
