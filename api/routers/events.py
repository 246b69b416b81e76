"""Events: what was changed, by whom, from where, and on what; read, and followed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import Select, or_, select

from adapters.database.events import EventRow, Severity, Tide
from adapters.privileges import Privilege
from api import tokens
from api.dependencies import Caller, Pages
from api.permissions import needs
from api.watching import Watch
from flows.cloud import cloud

router = APIRouter(prefix="/events", tags=["events"])
_BATCH = 500
_HEARTBEAT_S = 15.0


class Named(BaseModel):
    """Something, by its id and the name that it had then."""

    id: UUID
    name: str


class Object(Named):
    """What an event is about first."""

    kind: str


class Actor(BaseModel):
    """Who did it: a name, and the token that was shown, where one was."""

    name: str
    token: UUID | None


class Event(BaseModel):
    """One change."""

    id: int
    at: datetime
    severity: Severity
    kind: str
    who: Actor
    client: str | None
    request: str | None
    object: Object | None
    about: dict[str, Named]
    operation: UUID | None
    details: dict[str, Any]


class Wanted:
    """Which of the caller's events are asked for."""

    def __init__(
        self,
        caller: Caller,
        kind: Annotated[
            str | None,
            Query(
                pattern=r"^[a-z-]+(\.[a-z-]+)?$",
                max_length=64,
                description="As `operation.failed`; or as `operation`: all of these.",
            ),
        ] = None,
        severity: Severity | None = None,
        who: Annotated[str | None, Query(max_length=255)] = None,
        object_id: UUID | None = None,
        operation_id: UUID | None = None,
        appliance_id: UUID | None = None,
        virtual_datacenter_id: UUID | None = None,
        enterprise_id: UUID | None = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
    ) -> None:
        row = EventRow
        self.caller = caller
        others = enterprise_id if Privilege.EVENTLOG_VIEW_ALL in caller.privileges else None
        self.enterprise = others or caller.enterprise_id
        self._conditions = [row.enterprise_id == self.enterprise]
        if caller.virtual_datacenters:
            within = row.virtual_datacenter_id.in_(caller.virtual_datacenters)
            self._conditions.append(or_(row.virtual_datacenter_id.is_(None), within))
        equal = {
            row.severity: severity,
            row.who: who,
            row.object_id: object_id,
            row.operation_id: operation_id,
            row.appliance_id: appliance_id,
            row.virtual_datacenter_id: virtual_datacenter_id,
            row.enterprise_id: enterprise_id,
        }
        self._conditions += [column == value for column, value in equal.items() if value]
        if kind:
            of_noun = row.kind.startswith(f"{kind}.")
            self._conditions.append(row.kind == kind if "." in kind else of_noun)
        if since:
            self._conditions.append(row.at >= since)
        if until:
            self._conditions.append(row.at < until)

    def query(self) -> Select[tuple[EventRow]]:
        """These, in no order."""
        return select(EventRow).where(*self._conditions)

    def some(self, last: int, upto: int) -> list[Event]:
        """The first of these after one event, up to another."""
        row = EventRow
        query = self.query().where(row.id > last, row.id <= upto).order_by(row.id)
        with cloud.database.read() as db:
            return [_event(each) for each in db.scalars(query.limit(_BATCH))]


Wants = Annotated[Wanted, Depends()]


@router.get("", dependencies=[needs(Privilege.EVENTLOG_VIEW_ENTERPRISE)])
def list_events(wanted: Wants, page: Pages) -> list[Event]:
    """List events, the newest first; with `sort=at` the oldest first."""
    with cloud.database.read() as db:
        return [_event(each) for each in page.rows(db, wanted.query(), EventRow, "-at")]


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
    dependencies=[needs(Privilege.EVENTLOG_VIEW_ENTERPRISE)],
)
async def stream_events(
    request: Request,
    wanted: Wants,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
) -> StreamingResponse:
    """Follow events as they happen, from now on; or, with `Last-Event-ID`, from that one on."""
    tide, watch = request.app.state.tide, request.app.state.tide_watch
    await asyncio.to_thread(tide.look)  # from its mark on, it hears of what comes
    if last_event_id is None:
        last_event_id = tide.mark
    return StreamingResponse(
        _streamed(wanted, tide, watch, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _streamed(
    wanted: Wanted, tide: Tide, watch: Watch[int], last: int
) -> AsyncIterator[str]:
    """Tell what is there, wait for more, and so on while the caller's token is good."""
    mine, token = wanted.enterprise, wanted.caller.token_id
    yield ": from here on\n\n"
    while True:
        upto = tide.mark
        batch = await asyncio.to_thread(wanted.some, last, upto)
        for each in batch:
            yield f"id: {each.id}\nevent: event\ndata: {each.model_dump_json()}\n\n"
        if len(batch) == _BATCH:
            last = batch[-1].id
            continue
        last = max(last, upto)
        if await watch.until(mine, _newer_than(last), _HEARTBEAT_S) is None:
            yield ": still here\n\n"
            if await asyncio.to_thread(tokens.holder, cloud.database, token) is None:
                return


def _newer_than(event: int) -> Callable[[int], bool]:
    return lambda latest: latest > event


def _event(row: EventRow) -> Event:
    told = None
    if row.object_id:
        told = Object(kind=row.object_kind, id=row.object_id, name=row.object_name)
    return Event(
        id=row.id,
        at=row.at,
        severity=Severity(row.severity),
        kind=row.kind,
        who=Actor(name=row.who, token=row.who_id),
        client=row.client,
        request=row.request,
        object=told,
        about=row.about,
        operation=row.operation_id,
        details=row.details,
    )
