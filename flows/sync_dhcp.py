"""Bring DHCP servers in line with the database: what a server has lost, or kept, is mended.

What VMs are to be told that operations have by now is those operations' own.
"""

from datetime import timedelta
from uuid import UUID

from adapters.database.operations import Operation
from adapters.errors import AdapterError
from flows.cloud import cloud
from flows.dhcp_differences import Difference, difference, told
from flows.operation import operation
from flows.steps import Effect, step
from flows.upkeep import publish_report


@operation("datacenter", every=timedelta(minutes=15))
def sync_dhcp(request: Operation) -> None:
    """Compare DHCP servers with the database; tell the difference, and mend it if wanted."""
    datacenter = request.datacenter_id
    found = [compare_server(server) for server in survey_servers(datacenter)]
    publish_report(request.kind, datacenter, [x for each in found for x in told(each)])
    if not request.arguments.get("dry_run"):
        for each in found:
            if each.any:
                mend_server(each, datacenter)


@step("survey-servers")
def survey_servers(datacenter: UUID) -> list[UUID]:
    return [server.id for server in cloud.lans.servers(datacenter)]


@step("compare-server")
def compare_server(server: UUID) -> Difference:
    """Ask the server first, and the database then: one that is away is told of."""
    try:
        return difference(server)
    except AdapterError as error:
        return Difference(server=server, name=cloud.lans.server(server).name, away=str(error))


@step("mend-server", Effect.REMOVES)
def mend_server(found: Difference, datacenter: UUID) -> None:
    """Mend what was found, as far as it is so still."""
    now, dhcp = difference(found.server), cloud.dhcp(found.server)
    if gone := [x for x in now.unneeded if x in found.unneeded]:
        dhcp.delete_reservations(gone)
    if left := [x.id for x in now.idle if x in found.idle]:
        dhcp.delete_reservations([], left)
    lacking = [x for x in now.lacking if x in found.lacking]
    subnets = [x for x in now.subnets if x in found.subnets]
    if lacking or subnets:
        dhcp.ensure_reservations(lacking, subnets)


@mend_server.look
def _(found: Difference, datacenter: UUID) -> bool:
    """Whether anything of it is still so."""
    now = difference(found.server)
    pairs = (
        (now.lacking, found.lacking),
        (now.unneeded, found.unneeded),
        (now.idle, found.idle),
        (now.subnets, found.subnets),
    )
    return any(x in theirs for ours, theirs in pairs for x in ours)
