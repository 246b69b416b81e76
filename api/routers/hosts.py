"""Hosts: machines that run VMs, and the datastores where they keep disks."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.uses import User
from adapters.lan import LinkKind
from adapters.privileges import Privilege
from adapters.types import Chap, Family
from api import finding, infrastructure
from api.dependencies import Caller, Key, Name, Once, Pages, Reference
from api.infrastructure import Address, Text
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.once import Once as OneRequest
from api.permissions import needs
from flows import enrolment
from flows.cloud import cloud

router = APIRouter(prefix="/hosts", tags=["infrastructure"])
_VM = models.VirtualMachine
_LINKS = {"uplink", "link_kind", "switch"}
Uplink = Annotated[
    Text | None,
    Field(
        max_length=63,
        pattern=r"^[A-Za-z0-9._/-]+$",
        description="What networks leave the host by, behind `<namespace>/` where it is in one.",
    ),
]
Switch = Annotated[Text, Field(max_length=63, description="An OVS bridge, or a vSwitch.")]


class NewDatastore(BaseModel):
    """A directory for disks; with the `uuid` of another host's, it is the same one, shared."""

    model_config = ConfigDict(extra="forbid")

    directory: Text = Field(min_length=1, examples=["/mnt/nfs/disks"])
    uuid: UUID | None = None
    tier: Reference | None = None


class HostLogin(BaseModel):
    """As whom a host is asked: kept encrypted, and never told."""

    model_config = ConfigDict(extra="forbid")

    user: Text = Field(min_length=1, examples=["cloudloom@vsphere.local"])
    password: SecretStr = Field(min_length=1, max_length=255)

    @property
    def chap(self) -> Chap:
        """The same, as adapters take it."""
        return Chap(user=self.user, password=self.password)


class NewHost(BaseModel):
    """A machine that runs VMs, as its hypervisor is reached, and where it keeps disks."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    rack: Reference | None = None
    name: Name = Field(examples=["host-1"])
    family: Family
    address: Address = Field(min_length=1, examples=["qemu:///system"])
    datastores: list[Annotated[Text, Field(min_length=1)] | NewDatastore] = Field(
        min_length=1, max_length=32, examples=[["/var/lib/cloudloom/disks"]]
    )
    reserved_for: Reference | None = Field(None, description="The one enterprise that may use it.")
    maintenance: bool = Field(default=False, description="It takes no new VMs.")
    login: HostLogin | None = Field(None, description="As whom a vSphere host is asked.")
    uplink: Uplink = None
    link_kind: LinkKind | None = Field(None, description="How it has networks.")
    switch: Switch = ""


class HostChange(BaseModel):
    """What is to be different. What it has is never told, but asked for."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    address: Address = Field("", min_length=1, description="It is asked there, before it changes.")
    rack: Reference | None = None
    reserved_for: Reference | None = None
    maintenance: bool = False
    login: HostLogin | None = Field(None, description="It is asked as this one before it changes.")
    uplink: Uplink = None
    link_kind: LinkKind | None = None
    switch: Switch = ""


class DatastoreChange(BaseModel):
    """What is to be different; a disabled datastore gets no new disks."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = True
    tier: Reference | None = None


class Datastore(BaseModel):
    """Where a host keeps VM disks; of the same `uuid`: shared with another host."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    uuid: UUID
    directory: str
    tier_id: UUID | None
    enabled: bool


class Host(BaseModel):
    """A machine that runs VMs, and what VMs have of it."""

    id: UUID
    datacenter_id: UUID
    rack_id: UUID | None
    name: str
    family: Family
    address: str
    cpu: int
    cpu_reserved: int
    ram_mib: int
    ram_reserved_mib: int
    reserved_for_id: UUID | None
    maintenance: bool
    uplink: str | None
    link_kind: LinkKind | None
    switch: str
    datastores: list[Datastore]
    labels: dict[str, str]


