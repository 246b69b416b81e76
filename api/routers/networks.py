"""Networks: a virtual datacenter's own, and those that the operator defines."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.addressing import network_of, require_new
from adapters.database.operations import Request
from adapters.database.ranges import require_apart
from adapters.database.records import NetworkRecord
from adapters.database.vlans import LAST
from adapters.errors import Conflict
from adapters.lan import LABEL, MTU, NetworkKind, Route
from adapters.privileges import Privilege
from api import finding, infrastructure, networking
from api.dependencies import Caller, Name, Pages, Reference, chosen
from api.errors import Problem
from api.forcing import Forcing
from api.labelling import SoughtLabels
from api.matching import Match
from api.permissions import needs, require
from api.reports import Operation
from api.starting import Starting
from api.tokens import Caller as Who
from flows.addresses import space_of
from flows.charges import require_within
from flows.cloud import cloud

router = APIRouter(prefix="/networks", tags=["networks"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}
_OWN = frozenset({NetworkKind.PRIVATE, NetworkKind.UNMANAGED})
_OPERATORS = frozenset({NetworkKind.EXTERNAL, NetworkKind.PUBLIC, NetworkKind.UNMANAGED})

Suffix = Annotated[str, Field(max_length=253, pattern=rf"^({LABEL}(\.{LABEL})*)?$")]
Dns = Annotated[list[IPv4Address], Field(max_length=8)]
Routes = Annotated[list[Route], Field(max_length=32)]
Span = Annotated[str, Field(max_length=33, examples=["10.0.0.2-10.0.0.9"])]
Excluded = Annotated[list[Span], Field(max_length=100, description="Given to nobody.")]
Quarantine = Annotated[int, Field(ge=0, le=2**31 - 1)]


class NewNetwork(Forcing):
    """A network in a virtual datacenter, or the operator's in a datacenter."""

    name: Name = Field(examples=["shop"])
    virtual_datacenter: Reference | None = Field(None, examples=["demo"])
    datacenter: Reference | None = Field(None, description="For all that are there.")
    enterprise: Reference | None = Field(None, description="The only one that may use it.")
    kind: NetworkKind = NetworkKind.PRIVATE
    tag: int | None = Field(None, ge=2, le=4094, description="Of the operator's: its VLAN.")
    range: IPv4Network | None = Field(None, examples=["10.0.0.0/24"])
    gateway: IPv4Address | None = None
    dns: Dns = Field(default_factory=list)
    suffix: Suffix = ""
    routes: Routes = Field(default_factory=list)
    excluded: Excluded = Field(default_factory=list)
    range6: IPv6Network | None = Field(
        None, description="A /64 that its routers announce, for addresses that cards have by it."
    )
    mtu: int = Field(MTU, ge=576, le=9216)
    relay: IPv4Address | None = Field(None, description="Where DHCP requests from it come from.")
    dhcp_server: Reference | None = None
    quarantine_s: Quarantine = Field(0, description="How long an address rests that was freed.")


