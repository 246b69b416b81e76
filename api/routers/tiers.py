"""Tiers: classes of storage service, which pools and datastores are of."""

from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Name, Once, Pages, Reference
from api.infrastructure import Text
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows.cloud import cloud

router = APIRouter(prefix="/tiers", tags=["infrastructure"])


class NewTier(BaseModel):
    """A class of service; a disabled one gets no new volumes and disks."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["gold"])
    description: Text = Field("", examples=["SSDs, mirrored"])
    enabled: bool = True


class TierChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    description: Text = ""
    enabled: bool = True


class Tier(BaseModel):
    """A class of service."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    description: str
    enabled: bool
    labels: dict[str, str]


_shown = infrastructure.plainly(Tier)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Tier}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)],
)
def create_tier(new: NewTier, once: Once) -> Response:
    """Add a tier."""
    tier = uuid4()

    def act(db: Session) -> Answer:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
        uses.held(db, models.Datacenter, datacenter)
        fields = new.model_dump(exclude={"datacenter"})
        row = models.Tier(id=tier, datacenter_id=datacenter, **fields)
        infrastructure.enter(db, row, row.name)
        return infrastructure.created("tiers", Tier.model_validate(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def list_tiers(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
    enabled: bool | None = None,  # noqa: FBT001 - a filter
) -> list[Tier]:
    """List tiers."""
    wanted = {"name": name, "datacenter_id": datacenter_id, "enabled": enabled}
    query = select(models.Tier).filter_by(**{k: v for k, v in wanted.items() if v is not None})
    query = sought.among(query, models.Tier)
    with cloud.database.read() as db:
        return [Tier.model_validate(row) for row in page.rows(db, query, models.Tier, "name")]


@router.get("/{tier_id}", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def read_tier(tier_id: UUID) -> Tier:
    """Read a tier."""
    with cloud.database.read() as db:
        return Tier.model_validate(finding.shared(db, models.Tier, tier_id))


@router.patch("/{tier_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)])
def change_tier(tier_id: UUID, wanted: TierChange, match: Match) -> Tier:
    """Change what is given of a tier; what is on it stays there."""

    def act(_: Session, row: models.Tier) -> Tier:
        infrastructure.assign(row, wanted.model_dump(exclude_unset=True))
        return Tier.model_validate(row)

    return infrastructure.change(models.Tier, tier_id, act, match, _shown)


@router.delete(
    "/{tier_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE)]
)
def delete_tier(tier_id: UUID, match: Match) -> None:
    """Remove a tier that no pool, datastore or VM names."""
    infrastructure.remove(models.Tier, tier_id, match, _shown)
