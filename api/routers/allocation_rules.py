"""Allocation rules: how much of a host is given away, how it is chosen, and who may share it."""

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from adapters.allocation import Fit, RuleKind
from adapters.database import models, uses
from adapters.errors import Refused
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Once, Pages, Reference
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from flows.cloud import cloud

router = APIRouter(prefix="/allocation-rules", tags=["infrastructure"])

Percent = Annotated[int, Field(ge=0, le=10_000, description="200 is two for one, 0 no new VMs.")]


class NewLoad(BaseModel):
    """How much of a host, of each in a rack, or of each in a datacenter may be given away.

    Of several, the most specific one holds. A rack or host is given by name within the
    datacenter, or by id.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal[RuleKind.LOAD]
    datacenter: Reference | None = None
    rack: Reference | None = None
    host: Reference | None = None
    cpu_percent: Percent
    ram_percent: Percent

    @model_validator(mode="after")
    def _is_about_one(self) -> "NewLoad":
        if (self.rack and self.host) or not (self.datacenter or self.rack or self.host):
            raise ValueError("a load rule is about a datacenter, a rack, or a host")
        return self


class NewFit(BaseModel):
    """Whether a datacenter's hosts, or all, are filled one by one or VMs spread over them."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal[RuleKind.FIT]
    datacenter: Reference | None = None
    policy: Fit


class NewExclusion(BaseModel):
    """Two enterprises whose new VMs never come to a host that has some of the other's."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal[RuleKind.EXCLUSION]
    enterprises: list[Reference] = Field(min_length=2, max_length=2)


class NewRestriction(BaseModel):
    """An enterprise whose new VMs come to hosts only that are reserved for it."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal[RuleKind.RESTRICTION]
    enterprise: Reference


NewRule = Annotated[NewLoad | NewFit | NewExclusion | NewRestriction, Body(discriminator="kind")]


class RuleChange(BaseModel):
    """What is to be different: a load rule's percents, or a fit's policy."""

    model_config = ConfigDict(extra="forbid")

    cpu_percent: Percent = 0
    ram_percent: Percent = 0
    policy: Fit = Fit.PROGRESSIVE


class Rule(BaseModel):
    """A rule; what its kind does not have is null."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: RuleKind
    datacenter_id: UUID | None
    rack_id: UUID | None
    host_id: UUID | None
    cpu_percent: int | None
    ram_percent: int | None
    policy: Fit | None
    enterprise_id: UUID | None
    other_enterprise_id: UUID | None


_shown = infrastructure.plainly(Rule)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Rule}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_ALLOCATION)],
)
def create_rule(new: NewRule, once: Once) -> Response:
    """Add a rule; there is one about a thing. It is heeded when VMs are placed from now on."""
    rule = uuid4()

    def act(db: Session) -> Answer:
        values = _columns(db, new)
        about = [new.kind, *sorted(str(x) for x in values.values() if isinstance(x, UUID))]
        row = models.AllocationRule(id=rule, kind=new.kind, about=":".join(about), **values)
        if datacenter := uses.datacenter_of(db, row):
            uses.held(db, models.Datacenter, datacenter)
        infrastructure.enter(db, row, f"the {new.kind} rule about this")
        return infrastructure.created("allocation-rules", Rule.model_validate(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_rules(
    page: Pages,
    kind: RuleKind | None = None,
    datacenter_id: UUID | None = None,
    rack_id: UUID | None = None,
    host_id: UUID | None = None,
    enterprise_id: UUID | None = None,
) -> list[Rule]:
    """List rules; an enterprise's are those that name it."""
    table = models.AllocationRule
    wanted = {
        "kind": kind,
        "datacenter_id": datacenter_id,
        "rack_id": rack_id,
        "host_id": host_id,
    }
    query = select(table).filter_by(**{k: v for k, v in wanted.items() if v})
    if enterprise_id:
        either = table.enterprise_id, table.other_enterprise_id
        query = query.where(or_(*(column == enterprise_id for column in either)))
    with cloud.database.read() as db:
        return [Rule.model_validate(row) for row in page.rows(db, query, table, "about", "kind")]


@router.get("/{rule_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_rule(rule_id: UUID) -> Rule:
    """Read a rule."""
    with cloud.database.read() as db:
        return Rule.model_validate(finding.shared(db, models.AllocationRule, rule_id))


@router.patch("/{rule_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_ALLOCATION)])
def change_rule(rule_id: UUID, wanted: RuleChange, match: Match) -> Rule:
    """Change a load rule's percents, or a fit's policy; what a rule is about stays."""
    values = wanted.model_dump(exclude_unset=True)

    def act(_: Session, row: models.AllocationRule) -> Rule:
        if strange := [name for name in values if getattr(row, name) is None]:
            text = f"a rule of the kind {row.kind} has no {', '.join(strange)}"
            raise Refused(text, code="not-of-this-rule")
        infrastructure.assign(row, values)
        return Rule.model_validate(row)

    return infrastructure.change(models.AllocationRule, rule_id, act, match, _shown)


@router.delete(
    "/{rule_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_ALLOCATION)]
)
def delete_rule(rule_id: UUID, match: Match) -> None:
    """Remove a rule; VMs stay where they are."""
    infrastructure.remove(models.AllocationRule, rule_id, match, _shown)


def _columns(db: Session, new: NewLoad | NewFit | NewExclusion | NewRestriction) -> dict[str, Any]:
    """What the rule's row has, names found. Raises `NotFound`, `Refused`."""
    if isinstance(new, NewFit):
        within = (
            finding.shared(db, models.Datacenter, new.datacenter).id if new.datacenter else None
        )
        return {"datacenter_id": within, "policy": new.policy}
    if isinstance(new, NewLoad):
        percents = {"cpu_percent": new.cpu_percent, "ram_percent": new.ram_percent}
        return _about(db, new) | percents
    names = new.enterprises if isinstance(new, NewExclusion) else [new.enterprise]
    ids = sorted({finding.shared(db, models.Enterprise, name).id for name in names})
    if len(ids) < len(names):
        raise Refused("an enterprise is not kept from itself", code="same-enterprise")
    return dict(zip(("enterprise_id", "other_enterprise_id"), ids, strict=False))


def _about(db: Session, new: NewLoad) -> dict[str, Any]:
    within = {}
    if new.datacenter:
        within["datacenter_id"] = finding.shared(db, models.Datacenter, new.datacenter).id
    if new.rack:
        return {"rack_id": finding.shared(db, models.Rack, new.rack, **within).id}
    if new.host:
        return {"host_id": finding.shared(db, models.Host, new.host, **within).id}
    return within
