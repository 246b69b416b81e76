"""What OpenAPI tells beyond what signatures say: names, problems, and what a body may be."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.blueprint import Blueprint
from api.exporting import MEDIA_TYPE
from api.matching import CHANGES

_PROBLEM = "application/problem+json"
_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What was refused, and why (RFC 9457); some codes have more members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:cloudloom:problem:locked"]},
        "title": {"type": "string", "examples": ["Conflict"]},
        "status": {"type": "integer", "examples": [409]},
        "detail": {"type": "string", "examples": ["vm 4f2a... is held by operation 5b1f..."]},
        "code": {"type": "string", "description": "Stable.", "examples": ["locked"]},
        "instance": {"type": "string", "examples": ["/v1/vms/4f2a.../deploy"]},
        "request_id": {"type": ["string", "null"], "examples": ["a-request-of-mine"]},
    },
}
_WORDS = {
    400: "The body is not JSON, or not YAML.",
    401: "There is no valid token.",
    403: "The token may not do that.",
    404: "There is none, or it is another enterprise's.",
    409: "The present state does not allow it.",
    412: "It is not what was read (`If-Match`).",
    413: "The body is too large.",
    415: "The body is of a kind that is not read here.",
    422: "The request does not say what it has to, or asks for what cannot be.",
    429: "Too many requests: `Retry-After` says when to ask again.",
    503: "Something is busy, or away: `Retry-After` says when to ask again.",
}
_UNCHANGED = {"description": "It is what you have (`If-None-Match`): nothing is sent again."}
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})


def name_of(route: APIRoute) -> str:
    """An operation's name, such as a method of a generated client has: `deploy_vm`."""
    collection = route.path.removeprefix("/v1/").partition("/")[0]
    noun = collection.removesuffix("s").replace("-", "_")
    if not route.path.startswith("/v1/") or noun.rpartition("_")[2] in route.name:
        return route.name
    return f"{route.name}_of_{noun}" if "_" in route.name else f"{route.name}_{noun}"


def describe(app: FastAPI) -> None:
    """Let the application's OpenAPI tell it."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        schemas = schema["components"]["schemas"]
        if "Problem" not in schemas:
            made = Blueprint.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(made.pop("$defs", {}))
            schemas["Blueprint"], schemas["Problem"] = made, _SCHEMA
            for path, method, operation in _operations(schema):
                _tell_problems(path, method, operation)
                if "cursor" in {each["name"] for each in operation.get("parameters", [])}:
                    _tell_export(operation)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method in _METHODS & methods.keys():
            yield path, method, methods[method]


def _tell_problems(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status in _statuses(path, method, operation):
        content = {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses[str(status)] = {"description": _WORDS[status], "content": content}
    if method == "get" and path.startswith("/v1/"):
        responses["304"] = _UNCHANGED
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    if path.startswith(("/health", "/metrics")):
        return {403, 503}
    told = {401, 403, 404, 422, 429, 503}
    if method != "get":
        told |= {400, 409, 413}
    if method.upper() in CHANGES:
        told.add(412)
    if "application/yaml" in operation.get("requestBody", {}).get("content", {}):
        told.add(415)
    return told


def _tell_export(operation: dict[str, Any]) -> None:
    content = operation["responses"]["200"]["content"]
    item = content["application/json"]["schema"]["items"]
    content[MEDIA_TYPE] = {"schema": {"type": "string"}, "x-item-schema": item}
