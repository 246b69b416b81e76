"""Roles: the stock ones, which stay as they are, and those that an enterprise makes for itself."""

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database.events import tell
from adapters.database.people import Role as Row
from adapters.database.people import User
from adapters.errors import Conflict, InUse
from adapters.privileges import Privilege, Stock
from api import finding, tokens
from api.dependencies import Caller, Name, Once, Pages, Reference
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs, require_no_mightier
from flows.cloud import cloud
from flows.policies.privileges import known

router = APIRouter(tags=["roles"])
Privileges = Annotated[list[Privilege], Field(max_length=len(Privilege))]
_EXAMPLE = [["VDC_ENUMERATE", "VAPP_PERFORM_ACTIONS"]]


class NewRole(BaseModel):
    """A set of privileges, none of which its maker lacks."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["switcher"])
    privileges: Privileges = Field(examples=_EXAMPLE)
    enterprise: Reference | None = Field(None, description="None: the caller's own.")


class RoleChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    privileges: Privileges | None = Field(None, examples=_EXAMPLE)


class Role(BaseModel):
    """A named set of privileges."""

    id: UUID
    enterprise_id: UUID | None = Field(description="None: a stock role, which all have.")
    name: str
    blocked: bool = Field(description="Nobody changes or deletes it.")
    privileges: list[Privilege]
    labels: dict[str, str]


class Meaning(BaseModel):
    """A privilege, and what it allows."""

    name: Privilege
    meaning: str


@router.get("/privileges", dependencies=[needs()])
def list_privileges() -> list[Meaning]:
    """List what a role may allow; all of it at once."""
    return [Meaning(name=each, meaning=each.meaning) for each in Privilege]


@router.post(
    "/roles",
    status_code=201,
    responses={201: {"model": Role}},
    dependencies=[needs(Privilege.USERS_MANAGE_ROLES)],
)
def create_role(new: NewRole, caller: Caller, once: Once) -> Response:
    """Create a role of an enterprise."""
    require_no_mightier(caller, new.privileges)

    def act(db: Session) -> Answer:
        row = Row(
            id=uuid4(),
            enterprise_id=finding.enterprise(db, caller, new.enterprise).id,
            name=new.name,
            blocked=False,
            privileges=sorted(set(new.privileges)),
        )
        _write(db, row)
        return Answer(201, _role(row).model_dump(mode="json"), f"/v1/roles/{row.id}")

    return once.answer(act).response()


@router.get("/roles", dependencies=[needs(Privilege.USERS_VIEW_PRIVILEGES)])
def list_roles(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    enterprise_id: UUID | None = None,
) -> list[Role]:
    """List the roles that an enterprise's users can have: the stock ones and its own."""
    query = sought.among(finding.roles(caller, enterprise_id), Row)
    if name:
        query = query.where(Row.name == name)
    with cloud.database.read() as db:
        return [_role(row) for row in page.rows(db, query, Row, "name")]


@router.get("/roles/{role_id}", dependencies=[needs(Privilege.USERS_VIEW_PRIVILEGES)])
def read_role(role_id: UUID, caller: Caller) -> Role:
    """Read a role."""
    with cloud.database.read() as db:
        return _role(finding.role(db, caller, role_id))


@router.patch("/roles/{role_id}", dependencies=[needs(Privilege.USERS_MANAGE_ROLES)])
def change_role(role_id: UUID, change: RoleChange, caller: Caller, match: Match) -> Role:
    """Change a role: whoever has it has other privileges from the next request on."""
    with cloud.database.write() as db:
        row = _changeable(db, caller, role_id)
        match.require_same(_role(row))
        if change.privileges is not None:
            require_no_mightier(caller, change.privileges)
            row.privileges = sorted(set(change.privileges))
        row.name = change.name or row.name
        _write(db, row)
        tell(db, "role.changed", row, privileges=row.privileges)
        return _role(row)


@router.delete(
    "/roles/{role_id}",
    status_code=204,
    dependencies=[needs(Privilege.USERS_MANAGE_ROLES)],
)
def delete_role(role_id: UUID, caller: Caller, match: Match) -> None:
    """Delete a role that no user has."""
    with cloud.database.write() as db:
        row = _changeable(db, caller, role_id)
        match.require_same(_role(row))
        having = select(User.name).where(User.role_id == row.id).order_by(User.name).limit(100)
        if users := list(db.scalars(having)):
            raise InUse(f"role {row.name} has users", users=users)
        tell(db, "role.deleted", row)
        db.delete(row)


def _changeable(db: Session, caller: tokens.Caller, ref: UUID) -> Row:
    row = finding.role(db, caller, ref)
    if row.blocked:
        raise Conflict(f"role {row.name} stays as it is", code="role-blocked")
    require_no_mightier(caller, known(row.privileges))
    db.refresh(row, with_for_update=True)
    return row


def _write(db: Session, row: Row) -> None:
    taken = Conflict(f"there is a role called {row.name}", code="name-taken")
    if row.name in set(Stock):  # found by name, it would be the one or the other
        raise taken
    try:
        with db.begin_nested():
            db.add(row)
            db.flush()
    except IntegrityError as error:
        raise taken from error


def _role(row: Row) -> Role:
    return Role(
        id=row.id,
        enterprise_id=row.enterprise_id,
        name=row.name,
        blocked=row.blocked,
        privileges=sorted(known(row.privileges)),
        labels=row.labels,
    )
