"""What is told of a request: an id, a line in the log, and the span that its trace begins with.

A defect is answered here, around everything else, so that its answer has the id, too.

Only a route's pattern is told, never the path itself: signed addresses are passwords.
"""

import logging
import re
import time
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.database import events
from api import errors
from flows import logs, traces

_HEADER = "X-Request-ID"
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_OPERATION = re.compile(r"/v1/operations/([0-9a-f-]{36})")
_OFTEN = ("/health", "/metrics")

log = logging.getLogger(__name__)


class Observed:
    """Around the whole application; a client's request id and trace are gone on with."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, and tell how it was answered."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(_HEADER, "")
        request = given if _ID.fullmatch(given) else uuid4().hex
        told: dict[str, Any] = {"status": 500}
        begun = False

        async def answered(message: Message) -> None:
            nonlocal begun
            if message["type"].endswith("http.response.start"):
                begun = True
                out = MutableHeaders(scope=message)
                out[_HEADER] = request
                told["status"] = message["status"]
                if found := _OPERATION.match(out.get("location") or scope["path"]):
                    told["operation"] = found[1]
            await send(message)

        began, method = time.monotonic(), scope.get("method", "WEBSOCKET")
        peer = scope.get("client")
        events.origin.set(events.Origin(client=peer[0] if peer else None, request=request))
        with (
            logs.telling(request=request),
            traces.span(method, headers.get("traceparent"), request=request) as span,
        ):
            try:
                await self.app(scope, receive, answered)
            except Exception as error:
                if begun or scope["type"] != "http":
                    raise
                log.exception("a defect")
                response = await errors.told(Request(scope), error)
                await response(scope, receive, answered)
            finally:
                what = f"{method} {_pattern(scope)}"
                span.update_name(what)
                span.set_attribute("http.response.status_code", told["status"])
                often = scope["path"].startswith(_OFTEN)
                told["took_ms"] = round((time.monotonic() - began) * 1000, 1)
                log.log(logging.DEBUG if often else logging.INFO, what, extra=told)


def _pattern(scope: Scope) -> str:
    if "endpoint" not in scope:
        return "(no such route)"
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(part, part) for part in scope["path"].split("/"))
