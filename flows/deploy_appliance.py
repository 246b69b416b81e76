"""Deploy an appliance: all of its VMs, or none; with `on_failure: keep`, those that come up."""

from functools import partial
from uuid import UUID

from adapters.database.operations import Operation
from adapters.types import OnFailure
from flows.charges import charge_vms
from flows.deploy_vm import bring_up, prepare, waits_for
from flows.give_up import bring_up_or_give_up, end_with_what_is_up
from flows.lanes import Lane, lanes
from flows.operation import operation
from flows.policies.layers import layers_of
from flows.reserve_host import reserve_hosts
from flows.survey import survey_vms
from flows.vm_networks import join_networks


@operation("appliance", planned=True)
def deploy_appliance(request: Operation) -> None:
    """Charge all, reserve hosts, prepare images, volumes, networks; bring the VMs up in lanes."""
    bring_all_up(request)


def bring_all_up(request: Operation) -> None:
    """Bring up the VMs that are asked for: all of them, or those that come up."""
    wanted = [UUID(vm) for vm in request.arguments["vms"]]
    charge_vms(request.target_id, wanted, request.force)
    reserve_hosts(request.target_id, wanted)
    vms = survey_vms(request.target_id, wanted)
    prepare(vms, request)
    join_networks(vms)
    keep = request.arguments.get("on_failure") == OnFailure.KEEP
    up = bring_up_or_give_up if keep else bring_up
    waits = waits_for(request)
    lanes(*[[Lane(vm.name, vm.host, partial(up, vm, waits)) for vm in x] for x in layers_of(vms)])
    end_with_what_is_up(vms)
