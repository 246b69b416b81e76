"""Enterprises: the caller's own, and whether its deployments wait for approval."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from adapters.database import models
from adapters.database.events import tell
from api import finding
from api.dependencies import Admin, Caller, Pages, chosen
from api.matching import Match
from flows.cloud import cloud

router = APIRouter(prefix="/enterprises", tags=["enterprises"])


class Enterprise(BaseModel):
    """A tenant."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    approval: bool


class EnterpriseChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    approval: bool = Field(description="Deployments wait until somebody approves.")


@router.get("")
def list_enterprises(caller: Caller, page: Pages, name: str | None = None) -> list[Enterprise]:
    """List the caller's enterprise."""
    query = chosen(select(models.Enterprise), id=caller.enterprise_id, name=name)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Enterprise, "name")
        return [Enterprise.model_validate(row) for row in rows]


@router.get("/{enterprise_id}")
def read_enterprise(enterprise_id: UUID, caller: Caller) -> Enterprise:
    """Read the caller's enterprise."""
    with cloud.database.read() as db:
        row = finding.shared(db, models.Enterprise, enterprise_id, id=caller.enterprise_id)
        return Enterprise.model_validate(row)


@router.patch("/{enterprise_id}")
def change_enterprise(
    enterprise_id: UUID, change: EnterpriseChange, admin: Admin, match: Match
) -> Enterprise:
    """Ask for approval of every deployment from now on, or no more; needs the scope `admin`."""
    with cloud.database.write() as db:
        row = finding.shared(db, models.Enterprise, enterprise_id, id=admin.enterprise_id)
        match.require(db, row, lambda _db, row: Enterprise.model_validate(row))
        row.approval = change.approval
        tell(db, "enterprise.changed", row, approval=change.approval)
        return Enterprise.model_validate(row)
