"""Errors as words for people: RFC 9457 problems with a stable `code`."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from sqlalchemy.exc import NoResultFound
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from adapters.errors import (
    AdapterError,
    BadImage,
    Conflict,
    InUse,
    NotAllowed,
    NotFound,
    OutOfSpace,
    Transient,
    Unsupported,
)
from api.once import Replay
from flows import logs

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_STATUS: tuple[tuple[type[AdapterError], int], ...] = (
    (NotFound, 404),
    (NotAllowed, 403),
    (Conflict, 409),
    (InUse, 409),
    (OutOfSpace, 409),
    (BadImage, 422),
    (Unsupported, 422),
    (Transient, 503),
)
PLAIN = {404: "no-such-route", 405: "method-not-allowed"}


class Problem(HTTPException):
    """What the API itself refuses, before anything else is asked."""

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.details: dict[str, Any] = {}


class Invalid(Problem):
    """A request that does not say what it has to; `errors` says where."""

    def __init__(self, errors: Sequence[Any]) -> None:
        super().__init__(422, "invalid-request", "the request is not valid")
        self.details = {
            "errors": [
                {"at": ".".join(map(str, each["loc"])), "what": each["msg"]} for each in errors
            ]
        }


def unauthenticated() -> Problem:
    """The one answer to every token that is missing, malformed, unknown, expired or revoked."""
    text = "a valid bearer token is needed"
    return Problem(401, "unauthenticated", text, {"WWW-Authenticate": 'Bearer realm="cloudloom"'})


def problem(status: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    """A problem's members; `more` cannot replace the standard ones."""
    return {
        **more,
        "type": f"urn:cloudloom:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }


def recorded(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """An operation's recorded error as a problem; it answers no request, so it has no status."""
    if error is None:
        return None
    code = error.get("code", "internal-error")
    return {**error, "type": f"urn:cloudloom:problem:{code}", "title": code.replace("-", " ")}


def status_of(error: AdapterError) -> int:
    """The status that says what the caller can do about it."""
    if error.code == "lease-lost":
        return 409
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 422)


def answer(error: Exception, instance: str) -> Response:
    """The response to a request that met this error; of a defect it tells nothing but that.

    Who reports it can name the request, and finds it in the logs by that.
    """
    headers: Mapping[str, str] = {}
    if isinstance(error, AdapterError):
        status = status_of(error)
        told = problem(status, error.code, str(error), **error.details)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
    elif isinstance(error, Problem):
        told = problem(error.status_code, error.code, error.detail, **error.details)
        headers = error.headers or {}
    elif isinstance(error, HTTPException):
        code = PLAIN.get(error.status_code, "refused")
        told = problem(error.status_code, code, str(error.detail))
        headers = error.headers or {}
    else:
        told = problem(500, "internal-error", "something went wrong here, not with the request")
    return JSONResponse(
        {**told, "instance": instance, "request_id": logs.told("request")},
        told["status"],
        headers=dict(headers),
        media_type="application/problem+json",
    )


def replayed(replay: Replay) -> Response:
    """The answer that an equal request was given."""
    return replay.answer.response(headers={"Idempotency-Replayed": "true"})


async def told(request: Request, error: Exception) -> Response:
    """The answer to a request that met this error: an equal one may have been answered."""
    if once := getattr(request.state, "once", None):
        try:
            await run_in_threadpool(once.replay)
        except Replay as replay:
            return replayed(replay)
    return answer(error, request.url.path)


def install(app: FastAPI) -> None:
    """Let every error leave the application as a problem; of defects, `Observed` tells."""

    async def again(_request: Request, error: Exception) -> Response:
        if not isinstance(error, Replay):
            raise error
        return replayed(error)

    async def invalid(request: Request, error: Exception) -> Response:
        found = (
            error.errors() if isinstance(error, (RequestValidationError, ValidationError)) else []
        )
        if any(each["type"] == "json_invalid" for each in found):
            return answer(Problem(400, "invalid-json", found[0]["ctx"]["error"]), request.url.path)
        return answer(Invalid(found), request.url.path)

    async def gone(request: Request, error: Exception) -> Response:
        log.warning("what another row names is not there", exc_info=error)
        return await told(request, NotFound("what this is about went away in the meantime"))

    app.add_exception_handler(Replay, again)
    app.add_exception_handler(NoResultFound, gone)
    app.add_exception_handler(AdapterError, told)
    app.add_exception_handler(HTTPException, told)
    app.add_exception_handler(RequestValidationError, invalid)
