"""Virtual datacenters: a tenant's slices of datacenters."""

from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database.events import tell
from adapters.database.people import User
from adapters.errors import Conflict, InUse
from adapters.privileges import Privilege
from adapters.types import Family
from api import finding
from api.dependencies import Caller, Name, Once, Pages, Reference, chosen
from api.labelling import SoughtLabels
from api.matching import Match, Precondition
from api.networking import enter_default
from api.once import Answer
from api.permissions import needs
from flows.cloud import cloud

router = APIRouter(prefix="/virtual-datacenters", tags=["virtual datacenters"])


class NewVirtualDatacenter(BaseModel):
    """A slice of a datacenter, with one family of hypervisors."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["demo"])
    datacenter: Reference = Field(examples=["main"])
    family: Family = Family.KVM


class VirtualDatacenterChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name


class VirtualDatacenter(BaseModel):
    """A slice of a datacenter."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    family: Family
    labels: dict[str, str]


@router.post(
    "",
    status_code=201,
    responses={201: {"model": VirtualDatacenter}},
    dependencies=[needs(Privilege.VDC_MANAGE)],
)
def create_virtual_datacenter(new: NewVirtualDatacenter, caller: Caller, once: Once) -> Response:
    """Create a virtual datacenter, with a network `default`, private where hosts have any."""
    made = uuid4()

    def act(db: Session) -> Answer:
        row = models.VirtualDatacenter(
            id=made,
            enterprise_id=caller.enterprise_id,
            datacenter_id=finding.shared(db, models.Datacenter, new.datacenter).id,
            name=new.name,
            family=new.family,
        )
        try:
            with db.begin_nested():
                db.add(row)
        except IntegrityError as error:
            raise _taken(new.name) from error
        enter_default(db, row)
        if caller.virtual_datacenters and caller.user_id:  # he made it: he may look into it
            user = db.get_one(User, caller.user_id)
            user.virtual_datacenters = [*user.virtual_datacenters, str(made)]
        body = VirtualDatacenter.model_validate(row).model_dump(mode="json")
        return Answer(201, body, f"/v1/virtual-datacenters/{made}")

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_virtual_datacenters(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
    family: Family | None = None,
) -> list[VirtualDatacenter]:
    """List virtual datacenters."""
    query = chosen(
        finding.virtual_datacenters(caller), name=name, datacenter_id=datacenter_id, family=family
    )
    query = sought.among(query, models.VirtualDatacenter)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.VirtualDatacenter, "name")
        return [VirtualDatacenter.model_validate(row) for row in rows]


@router.get("/{virtual_datacenter_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_virtual_datacenter(virtual_datacenter_id: UUID, caller: Caller) -> VirtualDatacenter:
    """Read a virtual datacenter."""
    with cloud.database.read() as db:
        row = finding.virtual_datacenter(db, caller, virtual_datacenter_id)
        return VirtualDatacenter.model_validate(row)


@router.patch("/{virtual_datacenter_id}", dependencies=[needs(Privilege.VDC_MANAGE)])
def change_virtual_datacenter(
    virtual_datacenter_id: UUID, wanted: VirtualDatacenterChange, caller: Caller, match: Match
) -> VirtualDatacenter:
    """Give a virtual datacenter another name; its datacenter and family stay."""

    def changed(db: Session) -> VirtualDatacenter:
        row = _held(db, caller, virtual_datacenter_id, match)
        try:
            with db.begin_nested():
                row.name = wanted.name
        except IntegrityError as error:
            raise _taken(wanted.name) from error
        tell(db, "virtual-datacenter.changed", row, name=wanted.name)
        return VirtualDatacenter.model_validate(row)

    return cloud.database.alone(changed)


@router.delete(
    "/{virtual_datacenter_id}", status_code=204, dependencies=[needs(Privilege.VDC_MANAGE)]
)
def delete_virtual_datacenter(virtual_datacenter_id: UUID, caller: Caller, match: Match) -> None:
    """Delete a virtual datacenter without appliances and volumes; its limits go with it."""

    def deleted(db: Session) -> None:
        row = _held(db, caller, virtual_datacenter_id, match)
        tell(db, "virtual-datacenter.deleted", row)
        try:
            uses.remove(db, row)
        except IntegrityError as error:  # somebody has just made something in it
            raise InUse(f"virtual datacenter {row.name} is in use") from error

    cloud.database.alone(deleted)


def _held(
    db: Session, caller: Caller, virtual_datacenter: UUID, match: Precondition
) -> models.VirtualDatacenter:
    """Find it, and lock its row: nothing new is in it meanwhile."""
    row = finding.held(db, finding.virtual_datacenter(db, caller, virtual_datacenter))
    match.require_same(VirtualDatacenter.model_validate(row))
    return row


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a virtual datacenter called {name}", code="name-taken")
