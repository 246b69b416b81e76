"""What endpoints ask for: the caller, a page of a list, a request done once, a way to start."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints, TypeAdapter
from sqlalchemy import Integer, Select, and_, or_, select
from sqlalchemy.orm import Session, selectinload
from starlette.concurrency import run_in_threadpool

from adapters.database.labels import Labelled
from adapters.database.operations import Operation
from adapters.database.session import UtcDateTime
from api import tokens
from api.errors import Problem
from api.once import Once as Once_

R = TypeVar("R")
Send = Callable[[Operation], None]
NAME_LENGTH = 63
Name = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=NAME_LENGTH
    ),
]
Reference = Annotated[
    str, StringConstraints(min_length=1, max_length=NAME_LENGTH), "a name, or an id"
]


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


def once_without_secrets(
    request: Request, caller: tokens.Caller, key: str | None, body: BaseModel
) -> Once_:
    """A request whose body has secrets: what is kept of it would be a fast hash of them.

    Pydantic hides what is `SecretStr`.
    """
    said = str(request.query_params).encode() + b"\n" + body.model_dump_json().encode()
    route = f"{request.method} {request.url.path}"
    request.state.once = once = Once_(caller, route, key, said)
    return once


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
        ids = self.ids(db, query, table, *fields)
        whole = select(table).where(table.id.in_(ids))
        if issubclass(table, Labelled):
            whole = whole.options(selectinload(table.label_rows))
        rows = {row.id: row for row in db.scalars(whole)}
        return [rows[each] for each in ids if each in rows]

    def ids(self, db: Session, query: Select[Any], table: Any, *fields: str) -> list[Any]:
        """The ids of the page's rows.

        Only they are sorted: of an enterprise with thousands of rows, whole rows would be.
        """
        sort = self._sort or fields[0]
        field = sort.removeprefix("-")
        if field not in {each.removeprefix("-") for each in fields}:
            raise Problem(422, "invalid-request", f"cannot sort by {field}")
        column, falling = getattr(table, field), sort.startswith("-")
        if self._cursor:
            value, last = self._after(sort, column, table.id)
            beyond = column < value if falling else column > value
            later = table.id < last if falling else table.id > last
            query = query.where(or_(beyond, and_(column == value, later)))
        order = (column, table.id)  # both one way: an index has them so
        keys = query.with_only_columns(*order)
        keys = keys.order_by(*[each.desc() if falling else each for each in order])
        found = list(db.execute(keys.limit(self._limit + 1)))
        if len(found) > self._limit:
            found.pop()
            self._offer(sort, *found[-1])
        return [each.id for each in found]

    def _after(self, sort: str, column: Any, key: Any) -> tuple[Any, Any]:
        wrong = Problem(422, "invalid-cursor", "the cursor is not one of this list")
        try:
            said, value, last = json.loads(urlsafe_b64decode(self._cursor or ""))
            after = _kind(column).validate_python(value), _kind(key).validate_python(last)
        except (ValueError, TypeError, AttributeError) as error:
            raise wrong from error
        if said != sort:
            raise wrong
        return after

    def _offer(self, sort: str, value: Any, last: UUID | int) -> None:
        said = value.isoformat() if isinstance(value, datetime) else value
        cursor = urlsafe_b64encode(json.dumps([sort, said, str(last)]).encode()).decode()
        url = self._request.url.include_query_params(cursor=cursor)
        self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


def _kind(column: Any) -> TypeAdapter[Any]:
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return TypeAdapter(datetime)
    if isinstance(kind, Integer):
        return TypeAdapter(Annotated[int, Field(ge=-(2**63), lt=2**63)])
    return TypeAdapter(kind.python_type)


Pages = Annotated[Page, Depends()]


def chosen(query: Select[tuple[R]], **wanted: Any) -> Select[tuple[R]]:
    """Those whose fields are as wanted, as far as anything is."""
    return query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
