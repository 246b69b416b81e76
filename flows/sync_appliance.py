"""Bring a deployed appliance in line with what it is made of by now; the other VMs stay untouched.

What leaves goes last, when all else is done: until then there is a way back.
"""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import VmRecord
from flows.cloud import cloud
from flows.deploy_appliance import bring_all_up
from flows.lanes import Lane, lanes
from flows.operation import operation
from flows.planning import planner
from flows.policies.layers import layers_of
from flows.running import this_saga
from flows.steps import Effect, step
from flows.undeploy_vm import tear_down
from flows.vm_networks import leave_servers


@operation("appliance", planned=True)
def sync_appliance(request: Operation) -> None:
    """Bring up the VMs that are new, as in a deployment; then take away those that leave."""
    leaving = survey_leaving(request.target_id, [UUID(x) for x in request.arguments["leaving"]])
    if request.arguments["vms"]:
        bring_all_up(request)
    if planner() or not this_saga().lost:  # else it is not in line, and all that is up is kept
        take_away(leaving, request.target_id)


def take_away(vms: list[VmRecord], appliance: UUID) -> None:
    """Take VMs off their hosts, in lanes, dependents first; then strike them."""
    layers = reversed(layers_of([vm for vm in vms if vm.host_id]))
    lanes(*[[Lane(vm.name, vm.host, partial(tear_down, vm)) for vm in x] for x in layers])
    leave_servers(vms)
    strike_vms(appliance, [vm.id for vm in vms])


@step("survey-leaving")
def survey_leaving(target: UUID, vms: list[UUID]) -> list[VmRecord]:
    return cloud.inventory.vms(vms)


survey_leaving.plan(survey_leaving.do)


@step("strike-vms", Effect.REMOVES)
def strike_vms(target: UUID, vms: list[UUID]) -> None:
    cloud.inventory.strike(vms)


@strike_vms.look
def _(target: UUID, vms: list[UUID]) -> bool:
    return cloud.inventory.are_there(vms)
