"""Undeploy an appliance: each VM after those that depend on it. Forward-only."""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from flows.lanes import Lane, lanes
from flows.operation import operation
from flows.policies.layers import layers_of
from flows.undeploy_vm import survey_deployed, tear_down
from flows.vm_networks import leave_servers


@operation("appliance", planned=True)
def undeploy_appliance(request: Operation) -> None:
    """Take every deployed VM off its host, in lanes, dependents first; volumes stay."""
    vms = survey_deployed(request.target_id, [UUID(vm) for vm in request.arguments["vms"]])
    layers = reversed(layers_of(vms))
    lanes(*[[Lane(vm.name, vm.host, partial(tear_down, vm)) for vm in x] for x in layers])
    leave_servers(vms)
