"""Users: people of an enterprise, each with a role, and perhaps only some virtual datacenters."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell
from adapters.database.people import Role
from adapters.database.people import User as Row
from adapters.database.session import utc_now
from adapters.errors import Conflict, NotFound
from adapters.privileges import Privilege, Stock
from api import finding, leaving, logins, passwords, tokens
from api.dependencies import Caller, Key, Name, Pages, Reference
from api.errors import Problem
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer, Once
from api.permissions import needs, require_no_mightier
from flows.cloud import cloud
from flows.policies.privileges import known

router = APIRouter(prefix="/users", tags=["users"])
FullName = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Email = Annotated[str, StringConstraints(max_length=255, pattern=r"^([^@\s]+@[^@\s]+)?$")]
_LIST = "What he may look into; empty: all of his enterprise's."
VirtualDatacenters = Annotated[list[UUID], Field(max_length=1000, description=_LIST)]


class NewUser(BaseModel):
    """A person, as he will log in."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["ada"], description="Unique in his enterprise.")
    password: passwords.New
    role: Reference = Field(examples=["USER"])
    enterprise: Reference | None = Field(None, description="None: the caller's own.")
    full_name: FullName = ""
    email: Email = ""
    virtual_datacenters: VirtualDatacenters = []


class UserChange(BaseModel):
    """What is to be different; a new password ends all of his sessions."""

    model_config = ConfigDict(extra="forbid")

    password: passwords.New | None = None
    role: Reference | None = None
    full_name: FullName | None = None
    email: Email | None = None
    active: bool | None = Field(None, description="Who is not can do nothing, by no token.")
    virtual_datacenters: VirtualDatacenters | None = None


class User(BaseModel):
    """A person."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    enterprise_id: UUID
    role_id: UUID
    name: str
    full_name: str
    email: str
    active: bool
    virtual_datacenters: list[UUID]
    created_at: datetime
    labels: dict[str, str]


@router.post(
    "",
    status_code=201,
    responses={201: {"model": User}},
    dependencies=[needs(Privilege.USERS_MANAGE_USERS)],
)
def create_user(
    request: Request, new: NewUser, caller: Caller, idempotency_key: Key = None
) -> Response:
    """Create a user, with no more privileges than the caller's.

    A token that is nobody's, such as the first one, is the user's from then on whom it makes
    CLOUD_ADMIN.
    """
    # Without the password: what is kept of a request would be a fast hash of it.
    said = new.model_dump_json(exclude={"password"}).encode()
    once = Once(caller, f"POST {request.url.path}", idempotency_key, said)
    kept = passwords.hashed(new.password)

    def act(db: Session) -> Answer:
        enterprise = finding.enterprise(db, caller, new.enterprise)
        role = finding.role(db, caller, new.role, enterprise.id)
        require_no_mightier(caller, known(role.privileges))
        row = Row(
            id=uuid4(),
            enterprise_id=enterprise.id,
            role_id=role.id,
            name=new.name,
            full_name=new.full_name,
            email=new.email,
            password_hash=kept,
            active=True,
            virtual_datacenters=_bounds(db, caller, enterprise.id, new.virtual_datacenters),
            created_at=utc_now(),
        )
        try:
            with db.begin_nested():
                db.add(row)
        except IntegrityError as error:
            text = f"there is a user called {new.name}"
            raise Conflict(text, code="name-taken") from error
        if caller.user_id is None and role.id == Stock.CLOUD_ADMIN.id:
            tokens.hand_over(db, caller.token_id, row.id)
        db.refresh(row)
        return Answer(201, User.model_validate(row).model_dump(mode="json"), f"/v1/users/{row.id}")

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.USERS_VIEW)])
def list_users(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    enterprise_id: UUID | None = None,
) -> list[User]:
    """List the users of an enterprise, of the caller's unless he may name another."""
    query = sought.among(finding.users(caller, enterprise_id), Row)
    if name:
        query = query.where(Row.name == name)
    with cloud.database.read() as db:
        return [User.model_validate(row) for row in page.rows(db, query, Row, "name")]


@router.get("/{user_id}", dependencies=[needs(Privilege.USERS_VIEW)])
def read_user(user_id: UUID, caller: Caller) -> User:
    """Read a user."""
    with cloud.database.read() as db:
        return User.model_validate(finding.user(db, caller, user_id))


@router.patch("/{user_id}", dependencies=[needs(Privilege.USERS_MANAGE_USERS)])
def change_user(user_id: UUID, change: UserChange, caller: Caller, match: Match) -> User:
    """Change a user who can do no more than the caller."""
    with cloud.database.read() as db:
        _ruled(db, caller, user_id)
    kept = passwords.hashed(change.password) if change.password else None
    with cloud.database.write() as db:
        row = _ruled(db, caller, user_id)
        match.require(db, row, _shown)
        if change.role is not None:
            role = finding.role(db, caller, change.role, row.enterprise_id)
            require_no_mightier(caller, known(role.privileges))
            _require_another(caller, row, what="role", same=role.id == row.role_id)
            row.role_id = role.id
        if change.active is not None:
            _require_another(caller, row, what="state", same=change.active)
            row.active = change.active
        if change.virtual_datacenters is not None:
            wanted = change.virtual_datacenters
            row.virtual_datacenters = _bounds(db, caller, row.enterprise_id, wanted)
        row.full_name = row.full_name if change.full_name is None else change.full_name
        row.email = row.email if change.email is None else change.email
        if kept:
            row.password_hash = kept
            logins.forgive(db, row.id)
        if kept or not row.active:
            tokens.end_sessions(db, row.id)
        db.flush()
        tell(db, "user.changed", row, changed=sorted(change.model_fields_set))
        return User.model_validate(row)


@router.delete("/{user_id}", status_code=204, dependencies=[needs(Privilege.USERS_MANAGE_USERS)])
def delete_user(user_id: UUID, caller: Caller, match: Match) -> None:
    """Delete a user who can do no more than the caller, with his tokens."""
    with cloud.database.write() as db:
        row = _ruled(db, caller, user_id)
        match.require(db, row, _shown)
        _require_another(caller, row, what="place", same=False)
        tell(db, "user.deleted", row)
        leaving.remove_user(db, row.id)


def _shown(_db: Session, row: Row) -> User:
    return User.model_validate(row)


def _ruled(db: Session, caller: tokens.Caller, ref: UUID) -> Row:
    row = finding.user(db, caller, ref)
    require_no_mightier(caller, known(db.get_one(Role, row.role_id).privileges))
    return row


def _require_another(caller: tokens.Caller, row: Row, *, what: str, same: bool) -> None:
    """Let nobody shut himself out, nor the last administrator everybody."""
    if row.id == caller.user_id and not same:
        raise Conflict(f"nobody takes his own {what} away", code="own-user")


def _bounds(
    db: Session, caller: tokens.Caller, enterprise: UUID, wanted: Iterable[UUID]
) -> list[str]:
    """The virtual datacenters that a user may look into: of those that the caller may."""
    bounds = set(wanted)
    table = models.VirtualDatacenter
    query = select(table.id).where(table.enterprise_id == enterprise, table.id.in_(bounds))
    found = set(db.scalars(query))
    if caller.virtual_datacenters:
        found &= caller.virtual_datacenters
        if not bounds:
            text = "he would look into more than you may"
            raise Problem(403, "privilege-missing", text)
    if missing := sorted(bounds - found):
        text = f"there is no virtual datacenter {missing[0]}"
        raise NotFound(text, code="unknown-virtual-datacenter")
    return sorted(map(str, bounds))