_store = infrastructure.plainly(Datastore)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Host}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def create_host(
    request: Request, new: NewHost, caller: Caller, idempotency_key: Key = None
) -> Response:
    """Add a host; it is asked what it has, and for its datastores."""
    # Without the password: what is kept of a request would be a fast hash of it.
    said = new.model_dump_json(exclude={"login": {"password"}}).encode()
    once = OneRequest(caller, f"POST {request.url.path}", idempotency_key, said)
    login = new.login.chap if new.login else None
    stores = [NewDatastore(directory=x) if isinstance(x, str) else x for x in new.datastores]
    with cloud.database.read() as db:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
        tiers = {x.directory: infrastructure.tier(db, datacenter, x.tier) for x in stores}
    uuids = {x.directory: x.uuid for x in stores}
    entry = enrolment.enrol_host(datacenter, new.name, new.family, new.address, uuids, login)

    def act(db: Session) -> Answer:
        uses.held(db, models.Datacenter, datacenter)
        row = db.get_one(models.Host, entry(db))
        row.maintenance = new.maintenance
        infrastructure.assign(row, new.model_dump(include=_LINKS))
        _relate(db, row, {"rack": new.rack, "reserved_for": new.reserved_for})
        for each in db.scalars(select(models.Datastore).filter_by(host_id=row.id)):
            each.tier_id = tiers[each.directory]
        db.flush()
        return infrastructure.created("hosts", *_shown(db, [row]))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_hosts(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
    rack_id: UUID | None = None,
    family: Family | None = None,
    maintenance: bool | None = None,  # noqa: FBT001 - a filter
    reserved_for_id: UUID | None = None,
) -> list[Host]:
    """List hosts."""
    wanted = {
        "name": name,
        "datacenter_id": datacenter_id,
        "rack_id": rack_id,
        "family": family,
        "maintenance": maintenance,
        "reserved_for_id": reserved_for_id,
    }
    query = select(models.Host).filter_by(**{k: v for k, v in wanted.items() if v is not None})
    query = sought.among(query, models.Host)
    with cloud.database.read() as db:
        return _shown(db, page.rows(db, query, models.Host, "name"))


@router.get("/{host_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_host(host_id: UUID) -> Host:
    """Read a host."""
    with cloud.database.read() as db:
        return _host(db, finding.shared(db, models.Host, host_id))


@router.patch("/{host_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)])
def change_host(host_id: UUID, wanted: HostChange, match: Match) -> Host:
    """Change what is given of a host: its VMs stay where they are.

    At a new address, and with a new login, it is asked first, and has to know the VMs that are
    there. Who reserves a host has to be alone on it.
    """
    values = wanted.model_dump(exclude_unset=True, exclude={"login"})
    login = wanted.login.chap if wanted.login else None
    if "address" in values or login:
        address = values.get("address") or read_host(host_id).address
        asked = enrolment.ask_host_at(host_id, address, login)
        values |= asked if "address" in values else {}

    def act(db: Session, row: models.Host) -> Host:
        if "address" in values and (users := [*uses.operations(db, row)]):
            raise uses.in_use(row, users)
        _relate(db, row, values)
        kept = {k: v for k, v in values.items() if k not in {"rack", "reserved_for"}}
        infrastructure.assign(row, kept)
        if login:
            cloud.secrets.keep(db, row.id, login)
        db.flush()
        return _host(db, row)

    return infrastructure.change(models.Host, host_id, act, match, _host)


@router.delete(
    "/{host_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)]
)
def delete_host(host_id: UUID, match: Match) -> None:
    """Forget a host without VMs, with its datastores; nothing on it is touched."""
    infrastructure.remove(models.Host, host_id, match, _host)


@router.post("/{host_id}/refresh", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)])
def refresh_host(host_id: UUID, once: Once) -> Host:
    """Ask a host again what it has; VMs that are there stay, whatever it says."""
    with cloud.database.read() as db:
        address = finding.shared(db, models.Host, host_id).address
    facts = enrolment.ask_host_at(host_id, address)

    def act(db: Session) -> Answer:
        row = uses.held(db, models.Host, host_id)
        infrastructure.assign(row, facts)
        db.flush()
        return Answer(200, _host(db, row).model_dump(mode="json"))

    return Host.model_validate(once.answer(act).body)


@router.post(
    "/{host_id}/datastores",
    status_code=201,
    responses={201: {"model": Datastore}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def add_datastore(host_id: UUID, new: NewDatastore, once: Once) -> Response:
    """Add a directory for disks, for which the host is asked."""
    enrolment.require_datastore(host_id, new.directory)
    made = uuid4()

    def act(db: Session) -> Answer:
        host = uses.held(db, models.Host, host_id)
        row = models.Datastore(
            id=made,
            host_id=host.id,
            uuid=new.uuid or uuid4(),
            directory=new.directory,
            tier_id=infrastructure.tier(db, host.datacenter_id, new.tier),
            enabled=True,
        )
        infrastructure.enter(db, row, row.directory)
        body = Datastore.model_validate(row).model_dump(mode="json")
        return Answer(201, body, f"/v1/hosts/{host.id}")

    return once.answer(act).response()


@router.get(
    "/{host_id}/datastores/{datastore_id}",
    dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)],
)
def read_datastore(host_id: UUID, datastore_id: UUID) -> Datastore:
    """Read a datastore."""
    with cloud.database.read() as db:
        row = finding.shared(db, models.Datastore, datastore_id, host_id=host_id)
        return Datastore.model_validate(row)


