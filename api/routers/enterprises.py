"""Enterprises: the tenants; one sees one's own, and who administers all sees every one."""

from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell
from adapters.errors import Conflict
from adapters.privileges import Privilege
from api import finding, leaving
from api.dependencies import Caller, Name, Once, Pages, chosen
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs, require
from flows.cloud import cloud

router = APIRouter(prefix="/enterprises", tags=["enterprises"])


class NewEnterprise(BaseModel):
    """A tenant to be."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["acme"])
    approval: bool = Field(default=False, description="Deployments wait until somebody approves.")


class Enterprise(BaseModel):
    """A tenant."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    approval: bool
    labels: dict[str, str]


class EnterpriseChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = Field(None, description="Only for who administers all enterprises.")
    approval: bool | None = Field(None, description="Deployments wait until somebody approves.")


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Enterprise}},
    dependencies=[needs(Privilege.ENTERPRISE_ADMINISTER_ALL)],
)
def create_enterprise(new: NewEnterprise, once: Once) -> Response:
    """Create an enterprise; it has no users yet."""
    made = uuid4()

    def act(db: Session) -> Answer:
        row = models.Enterprise(id=made, name=new.name, approval=new.approval)
        _write(db, row, new.name)
        body = Enterprise.model_validate(row).model_dump(mode="json")
        return Answer(201, body, f"/v1/enterprises/{made}")

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.ENTERPRISE_ENUMERATE)])
def list_enterprises(
    caller: Caller, page: Pages, sought: SoughtLabels, name: str | None = None
) -> list[Enterprise]:
    """List the caller's enterprise, or all of them."""
    query = chosen(finding.enterprises(caller), name=name)
    with cloud.database.read() as db:
        query = sought.among(query, models.Enterprise)
        rows = page.rows(db, query, models.Enterprise, "name")
        return [Enterprise.model_validate(row) for row in rows]


@router.get("/{enterprise_id}", dependencies=[needs(Privilege.ENTERPRISE_ENUMERATE)])
def read_enterprise(enterprise_id: UUID, caller: Caller) -> Enterprise:
    """Read an enterprise."""
    with cloud.database.read() as db:
        return Enterprise.model_validate(finding.enterprise(db, caller, enterprise_id))


@router.patch("/{enterprise_id}", dependencies=[needs(Privilege.USERS_MANAGE_ENTERPRISE)])
def change_enterprise(
    enterprise_id: UUID, change: EnterpriseChange, caller: Caller, match: Match
) -> Enterprise:
    """Ask for approval of every deployment from now on, or no more; or rename an enterprise."""
    with cloud.database.write() as db:
        row = finding.enterprise(db, caller, enterprise_id)
        match.require(db, row, _shown)
        if change.name and change.name != row.name:
            require(caller, Privilege.ENTERPRISE_ADMINISTER_ALL)
            row.name = change.name
            _write(db, row, change.name)
        if change.approval is not None:
            row.approval = change.approval
        tell(db, "enterprise.changed", row, **change.model_dump(exclude_unset=True))
        return Enterprise.model_validate(row)


@router.delete(
    "/{enterprise_id}",
    status_code=204,
    dependencies=[needs(Privilege.ENTERPRISE_ADMINISTER_ALL)],
)
def delete_enterprise(enterprise_id: UUID, caller: Caller, match: Match) -> None:
    """Delete an enterprise that has nothing any more; its users, tokens and history go along."""
    with cloud.database.write() as db:
        row = finding.enterprise(db, caller, enterprise_id)
        if row.id == caller.enterprise_id:
            raise Conflict("this is your own enterprise", code="own-enterprise")
        match.require(db, row, _shown)
        tell(db, "enterprise.deleted", row)
        leaving.remove_enterprise(db, row)


def _shown(_db: Session, row: models.Enterprise) -> Enterprise:
    return Enterprise.model_validate(row)


def _write(db: Session, row: models.Enterprise, name: str) -> None:
    try:
        with db.begin_nested():
            db.add(row)
            db.flush()
    except IntegrityError as error:
        text = f"there is an enterprise called {name}"
        raise Conflict(text, code="name-taken") from error
