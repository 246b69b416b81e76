"""Operations: what was asked for, how it goes, and what may be done about it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.approvals import Approvals
from adapters.database.session import Joined
from adapters.privileges import Privilege
from adapters.types import OperationState, StepState
from api import finding, tokens
from api.dependencies import Caller, Once, Pages, Send, chosen, sender
from api.once import Answer
from api.permissions import needs
from api.reports import Operation, Question, Receipt, Step, report, reports, steps_of
from api.watching import Glance, Watch, glance
from flows.cloud import cloud
from flows.wishes import ask

router = APIRouter(prefix="/operations", tags=["operations"])
_HEARTBEAT_S = 15.0
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


def _watch(request: Request) -> Watch[Glance]:
    watch: Watch[Glance] = request.app.state.watch
    return watch


Watching = Annotated[Watch[Glance], Depends(_watch)]
Sending = Annotated[Send, Depends(sender)]


class Abandonment(BaseModel):
    """Why an operation is given up."""

    reason: str = Field(min_length=3, max_length=1000, examples=["the host burnt down"])


class Verdict(BaseModel):
    """Why an operation that waits is approved, or rejected."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(
        None, min_length=1, max_length=1000, examples=["as planned for tonight"]
    )


@router.get("", dependencies=[needs(Privilege.OPERATION_VIEW)])
def list_operations(
    caller: Caller,
    page: Pages,
    state: OperationState | None = None,
    kind: str | None = None,
    target_id: UUID | None = None,
) -> list[Operation]:
    """List operations, the newest first."""
    query = chosen(finding.operations(caller), state=state, kind=kind, target_id=target_id)
    with cloud.database.read() as db:
        return reports(db, page.rows(db, query, models.Operation, "-accepted_at", "kind"))


@router.get("/{operation_id}", dependencies=[needs(Privilege.OPERATION_VIEW)])
async def read_operation(
    operation_id: UUID,
    caller: Caller,
    watch: Watching,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Seconds to wait until it has ended or is stuck.")
    ] = 0,
) -> Operation:
    """Read an operation; with `wait`, once it has ended."""
    found = await asyncio.to_thread(_read, caller, operation_id)
    if wait and not _rests(found):
        await watch.until(operation_id, lambda now: now.resting, wait)
        found = await asyncio.to_thread(_read, caller, operation_id)
    return found


