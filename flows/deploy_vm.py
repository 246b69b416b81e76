"""Deploy one VM: placed, its disks made, defined, its volumes connected, switched on."""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import Conversion, VmRecord
from adapters.lan import WaitFor
from adapters.types import Power, Vm, VmState
from flows.attach_volume import plug_in
from flows.change_power import record_state, switch_vm
from flows.charges import charge_vms, charge_volume
from flows.cloud import cloud
from flows.conversions import convert
from flows.create_iscsi_volume import carve
from flows.lanes import Lane, lanes
from flows.leases import await_leases
from flows.operation import operation
from flows.policies.conversion import needed_form
from flows.reserve_host import reserve_hosts
from flows.screens import opens
from flows.seeds import make_seed, require_seeds
from flows.steps import step
from flows.survey import survey_vm
from flows.vm_disks import make_disks
from flows.vm_networks import join_networks


@operation("vm", planned=True)
def deploy_vm(request: Operation) -> None:
    """Charge it, reserve a host, prepare images, volumes and networks, make the disks, start."""
    charge_vms(request.target_id, [request.target_id], request.force)
    reserve_hosts(request.target_id, [request.target_id])
    vm = survey_vm(request.target_id)
    prepare([vm], request)
    join_networks([vm])
    lanes([Lane("", vm.host, partial(bring_up, vm, waits_for(request)))])


def prepare(vms: list[VmRecord], request: Operation) -> None:
    """Carve the volumes that are only written down; convert, once each, what does not boot."""
    require_seeds(vms)
    for volume in (volume for vm in vms for volume in vm.volumes):
        if not volume.carved:
            charge_volume(volume, request.force)
            carve(volume)
    wanted: dict[UUID, Conversion] = {}
    for vm in vms:
        for disk in vm.local_disks:
            if disk.image and (form := needed_form(vm.family, disk.image.form)):
                made = Conversion.to(form, disk.image, vm.datacenter_id)
                wanted[made.id] = made
    for conversion in wanted.values():
        convert(conversion, request.id)


def waits_for(request: Operation) -> WaitFor | None:
    """What a deployment was asked to wait for, whatever its VMs say."""
    wanted = request.arguments.get("wait_for")
    return WaitFor(wanted) if wanted else None


def bring_up(vm: VmRecord, waits: WaitFor | None = None) -> None:
    """Make a VM that has a host run there."""
    bases = make_disks(vm)
    if vm.seed:
        make_seed(vm.seed, vm.host)
    define_vm(vm.definition(bases), vm.host)
    for volume in vm.volumes:
        plug_in(volume, vm)
    switch_vm(vm.id, vm.host, Power.ON, Power.OFF)
    if (waits or vm.wait_for) is WaitFor.LEASE and vm.promised:
        await_leases(vm.id, vm.promised)
    record_state(vm.id, VmState.ON, VmState.ALLOCATED)


@step("define-vm")
def define_vm(vm: Vm, host: UUID) -> None:
    cloud.hypervisor(host).ensure_vm(vm, opens(vm))


@define_vm.undo
def _(vm: Vm, host: UUID) -> None:
    cloud.hypervisor(host).delete_vm(vm.id)


@define_vm.look
def _(vm: Vm, host: UUID) -> bool:
    return cloud.hypervisor(host).has_vm(vm)
