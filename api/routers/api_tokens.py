"""API tokens: made by those who may, with no more than they may themselves."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from adapters.database.session import Joined
from adapters.types import Scope
from api import tokens
from api.dependencies import Admin, Name, Once, require_scope
from api.errors import Problem
from api.once import Answer

router = APIRouter(prefix="/api-tokens", tags=["api tokens"])


class NewApiToken(BaseModel):
    """A token, and what it may do beyond the ordinary."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["release-manager"])
    scopes: Annotated[list[Scope], Field(max_length=len(Scope))] = Field(
        default_factory=list, examples=[["approve"]]
    )
    expires_at: AwareDatetime | None = Field(None, description="None: when it is revoked.")


class ApiToken(BaseModel):
    """A token; `token` is told once, and is missing where the answer is given again."""

    id: UUID
    name: str
    scopes: list[Scope]
    expires_at: datetime | None
    token: str | None


@router.post("", status_code=201, responses={201: {"model": ApiToken}})
def create_api_token(new: NewApiToken, admin: Admin, once: Once) -> Response:
    """Make a token of the caller's enterprise; needs the scope `admin`, and each that it gives."""
    for scope in new.scopes:
        require_scope(admin, scope)
    if new.expires_at and new.expires_at <= datetime.now(UTC):
        raise Problem(422, "invalid-request", "the token would have expired already")
    made = ApiToken(id=uuid4(), **new.model_dump(), token=None)
    secret: list[str] = []

    def act(db: Session) -> Answer:
        secret.append(
            tokens.mint(
                Joined(db), new.name, admin.enterprise_id, new.expires_at, {*new.scopes}, made.id
            )
        )
        return Answer(201, made.model_dump(mode="json"))  # what is kept has no secret in it

    answer = once.answer(act)
    return Answer(201, {**answer.body, "token": secret[0]}).response()
