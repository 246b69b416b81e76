"""Deploy an appliance: all of its VMs, or none."""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from flows.deploy_vm import bring_up, prepare
from flows.operation import operation
from flows.policies.layers import layers_of
from flows.reserve_host import reserve_host
from flows.saga import lanes
from flows.survey import survey_vm


@operation("appliance")
def deploy_appliance(request: Operation) -> None:
    """Reserve every VM's host, prepare images and volumes, then bring the VMs up in lanes."""
    wanted = [UUID(vm) for vm in request.arguments["vms"]]
    for vm in wanted:
        reserve_host(vm)
    vms = [survey_vm(vm) for vm in wanted]
    prepare(vms, request.id)
    lanes(*[{vm.name: partial(bring_up, vm) for vm in layer} for layer in layers_of(vms)])
