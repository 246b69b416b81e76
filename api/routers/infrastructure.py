"""Infrastructure: datacenters, hosts, storage devices and pools."""

from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.privileges import Privilege
from adapters.types import Family
from api import finding
from api.dependencies import Name, Once, Pages, Reference
from api.once import Answer
from api.permissions import needs
from api.reports import Operation
from api.starting import Starting
from flows import enrolment
from flows.catalog import FLOWS
from flows.cloud import cloud

router = APIRouter(tags=["infrastructure"])


class NewDatacenter(BaseModel):
    """A site, with the directory of its images."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["main"])
    repository: str = Field(max_length=255, examples=["/srv/cloudloom/repository"])


class Datacenter(BaseModel):
    """A site."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    repository: str


class Maintenance(BaseModel):
    """A maintenance operation, by its kind."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(examples=["sweep_orphans"])

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        known = sorted(flow.kind for flow in FLOWS.values() if flow.every)
        if kind not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return kind


class NewHost(BaseModel):
    """A machine that runs VMs, as its hypervisor is reached, and where it keeps disks."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["host-1"])
    family: Family
    address: str = Field(min_length=1, max_length=255, examples=["qemu:///system"])
    datastores: list[str] = Field(
        min_length=1, max_length=32, examples=[["/var/lib/cloudloom/disks"]]
    )


class Datastore(BaseModel):
    """Where a host keeps VM disks."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    directory: str


class Host(BaseModel):
    """A machine that runs VMs."""

    id: UUID
    datacenter_id: UUID
    name: str
    family: Family
    address: str
    cpu: int
    ram_mib: int
    datastores: list[Datastore]


class NewStorageDevice(BaseModel):
    """An iSCSI storage server."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["san-1"])
    technology: str = Field(pattern="^(directory|memory)$", examples=["directory"])
    host: str = Field(max_length=255, examples=["127.0.0.1"])
    port: int = Field(3260, ge=1, le=65535)
    control: int = Field(0, ge=0, le=32767, description="The target daemon's control port.")


class StorageDevice(BaseModel):
    """An iSCSI storage server."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    technology: str
    host: str
    port: int
    control: int


class NewPool(BaseModel):
    """A part of a storage device, of one tier."""

    model_config = ConfigDict(extra="forbid")

    storage_device: Reference = Field(examples=["san-1"])
    name: Name = Field(examples=["pool-1"])
    tier: Name = "default"
    directory: str = Field("", max_length=255, examples=["/srv/cloudloom/volumes"])
    total_mib: int = Field(gt=0, examples=[10240])


class Pool(BaseModel):
    """A part of a storage device."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    device_id: UUID
    name: str
    tier: str
    directory: str
    total_mib: int


@router.post(
    "/datacenters",
    status_code=201,
    responses={201: {"model": Datacenter}},
    dependencies=[needs(Privilege.PHYS_DC_MANAGE)],
)
def create_datacenter(new: NewDatacenter, once: Once) -> Response:
    """Add a datacenter; its repository is an existing directory, which gets a marker."""
    entry = enrolment.enrol_datacenter(new.name, new.repository)

    def act(db: Session) -> Answer:
        row = db.get_one(models.Datacenter, entry(db))
        return _created("datacenters", Datacenter.model_validate(row))

    return once.answer(act).response()


@router.get("/datacenters", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def list_datacenters(page: Pages, name: str | None = None) -> list[Datacenter]:
    """List datacenters."""
    query = select(models.Datacenter)
    if name:
        query = query.where(models.Datacenter.name == name)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Datacenter, "name")
        return [Datacenter.model_validate(row) for row in rows]


@router.get("/datacenters/{datacenter_id}", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def read_datacenter(datacenter_id: UUID) -> Datacenter:
    """Read a datacenter."""
    with cloud.database.read() as db:
        return Datacenter.model_validate(finding.shared(db, models.Datacenter, datacenter_id))


@router.post(
    "/datacenters/{datacenter_id}/maintenance",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.PHYS_DC_MANAGE)],
)
def maintain(datacenter_id: UUID, asked: Maintenance, starter: Starting) -> Response:
    """Run a maintenance operation now, which runs by itself at times."""

    def plan(db: Session) -> accepted.Request:
        row = finding.shared(db, models.Datacenter, datacenter_id)
        return starter.request(asked.kind, row.id, row.name, row.id)

    return starter.start(plan)


