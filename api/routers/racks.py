"""Racks: hosts that share a range of VLANs."""

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses, vlans
from adapters.errors import Conflict
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Name, Once, Pages, Reference
from api.errors import Problem
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows.cloud import cloud

router = APIRouter(prefix="/racks", tags=["infrastructure"])

Vlan = Annotated[int, Field(ge=vlans.FIRST, le=vlans.LAST)]
Vlans = Annotated[
    str,
    BeforeValidator(lambda x: str(x) if type(x) is int else x),
    Field(pattern=r"^\d{1,4}(-\d{1,4})?$"),
]
Avoided = Annotated[list[Vlans], Field(max_length=500, examples=[["100", "200-210"]])]
Reserved = Annotated[int, Field(ge=0, le=vlans.LAST)]
Percent = Annotated[int, Field(ge=0, le=100)]


class NewRack(BaseModel):
    """A range of VLANs, and those of them that others use; `reserved` are each VDC's head-room."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["rack-1"])
    vlan_min: Vlan = vlans.FIRST
    vlan_max: Vlan = vlans.LAST
    vlans_avoided: Avoided = Field(default_factory=list)
    vlans_reserved: Reserved = 8
    low_vlans_percent: Percent = Field(10, description="Fewer free VLANs than this are reported.")


class RackChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    vlan_min: Vlan = vlans.FIRST
    vlan_max: Vlan = vlans.LAST
    vlans_avoided: Avoided = Field(default_factory=list)
    vlans_reserved: Reserved = 0
    low_vlans_percent: Percent = 0


class Rack(BaseModel):
    """A range of VLANs, of which so many could be used."""

    id: UUID
    datacenter_id: UUID
    name: str
    vlan_min: int
    vlan_max: int
    vlans_avoided: list[str]
    vlans_usable: int
    vlans_reserved: int
    low_vlans_percent: int
    labels: dict[str, str]


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Rack}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)],
)
def create_rack(new: NewRack, once: Once) -> Response:
    """Add a rack, whose VLANs are no other rack's of the datacenter."""
    rack = uuid4()

    def act(db: Session) -> Answer:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
        uses.held(db, models.Datacenter, datacenter)
        fields = new.model_dump(exclude={"datacenter"})
        row = models.Rack(id=rack, datacenter_id=datacenter, **fields)
        _require_own_vlans(db, row)
        infrastructure.enter(db, row, row.name)
        return infrastructure.created("racks", _shown(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_racks(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
) -> list[Rack]:
    """List racks."""
    wanted = {"name": name, "datacenter_id": datacenter_id}
    query = select(models.Rack).filter_by(**{k: v for k, v in wanted.items() if v})
    query = sought.among(query, models.Rack)
    with cloud.database.read() as db:
        return [_shown(row) for row in page.rows(db, query, models.Rack, "name")]


@router.get("/{rack_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_rack(rack_id: UUID) -> Rack:
    """Read a rack."""
    with cloud.database.read() as db:
        return _shown(finding.shared(db, models.Rack, rack_id))


@router.patch("/{rack_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)])
def change_rack(rack_id: UUID, wanted: RackChange, match: Match) -> Rack:
    """Change what is given of a rack."""

    def act(db: Session, row: models.Rack) -> Rack:
        infrastructure.assign(row, wanted.model_dump(exclude_unset=True))
        _require_own_vlans(db, row)
        return _shown(row)

    return infrastructure.change(models.Rack, rack_id, act, match, _rack)


@router.delete(
    "/{rack_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS)]
)
def delete_rack(rack_id: UUID, match: Match) -> None:
    """Remove a rack that no host is in."""
    infrastructure.remove(models.Rack, rack_id, match, _rack)


def _require_own_vlans(db: Session, row: models.Rack) -> None:
    """Raise where there is no such range, nothing is left of it, or another rack has of it."""
    vlans.within(row.vlan_min, row.vlan_max)
    own = vlans.usable(row.vlan_min, row.vlan_max, row.vlans_avoided)
    if outside := [
        each
        for each in row.vlans_avoided
        if not {*vlans.ids(each)} <= {*range(row.vlan_min, row.vlan_max + 1)}
    ]:
        text = f"avoided VLANs {', '.join(outside)} are outside {row.vlan_min}-{row.vlan_max}"
        raise Problem(422, "invalid-vlans", text)
    if len(own) < max(1, row.vlans_reserved):
        text = f"{len(own)} VLANs can be used; fewer than the {row.vlans_reserved} reserved"
        raise Problem(422, "invalid-vlans", text)
    table = models.Rack
    with db.no_autoflush:
        others = db.scalars(
            select(table).where(table.datacenter_id == row.datacenter_id, table.id != row.id)
        )
        for each in others:
            theirs = vlans.usable(each.vlan_min, each.vlan_max, each.vlans_avoided)
            if common := own & theirs:
                text = f"rack {each.name} has VLANs {min(common)}-{max(common)}, too"
                refusal = Conflict(text, code="vlans-overlap")
                refusal.details = {"rack": str(each.id), "vlans": [min(common), max(common)]}
                raise refusal


def _rack(_db: Session, row: models.Rack) -> Rack:
    return _shown(row)


def _shown(row: models.Rack) -> Rack:
    known: dict[str, Any] = {
        name: getattr(row, name) for name in Rack.model_fields if name != "vlans_usable"
    }
    usable = len(vlans.usable(row.vlan_min, row.vlan_max, row.vlans_avoided))
    return Rack(**known, vlans_usable=usable)
