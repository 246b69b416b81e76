"""Admission: nothing of a request to `/v1` is read before its token is known to be good.

A body that is read is at most 1 MiB: images go through the gateway.
"""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import AdapterError
from api.errors import Problem, answer, unauthenticated
from api.tokens import Caller, bearer
from flows.cloud import cloud

MAX_BODY_BYTES = 2**20
_OPEN = {("POST", "/v1/sessions")}  # where one comes by a token


class Admission:
    """The door of `/v1`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, with its caller, or refuse it."""
        if scope["type"] != "http" or not f"{scope['path']}/".startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        try:
            if (scope["method"], scope["path"]) not in _OPEN:
                scope.setdefault("state", {})["caller"] = await _caller(Headers(scope=scope))
        except (AdapterError, Problem) as error:
            await answer(error, scope["path"])(scope, receive, send)
            return
        await self.app(scope, _limited(receive), send)


async def _caller(headers: Headers) -> Caller:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    shown = token.strip() if scheme.lower() == "bearer" else ""
    if found := await run_in_threadpool(lambda: bearer(cloud.database, shown)):
        return found
    raise unauthenticated()


def _limited(receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY_BYTES:
            raise Problem(413, "body-too-large", f"at most {MAX_BODY_BYTES} bytes are read")
        return message

    return limited
