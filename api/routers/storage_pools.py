"""Storage pools: parts of storage devices, each of a tier."""

from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.errors import Conflict
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Name, Once, Pages, Reference
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows import enrolment
from flows.cloud import cloud

router = APIRouter(prefix="/storage-pools", tags=["infrastructure"])


class NewPool(BaseModel):
    """A part of a storage device, of one tier."""

    model_config = ConfigDict(extra="forbid")

    storage_device: Reference = Field(examples=["san-1"])
    name: Name = Field(examples=["pool-1"])
    tier: Reference = "default"
    directory: str = Field("", max_length=255, examples=["/srv/cloudloom/volumes"])
    total_mib: int = Field(gt=0, le=2**31 - 1, examples=[10240])


class PoolChange(BaseModel):
    """What is to be different: no smaller than its volumes together."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    tier: Reference = ""
    total_mib: int = Field(1, gt=0, le=2**31 - 1)


class Pool(BaseModel):
    """A part of a storage device."""

    id: UUID
    device_id: UUID
    name: str
    tier: str
    tier_id: UUID
    directory: str
    total_mib: int
    labels: dict[str, str]


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Pool}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)],
)
def create_pool(new: NewPool, once: Once) -> Response:
    """Add a pool of a storage device."""
    with cloud.database.read() as db:
        device = finding.shared(db, models.StorageDevice, new.storage_device)
        device_id, datacenter = device.id, device.datacenter_id
    fields = new.model_dump(exclude={"storage_device"})
    entry = enrolment.enrol_pool(device_id, **fields)

    def act(db: Session) -> Answer:
        uses.held(db, models.Datacenter, datacenter)
        row = db.get_one(models.StoragePool, entry(db))
        return infrastructure.created("storage-pools", _shown(db, row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_pools(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    tier: str | None = None,
    device_id: UUID | None = None,
) -> list[Pool]:
    """List storage pools."""
    wanted = {"name": name, "device_id": device_id}
    query = select(models.StoragePool).filter_by(**{k: v for k, v in wanted.items() if v})
    if tier:
        of_tier = select(models.Tier.id).where(models.Tier.name == tier)
        query = query.where(models.StoragePool.tier_id.in_(of_tier))
    query = sought.among(query, models.StoragePool)
    with cloud.database.read() as db:
        return [_shown(db, row) for row in page.rows(db, query, models.StoragePool, "name")]


@router.get("/{pool_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_pool(pool_id: UUID) -> Pool:
    """Read a storage pool."""
    with cloud.database.read() as db:
        return _shown(db, finding.shared(db, models.StoragePool, pool_id))


@router.patch("/{pool_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)])
def change_pool(pool_id: UUID, wanted: PoolChange, match: Match) -> Pool:
    """Change its name, its tier, or how much of its device it is."""

    def act(db: Session, row: models.StoragePool) -> Pool:
        values = wanted.model_dump(exclude_unset=True)
        if "tier" in values:
            datacenter = db.get_one(models.StorageDevice, row.device_id).datacenter_id
            row.tier_id = infrastructure.tier(db, datacenter, values.pop("tier")) or row.tier_id
        _require_room(db, row, values.get("total_mib"))
        infrastructure.assign(row, values)
        return _shown(db, row)

    return infrastructure.change(models.StoragePool, pool_id, act, match, _shown)


@router.delete(
    "/{pool_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)]
)
def delete_pool(pool_id: UUID, match: Match) -> None:
    """Forget a pool without volumes; its directory stays as it is."""
    infrastructure.remove(models.StoragePool, pool_id, match, _shown)


def _require_room(db: Session, row: models.StoragePool, total_mib: int | None) -> None:
    """Raise `Conflict` where the volumes that are there would not fit."""
    sizes = select(func.sum(models.VolumeRow.size_mib)).where(models.VolumeRow.pool_id == row.id)
    taken = int(db.scalar(sizes) or 0)
    if total_mib is not None and total_mib < taken:
        text = f"the volumes of pool {row.name} have {taken} MiB, more than {total_mib}"
        raise Conflict(text, code="pool-too-small")


def _shown(db: Session, row: models.StoragePool) -> Pool:
    return Pool(
        id=row.id,
        device_id=row.device_id,
        name=row.name,
        tier=db.get_one(models.Tier, row.tier_id).name,
        tier_id=row.tier_id,
        directory=row.directory,
        total_mib=row.total_mib,
        labels=row.labels,
    )
