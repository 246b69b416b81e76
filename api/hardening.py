"""What every answer tells browsers and caches: believe the type, frame nothing, keep nothing."""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.settings import Settings

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_PAGES = ("/docs", "/redoc")  # they load a program from elsewhere, as FastAPI has it
_OWN = "frame-ancestors 'none'"
_A_YEAR = "max-age=31536000"
_TAKEN = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match"),
    *("Last-Event-ID", "X-Request-ID", "traceparent"),
    *("Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Offset"),
    "X-HTTP-Method-Override",
)
_SHOWN = (
    *("ETag", "Idempotency-Replayed", "Link", "Location", "Retry-After", "WWW-Authenticate"),
    *("Tus-Extension", "Tus-Max-Size", "Tus-Resumable", "Tus-Version", "Upload-Expires"),
    *("Upload-Length", "Upload-Offset", "X-Request-ID"),
)


class Hardened:
    """Around everything that answers over HTTP."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to whatever is answered."""

        async def hardened(message: Message) -> None:
            if message["type"].endswith("http.response.start"):
                _harden(MutableHeaders(scope=message), scope)
            await send(message)

        await self.app(scope, receive, hardened)


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Let pages of these other sites ask; of none, unless an operator says so."""
    if origins := settings.listed(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=_TAKEN,
            expose_headers=_SHOWN,
        )


def _harden(headers: MutableHeaders, scope: Scope) -> None:
    headers.update(_ALWAYS)
    page = scope["path"].startswith(_PAGES)
    headers["Content-Security-Policy"] = _OWN if page else f"default-src 'none'; {_OWN}"
    if scope["path"].startswith(("/v1/", "/gateway/")):
        headers["Cache-Control"] = "no-store"
    if scope["path"].startswith("/gateway/uploads/"):
        headers["Tus-Resumable"] = "1.0.0"
    if scope["scheme"] in {"https", "wss"}:
        headers["Strict-Transport-Security"] = _A_YEAR
