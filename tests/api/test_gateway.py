"""Images come in by the gateway: streamed, checked on the way, whole or not at all."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api import tokens
from flows.cloud import cloud
from flows.unwind_operation import unwind_operation
from tests.api.conftest import Api, refused

IMAGE = json.dumps({"format": "vmdk", "virtual_size_bytes": 2**24, "content": "linux"}).encode()
DIGEST = hashlib.sha256(IMAGE).hexdigest()
WISH = {"name": "fresh", "format": "vmdk", "datacenter": "main"}


def asked(api: Api, **changes: Any) -> str:
    answer = api.post("/v1/templates", params={**WISH, **changes})
    assert answer.status_code == 307, answer.text
    location: str = answer.headers["location"]
    assert location.startswith("/gateway/uploads/")
    return location


def incoming(api: Api) -> list[Path]:
    return list((api.world.home / "repository" / "incoming").iterdir())


def pieces(content: bytes, size: int = 7) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_image_becomes_a_template(api: Api, method: str, chunked: bool) -> None:
    where = asked(api, sha256=DIGEST, cpu=2, ram_mib=256)
    answer = api.client.request(method, where, content=pieces(IMAGE) if chunked else IMAGE)
    assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
    ended = api.done(answer)
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (template["name"], template["state"], template["cpu"]) == ("fresh", "AVAILABLE", 2)
    (disk,) = template["disks"]
    assert (disk["format"], disk["digest"], disk["virtual_size_mib"]) == ("vmdk", DIGEST, 16)
    assert incoming(api) == []

    converting = api.post(f"/v1/templates/{template['id']}/conversions", json={"format": "qcow2"})
    api.done(converting)
    (disk,) = api.get(f"/v1/templates/{template['id']}").json()["disks"]
    assert [(x["format"], x["state"]) for x in disk["conversions"]] == [("qcow2", "FINISHED")]


def test_an_address_is_good_once(api: Api) -> None:
    where = asked(api)
    assert api.client.put(where, content=IMAGE).status_code == 202
    refused(api.client.put(where, content=IMAGE), 409, "transfer-used")
    assert len(incoming(api)) == 1


def test_another_digest_leaves_nothing(api: Api) -> None:
    where = asked(api, sha256="0" * 64)
    refused(api.client.put(where, content=IMAGE), 422, "image-digest-mismatch")
    assert incoming(api) == []
    assert api.get("/v1/operations").json() == []


@pytest.mark.parametrize("chunked", [True, False])
def test_too_much_is_too_much(api: Api, chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 1)
    big = bytes(2**20 + 1)
    content = pieces(big, 2**16) if chunked else big
    refused(api.client.put(asked(api), content=content), 413, "upload-too-large")
    assert incoming(api) == []


def test_no_space_is_said_before_a_byte_is_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Content-Length": str(2**59)}
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 2**50)
    refused(api.client.put(asked(api), content=b"x", headers=headers), 409, "out-of-space")
    assert incoming(api) == []


def test_an_address_that_was_not_given_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(api.client.put("/gateway/uploads/nonsense", content=IMAGE), 403, "transfer-invalid")
    where = asked(api)
    refused(api.client.put(where[:-5] + "AAAA=", content=IMAGE), 403, "transfer-invalid")
    monkeypatch.setattr("api.transfers.VALID_S", -1)
    refused(api.client.put(where, content=IMAGE), 403, "transfer-invalid")


def test_a_revoked_token_takes_its_transfers_along(api: Api) -> None:
    where = asked(api)
    tokens.revoke(cloud.database, UUID(api.token.split("_")[1]))
    refused(api.client.put(where, content=IMAGE), 403, "transfer-invalid")


def test_a_refused_image_leaves_nothing(api: Api) -> None:
    failed = api.run(api.client.put(asked(api, format="raw"), content=IMAGE))
    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "image-format-mismatch"
    assert api.get("/v1/templates", params={"name": "fresh"}).json() == []
    assert incoming(api) == []


def test_what_is_asked_for_must_make_sense(api: Api) -> None:
    for change, status, code in (
        ({"format": "iso"}, 422, "invalid-request"),
        ({"datacenter": "nowhere"}, 404, "unknown-datacenter"),
        ({"name": "tiny"}, 409, "name-taken"),
        ({"sha256": "short"}, 422, "invalid-request"),
    ):
        refused(api.post("/v1/templates", params={**WISH, **change}), status, code)


def test_an_equal_import_is_answered_alike(api: Api) -> None:
    key = {"Idempotency-Key": "import-1"}
    first = api.post("/v1/templates", params=WISH, headers=key)
    second = api.post("/v1/templates", params=WISH, headers=key)
    made = api.client.put(first.headers["location"], content=IMAGE)
    api.done(made)
    again = api.post("/v1/templates", params=WISH, headers=key)
    assert (again.status_code, again.json()) == (202, made.json())
    assert api.client.put(second.headers["location"], content=IMAGE).json() == made.json()
    other = api.post("/v1/templates", params={**WISH, "cpu": 4}, headers=key)
    refused(other, 409, "idempotency-key-reused")


def stream(
    api: Api, where: str, messages: Iterator[dict[str, Any]], content_type: str = ""
) -> None:
    """Send a body as a server hears of it: the next part only when it is asked for."""

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(_message: dict[str, Any]) -> None:
        return None

    scope = {
        "type": "http",
        "method": "PUT",
        "path": where,
        "raw_path": where.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode())],
        "http_version": "1.1",
    }
    asyncio.run(api.client.app(scope, receive, send))  # type: ignore[arg-type]


def test_who_hangs_up_leaves_nothing(api: Api) -> None:
    seen: list[list[Path]] = []

    def messages() -> Iterator[dict[str, Any]]:
        yield {"type": "http.request", "body": IMAGE[:9], "more_body": True}
        seen.append(incoming(api))
        yield {"type": "http.disconnect"}

    stream(api, asked(api), messages())
    assert len(seen[0]) == 1
    assert incoming(api) == []
    assert api.get("/v1/operations").json() == []


def test_a_body_is_never_whole_in_memory(api: Api) -> None:
    """What has been sent is on the disk before more is asked for."""
    on_disk: list[int] = []

    def messages() -> Iterator[dict[str, Any]]:
        for piece in range(8):
            on_disk.append(sum(path.stat().st_size for path in incoming(api)))
            yield {"type": "http.request", "body": bytes(2**20), "more_body": piece < 7}

    stream(api, asked(api, sha256="0" * 64), messages())
    assert on_disk == [piece * 2**20 for piece in range(8)]
    assert incoming(api) == []


def test_an_import_that_is_cancelled_before_it_begins_leaves_no_upload(api: Api) -> None:
    accepted = api.client.put(asked(api), content=IMAGE).json()
    assert [path.name[:7] for path in incoming(api)] == ["upload-"]
    api.post(f"/v1/operations/{accepted['id']}/cancel")
    ended = unwind_operation(UUID(accepted["id"]))
    assert (ended.state, ended.left_behind) == ("cancelled", False)
    assert incoming(api) == []