@router.get("/{operation_id}/steps", dependencies=[needs(Privilege.OPERATION_VIEW)])
def read_steps(
    operation_id: UUID,
    caller: Caller,
    response: Response,
    lane: str | None = None,
    state: StepState | None = None,
    after: Annotated[int, Query(ge=0, lt=2**31, description="A step's position.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> list[Step]:
    """Read an operation's steps in their order, some at a time, of one lane or in one state."""
    which = (models.Step.operation_id == operation_id) & (models.Step.position > after)
    if lane is not None:
        which &= models.Step.lane == lane
    if state is not None:
        which &= models.Step.state == state
    with cloud.database.read() as db:
        finding.operation(db, caller, operation_id)
        found = [step for _, step in steps_of(db, which, limit)]
    if len(found) == limit:
        asked = {"lane": lane, "state": state, "after": found[-1].position, "limit": limit}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        where = f"/v1/operations/{operation_id}/steps?{query}"
        response.headers["Link"] = f'<{where}>; rel="next"'
    return found


@router.get("/{operation_id}/receipt", dependencies=[needs(Privilege.OPERATION_VIEW)])
def read_receipt(operation_id: UUID, caller: Caller) -> Receipt:
    """Read what was asked of the backends when the operation had ended, and their answers."""
    with cloud.database.read() as db:
        row = finding.operation(db, caller, operation_id)
        query = (
            select(models.Receipt)
            .where(models.Receipt.operation_id == operation_id)
            .order_by(models.Receipt.key)
        )
        return Receipt(
            operation=row.id,
            state=row.state,
            left_behind=row.left_behind,
            provisional=row.provisional,
            questions=[Question.model_validate(each) for each in db.scalars(query)],
        )


@router.get(
    "/{operation_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
    dependencies=[needs(Privilege.OPERATION_VIEW)],
)
async def read_events(
    operation_id: UUID,
    caller: Caller,
    watch: Watching,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Follow an operation: the whole of it as an event, at each change, until it ends."""
    await asyncio.to_thread(_read, caller, operation_id)
    events = _events(caller, operation_id, watch, last_event_id)
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@router.post(
    "/{operation_id}/cancel",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_CONTROL)],
)
def cancel(operation_id: UUID, caller: Caller, once: Once, send: Sending) -> Response:
    """Stop an operation and undo it, one that waits at once; refused once it has destroyed."""
    return _wish("cancel", operation_id, caller, once, send)


@router.post(
    "/{operation_id}/unwind",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_CONTROL)],
)
def unwind(operation_id: UUID, caller: Caller, once: Once, send: Sending) -> Response:
    """Undo an operation, also a stuck one; refused once something has been destroyed."""
    return _wish("unwind", operation_id, caller, once, send)


@router.post(
    "/{operation_id}/resume",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_CONTROL)],
)
def resume(operation_id: UUID, caller: Caller, once: Once, send: Sending) -> Response:
    """Take a stuck operation up again."""
    return _change(lambda all_: all_.resume(operation_id), operation_id, caller, once, send)


@router.post(
    "/{operation_id}/abandon",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_ABANDON)],
)
def abandon(
    operation_id: UUID, why: Abandonment, caller: Caller, once: Once, send: Sending
) -> Response:
    """Give a stuck operation up: its locks go, its receipt lists what may remain."""
    return _change(
        lambda all_: all_.abandon(operation_id, why.reason, caller.name),
        operation_id,
        caller,
        once,
        send,
    )


@router.post(
    "/{operation_id}/approve",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_APPROVE)],
)
def approve(
    operation_id: UUID, caller: Caller, once: Once, send: Sending, why: Verdict | None = None
) -> Response:
    """Let an operation that waits begin."""
    said = operation_id, caller.name, caller.token_id, why.reason if why else None
    return _change(lambda all_: Approvals(all_).approve(*said), operation_id, caller, once, send)


@router.post(
    "/{operation_id}/reject",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.OPERATION_APPROVE)],
)
def reject(
    operation_id: UUID, caller: Caller, once: Once, send: Sending, why: Verdict | None = None
) -> Response:
    """End an operation that waits: nothing is done."""
    said = operation_id, caller.name, caller.token_id, why.reason if why else None
    return _change(lambda all_: Approvals(all_).reject(*said), operation_id, caller, once, send)


def _wish(wish: str, operation: UUID, caller: Caller, once: Once, send: Send) -> Response:
    return _change(lambda all_: ask(all_, operation, wish), operation, caller, once, send)


def _change(
    act: Callable[[accepted.Operations], accepted.Operation],
    operation: UUID,
    caller: Caller,
    once: Once,
    send: Send,
) -> Response:
    changed: list[accepted.Operation] = []

    def change(db: Session) -> Answer:
        finding.operation(db, caller, operation)
        changed.append(act(accepted.Operations(Joined(db), cloud.settings.lease_s)))
        db.flush()
        body = report(db, operation).model_dump(mode="json")
        return Answer(202, body, f"/v1/operations/{operation}")

    answer = once.answer(change)
    return answer.response(BackgroundTask(send, changed[0]))


async def _events(
    caller: Caller, operation: UUID, watch: Watch[Glance], seen: str | None
) -> AsyncIterator[str]:
    while True:
        now = await watch.until(operation, _differs_from(seen), _HEARTBEAT_S)
        if now is None:
            yield ": still here\n\n"
            if not await asyncio.to_thread(_may_still, caller):
                return
            now = (await asyncio.to_thread(glance, [operation])).get(operation)
            if now and now.resting:
                return
            continue
        seen = now.mark
        body = await asyncio.to_thread(_read, caller, operation)
        yield f"id: {now.mark}\nevent: operation\ndata: {body.model_dump_json()}\n\n"
        if now.resting and body.state == now.state and not body.provisional:
            return


def _differs_from(seen: str | None) -> Callable[[Glance], bool]:
    return lambda now: now.mark != seen


def _read(caller: Caller, operation: UUID) -> Operation:
    with cloud.database.read() as db:
        return report(db, finding.operation(db, caller, operation).id)


def _may_still(caller: tokens.Caller) -> bool:
    now = tokens.holder(cloud.database, caller.token_id)
    return now is not None and Privilege.OPERATION_VIEW in now.privileges


def _rests(operation: Operation) -> bool:
    return operation.state in accepted.ENDED | {OperationState.STUCK}
