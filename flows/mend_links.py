"""Give hosts back what VMs have claimed of them: a bridge that was deleted by hand, a lost guard.

VMs that are concerned are under this operation until it ends; what others have is theirs.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from uuid import UUID

from adapters.database.operations import LeaseLost, Operation
from adapters.errors import AdapterError
from adapters.types import Finding
from flows.cloud import cloud
from flows.host_differences import HostDifference, difference, told
from flows.operation import operation
from flows.running import running
from flows.steps import Effect, step
from flows.upkeep import publish_report


@operation("datacenter", every=timedelta(minutes=15))
def mend_links(request: Operation) -> None:
    """Compare hosts with their VMs' networks; mend the difference if wanted, and tell it."""
    datacenter = request.datacenter_id
    found = [compare_host(host) for host in survey_linked_hosts(datacenter)]
    report = [x for each in found for x in told(each)]
    if not request.arguments.get("dry_run"):
        report += [mend_host(x, datacenter) for x in hold_concerned(datacenter, found)]
    publish_report(request.kind, datacenter, report)


@step("survey-linked-hosts")
def survey_linked_hosts(datacenter: UUID) -> list[UUID]:
    hosts = [load.id for load in cloud.inventory.loads(datacenter)]
    return [host for host in hosts if cloud.inventory.uplink(host)]


@step("compare-host")
def compare_host(host: UUID) -> HostDifference:
    """Ask the host; then which of its VMs no operation has had meanwhile."""
    try:
        found = difference(host, cloud.lans.idle_at(host))
    except AdapterError as error:
        return _away(host, error)
    return found.of({vm.id for vm in cloud.lans.idle_at(host)}) if found.lost else found


@step("hold-concerned")
def hold_concerned(datacenter: UUID, found: list[HostDifference]) -> list[HostDifference]:
    """Lock the VMs, so that no operation begins with one; then look once more what they lack."""
    seen = [_held(each) for each in found]
    return [each for each in seen if each.lost]


@step("mend-host", Effect.REMOVES)
def mend_host(found: HostDifference, datacenter: UUID) -> Finding:
    """Make links whole, guard cards, put them back; what a host refuses is told."""
    refusals = [said for each in _ways_back(found) if (said := _refusal(each))]
    state = "not mended" if refusals else "mended"
    return Finding(what="host", name=found.name, state=state, detail="; ".join(refusals))


@mend_host.look
def _(found: HostDifference, datacenter: UUID) -> bool:
    """Whether anything of it is still so."""
    switch = cloud.switch(found.host)
    return any(
        not all(map(switch.has_link, each.links))
        or not switch.has_guards(each.guards)
        or any(switch.loose(some.link, some.nics) for some in each.loose)
        for each in found.lost
    )


def _ways_back(found: HostDifference) -> Iterator[Callable[[], None]]:
    """What gives it all back: guards before the cards that they are for."""
    switch = cloud.switch(found.host)
    for link in dict.fromkeys(link for each in found.lost for link in each.links):
        yield partial(switch.ensure_link, link)
    if guards := [guard for each in found.lost for guard in each.guards]:
        yield partial(switch.ensure_guards, guards)
    for some in (some for each in found.lost for some in each.loose):
        yield partial(switch.plug, some.link, some.nics)


def _refusal(mend: Callable[[], None]) -> str:
    """What the host says to this; it holds up nothing else."""
    try:
        mend()
    except LeaseLost:
        raise
    except AdapterError as error:
        return str(error)
    return ""


def _held(found: HostDifference) -> HostDifference:
    held = [x.vm for x in found.lost if cloud.explanations.hold(running(), x.vm)]
    try:
        return difference(found.host, cloud.inventory.vms(held))
    except AdapterError as error:
        return _away(found.host, error)


def _away(host: UUID, error: Exception) -> HostDifference:
    return HostDifference(host=host, name=cloud.inventory.host(host).name, away=str(error))