@router.patch(
    "/{host_id}/datastores/{datastore_id}",
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def change_datastore(
    host_id: UUID, datastore_id: UUID, wanted: DatastoreChange, match: Match
) -> Datastore:
    """Enable or disable a datastore, or say its tier: what is on it stays."""
    _require_its_own(host_id, datastore_id)
    values = wanted.model_dump(exclude_unset=True)

    def act(db: Session, row: models.Datastore) -> Datastore:
        if "tier" in values:
            datacenter = db.get_one(models.Host, row.host_id).datacenter_id
            row.tier_id = infrastructure.tier(db, datacenter, values["tier"])
        row.enabled = values.get("enabled", row.enabled)
        return Datastore.model_validate(row)

    return infrastructure.change(models.Datastore, datastore_id, act, match, _store)


@router.delete(
    "/{host_id}/datastores/{datastore_id}",
    status_code=204,
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def delete_datastore(host_id: UUID, datastore_id: UUID, match: Match) -> None:
    """Forget a datastore that no VM has disks in; its directory stays as it is."""
    _require_its_own(host_id, datastore_id)
    infrastructure.remove(models.Datastore, datastore_id, match, _store)


def _require_its_own(host: UUID, datastore: UUID) -> None:
    with cloud.database.read() as db:
        finding.shared(db, models.Datastore, datastore, host_id=host)


def _relate(db: Session, row: models.Host, values: dict[str, Any]) -> None:
    """Put the host into a rack of its datacenter, and reserve it, as far as that is said."""
    if "rack" in values:
        within = {"datacenter_id": row.datacenter_id}
        rack = values["rack"]
        row.rack_id = finding.shared(db, models.Rack, rack, **within).id if rack else None
    if "reserved_for" in values:
        name = values["reserved_for"]
        row.reserved_for_id = finding.shared(db, models.Enterprise, name).id if name else None
        if others := _of_others(db, row):
            raise uses.in_use(row, others)


def _of_others(db: Session, row: models.Host) -> list[User]:
    """The VMs on a reserved host that are not of the enterprise it is reserved for."""
    vdc = models.VirtualDatacenter
    query = (
        select(_VM.id, _VM.name)
        .join(models.Appliance, models.Appliance.id == _VM.appliance_id)
        .join(vdc, vdc.id == models.Appliance.virtual_datacenter_id)
        .where(_VM.host_id == row.id, vdc.enterprise_id != row.reserved_for_id)
        .limit(uses.TOLD)
    )
    return [User(kind="vm", id=key, name=name) for key, name in db.execute(query)]


def _host(db: Session, row: models.Host) -> Host:
    (found,) = _shown(db, [row])
    return found


def _shown(db: Session, rows: Sequence[models.Host]) -> list[Host]:
    """Hosts with all that they have, however many, by a few queries."""
    ids = [row.id for row in rows]
    stores: dict[UUID, list[Datastore]] = {}
    table = models.Datastore
    for each in db.scalars(select(table).where(table.host_id.in_(ids)).order_by(table.directory)):
        stores.setdefault(each.host_id, []).append(Datastore.model_validate(each))
    sums = (
        select(_VM.host_id, func.sum(_VM.cpu), func.sum(_VM.ram_mib))
        .where(_VM.host_id.in_(ids))
        .group_by(_VM.host_id)
    )
    reserved = {host: (int(cpu), int(ram_mib)) for host, cpu, ram_mib in db.execute(sums)}
    known = Host.model_fields.keys() - {"datastores", "cpu_reserved", "ram_reserved_mib"}
    return [
        Host(
            **{name: getattr(row, name) for name in known},
            cpu_reserved=reserved.get(row.id, (0, 0))[0],
            ram_reserved_mib=reserved.get(row.id, (0, 0))[1],
            datastores=stores.get(row.id, []),
        )
        for row in rows
    ]
