"""Giving a VM up (`on_failure: keep`): its lane alone is undone, the others go on."""

from uuid import UUID

from adapters.database.operations import LeaseLost
from adapters.database.records import VmRecord
from adapters.errors import Refused, problem_of
from adapters.lan import WaitFor
from adapters.types import Failure
from flows.cloud import cloud
from flows.deploy_vm import bring_up
from flows.planning import planner
from flows.running import this_saga
from flows.steps import Effect, step
from flows.vm_networks import give_networks_up


def bring_up_or_give_up(vm: VmRecord, waits: WaitFor | None = None) -> None:
    """Bring the VM up; where that fails, or it depends on a lost one, give it up.

    Once that has begun it is gone through with: a resumed run does not try the VM again.
    """
    if planner():
        bring_up(vm, waits)
        return
    saga = this_saga()
    if failure := _begun(vm) or _waits_in_vain(vm) or _failure_of(vm, waits):
        saga.lost[vm.name] = failure
        try:
            give_up_vm(vm.id, failure)
        except LeaseLost:
            raise
        except Exception as refusal:  # noqa: BLE001 - the operation is stuck at it, in the end
            saga.runner.check()
            saga.refusal = refusal


def end_with_what_is_up(vms: list[VmRecord]) -> None:
    """Let the operation end as failed, but keep what is up; if nothing is, all is undone."""
    if planner():
        return
    saga = this_saga()
    if not saga.lost or saga.refusal:
        return
    lost = [saga.lost[vm.name] for vm in vms if vm.name in saga.lost]
    kept = len(vms) - len(lost)
    told = "; ".join(f"{each.name}: {each.detail}" for each in lost)
    code = "partly-deployed" if kept else "nothing-deployed"
    error = Refused(f"{kept} of {len(vms)} VMs are up, {told}", code=code)
    error.details = {"vms": [each.model_dump() for each in lost]}
    if not kept:
        raise error
    saga.partly = error


def _begun(vm: VmRecord) -> Failure | None:
    line = this_saga().intent(f"{give_up_vm.name}[{vm.id}]")
    return Failure.model_validate(line.arguments["failure"]) if line else None


def _waits_in_vain(vm: VmRecord) -> Failure | None:
    lost = ", ".join(name for name in vm.depends_on if name in this_saga().lost)
    if not lost:
        return None
    return Failure(name=vm.name, code="depends-on-failed", detail=f"depends on {lost}")


def _failure_of(vm: VmRecord, waits: WaitFor | None) -> Failure | None:
    """Bring the VM up, or say why not; for one that was stopped, `give_up_vm` does not begin."""
    try:
        bring_up(vm, waits)
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, only this VM is lost
        problem = problem_of(error)
        return Failure(name=vm.name, code=problem["code"], detail=problem["detail"])
    return None


@step("give-up-vm", Effect.STAYS)
def give_up_vm(vm: UUID, failure: Failure) -> None:
    """Undo what its lane has done, give its host back, refund it; the intent keeps why."""
    this_saga().undo_lane(but=give_up_vm.name)
    if (record := cloud.inventory.vm(vm)).host_id:
        give_networks_up(record)
    cloud.inventory.free([vm])
    cloud.ledger.refund("vm", [vm])


@give_up_vm.undo
def _(vm: UUID, failure: Failure) -> None:
    """Leave the host free: on the way back every VM's host is given back."""


@give_up_vm.look
def _(vm: UUID, failure: Failure) -> bool:
    return not (cloud.inventory.have_host([vm]) or cloud.ledger.has("vm", [vm]))
