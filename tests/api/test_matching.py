"""What somebody has read is tagged, and changed only while it is what they read."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from api import tokens
from api.app import create_app
from api.matching import CHANGES
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused
from tests.worlds import build

SHOP = """\
appliance: shop
virtual_datacenter: demo
vms: [{name: web, template: tiny}]
"""
AT_ONCE = 8
ONES_OWN = {"/v1/sessions/current"}  # nobody else ends it


@pytest.fixture
def shop(api: Api) -> Any:
    return api.appliance(SHOP)


def singles(api: Api, shop: Any) -> list[str]:
    """Something of each kind that can be read by itself."""
    volume = api.volume()
    (enterprise,) = api.get("/v1/enterprises").json()
    (operation,) = api.get("/v1/operations").json()
    found = [f"/v1/{kind}/{api.get(f'/v1/{kind}').json()[0]['id']}" for kind in ("hosts", "vms")]
    return [
        *found,
        f"/v1/appliances/{shop['id']}",
        f"/v1/volumes/{volume}",
        f"/v1/enterprises/{enterprise['id']}",
        f"/v1/operations/{operation['id']}",
        f"/v1/operations/{operation['id']}/receipt",
        f"/v1/templates/{api.world.template}",
        f"/v1/virtual-datacenters/{api.world.vdc}",
        f"/v1/datacenters/{api.world.datacenter}",
        "/v1/vms",
    ]


def test_what_is_read_again_unchanged_is_not_sent_again(api: Api, shop: Any) -> None:
    for path in singles(api, shop):
        first = api.get(path)
        tag = first.headers["etag"]
        assert tag.startswith('"'), path
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = api.get(path, headers={"If-None-Match": known})
            assert again.status_code == 304, path
            assert again.content == b""
            assert again.headers["etag"] == tag
            assert "content-type" not in again.headers
        assert api.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_a_tag_changes_with_what_it_stands_for(api: Api, shop: Any) -> None:
    path = f"/v1/appliances/{shop['id']}"
    before = api.get(path).headers["etag"]
    changed = api.call("PATCH", path, json={"approval": True})
    assert changed.headers["etag"] == api.get(path).headers["etag"] != before
    assert api.get(path, headers={"If-None-Match": before}).status_code == 200


def test_a_page_is_another_one_when_another_page_follows(api: Api) -> None:
    api.volume("a")
    before = api.get("/v1/volumes", params={"limit": 1})
    api.volume("b")
    again = api.get(
        "/v1/volumes", params={"limit": 1}, headers={"If-None-Match": before.headers["etag"]}
    )
    assert again.status_code == 200
    assert again.content == before.content
    assert "next" in again.links


def test_nothing_is_changed_that_is_not_what_was_read(api: Api, shop: Any) -> None:
    path = f"/v1/appliances/{shop['id']}"
    old = api.get(path).headers["etag"]
    assert api.call("PATCH", path, json={"approval": True}).status_code == 200
    for tags in (old, '"nonsense"', "nonsense"):
        headers = {"If-Match": tags}
        answer = api.call("PATCH", path, json={"approval": False}, headers=headers)
        refused(answer, 412, "precondition-failed")
        refused(api.delete(path, headers=headers), 412, "precondition-failed")
    now = api.get(path)
    assert now.json()["approval"] is True
    listed = {"If-Match": f'"other", {now.headers["etag"]}'}
    assert api.call("PATCH", path, json={"approval": False}, headers=listed).status_code == 200
    assert api.delete(path, headers={"If-Match": "*"}).status_code == 204
    refused(api.delete(path, headers={"If-Match": "*"}), 404, "not-found")


def test_an_operation_begins_only_on_what_was_read(api: Api) -> None:
    path = f"/v1/volumes/{api.volume()}"
    refused(api.delete(path, headers={"If-Match": '"old"'}), 412, "precondition-failed")
    assert len(api.get("/v1/operations").json()) == 1
    headers = {"If-Match": api.get(path).headers["etag"], "Idempotency-Key": "k"}
    first = api.delete(path, headers=headers)
    api.done(first)
    again = api.delete(path, headers=headers)  # the tag is none any more; the key still is
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]


def test_what_is_anothers_stays_not_found(stranger: Api, shop: Any) -> None:
    path = f"/v1/appliances/{shop['id']}"
    for tags in ('"old"', "*"):
        answer = stranger.call("PATCH", path, json={"approval": True}, headers={"If-Match": tags})
        refused(answer, 404, "not-found")


def test_whatever_can_be_changed_can_be_read_and_says_if_match(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    changes = [
        (path, method)
        for path, methods in paths.items()
        for method in methods
        if method.upper() in CHANGES and path.startswith("/v1/") and path not in ONES_OWN
    ]
    assert changes
    for path, method in changes:
        assert "get" in paths[path], f"{method} {path}: nobody can read a tag of it"
        said = {each["name"] for each in paths[path][method].get("parameters", [])}
        assert "if-match" in said, f"{method} {path} does not take `Match`"


@pytest.mark.parametrize("database", ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)])
def test_of_many_who_read_the_same_one_changes_it(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    changes = {}
    if database == "mariadb":
        changes["database_url"] = request.getfixturevalue("mariadb").fresh()
    build(tmp_path / "home", **changes)
    token = tokens.first_token(cloud.database)
    headers = {"Authorization": f"Bearer {token}"}
    together = Barrier(AT_ONCE)
    with TestClient(create_app(), headers=headers) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        (enterprise,) = client.get("/v1/enterprises").json()
        path, approval = f"/v1/enterprises/{enterprise['id']}", enterprise["approval"]
        for _ in range(5):
            tag = client.get(path).headers["etag"]
            approval = not approval

            def change(_n: int, tag: str = tag, approval: bool = approval) -> int:
                together.wait(60)
                said = client.patch(path, json={"approval": approval}, headers={"If-Match": tag})
                return said.status_code

            told = sorted(pool.map(change, range(AT_ONCE)))
            assert told == [200] + [412] * (AT_ONCE - 1)
    cloud.database.engine.dispose()
