"""Datacenters: sites, each with the directory of its images."""

from ipaddress import IPv4Network
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.ranges import require_clear
from adapters.database.vlans import LAST
from adapters.privileges import Privilege
from adapters.shares import share_of
from api import finding, infrastructure
from api.dependencies import Caller, Name, Once, Pages
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from api.reports import Operation
from api.starting import Starting
from flows import enrolment
from flows.catalog import FLOWS
from flows.cloud import cloud


def of_all_vlans(relays: IPv4Network) -> IPv4Network:
    """A range with an address for every VLAN."""
    if relays.num_addresses <= LAST:
        raise ValueError(f"{relays} has no address for each VLAN up to {LAST}: a /20 has")
    return relays


Share = Annotated[
    str,
    Field(
        max_length=400,
        examples=["//nas.example.org/images"],
        description="The same directory as hosts that take CIFS find it: their paths of images "
        "are told in their own notation.",
    ),
]
Relays = Annotated[
    IPv4Network,
    AfterValidator(of_all_vlans),
    Field(
        examples=["10.98.0.0/20"],
        description="Where DHCP relays are: in VLAN n the one with the n-th address of these. "
        "Networks with the same range are told apart by it; none has any of these.",
    ),
]
router = APIRouter(prefix="/datacenters", tags=["infrastructure"])


class NewDatacenter(BaseModel):
    """A site, with the directory of its images."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["main"])
    repository: str = Field(max_length=255, examples=["/srv/cloudloom/repository"])
    repository_share: Share | None = None
    relays: Relays | None = None


class DatacenterChange(BaseModel):
    """What is to be different. The name is its workers', and stays."""

    model_config = ConfigDict(extra="forbid")

    repository: str | None = Field(
        None, max_length=255, description="Where the same images are by now."
    )
    repository_share: Share | None = None
    relays: Relays | None = Field(None, description="DHCP servers hear of it by `sync_dhcp`.")


class Datacenter(BaseModel):
    """A site."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    repository: str
    repository_share: str | None
    relays: IPv4Network | None
    labels: dict[str, str]


class Maintenance(BaseModel):
    """A maintenance operation, by its kind."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(examples=["sweep_orphans"])
    dry_run: bool = Field(
        default=False,
        description="Of `sync_dhcp` and `mend_links`: tell the difference, mend nothing.",
    )

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        known = sorted(flow.kind for flow in FLOWS.values() if flow.every)
        if kind not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return kind


_shown = infrastructure.plainly(Datacenter)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Datacenter}},
    dependencies=[needs(Privilege.PHYS_DC_MANAGE)],
)
def create_datacenter(new: NewDatacenter, once: Once) -> Response:
    """Add a datacenter; its repository is an existing directory, which gets a marker."""
    entry = enrolment.enrol_datacenter(new.name, new.repository)

    def act(db: Session) -> Answer:
        row = db.get_one(models.Datacenter, entry(db))
        row.repository_share = new.repository_share and share_of(new.repository_share)
        row.relays = str(new.relays) if new.relays else None
        return infrastructure.created("datacenters", Datacenter.model_validate(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def list_datacenters(
    page: Pages, sought: SoughtLabels, name: str | None = None
) -> list[Datacenter]:
    """List datacenters."""
    query = sought.among(select(models.Datacenter), models.Datacenter)
    if name:
        query = query.where(models.Datacenter.name == name)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Datacenter, "name")
        return [Datacenter.model_validate(row) for row in rows]


@router.get("/{datacenter_id}", dependencies=[needs(Privilege.PHYS_DC_ENUMERATE)])
def read_datacenter(datacenter_id: UUID) -> Datacenter:
    """Read a datacenter."""
    with cloud.database.read() as db:
        return Datacenter.model_validate(finding.shared(db, models.Datacenter, datacenter_id))


@router.patch("/{datacenter_id}", dependencies=[needs(Privilege.PHYS_DC_MANAGE)])
def change_datacenter(datacenter_id: UUID, wanted: DatacenterChange, match: Match) -> Datacenter:
    """Say where its repository has moved to, a directory with the same marker; or other parts."""
    with cloud.database.read() as db:
        marker = finding.shared(db, models.Datacenter, datacenter_id).repository_marker
    if wanted.repository is not None:
        enrolment.require_moved(wanted.repository, marker)

    def act(db: Session, row: models.Datacenter) -> Datacenter:
        row.repository = wanted.repository or row.repository
        if "repository_share" in wanted.model_fields_set:
            row.repository_share = wanted.repository_share and share_of(wanted.repository_share)
        if "relays" in wanted.model_fields_set:
            if wanted.relays:
                require_clear(db, row.id, wanted.relays)
            row.relays = str(wanted.relays) if wanted.relays else None
        return Datacenter.model_validate(row)

    return infrastructure.change(models.Datacenter, datacenter_id, act, match, _shown)


@router.delete(
    "/{datacenter_id}",
    status_code=204,
    dependencies=[needs(Privilege.PHYS_DC_MANAGE)],
)
def delete_datacenter(datacenter_id: UUID, match: Match) -> None:
    """Forget a datacenter that nothing is in, with its tiers, rules and history."""
    infrastructure.remove(models.Datacenter, datacenter_id, match, _shown)


@router.post(
    "/{datacenter_id}/rescan",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def rescan(datacenter_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Import what lies in the enterprise's folder of the repository's inbox, as far as it is fit.

    Each file, and each folder of a package, is imported by an operation of its own; why others
    are left there, the steps of this one tell.
    """

    def plan(db: Session) -> accepted.Request:
        row = finding.shared(db, models.Datacenter, datacenter_id)
        mine = finding.enterprise(db, caller, caller.enterprise_id)
        asked = starter.request("rescan_library", row.id, row.name, row.id, owner=mine.name)
        return asked.model_copy(update={"locks": (("enterprise", mine.id),)})  # not the site

    return starter.start(plan)


@router.post(
    "/{datacenter_id}/maintenance",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.PHYS_DC_MANAGE)],
)
def maintain(datacenter_id: UUID, asked: Maintenance, starter: Starting) -> Response:
    """Run a maintenance operation now, which runs by itself at times."""

    def plan(db: Session) -> accepted.Request:
        row = finding.shared(db, models.Datacenter, datacenter_id)
        if not asked.dry_run:
            return starter.request(asked.kind, row.id, row.name, row.id)
        return starter.request(asked.kind, row.id, row.name, row.id, dry_run=True)

    return starter.start(plan)
