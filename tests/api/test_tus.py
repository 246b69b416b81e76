"""Uploads in several goes, by tus: what has come stays, and goes on wherever it broke off."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.errors import NotFound, Transient
from adapters.images.arriving import GrowingFile
from api import tokens, transfers, tus
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.unwind_operation import unwind_operation
from tests.api.conftest import Api, refused
from tests.api.test_gateway import DIGEST, IMAGE, WISH, asked, incoming
from tests.worlds import write_package

TUS = {"Tus-Resumable": "1.0.0"}
HALF = len(IMAGE) // 2


def begun(api: Api, length: int = len(IMAGE), **changes: Any) -> str:
    answer = api.client.post(asked(api, **changes), headers={**TUS, "Upload-Length": str(length)})
    assert answer.status_code == 201, answer.text
    assert parsedate_to_datetime(answer.headers["Upload-Expires"]) > datetime.now().astimezone()
    where: str = answer.headers["Location"]
    return where


def go_on(api: Api, where: str, offset: int, content: bytes | Iterator[bytes]) -> Any:
    kind = {"Content-Type": "application/offset+octet-stream"}
    headers = {**TUS, **kind, "Upload-Offset": str(offset)}
    return api.client.patch(where, headers=headers, content=content)


def state(api: Api, where: str) -> tuple[int, str | None]:
    answer = api.client.head(where, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return int(answer.headers["Upload-Offset"]), answer.headers.get("Location")


def finished(api: Api, answer: Any) -> Any:
    """The operation that the last go started, carried out."""
    assert answer.status_code in {200, 204}, answer.text
    assert answer.content == b""
    (operation,) = api.sent
    assert answer.headers["Location"] == f"/v1/operations/{operation.id}"
    FLOWS[operation.kind](operation.id)
    return api.get(answer.headers["Location"]).json()


def test_an_image_in_several_goes_becomes_a_template(api: Api) -> None:
    where = begun(api, cpu=2)
    assert state(api, where) == (0, None)
    first = go_on(api, where, 0, IMAGE[:HALF])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, str(HALF))
    assert "Upload-Expires" in first.headers
    assert "Location" not in first.headers
    assert state(api, where) == (HALF, None)
    assert api.get("/v1/operations").json() == []
    last = go_on(api, where, HALF, IMAGE[HALF:])
    assert state(api, where) == (len(IMAGE), last.headers["Location"])
    ended = finished(api, last)
    assert ended["state"] == "succeeded", ended["error"]
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (template["name"], template["cpu"]) == ("fresh", 2)
    assert template["disks"][0]["digest"] == DIGEST
    assert incoming(api) == []
    assert state(api, where) == (len(IMAGE), last.headers["Location"])  # also afterwards
    again = go_on(api, where, len(IMAGE), b"")
    assert again.headers["Location"] == last.headers["Location"]
    refused(go_on(api, where, 0, IMAGE), 409, "transfer-offset")
    refused(api.client.delete(where, headers=TUS), 409, "transfer-arrived")
    assert len(api.sent) == 1


def test_a_package_in_several_goes(api: Api, tmp_path: Any) -> None:
    write_package(tmp_path / "shop.ova", "system", "data")
    content = (tmp_path / "shop.ova").read_bytes()
    where = begun(api, len(content), format="ova")
    assert go_on(api, where, 0, content[:1000]).status_code == 204
    ended = finished(api, go_on(api, where, 1000, content[1000:]))
    assert (ended["state"], ended["kind"]) == ("succeeded", "import_package")
    assert incoming(api) == []


def test_who_has_not_seen_the_beginning_reads_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, or this one after a restart: what it remembers is no more than a help."""
    where = begun(api, sha256=DIGEST)
    go_on(api, where, 0, IMAGE[:HALF])
    monkeypatch.setattr(tus, "_seen", type(tus._seen)())
    ended = finished(api, go_on(api, where, HALF, IMAGE[HALF:]))
    assert ended["state"] == "succeeded", ended["error"]


