"""Sessions: a name and a password for a token; and what its caller can know of himself."""

from datetime import datetime
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from adapters.database import models
from adapters.database.events import tell
from adapters.database.people import ApiToken, Role, User
from adapters.database.session import Joined
from adapters.errors import Conflict
from adapters.privileges import Privilege
from adapters.types import Scope
from api import logins, passwords, tokens
from api.dependencies import Caller, Name
from api.errors import RETRY_AFTER_S, Problem
from api.permissions import needs
from flows.cloud import cloud

entrance = APIRouter(tags=["sessions"])  # the one door without a token
router = APIRouter(tags=["sessions"])
_WAITING = 64  # who comes beyond them comes again


class Login(BaseModel):
    """Who somebody says that he is."""

    model_config = ConfigDict(extra="forbid")

    enterprise: Name | None = Field(None, description="None: the one that there was first.")
    name: Name = Field(examples=["ada"])
    password: passwords.Shown


class NewSession(BaseModel):
    """A session; its `token` is told this once."""

    id: UUID
    user_id: UUID
    token: str
    expires_at: datetime


class NewPassword(BaseModel):
    """Another password, and the one that it follows."""

    model_config = ConfigDict(extra="forbid")

    current: passwords.Shown
    password: passwords.New


class Me(BaseModel):
    """Who asks, and what he may."""

    enterprise_id: UUID
    enterprise: str
    user_id: UUID | None = Field(description="None: a token that is no user's.")
    name: str
    role: str | None
    token_id: UUID
    session: bool
    expires_at: datetime | None
    scopes: list[Scope]
    read_only: bool
    privileges: list[Privilege]
    virtual_datacenters: list[UUID] = Field(description="Where he may look; none: everywhere.")


@entrance.post("/sessions", status_code=201)
async def create_session(login: Login, request: Request) -> NewSession:
    """Log in: the token that is answered ends after a while without use, and after half a day.

    Whatever is wrong, the answer is the same. After some wrong passwords none is right for a
    while.
    """
    turns: CapacityLimiter = request.app.state.logins
    if turns.statistics().tasks_waiting >= _WAITING:
        later = {"Retry-After": str(RETRY_AFTER_S)}
        raise Problem(503, "too-many-logins", "too many log in at once", later)
    said = login.enterprise, login.name, login.password, cloud.settings.session_s
    made = await to_thread.run_sync(logins.log_in, cloud.database, *said, limiter=turns)
    if made is None:
        raise _refused()
    return NewSession(**made.model_dump())


@router.delete("/sessions/current", status_code=204, dependencies=[needs()])
def end_session(caller: Caller) -> None:
    """Log out: the session's token opens nothing from now on."""
    with cloud.database.write() as db:
        row = db.get_one(ApiToken, caller.token_id)
        if not row.session:
            raise Conflict("this token is no session's; revoke it", code="not-a-session")
        tokens.revoke(Joined(db), caller.token_id)
        tell(db, "session.ended", db.get_one(User, row.user_id))


@router.get("/me", dependencies=[needs()])
def read_me(caller: Caller) -> Me:
    """Read who one is, and what one may."""
    with cloud.database.read() as db:
        token = db.get_one(ApiToken, caller.token_id)
        user = db.get(User, caller.user_id) if caller.user_id else None
        return Me(
            enterprise_id=caller.enterprise_id,
            enterprise=db.get_one(models.Enterprise, caller.enterprise_id).name,
            user_id=caller.user_id,
            name=caller.name,
            role=db.get_one(Role, user.role_id).name if user else None,
            token_id=token.id,
            session=token.session,
            expires_at=token.expires_at,
            scopes=sorted(caller.scopes),
            read_only=caller.read_only,
            privileges=sorted(caller.privileges),
            virtual_datacenters=sorted(caller.virtual_datacenters),
        )


@router.post("/me/password", status_code=204, dependencies=[needs()])
def change_password(new: NewPassword, caller: Caller) -> None:
    """Change one's own password; all of one's other sessions end."""
    if caller.user_id is None:
        raise Conflict("this token is no user's", code="no-user")
    if not logins.may_change(cloud.database, caller.user_id, new.current):
        raise Problem(403, "wrong-password", "the current password is another one")
    kept = passwords.hashed(new.password)
    with cloud.database.write() as db:
        row = db.get_one(User, caller.user_id)
        row.password_hash = kept
        tell(db, "user.password-changed", row)
        tokens.end_sessions(db, caller.user_id, but=caller.token_id)


def _refused() -> Problem:
    text = "no such name and password, or too many attempts"
    return Problem(401, "login-refused", text, {"WWW-Authenticate": 'Bearer realm="cloudloom"'})
