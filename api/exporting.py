"""Exports: a whole list as NDJSON, line by line, in the memory of one page.

`Accept: application/x-ndjson` on any list. It is the list's own pages, read one after the other as
the client takes them, so that it shows what they show, to whom they show it.
"""

import json
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api import asking

MEDIA_TYPE = "application/x-ndjson"
_OK = 200
_PAGE = "500"


class Exporting:
    """Around `/v1`: turns the pages of a list into one stream."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream what was asked for as lines; whatever else is asked for goes its way."""
        wanted = scope["type"] == "http" and scope["method"] == "GET"
        if not wanted or MEDIA_TYPE not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        query = [x for x in parse_qsl(scope["query_string"].decode("latin-1")) if x[0] != "limit"]
        said = await self._page(scope, urlencode([*query, ("limit", _PAGE)]))
        if said.status != _OK or not said.body.startswith(b"["):
            await self.app(scope, receive, send)  # no list, or refused: in its own words
            return
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        await send({"type": "http.response.start", "status": _OK, "headers": headers})
        while True:
            lines = b"".join(json.dumps(x).encode() + b"\n" for x in json.loads(said.body))
            await send({"type": "http.response.body", "body": lines, "more_body": True})
            if not (following := _next(said.headers)):
                break
            said = await self._page(scope, following)
            if said.status != _OK:  # half of it is sent: it must not look like a whole one
                raise RuntimeError(f"an export broke off: {said.body.decode()}")
        await send({"type": "http.response.body", "body": b""})

    async def _page(self, scope: Scope, query: str) -> asking.Said:
        return await asking.read(self.app, scope, query.encode("latin-1"))


def _next(headers: Headers) -> str:
    where, _, relation = headers.get("link", "").partition(">;")
    return urlsplit(where.removeprefix("<")).query if 'rel="next"' in relation else ""