def test_what_has_all_come_is_imported_though_its_sender_sends_no_more(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came whole, and then something failed here: a client that asks hears that, and ends."""
    where = begun(api, sha256=DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(transfers, "start", lost)
        refused(go_on(api, where, 0, IMAGE), 503, "transient")
    assert api.get("/v1/operations").json() == []
    answer = api.client.head(where, headers=TUS)
    assert answer.headers["Upload-Offset"] == str(len(IMAGE))
    ended = finished(api, answer)
    assert ended["state"] == "succeeded", ended["error"]
    assert incoming(api) == []
    assert state(api, where) == (len(IMAGE), f"/v1/operations/{ended['id']}")
    assert len(api.sent) == 1


def lost(*_more: Any) -> None:
    raise Transient("the database is away")


def test_what_somebody_else_has_changed_is_noticed(api: Api) -> None:
    where = begun(api, sha256=DIGEST)
    go_on(api, where, 0, IMAGE[:HALF])
    (path,) = incoming(api)
    path.write_bytes(b"x" * (HALF - 1))
    refused(go_on(api, where, HALF - 1, IMAGE[HALF - 1 :]), 422, "image-digest-mismatch")
    assert incoming(api) == []
    assert api.client.head(where, headers=TUS).status_code == 404
    assert api.get("/v1/operations").json() == []


def test_where_it_does_not_go_on_is_refused(api: Api) -> None:
    where = begun(api)
    go_on(api, where, 0, IMAGE[:HALF])
    for offset in (0, HALF - 1, HALF + 1, len(IMAGE)):
        refused(go_on(api, where, offset, IMAGE[offset:]), 409, "transfer-offset")
    for header in ("", "-1", "one", "1" * 30, "٣"):
        headers = {**TUS, "Content-Type": tus._MEDIA_TYPE, "Upload-Offset": header.encode()}
        answer = api.client.patch(where, headers=headers, content=b"x")
        refused(answer, 400, "invalid-header")
    headers = {**TUS, "Upload-Offset": str(HALF)}
    refused(api.client.patch(where, headers=headers, content=b"x"), 415, "unsupported-media-type")
    assert state(api, where) == (HALF, None)


@pytest.mark.parametrize("chunked", [True, False])
def test_more_than_was_said_is_too_much(api: Api, chunked: bool) -> None:
    where = begun(api)
    content = IMAGE + b"x"
    refused(go_on(api, where, 0, iter([content]) if chunked else content), 413, "upload-too-large")
    assert state(api, where) == (0, None)
    assert finished(api, go_on(api, where, 0, IMAGE))["state"] == "succeeded"


def test_what_is_too_large_is_refused_before_a_byte(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 1)
    headers = {**TUS, "Upload-Length": str(2**20 + 1)}
    answer = refused(api.client.post(asked(api), headers=headers), 413, "upload-too-large")
    assert answer["status"] == 413
    told = api.client.options(asked(api))
    assert (told.status_code, told.headers["Tus-Max-Size"]) == (204, str(2**20))
    assert told.headers["Tus-Version"] == "1.0.0"
    assert set(told.headers["Tus-Extension"].split(",")) >= {"creation", "termination"}
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 2**50)
    headers = {**TUS, "Upload-Length": str(2**59)}
    refused(api.client.post(asked(api), headers=headers), 409, "out-of-space")
    assert incoming(api) == []


def test_limits_are_asked_before_a_byte(api: Api) -> None:
    where = asked(api)
    hard = {"repository_mib": 100}
    path = f"/v1/limits/datacenter/{api.world.datacenter}"
    assert api.call("PUT", path, json={"soft": {}, "hard": hard}).status_code == 200
    headers = {**TUS, "Upload-Length": str(2**27)}
    refused(api.client.post(where, headers=headers), 409, "hard-limit")
    assert incoming(api) == []


@pytest.mark.parametrize("length", ["0", "", "x", None])
def test_a_length_has_to_be_said(api: Api, length: str | None) -> None:
    headers = {**TUS, **({"Upload-Length": length} if length is not None else {})}
    refused(api.client.post(asked(api), headers=headers), 400, "invalid-header")
    assert incoming(api) == []


def test_other_versions_are_not_spoken(api: Api) -> None:
    where = begun(api)
    for method in ("POST", "PATCH", "DELETE"):
        headers = {"Tus-Resumable": "0.2.2"}
        answer = api.client.request(method, where, headers=headers)
        refused(answer, 412, "tus-version")
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    refused(api.client.patch(where, content=b"x"), 412, "tus-version")
    assert api.client.head(where).status_code == 412


def test_one_sender_at_a_time(api: Api) -> None:
    """The second of two is told to wait, whichever process has the first, and spoils nothing."""
    where = begun(api)
    go_on(api, where, 0, IMAGE[:HALF])
    (path,) = incoming(api)
    first = GrowingFile(path)
    refused(go_on(api, where, HALF, b"other bytes"), 423, "transfer-under-way")
    refused(api.client.delete(where, headers=TUS), 423, "transfer-under-way")
    assert state(api, where) == (HALF, None)
    first.close()
    assert finished(api, go_on(api, where, HALF, IMAGE[HALF:]))["state"] == "succeeded"


def send_slowly(
    api: Api,
    where: str,
    offset: int,
    *sent: bytes,
    hangs_up: bool = True,
    before: Callable[[], None] = lambda: None,
) -> int:
    """Send this much, then hang up, or say nothing more; answers the status."""
    told: list[int] = []
    waiting = [{"type": "http.request", "body": each, "more_body": True} for each in sent]

    async def receive() -> dict[str, Any]:
        before()
        if waiting:
            return waiting.pop(0)
        if not hangs_up:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def answered(message: dict[str, Any]) -> None:
        told.append(message.get("status", 0))

    headers = {**TUS, "Content-Type": tus._MEDIA_TYPE, "Upload-Offset": str(offset)}
    scope = {
        "type": "http",
        "method": "PATCH",
        "path": where,
        "raw_path": where.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "http_version": "1.1",
    }
    asyncio.run(api.client.app(scope, receive, answered))  # type: ignore[arg-type]
    return told[0]


def test_what_had_come_when_it_broke_off_stays(api: Api) -> None:
    where = begun(api, sha256=DIGEST)
    send_slowly(api, where, 0, IMAGE[:3], IMAGE[3:9])
    assert state(api, where) == (9, None)
    send_slowly(api, where, 9)
    assert state(api, where) == (9, None)
    assert finished(api, go_on(api, where, 9, IMAGE[9:]))["state"] == "succeeded"


def test_a_silent_sender_keeps_nobody_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tus, "_PATIENCE_S", 0.05)
    where = begun(api)
    assert send_slowly(api, where, 0, IMAGE[:9], hangs_up=False) == 503
    assert state(api, where) == (9, None)
    assert go_on(api, where, 9, IMAGE[9:]).status_code == 204


def test_a_body_is_never_whole_in_memory(api: Api) -> None:
    """What has been sent is on the disk before more is asked for."""
    where, on_disk = begun(api, 9 * 2**20), []

    def look() -> None:
        (path,) = incoming(api)
        on_disk.append(path.stat().st_size)

    send_slowly(api, where, 0, *[bytes(2**20)] * 8, before=look)
    assert on_disk == [piece * 2**20 for piece in range(9)]


@pytest.mark.parametrize("another", [False, True], ids=["gone", "another-there"])
def test_what_is_removed_under_its_sender_is_not_whole(tmp_path: Any, another: bool) -> None:
    """Who removes what nobody has gone on with asks for no lock."""
    path = tmp_path / "upload"
    GrowingFile.begin(path)
    growing = GrowingFile(path)
    growing.write(IMAGE)
    path.unlink()
    if another:
        GrowingFile.begin(path)
    with pytest.raises(NotFound):
        growing.finish()
    growing.close()


def test_it_can_be_given_up(api: Api) -> None:
    where = begun(api)
    go_on(api, where, 0, IMAGE[:HALF])
    gone = api.client.delete(where, headers=TUS)
    assert (gone.status_code, gone.content) == (204, b"")
    assert incoming(api) == []
    refused(go_on(api, where, HALF, IMAGE[HALF:]), 404, "upload-missing")
    refused(api.client.delete(where, headers=TUS), 404, "upload-missing")


def test_a_client_that_can_only_post(api: Api) -> None:
    where = begun(api)
    headers = {
        **TUS,
        "X-HTTP-Method-Override": "PATCH",
        "Content-Type": tus._MEDIA_TYPE,
        "Upload-Offset": "0",
    }
    assert api.client.post(where, headers=headers, content=IMAGE[:HALF]).status_code == 204
    assert state(api, where) == (HALF, None)
    headers["X-HTTP-Method-Override"] = "DELETE"
    assert api.client.post(where, headers=headers).status_code == 204
    assert incoming(api) == []


def test_addresses_are_good_for_one_thing(api: Api) -> None:
    first = asked(api)
    where = begun(api)
    refused(go_on(api, first, 0, IMAGE), 403, "transfer-invalid")
    refused(api.client.put(where, content=IMAGE), 403, "transfer-invalid")
    refused(go_on(api, where[:-5] + "AAAA=", 0, IMAGE), 403, "transfer-invalid")
    assert api.client.head("/gateway/uploads/nonsense", headers=TUS).status_code == 403
    headers = {**TUS, "Upload-Length": "9"}
    assert api.client.post(first, headers=headers).status_code == 201
    refused(api.client.post(first, headers=headers), 409, "transfer-used")
    refused(api.client.put(first, content=IMAGE), 409, "transfer-used")
    assert len(incoming(api)) == 2


def test_an_upload_ends_with_its_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    where = begun(api)
    monkeypatch.setattr(tus, "_VALID_S", -1)
    refused(go_on(api, where, 0, IMAGE), 403, "transfer-invalid")
    monkeypatch.undo()
    tokens.revoke(cloud.database, UUID(api.token.split("_")[1]))
    refused(go_on(api, where, 0, IMAGE), 403, "transfer-invalid")


def test_under_a_key_one_upload_counts(api: Api) -> None:
    key = {"Idempotency-Key": "import-1"}
    wheres = []
    for _ in range(2):
        told = api.post("/v1/templates", params=WISH, headers=key)
        headers = {**TUS, "Upload-Length": str(len(IMAGE))}
        answer = api.client.post(told.headers["location"], headers=headers)
        wheres.append(answer.headers["Location"])
    first = go_on(api, wheres[0], 0, IMAGE)
    second = go_on(api, wheres[1], 0, IMAGE)
    assert second.headers["Location"] == first.headers["Location"]
    assert finished(api, first)["state"] == "succeeded"
    assert incoming(api) == []
    again = api.post("/v1/templates", params=WISH, headers=key)
    assert (again.status_code, again.headers["location"]) == (202, first.headers["Location"])


def test_a_planned_import_in_several_goes(api: Api) -> None:
    said = {"size_bytes": len(IMAGE), "sha256": DIGEST}
    plan = api.post("/v1/templates", params={**WISH, **said, "dry_run": "true"}).json()["id"]
    where = begun(api, **said, plan=plan)
    go_on(api, where, 0, IMAGE[:HALF])
    last = go_on(api, where, HALF, IMAGE[HALF:])
    assert last.headers["Location"] == f"/v1/operations/{plan}"
    assert finished(api, last)["state"] == "succeeded"


def test_an_import_that_is_cancelled_before_it_begins_leaves_no_upload(api: Api) -> None:
    where = begun(api)
    operation = go_on(api, where, 0, IMAGE).headers["Location"].rpartition("/")[2]
    api.post(f"/v1/operations/{operation}/cancel")
    ended = unwind_operation(UUID(operation))
    assert (ended.state, ended.left_behind) == ("cancelled", False)
    assert incoming(api) == []


def test_what_nobody_goes_on_with_goes_by_itself(api: Api) -> None:
    """But not what is young, what an import is to take, and what is not known to be ours."""
    old = begun(api)
    taken = begun(api)
    go_on(api, taken, 0, IMAGE)
    foreign = api.world.home / "repository" / "incoming" / f"upload-{uuid4()}"
    foreign.write_bytes(b"of another installation")
    for path in incoming(api):
        os.utime(path, (time.time() - 90_000,) * 2)
    young = begun(api)
    trim = FLOWS["trim_history"](api.world.accept("trim_history", api.world.datacenter).id)
    assert trim.state == "succeeded", trim.error
    assert api.client.head(old, headers=TUS).status_code == 404
    refused(go_on(api, old, 0, IMAGE), 404, "upload-missing")
    assert state(api, young) == (0, None)
    assert foreign.exists()
    assert len(incoming(api)) == 3
    FLOWS["import_image"](api.sent[0].id)
    assert len(incoming(api)) == 2
