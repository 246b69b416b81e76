"""Networks as they are asked for: what fits together, and what is chosen where nobody says."""

from ipaddress import IPv4Network
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import Networks, enter_network
from adapters.database.ledger import Ledger
from adapters.database.ranges import ranges_of_relays
from adapters.database.records import NetworkRecord
from adapters.database.session import Joined
from adapters.errors import Conflict
from adapters.lan import NetworkKind
from adapters.privileges import Privilege
from api.errors import Problem
from api.permissions import require
from api.tokens import Caller
from flows.addresses import space_of
from flows.charges import charge
from flows.policies.addressing import LARGEST, SMALLEST, Server, new_range, server_for, span

DEFAULT = "default"


def servers_of(db: Session, datacenter: UUID) -> list[Server]:
    """A datacenter's DHCP servers by name, with the ranges that they know."""
    network, server = models.Network, models.DhcpServer
    ranges: dict[UUID, list[IPv4Network]] = {}
    known = select(network.dhcp_server_id, network.range).where(
        network.datacenter_id == datacenter, network.dhcp_server_id.is_not(None)
    )
    for key, said in db.execute(known):
        if key and said:
            ranges.setdefault(key, []).append(IPv4Network(said))
    query = select(server).filter_by(datacenter_id=datacenter).order_by(server.name)
    return [
        Server(id=row.id, name=row.name, ranges=tuple(ranges.get(row.id, ())))
        for row in db.scalars(query)
    ]


def served(
    db: Session, datacenter: UUID, wanted: IPv4Network | None, server: UUID | None = None
) -> tuple[IPv4Network, UUID]:
    """A range, and the DHCP server that is to know it: those that are said, else free ones."""
    servers = servers_of(db, datacenter)
    if server:
        servers = [each for each in servers if each.id == server]
    if wanted:
        return wanted, server_for(wanted, servers)
    if (found := new_range(servers, ranges_of_relays(db, datacenter))) is None:
        text = "the datacenter has no DHCP server with room for another range"
        raise Conflict(text, code="no-dhcp-server")
    return found


def require_sound(network: NetworkRecord) -> None:
    """Raise `Problem` where the parts of a network contradict each other."""
    if network.range6 and network.range6.prefixlen != 64:  # noqa: PLR2004 - RFC 4862, 5.5.3
        raise _invalid(f"cards give themselves addresses in a /64 alone, unlike {network.range6}")
    if network.range is None:
        if network.gateway or network.excluded or network.relay:
            raise _invalid("without a range there is neither gateway nor relay, nor excluded ones")
        return
    if not LARGEST <= network.range.prefixlen <= SMALLEST:
        raise _invalid(f"a range has a prefix of {LARGEST} to {SMALLEST}, unlike {network.range}")
    if network.gateway and network.gateway not in network.range:
        raise _invalid(f"gateway {network.gateway} is not in {network.range}")
    for each in (network.gateway, network.relay):
        if each in {network.range.network_address, network.range.broadcast_address}:
            raise _invalid(f"{each} is no address of {network.range} that anybody may have")
    for said in network.excluded:
        span(said)
    if not space_of(network).capacity:
        raise _invalid(f"nothing of {network.range} is left to be given")


def enter_default(db: Session, vdc: models.VirtualDatacenter) -> None:
    """Give a new virtual datacenter the network that its VMs are in unless they say another.

    A private one where a DHCP server has room for it and a host of its family has an uplink;
    else the restricted one.
    """
    host = models.Host
    linked = select(host.id).where(host.family == vdc.family, host.uplink.is_not(None))
    found = None
    if db.scalars(linked.filter_by(datacenter_id=vdc.datacenter_id)).first():
        db.get(models.Datacenter, vdc.datacenter_id, with_for_update=True)
        relays = ranges_of_relays(db, vdc.datacenter_id)
        found = new_range(servers_of(db, vdc.datacenter_id), relays)
    record = NetworkRecord(
        id=uuid4(),
        name=DEFAULT,
        kind=NetworkKind.PRIVATE if found else NetworkKind.RESTRICTED,
        datacenter_id=vdc.datacenter_id,
        virtual_datacenter_id=vdc.id,
        range=found[0] if found else None,
        dhcp_server_id=found[1] if found else None,
    )
    enter_network(db, record)
    if found:
        charge_in(db, record)


def charge_in(db: Session, network: NetworkRecord) -> None:
    """Charge a network in this transaction, within all limits."""
    joined = Joined(db)
    ledger = Ledger(joined)
    charge(Networks(joined).charges(network), None, ledger)


def require_his(caller: Caller, row: models.Network) -> None:
    """Raise `Problem` for one of the operator's, who is another."""
    if row.virtual_datacenter_id is None:
        require(caller, Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK)


def usable_networks(db: Session, vdc: UUID) -> dict[str, models.Network]:
    """The networks that VMs of a virtual datacenter may be in, by name: its own go first."""
    row, table = db.get_one(models.VirtualDatacenter, vdc), models.Network
    operators = select(table).where(
        table.datacenter_id == row.datacenter_id,
        table.virtual_datacenter_id.is_(None),
        table.enterprise_id.is_(None) | (table.enterprise_id == row.enterprise_id),
    )
    own = select(table).where(table.virtual_datacenter_id == vdc)
    return {each.name: each for query in (operators, own) for each in db.scalars(query)}


def _invalid(text: str) -> Problem:
    return Problem(422, "invalid-network", text)
