"""What the API says of an operation."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.types import Finding, OperationState, StepState
from api.errors import recorded
from flows.cloud import cloud
from flows.upkeep import publish_report

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
    "accepted_at": "2026-11-22T12:00:00.000000Z",
    "started_at": "2026-11-22T12:00:00.210000Z",
    "ended_at": None,
    "progress": 50,
    "steps": [
        {
            "key": "make-disk[7c9e6679-7425-40de-944b-e07fc1f90ae7]",
            "name": "make-disk",
            "lane": "db",
            "state": "running",
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
    state: StepState
    attempts: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class Operation(BaseModel):
    """One thing that was asked for, and how it goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    kind: str
    state: OperationState
    target: Target
    requested_by: str
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: int
    steps: list[Step]
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
    query = (
        select(models.Step)
        .where(models.Step.operation_id.in_(lines))
        .order_by(models.Step.position)
    )
    for line in db.scalars(query):
        lines[line.operation_id].append(Step.model_validate(line))
        if line.name == publish_report.name and line.result is not None:
            found[line.operation_id] = [Finding.model_validate(each) for each in line.result]
    return [_report(row, lines[row.id], found.get(row.id)) for row in rows]


def _report(row: models.Operation, steps: list[Step], found: list[Finding] | None) -> Operation:
    return Operation(
        id=row.id,
        kind=row.kind,
        state=row.state,
        target=Target(kind=row.target_kind, id=row.target_id, name=row.target_name),
        requested_by=row.requested_by,
        accepted_at=row.accepted_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        progress=_progress(row.state, steps),
        steps=steps,
        error=recorded(row.error),
        flow_run_url=_flow_run_url(row.flow_run_id),
        left_behind=row.left_behind,
        provisional=row.provisional,
        report=found,
    )


def _progress(state: OperationState, steps: list[Step]) -> int:
    """Of the steps that are known: more may come, so only success is 100."""
    if state is OperationState.SUCCEEDED:
        return 100
    done = sum(step.state is StepState.DONE for step in steps)
    return min(99, 100 * done // max(1, len(steps)))


def _flow_run_url(flow_run: UUID | None) -> str | None:
    return f"{cloud.settings.prefect_ui}/runs/flow-run/{flow_run}" if flow_run else None
