"""What endpoints ask for: the caller, a page of a list, a request done once, a way to start."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from pydantic import StringConstraints
from sqlalchemy import Select, and_, or_
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from adapters.database.operations import Operation
from api import tokens
from api.errors import Problem
from api.once import Once as Once_

R = TypeVar("R")
Send = Callable[[Operation], None]
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=63)
]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=63), "a name, or an id"]


def _caller(request: Request) -> tokens.Caller:
    caller: tokens.Caller = request.state.caller
    return caller


Caller = Annotated[tokens.Caller, Depends(_caller)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Sent again with the same request: the same answer, and nothing done twice.",
    ),
]


async def _once(request: Request, caller: Caller, idempotency_key: Key = None) -> Once_:
    content = str(request.query_params).encode() + b"\n" + await request.body()
    route = f"{request.method} {request.url.path}"
    once = await run_in_threadpool(Once_, caller, route, idempotency_key, content)
    request.state.once = once
    return once


Once = Annotated[Once_, Depends(_once)]


def sender() -> Send:
    """How the dispatcher is woken; tests override it."""
    from flows.dispatch import send

    return send


class Page:
    """One page of a list; the next one is in the `Link` header."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Annotated[str | None, Query(max_length=1000)] = None,
        sort: Annotated[
            str | None, Query(description="A field; `-field` for the greatest first.")
        ] = None,
    ) -> None:
        self._request = request
        self._response = response
        self._limit = limit
        self._cursor = cursor
        self._sort = sort

    def rows(self, db: Session, query: Select[tuple[R]], table: Any, *fields: str) -> list[R]:
        """The page's rows; the first field is how they are sorted unless the caller says."""
        sort = self._sort or fields[0]
        field = sort.removeprefix("-")
        if field not in {each.removeprefix("-") for each in fields}:
            raise Problem(422, "invalid-request", f"cannot sort by {field}")
        column, falling = getattr(table, field), sort.startswith("-")
        if self._cursor:
            value, last = self._after(sort, column)
            beyond = column < value if falling else column > value
            query = query.where(or_(beyond, and_(column == value, table.id > last)))
        query = query.order_by(column.desc() if falling else column, table.id)
        rows = list(db.scalars(query.limit(self._limit + 1)))
        if len(rows) > self._limit:
            rows = rows[: self._limit]
            value = getattr(rows[-1], field)
            self._offer(sort, value, cast(Any, rows[-1]).id)
        return rows

    def _after(self, sort: str, column: Any) -> tuple[Any, UUID]:
        wrong = Problem(422, "invalid-cursor", "the cursor is not one of this list")
        try:
            said, value, last = json.loads(urlsafe_b64decode(self._cursor or ""))
            if column.type.python_type is datetime:
                value = datetime.fromisoformat(value)
            after = value, UUID(last)
        except (ValueError, TypeError, AttributeError) as error:
            raise wrong from error
        if said != sort:
            raise wrong
        return after

    def _offer(self, sort: str, value: Any, last: UUID) -> None:
        said = value.isoformat() if isinstance(value, datetime) else value
        cursor = urlsafe_b64encode(json.dumps([sort, said, str(last)]).encode()).decode()
        url = self._request.url.include_query_params(cursor=cursor)
        self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


Pages = Annotated[Page, Depends()]
