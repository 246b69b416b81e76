"""Undeploy a VM. Forward-only: its disks go, its volumes stay."""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from adapters.errors import Conflict
from adapters.types import Base, Disk, Power
from flows.attach_volume import export_for
from flows.charges import refund_vm
from flows.cloud import cloud
from flows.detach_volume import end_export
from flows.lanes import Lane, lanes
from flows.operation import operation
from flows.planning import planning
from flows.seeds import remove_seed
from flows.steps import Effect, step
from flows.vm_disks import base_held, delete_disk, has_disk, release_base
from flows.vm_networks import leave_host, leave_servers


@operation("vm", planned=True)
def undeploy_vm(request: Operation) -> None:
    """Stop the VM, forget its definition, end its exports, remove its disks, free its host."""
    for vm in survey_deployed(request.target_id, [request.target_id]):
        lanes([Lane("", vm.host, partial(tear_down, vm))])
        leave_servers([vm])


def tear_down(vm: VmRecord) -> None:
    """Take a VM off its host."""
    stop_vm(vm.id, vm.host)
    undefine_vm(vm.id, vm.host)
    for volume in vm.volumes:
        end_export(export_for(volume.id, vm), volume.pool_id, vm.id)
    for record in vm.local_disks:
        remove_disk(vm.disk(record), vm.host)
        if record.base:
            leave_base(record.id, vm.id, record.base, vm.host)
    if vm.seed:
        remove_seed(vm.seed, vm.host)
    leave_host(vm)
    free_host(vm.id)
    refund_vm(vm.id)


@step("survey-deployed")
def survey_deployed(target: UUID, vms: list[UUID]) -> list[VmRecord]:
    """The VMs while all have a host: one that was freed tells no more where it was."""
    found = cloud.inventory.vms(vms)
    for vm in found:
        if vm.host_id is None:
            raise Conflict(f"VM {vm.name} has no host", code="not-allocated")
    return found


@survey_deployed.plan
def _(target: UUID, vms: list[UUID]) -> list[VmRecord]:
    return [planning().placed(vm) for vm in survey_deployed.do(target, vms)]


@step("stop-vm", Effect.REMOVES)
def stop_vm(vm: UUID, host: UUID) -> None:
    cloud.hypervisor(host).set_power(vm, Power.OFF, timeout_s=cloud.settings.power_off_timeout_s)


@stop_vm.look
def _(vm: UUID, host: UUID) -> bool:
    return cloud.hypervisor(host).power(vm) in {Power.ON, Power.PAUSED}


@step("undefine-vm", Effect.REMOVES)
def undefine_vm(vm: UUID, host: UUID) -> None:
    cloud.hypervisor(host).delete_vm(vm)


@undefine_vm.look
def _(vm: UUID, host: UUID) -> bool:
    return cloud.hypervisor(host).power(vm) is not None


@step("remove-disk", Effect.REMOVES)
def remove_disk(disk: Disk, host: UUID) -> None:
    delete_disk(disk, host)


@remove_disk.look
def _(disk: Disk, host: UUID) -> bool:
    return has_disk(disk, host)


@step("leave-base", Effect.REMOVES)
def leave_base(disk: UUID, vm: UUID, base: Base, host: UUID) -> None:
    release_base(disk, base, host)


@leave_base.look
def _(disk: UUID, vm: UUID, base: Base, host: UUID) -> bool:
    return base_held(disk, base, host)


@step("free-host", Effect.REMOVES)
def free_host(vm: UUID) -> None:
    cloud.inventory.free([vm])


@free_host.look
def _(vm: UUID) -> bool:
    return cloud.inventory.have_host([vm])
