"""Limits: of an enterprise, of it in a datacenter, of a virtual datacenter; and what is used."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, literal, or_, select, union_all
from sqlalchemy.orm import Session

from adapters.amounts import Amounts, Level, Standing
from adapters.database import models
from adapters.database.ledger import ChargeRow, Key, Limit, standings
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Pages, Reference
from api.matching import Match
from api.permissions import needs, require
from api.tokens import Caller as Caller_
from flows.cloud import cloud
from flows.policies.limits import require_settable

router = APIRouter(prefix="/limits", tags=["limits"])
Of = Annotated[
    Reference | None,
    Query(description="Whose limits in a datacenter; one's own enterprise's unless named."),
]
_EXAMPLE: Any = {
    "soft": {"cpu": 16},
    "hard": {"cpu": 20, "ram_mib": 65536, "storage_mib": 1048576},
}


class NewLimits(BaseModel):
    """How much may be used: beyond `soft` with force only, beyond `hard` never; 0 is no limit."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    soft: Amounts = Field(default_factory=Amounts)
    hard: Amounts = Field(default_factory=Amounts)


class Limits(NewLimits):
    """The limits of a level: of the enterprise, datacenter or virtual datacenter `holder_id`."""

    level: Level
    holder_id: UUID


class Usage(Limits):
    """What a level uses of its limits."""

    name: str
    used: Amounts


@router.get("", dependencies=[needs(Privilege.ENTERPRISE_RESOURCE_SUMMARY_ENT)])
def list_limits(caller: Caller, page: Pages, level: Level | None = None) -> list[Limits]:
    """List the limits that are set; a level that is not here has none."""
    query = select(Limit).where(Limit.enterprise_id == caller.enterprise_id)
    if level:
        query = query.where(Limit.level == level)
    with cloud.database.read() as db:
        return [
            Limits(
                level=Level(row.level),
                holder_id=row.holder,
                soft=Amounts(**row.soft),
                hard=Amounts(**row.hard),
            )
            for row in page.rows(db, query, Limit, "level")
        ]


@router.get("/usage", dependencies=[needs(Privilege.ENTERPRISE_RESOURCE_SUMMARY_ENT)])
def list_usage(caller: Caller, page: Pages, level: Level | None = None) -> list[Usage]:
    """List what is used, and of which limits: everywhere that something is, or may be."""
    levels = _levels(caller, level).subquery()
    with cloud.database.read() as db:
        ids = page.ids(db, select(levels.c.id), levels.c, "name", "level")
        found = {row.id: row for row in db.execute(select(levels).where(levels.c.id.in_(ids)))}
        rows = [found[each] for each in ids]
        keys = [(Level(row.level), row.id) for row in rows]
        stand = standings(db, caller.enterprise_id, keys)
        return [
            Usage(**_limits(each).model_dump(), name=row.name, used=each.used)
            for row, each in zip(rows, stand, strict=True)
        ]


@router.get(
    "/{level}/{holder_id}", dependencies=[needs(Privilege.ENTERPRISE_RESOURCE_SUMMARY_ENT)]
)
def read_limits(level: Level, holder_id: UUID, caller: Caller, of: Of = None) -> Limits:
    """Read a level's limits; all are 0 where none are set."""
    with cloud.database.read() as db:
        enterprise, whose = _whose(db, caller, level, holder_id, of)
        return _limits(standings(db, enterprise, [whose])[0])


@router.put("/{level}/{holder_id}", dependencies=[needs(Privilege.VDC_MANAGE)])
def set_limits(
    level: Level,
    holder_id: UUID,
    new: NewLimits,
    caller: Caller,
    match: Match,
    of: Of = None,
) -> Limits:
    """Limit a level; what is not named is not limited.

    Enterprises are limited by who administers all of them. Lowering a limit below what is used is
    refused.
    """
    _require_above(caller, level)
    with cloud.database.read() as db:
        enterprise, whose = _whose(db, caller, level, holder_id, of)

    def allow(now: Standing, soft: Amounts, hard: Amounts) -> None:
        match.require_same(_limits(now))
        require_settable(now, soft, hard)

    cloud.ledger.set_limits(enterprise, whose, new.soft, new.hard, allow)
    return Limits(level=level, holder_id=holder_id, soft=new.soft, hard=new.hard)


@router.delete(
    "/{level}/{holder_id}",
    status_code=204,
    dependencies=[needs(Privilege.VDC_MANAGE)],
)
def lift_limits(
    level: Level, holder_id: UUID, caller: Caller, match: Match, of: Of = None
) -> None:
    """Limit a level no more."""
    _require_above(caller, level)
    with cloud.database.read() as db:
        enterprise, whose = _whose(db, caller, level, holder_id, of)
    cloud.ledger.lift_limits(enterprise, whose, lambda now: match.require_same(_limits(now)))


def _require_above(caller: Caller_, level: Level) -> None:
    """Nobody raises the limits that others have set him."""
    if level is not Level.VIRTUAL_DATACENTER:
        require(caller, Privilege.ENTERPRISE_ADMINISTER_ALL)


def _whose(
    db: Session, caller: Caller_, level: Level, holder: UUID, of: str | None
) -> tuple[UUID, Key]:
    """The level and its enterprise, if the caller may see that. Raises `NotFound`."""
    if level is Level.VIRTUAL_DATACENTER:
        row = finding.virtual_datacenter(db, caller, holder)
        return row.enterprise_id, (level, row.id)
    if level is Level.DATACENTER:
        finding.shared(db, models.Datacenter, holder)
        return finding.enterprise(db, caller, of).id, (level, holder)
    enterprise = finding.enterprise(db, caller, holder).id
    return enterprise, (level, enterprise)


def _limits(standing: Standing) -> Limits:
    return Limits(
        level=standing.level, holder_id=standing.id, soft=standing.soft, hard=standing.hard
    )


def _levels(caller: Caller_, level: Level | None) -> Any:
    """The caller's levels: its enterprise, its VDCs, and the datacenters where it is at all."""
    enterprise, vdc, where = models.Enterprise, models.VirtualDatacenter, models.Datacenter
    mine = caller.enterprise_id

    def within(table: Any) -> ColumnElement[bool]:
        return where.id.in_(select(table.datacenter_id).where(table.enterprise_id == mine))

    present = or_(*map(within, (vdc, models.Template, ChargeRow, Limit)))
    conditions: dict[Level, tuple[Any, ColumnElement[bool]]] = {
        Level.ENTERPRISE: (enterprise, enterprise.id == mine),
        Level.DATACENTER: (where, present),
        Level.VIRTUAL_DATACENTER: (vdc, vdc.enterprise_id == mine),
    }
    return union_all(
        *(
            select(table.id, literal(str(each)).label("level"), table.name).where(which)
            for each, (table, which) in conditions.items()
            if level in {None, each}
        )
    )