@router.post(
    "/hosts",
    status_code=201,
    responses={201: {"model": Host}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def create_host(new: NewHost, once: Once) -> Response:
    """Add a host; it is asked what it has, and for its datastores."""
    with cloud.database.read() as db:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
    entry = enrolment.enrol_host(datacenter, new.name, new.family, new.address, new.datastores)

    def act(db: Session) -> Answer:
        row = db.get_one(models.Host, entry(db))
        return _created("hosts", _host(db, row))

    return once.answer(act).response()


@router.get("/hosts", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_hosts(page: Pages, name: str | None = None) -> list[Host]:
    """List hosts."""
    query = select(models.Host)
    if name:
        query = query.where(models.Host.name == name)
    with cloud.database.read() as db:
        return [_host(db, row) for row in page.rows(db, query, models.Host, "name")]


@router.get("/hosts/{host_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_host(host_id: UUID) -> Host:
    """Read a host."""
    with cloud.database.read() as db:
        return _host(db, finding.shared(db, models.Host, host_id))


@router.post(
    "/storage-devices",
    status_code=201,
    responses={201: {"model": StorageDevice}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)],
)
def create_storage_device(new: NewStorageDevice, once: Once) -> Response:
    """Add a storage device."""
    with cloud.database.read() as db:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
    fields = new.model_dump(exclude={"datacenter"})
    entry = enrolment.enrol_storage_device(datacenter, **fields)

    def act(db: Session) -> Answer:
        row = db.get_one(models.StorageDevice, entry(db))
        return _created("storage-devices", StorageDevice.model_validate(row))

    return once.answer(act).response()


@router.get("/storage-devices", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_storage_devices(page: Pages, name: str | None = None) -> list[StorageDevice]:
    """List storage devices."""
    query = select(models.StorageDevice)
    if name:
        query = query.where(models.StorageDevice.name == name)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.StorageDevice, "name")
        return [StorageDevice.model_validate(row) for row in rows]


@router.get(
    "/storage-devices/{device_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)]
)
def read_storage_device(device_id: UUID) -> StorageDevice:
    """Read a storage device."""
    with cloud.database.read() as db:
        return StorageDevice.model_validate(finding.shared(db, models.StorageDevice, device_id))


@router.post(
    "/storage-pools",
    status_code=201,
    responses={201: {"model": Pool}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)],
)
def create_pool(new: NewPool, once: Once) -> Response:
    """Add a pool of a storage device."""
    with cloud.database.read() as db:
        device = finding.shared(db, models.StorageDevice, new.storage_device).id
    fields = new.model_dump(exclude={"storage_device"})
    entry = enrolment.enrol_pool(device, **fields)

    def act(db: Session) -> Answer:
        row = db.get_one(models.StoragePool, entry(db))
        return _created("storage-pools", Pool.model_validate(row))

    return once.answer(act).response()


@router.get("/storage-pools", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_pools(page: Pages, tier: str | None = None) -> list[Pool]:
    """List storage pools."""
    query = select(models.StoragePool)
    if tier:
        query = query.where(models.StoragePool.tier == tier)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.StoragePool, "name", "tier")
        return [Pool.model_validate(row) for row in rows]


@router.get("/storage-pools/{pool_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_pool(pool_id: UUID) -> Pool:
    """Read a storage pool."""
    with cloud.database.read() as db:
        return Pool.model_validate(finding.shared(db, models.StoragePool, pool_id))


def _created(kind: str, body: Datacenter | Host | StorageDevice | Pool) -> Answer:
    return Answer(201, body.model_dump(mode="json"), f"/v1/{kind}/{body.id}")


def _host(db: Session, row: models.Host) -> Host:
    stores = select(models.Datastore).where(models.Datastore.host_id == row.id)
    return Host(
        id=row.id,
        datacenter_id=row.datacenter_id,
        name=row.name,
        family=row.family,
        address=row.address,
        cpu=row.cpu,
        ram_mib=row.ram_mib,
        datastores=[Datastore.model_validate(each) for each in db.scalars(stores)],
    )
