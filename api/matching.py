"""Entity tags: what somebody has read is changed only while it still is what they read.

A tag is the digest of an answer, so that everything that can be read has one, without a column of
its own. `Matching` answers `If-None-Match` and `If-Match` for every route; where two who read the
same could change it at once, the route asks its `Match` again, with the row locked.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, TypeVar

from fastapi import Depends, Header
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.database import models
from adapters.database.conventions import Base
from api import asking
from api.errors import Problem, answer
from flows.cloud import cloud

R = TypeVar("R", bound=Base)
CHANGES = frozenset({"PATCH", "PUT", "DELETE"})
_OK, _NOT_MODIFIED = 200, 304
_ABOUT_THE_BODY = ("content-length", "content-type")


def tag_of(body: bytes, link: str = "") -> str:
    """The strong tag of an answer; a page is another one when another page follows it."""
    return f'"{sha256(body + link.encode()).hexdigest()[:32]}"'


class Matching:
    """Around `/v1`: tags every read, and lets nobody change what they have not seen."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tag what is answered; refuse what does not match, before anything is done."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        wanted = headers.get("if-match")
        if scope["method"] in CHANGES and wanted and not await self._fits(scope, headers, wanted):
            await answer(_failed(), scope["path"])(scope, receive, send)
            return
        if scope["method"] in {"GET", "PATCH", "PUT"}:
            known = headers.get("if-none-match", "") if scope["method"] == "GET" else ""
            send = _tagged(send, known)
        await self.app(scope, receive, send)

    async def _fits(self, scope: Scope, headers: Headers, wanted: str) -> bool:
        """Whether it is what they have seen; what cannot be read, the change itself answers."""
        said = await asking.read(self.app, scope)
        if said.status != _OK or _among(tag_of(said.body), wanted):
            return True
        return await run_in_threadpool(_is_answered, scope, headers)


class Precondition:
    """What a request for a change says of that which is to be changed."""

    def __init__(
        self,
        if_match: Annotated[
            str | None,
            Header(description="An `ETag` that was read: refused (412) once it is another."),
        ] = None,
    ) -> None:
        self._wanted = if_match

    def require(self, db: Session, row: R, body: Callable[[Session, R], BaseModel]) -> None:
        """Lock the row, and raise `Problem` unless its body is what was read.

        To be asked in the transaction that changes it: nobody comes in between.
        """
        if self._wanted is None:
            return
        db.refresh(row, with_for_update=True)
        self.require_same(body(db, row))

    def require_same(self, body: BaseModel) -> None:
        """Raise `Problem` unless this, of which the lock is held, is what was read."""
        if self._wanted and not _among(tag_of(body.model_dump_json().encode()), self._wanted):
            raise _failed()


Match = Annotated[Precondition, Depends()]


def _failed() -> Problem:
    return Problem(412, "precondition-failed", "it is not what was read: read it again")


def _among(tag: str, tags: str) -> bool:
    told = [each.strip().removeprefix("W/") for each in tags.split(",")]
    return tags.strip() == "*" or tag in told


def _is_answered(scope: Scope, headers: Headers) -> bool:
    """Whether this request was answered before, and is sent again."""
    key, caller = headers.get("idempotency-key"), scope["state"]["caller"]
    if key is None:
        return False
    route = f"{scope['method']} {scope['path']}"
    with cloud.database.read() as db:
        return db.get(models.IdempotencyKey, (caller.token_id, route, key)) is not None


def _tagged(send: Send, known: str) -> Send:
    """Hold an answer back until its body is there, and tag it; what is streamed goes as it is."""
    held: list[Message] = []

    async def tagging(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            held.append(message)
            return
        if held:
            start = held.pop()
            if not message.get("more_body"):
                start, message = _conditional(start, message, known)
            await send(start)
        await send(message)

    return tagging


def _is_json(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] == _OK and kind.startswith("application/json")


def _conditional(start: Message, body: Message, known: str) -> tuple[Message, Message]:
    headers = MutableHeaders(raw=list(start["headers"]))
    tag = tag_of(body["body"], headers.get("link", ""))
    headers["ETag"] = tag
    if known and _among(tag, known):
        for name in _ABOUT_THE_BODY:
            del headers[name]
        return {**start, "status": _NOT_MODIFIED, "headers": headers.raw}, {**body, "body": b""}
    return {**start, "headers": headers.raw}, body