class NetworkChange(BaseModel):
    """What is to be different; guests hear of it when they are deployed anew."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    gateway: IPv4Address | None = None
    dns: Dns = Field(default_factory=list)
    suffix: Suffix = ""
    routes: Routes = Field(default_factory=list)
    excluded: Excluded = Field(default_factory=list)
    quarantine_s: Quarantine = 0


class AddressUsage(BaseModel):
    """How many addresses of a network there are to give, and what became of them."""

    total: int
    reserved: int = Field(description="NICs have them.")
    bought: int = Field(description="Of a public one: somebody has bought them, and no NIC.")
    resting: int


class Network(BaseModel):
    """A network, and how much of it is used."""

    id: UUID
    name: str
    kind: NetworkKind
    datacenter_id: UUID
    virtual_datacenter_id: UUID | None
    enterprise_id: UUID | None
    tag: int | None = Field(description="A private one's is taken when it is first needed.")
    range: IPv4Network | None
    gateway: IPv4Address | None
    dns: list[IPv4Address]
    suffix: str
    routes: list[Route]
    excluded: list[str]
    range6: IPv6Network | None
    mtu: int
    relay: IPv4Address | None
    dhcp_server_id: UUID | None
    quarantine_s: int
    labels: dict[str, str]
    addresses: AddressUsage


@router.post(
    "", status_code=202, responses=_ACCEPTED, dependencies=[needs(Privilege.VDC_MANAGE_NETWORK)]
)
def create_network(new: NewNetwork, caller: Caller, starter: Starting) -> Response:
    """Create a network; without a range, a private one gets one that is free."""
    made, force = uuid4(), new.by(caller)
    with cloud.database.read() as db:
        record = _planned(db, caller, new, made)

    def plan(db: Session) -> Request:
        require_new(db, record)
        return starter.request(
            "create_network", made, new.name, record.datacenter_id, network=record, force=force
        )

    charges = cloud.networks.charges(record)
    return starter.start(plan, lambda: require_within(charges, force))


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_networks(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    kind: NetworkKind | None = None,
    virtual_datacenter_id: UUID | None = None,
    datacenter_id: UUID | None = None,
    tag: Annotated[int | None, Query(ge=1, le=LAST)] = None,
) -> list[Network]:
    """List networks."""
    query = chosen(
        finding.networks(caller),
        name=name,
        kind=kind,
        virtual_datacenter_id=virtual_datacenter_id,
        datacenter_id=datacenter_id,
        tag=tag,
    )
    query = sought.among(query, models.Network)
    with cloud.database.read() as db:
        return _shown(db, page.rows(db, query, models.Network, "name"))


@router.get("/{network_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_network(network_id: UUID, caller: Caller) -> Network:
    """Read a network."""
    with cloud.database.read() as db:
        return _network(db, finding.network(db, caller, network_id))


@router.patch("/{network_id}", dependencies=[needs(Privilege.VDC_MANAGE_NETWORK)])
def change_network(
    network_id: UUID, wanted: NetworkChange, caller: Caller, match: Match
) -> Network:
    """Change what is given of a network; its range, VLAN and DHCP server stay."""
    with cloud.database.read() as db:
        networking.require_his(caller, finding.network(db, caller, network_id))
    said = wanted.model_dump(mode="json", exclude_unset=True)

    def act(db: Session, row: models.Network) -> Network:
        infrastructure.assign(row, said)
        record = network_of(row)
        networking.require_sound(record)
        with db.no_autoflush:
            require_new(db, record)
            _require_free_gateway(db, record)
        db.flush()
        return _network(db, row)

    return infrastructure.change(models.Network, network_id, act, match, _network)


@router.delete(
    "/{network_id}",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VDC_MANAGE_NETWORK)],
)
def delete_network(network_id: UUID, caller: Caller, starter: Starting, match: Match) -> Response:
    """Delete a network that no VM is in."""

    def plan(db: Session) -> Request:
        row = finding.held(db, finding.network(db, caller, network_id))
        networking.require_his(caller, row)
        starter.require_free(db, "network", row.id)
        if users := [*uses.users_of(db, row)]:
            raise uses.in_use(row, users)
        return starter.request("delete_network", row.id, row.name, row.datacenter_id)

    def unchanged(db: Session) -> None:
        match.require(db, finding.network(db, caller, network_id), _network)

    return starter.start(plan, unchanged=unchanged)


def _planned(db: Session, caller: Who, new: NewNetwork, made: UUID) -> NetworkRecord:
    """The network that is asked for, with what is chosen for it."""
    if (new.virtual_datacenter is None) == (new.datacenter is None):
        raise _invalid("a network is in a virtual datacenter, or in a datacenter")
    if new.virtual_datacenter is not None:
        vdc = finding.virtual_datacenter(db, caller, new.virtual_datacenter)
        where, inside, whose, kinds = vdc.datacenter_id, vdc.id, None, _OWN
        given = new.model_fields_set & {"tag", "enterprise", "dhcp_server", "relay"}
        if given:
            raise _invalid(f"only the operator says {', '.join(sorted(given))}")
    else:
        require(caller, Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK)
        where, inside = finding.shared(db, models.Datacenter, new.datacenter or "").id, None
        named, kinds = new.enterprise, _OPERATORS
        whose = finding.shared(db, models.Enterprise, named).id if named else None
    if new.kind not in kinds:
        raise _invalid(f"there it is {' or '.join(sorted(kinds))}, not {new.kind}")
    own = {"virtual_datacenter", "datacenter", "enterprise", "dhcp_server"}
    said = new.model_dump(exclude={*own, "force", "force_reason"})
    record = NetworkRecord(
        id=made,
        datacenter_id=where,
        virtual_datacenter_id=inside,
        enterprise_id=whose,
        **{**said, "routes": new.routes},
    )
    if new.kind is not NetworkKind.UNMANAGED:
        if new.range is None and new.kind is not NetworkKind.PRIVATE:
            raise _invalid("such a network has a range")
        ref = new.dhcp_server
        server = ref and finding.shared(db, models.DhcpServer, ref, datacenter_id=where).id
        networking.require_sound(record)
        chosen_range, chosen_server = networking.served(db, where, new.range, server or None)
        update = {"range": chosen_range, "dhcp_server_id": chosen_server}
        record = record.model_copy(update=update)
    elif new.range is not None:
        raise _invalid("an unmanaged network has no addresses of ours")
    networking.require_sound(record)
    require_new(db, record)
    require_apart(db, record)
    return record


def _require_free_gateway(db: Session, network: NetworkRecord) -> None:
    table, gateway = models.AddressRow, str(network.gateway)
    query = select(table.id).filter_by(network_id=network.id, address=gateway)
    somebodys = table.nic_id.is_not(None) | table.virtual_datacenter_id.is_not(None)
    if db.scalars(query.where(somebodys)).first():
        text = f"{gateway} of network {network.name} is a VM's, or was bought"
        raise Conflict(text, code="address-taken")


def _network(db: Session, row: models.Network) -> Network:
    (found,) = _shown(db, [row])
    return found


def _shown(db: Session, rows: Sequence[models.Network]) -> list[Network]:
    """Networks with their usage, however many, by one query more."""
    table = models.AddressRow
    had, bought = table.nic_id.is_not(None), table.virtual_datacenter_id.is_not(None)
    query = (
        select(table.network_id, had, bought, func.count())
        .where(table.network_id.in_([row.id for row in rows]))
        .group_by(table.network_id, had, bought)
    )
    counts: dict[tuple[UUID, bool, bool], int] = {
        (key, bool(a), bool(b)): n for key, a, b, n in db.execute(query)
    }

    def usage(record: NetworkRecord) -> AddressUsage:
        key = record.id
        return AddressUsage(
            total=space_of(record).capacity if record.range else 0,
            reserved=counts.get((key, True, True), 0) + counts.get((key, True, False), 0),
            bought=counts.get((key, False, True), 0),
            resting=counts.get((key, False, False), 0),
        )

    hidden = {"number", "addresses"}

    def told(row: models.Network) -> Network:
        record = network_of(row)
        more = {"labels": row.labels, "addresses": usage(record)}
        return Network.model_validate({**record.model_dump(exclude=hidden), **more})

    return [told(row) for row in rows]


def _invalid(text: str) -> Problem:
    return Problem(422, "invalid-network", text)
