"""Storage devices: iSCSI servers."""

from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.uses import User
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Name, Once, Pages, Reference
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows import enrolment
from flows.cloud import cloud

router = APIRouter(prefix="/storage-devices", tags=["infrastructure"])


class NewStorageDevice(BaseModel):
    """An iSCSI storage server."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["san-1"])
    technology: str = Field(pattern="^(directory|memory)$", examples=["directory"])
    host: str = Field(max_length=255, examples=["127.0.0.1"])
    port: int = Field(3260, ge=1, le=65535)
    control: int = Field(0, ge=0, le=32767, description="The target daemon's control port.")


class StorageDeviceChange(BaseModel):
    """What is to be different; where it is reached only while nothing is exported."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    host: str = Field("", min_length=1, max_length=255)
    port: int = Field(3260, ge=1, le=65535)
    control: int = Field(0, ge=0, le=32767)


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
    labels: dict[str, str]


_shown = infrastructure.plainly(StorageDevice)


@router.post(
    "",
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
        uses.held(db, models.Datacenter, datacenter)
        row = db.get_one(models.StorageDevice, entry(db))
        return infrastructure.created("storage-devices", StorageDevice.model_validate(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_storage_devices(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
) -> list[StorageDevice]:
    """List storage devices."""
    wanted = {"name": name, "datacenter_id": datacenter_id}
    query = select(models.StorageDevice).filter_by(**{k: v for k, v in wanted.items() if v})
    query = sought.among(query, models.StorageDevice)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.StorageDevice, "name")
        return [StorageDevice.model_validate(row) for row in rows]


@router.get("/{device_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_storage_device(device_id: UUID) -> StorageDevice:
    """Read a storage device."""
    with cloud.database.read() as db:
        return StorageDevice.model_validate(finding.shared(db, models.StorageDevice, device_id))


@router.patch("/{device_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)])
def change_storage_device(
    device_id: UUID, wanted: StorageDeviceChange, match: Match
) -> StorageDevice:
    """Change its name; or where it is reached, while nothing is exported there."""
    values = wanted.model_dump(exclude_unset=True)

    def act(db: Session, row: models.StorageDevice) -> StorageDevice:
        if values.keys() - {"name"} and (users := _exports(db, row)):
            raise uses.in_use(row, users)
        infrastructure.assign(row, values)
        return StorageDevice.model_validate(row)

    return infrastructure.change(models.StorageDevice, device_id, act, match, _shown)


@router.delete(
    "/{device_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)]
)
def delete_storage_device(device_id: UUID, match: Match) -> None:
    """Forget a storage device without pools."""
    infrastructure.remove(models.StorageDevice, device_id, match, _shown)


def _exports(db: Session, row: models.StorageDevice) -> list[User]:
    volume, pool = models.VolumeRow, models.StoragePool
    query = (
        select(models.ExportRow.id, volume.name)
        .join(volume, volume.id == models.ExportRow.volume_id)
        .join(pool, pool.id == volume.pool_id)
        .where(pool.device_id == row.id)
        .limit(uses.TOLD)
    )
    found = [User(kind="export", id=key, name=name) for key, name in db.execute(query)]
    return found + [each for x in _pools(db, row) for each in uses.operations(db, x)]


def _pools(db: Session, row: models.StorageDevice) -> list[models.StoragePool]:
    return list(db.scalars(select(models.StoragePool).filter_by(device_id=row.id)))
