"""Asking ourselves: a request within a request, by the same caller and through the same routes."""

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

_ABOUT_THE_BODY = {b"content-length", b"content-type", b"transfer-encoding", b"expect"}
_CONDITIONS = {b"if-match", b"if-none-match", b"idempotency-key", b"accept"}


@dataclass(frozen=True)
class Said:
    """What was answered."""

    status: int
    headers: Headers
    body: bytes


async def read(app: ASGIApp, scope: Scope, query: bytes | None = None) -> Said:
    """What a plain GET of the same path says now."""
    within = {
        **scope,
        "method": "GET",
        "query_string": scope["query_string"] if query is None else query,
        "headers": [
            (name, value)
            for name, value in scope["headers"]
            if name not in _ABOUT_THE_BODY | _CONDITIONS
        ],
        "state": dict(scope.get("state", {})),
    }
    said: list[Message] = []

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def hear(message: Message) -> None:
        said.append(message)

    await app(within, nothing, hear)
    start, *rest = said
    body = b"".join(each.get("body", b"") for each in rest)
    return Said(start["status"], Headers(raw=start["headers"]), body)
