"""API tokens: each user's own, with no more power than he has, and told once."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from adapters.database.events import tell
from adapters.database.people import ApiToken as Row
from adapters.database.session import Joined, utc_now
from adapters.privileges import Privilege
from adapters.types import Scope
from api import finding, tokens
from api.dependencies import Caller, Name, Once, Pages
from api.errors import Problem
from api.matching import Match
from api.once import Answer
from api.permissions import needs, require_no_mightier, require_scope
from flows.cloud import cloud

router = APIRouter(prefix="/api-tokens", tags=["api tokens"])


class NewApiToken(BaseModel):
    """A token of the caller's, and what it may do beyond the ordinary."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["release-manager"])
    scopes: Annotated[list[Scope], Field(max_length=len(Scope))] = Field(
        default_factory=list,
        examples=[["approve"]],
        description="`admin`: tokens, enterprises, users and roles. `approve`: decisions.",
    )
    read_only: bool = Field(default=False, description="It only sees.")
    expires_at: AwareDatetime | None = Field(None, description="None: when it is revoked.")


class ApiToken(BaseModel):
    """A token, but for its secret: `prefix` is how it begins."""

    id: UUID
    prefix: str
    user_id: UUID | None
    name: str
    scopes: list[Scope]
    read_only: bool
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To within a minute.")
    revoked_at: datetime | None


class MadeApiToken(BaseModel):
    """A new token; `token` is told once, and is missing where the answer is given again."""

    id: UUID
    name: str
    scopes: list[Scope]
    read_only: bool
    expires_at: datetime | None
    token: str | None


@router.post(
    "",
    status_code=201,
    responses={201: {"model": MadeApiToken}},
    dependencies=[needs(Privilege.API_TOKENS_MANAGE)],
)
def create_api_token(new: NewApiToken, caller: Caller, once: Once) -> Response:
    """Make a token of the caller's own, with no scope that the one shown has not."""
    for scope in new.scopes:
        require_scope(caller, scope)
    if new.expires_at and new.expires_at <= datetime.now(UTC):
        raise Problem(422, "invalid-request", "the token would have expired already")
    made = MadeApiToken(id=uuid4(), **new.model_dump(), token=None)
    secret: list[str] = []

    def act(db: Session) -> Answer:
        secret.append(
            tokens.mint(
                Joined(db),
                new.name,
                caller.enterprise_id,
                new.expires_at,
                {*new.scopes},
                made.id,
                user=caller.user_id,
                read_only=new.read_only,
            )
        )
        return Answer(201, made.model_dump(mode="json"))  # what is kept has no secret in it

    answer = once.answer(act)
    return Answer(201, {**answer.body, "token": secret[0]}).response()


@router.get("", dependencies=[needs(Privilege.API_TOKENS_MANAGE)])
def list_api_tokens(
    caller: Caller, page: Pages, name: str | None = None, user_id: UUID | None = None
) -> list[ApiToken]:
    """List one's own tokens; who manages users sees everybody's in the enterprise."""
    query = finding.tokens(caller, everybodys=_manages(caller))
    if name:
        query = query.where(Row.name == name)
    if user_id:
        query = query.where(Row.user_id == user_id)
    with cloud.database.read() as db:
        return [_token(row) for row in page.rows(db, query, Row, "name", "created_at")]


@router.get("/{token_id}", dependencies=[needs(Privilege.API_TOKENS_MANAGE)])
def read_api_token(token_id: UUID, caller: Caller) -> ApiToken:
    """Read what is known of a token; not its secret."""
    with cloud.database.read() as db:
        return _token(finding.token(db, caller, token_id, everybodys=_manages(caller)))


@router.delete("/{token_id}", status_code=204, dependencies=[needs(Privilege.API_TOKENS_MANAGE)])
def revoke_api_token(token_id: UUID, caller: Caller, match: Match) -> None:
    """Let a token open nothing from now on: one's own, or, who manages users, anybody's."""
    with cloud.database.write() as db:
        row = finding.token(db, caller, token_id, everybodys=_manages(caller))
        match.require(db, row, lambda _db, row: _token(row))
        if stands_for := tokens.holder(Joined(db), row.id):
            require_no_mightier(caller, stands_for.privileges)
        if row.revoked_at is None:
            tell(db, "api-token.revoked", row)
            row.revoked_at = utc_now()


def _manages(caller: tokens.Caller) -> bool:
    return Privilege.USERS_MANAGE_USERS in caller.privileges


def _token(row: Row) -> ApiToken:
    return ApiToken(
        id=row.id,
        prefix=f"cl_{row.id.hex}",
        user_id=row.user_id,
        name=row.name,
        scopes=sorted(map(Scope, row.scopes)),
        read_only=row.read_only,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
