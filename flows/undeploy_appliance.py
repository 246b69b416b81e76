"""Undeploy an appliance: each VM after those that depend on it. Forward-only."""

from functools import partial

from adapters.database.operations import Operation
from flows.cloud import cloud
from flows.operation import operation
from flows.policies.layers import layers_of
from flows.saga import lanes
from flows.undeploy_vm import tear_down


@operation("appliance")
def undeploy_appliance(request: Operation) -> None:
    """Take every deployed VM off its host, in lanes, dependents first; volumes stay."""
    deployed = set(request.arguments["vms"])
    vms = [vm for vm in cloud.inventory.vms_of(request.target_id) if str(vm.id) in deployed]
    layers = reversed(layers_of(vms))
    lanes(*[{vm.name: partial(tear_down, vm.id) for vm in layer} for layer in layers])
