"""Admission: nothing of a request to `/v1` is read before its token is known to be good.

Who asks too often is refused before the database is asked: a token that was good before by its
own bucket, everybody else by their address's. So nobody is locked out by guesses at their token,
nor somebody at work by a neighbour. A body that is read is at most 1 MiB: images go through the
gateway.
"""

from hashlib import sha256

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import AdapterError
from api.errors import Problem, answer, unauthenticated
from api.rates import Rates, neighbourhood
from api.tokens import Caller, acting, bearer
from flows.cloud import cloud

MAX_BODY_BYTES = 2**20
_NEVER_REFUSED = ("/health/", "/metrics")
_OPEN = {("POST", "/v1/sessions")}  # where one comes by a token


class Admission:
    """The door of `/v1`, and who may knock at any."""

    def __init__(self, app: ASGIApp) -> None:
        settings = cloud.settings
        self.app = app
        self._tokens = Rates(settings.rate_per_s, settings.rate_burst)
        self._addresses = Rates(settings.address_rate_per_s, settings.address_rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, with its caller, or refuse it."""
        if scope["type"] != "http" or scope["path"].startswith(_NEVER_REFUSED):
            await self.app(scope, receive, send)
            return
        inside = f"{scope['path']}/".startswith("/v1/")
        try:
            if inside and (scope["method"], scope["path"]) not in _OPEN:
                scope.setdefault("state", {})["caller"] = acting(await self._caller(scope))
            else:
                self._addresses.take(_whose(scope))
        except (AdapterError, Problem) as error:
            await answer(error, scope["path"])(scope, receive, send)
            return
        await self.app(scope, _limited(receive) if inside else receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else ""
        key = sha256(shown.encode()).hexdigest()
        is_known = key in self._tokens
        if is_known:
            self._tokens.take(key)
        else:
            self._addresses.require(_whose(scope))
        if found := await run_in_threadpool(lambda: bearer(cloud.database, shown)):
            if not is_known:
                self._tokens.take(key)
            return found
        self._tokens.forget(key)
        self._addresses.count(_whose(scope))
        raise unauthenticated()


def _whose(scope: Scope) -> str:
    client = scope.get("client")
    return neighbourhood(client[0]) if client else ""  # a Unix socket's peer has no address


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
