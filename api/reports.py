"""What the API says of an operation."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.types import Decision, Finding, OperationState, StepState
from api.errors import recorded
from flows.cloud import cloud
from flows.upkeep import publish_report

STEPS_TOLD = 500
_MOVING = {StepState.RUNNING, StepState.UNDOING}
_EXAMPLE: dict[str, Any] = {
    "id": "5b1f7c1e-7d0f-4bb0-b5b5-7c0d3d5a2a11",
    "kind": "deploy_appliance",
    "state": "running",
    "target": {
        "kind": "appliance",
        "id": "0d9a3f3e-27f1-4f5e-9a0a-0f1c9e0c1b22",
        "name": "shop",
    },
    "requested_by": "first",
    "waits_until": None,
    "approval": {
        "decision": "approved",
        "by": "release-manager",
        "token": "4f2a9a52-6a0f-4a0b-8d53-9a3c8c7d1f10",
        "reason": "as planned for tonight",
        "decided_at": "2026-11-22T11:59:59.900000Z",
    },
    "accepted_at": "2026-11-22T12:00:00.000000Z",
    "started_at": "2026-11-22T12:00:00.210000Z",
    "ended_at": None,
    "progress": 50,
    "counts": {"done": 1, "running": 1},
    "slowest": None,
    "steps": [
        {
            "key": "make-disk[7c9e6679-7425-40de-944b-e07fc1f90ae7]",
            "name": "make-disk",
            "lane": "db",
            "host": "",
            "position": 4,
            "state": "running",
            "percent": 40,
            "attempts": 1,
            "started_at": "2026-11-22T12:00:00.480000Z",
            "ended_at": None,
            "error": None,
        }
    ],
    "error": None,
    "flow_run_url": None,
    "left_behind": False,
    "provisional": False,
    "report": None,
}


class Target(BaseModel):
    """What an operation is about."""

    kind: str
    id: UUID
    name: str


class Step(BaseModel):
    """One step of an operation."""

    model_config = ConfigDict(from_attributes=True)

    key: str
    name: str
    lane: str
    host: str
    position: int
    state: StepState
    percent: int | None = Field(description="Of what takes long: how much of it is done.")
    attempts: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class Slowest(BaseModel):
    """Where an operation waits: the step at a host that has been in flight for the longest."""

    host: str
    lane: str
    step: str
    started_at: datetime


class Approval(BaseModel):
    """What was decided of an operation that waited for approval: by whom, and why."""

    decision: Decision
    by: str | None
    token: UUID | None
    reason: str | None
    decided_at: datetime


class Operation(BaseModel):
    """One thing that was asked for, and how it goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    kind: str
    state: OperationState
    target: Target
    requested_by: str
    waits_until: datetime | None
    approval: Approval | None
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: int
    counts: dict[StepState, int] = Field(description="How many steps are in which state.")
    slowest: Slowest | None
    steps: list[Step] = Field(
        description=f"All steps, or, beyond {STEPS_TOLD}, those in flight and those that failed: "
        "`/v1/operations/{id}/steps` has the others."
    )
    error: dict[str, Any] | None
    flow_run_url: str | None
    left_behind: bool
    provisional: bool
    report: list[Finding] | None


class Question(BaseModel):
    """What was asked about one step when its operation had ended, and what was answered."""

    model_config = ConfigDict(from_attributes=True)

    key: str
    query: str
    expected: str
    answer: str
    as_expected: bool
    looked_at: datetime


class Receipt(BaseModel):
    """The proof of what an operation left, and what it did not."""

    operation: UUID
    state: OperationState
    left_behind: bool
    provisional: bool
    questions: list[Question]


def report(db: Session, operation: UUID) -> Operation:
    """An operation with its steps."""
    return reports(db, [db.get_one(models.Operation, operation)])[0]


def reports(db: Session, rows: Iterable[models.Operation]) -> list[Operation]:
    """Operations with their steps."""
    rows = list(rows)
    lines: dict[UUID, list[Step]] = {row.id: [] for row in rows}
    found: dict[UUID, list[Finding]] = {}
    mine = models.Step.operation_id.in_(lines)
    for operation, step in steps_of(db, mine):
        lines[operation].append(step)
    reported = select(models.Step).where(mine, models.Step.name == publish_report.name)
    for line in db.scalars(reported):
        if line.result is not None:
            found[line.operation_id] = [Finding.model_validate(each) for each in line.result]
    return [_report(db, row, lines[row.id], found.get(row.id)) for row in rows]


def steps_of(
    db: Session, which: ColumnElement[bool], limit: int | None = None
) -> Iterator[tuple[UUID, Step]]:
    """Steps with their operations, in the order of their intents; not what they answered."""
    columns = [getattr(models.Step, name) for name in Step.model_fields]
    query = select(models.Step.operation_id, *columns).where(which)
    for row in db.execute(query.order_by(models.Step.position).limit(limit)).mappings():
        yield row["operation_id"], Step.model_validate(dict(row))


def _report(
    db: Session, row: models.Operation, steps: list[Step], found: list[Finding] | None
) -> Operation:
    moving = [step for step in steps if step.state in _MOVING]
    return Operation(
        id=row.id,
        kind=row.kind,
        state=row.state,
        target=Target(kind=row.target_kind, id=row.target_id, name=row.target_name),
        requested_by=row.requested_by,
        waits_until=row.due_at if row.state is OperationState.WAITING else None,
        approval=Approval.model_validate(row.approval) if row.approval else None,
        accepted_at=row.accepted_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        progress=_progress(row.state, steps),
        counts=Counter(step.state for step in steps),
        slowest=_slowest(db, moving),
        steps=steps if len(steps) <= STEPS_TOLD else [*moving, *_failed(steps)][:STEPS_TOLD],
        error=recorded(row.error),
        flow_run_url=_flow_run_url(row.flow_run_id),
        left_behind=row.left_behind,
        provisional=row.provisional,
        report=found,
    )


def _failed(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.state is StepState.FAILED]


def _slowest(db: Session, moving: list[Step]) -> Slowest | None:
    """The step at a host that has been in flight for the longest."""
    at_hosts = [step for step in moving if step.host]
    if not at_hosts:
        return None
    step = min(at_hosts, key=lambda each: each.started_at)
    host = db.get(models.Host, UUID(step.host))
    name = host.name if host else step.host
    return Slowest(host=name, lane=step.lane, step=step.name, started_at=step.started_at)


def _progress(state: OperationState, steps: list[Step]) -> int:
    """Of the steps that are known: more may come, so only success is 100."""
    if state is OperationState.SUCCEEDED:
        return 100
    done = sum(100 for step in steps if step.state is StepState.DONE)
    done += sum(step.percent or 0 for step in steps if step.state is StepState.RUNNING)
    return min(99, done // max(1, len(steps)))


def _flow_run_url(flow_run: UUID | None) -> str | None:
    return f"{cloud.settings.prefect_ui}/v2/runs/flow-run/{flow_run}" if flow_run else None
