"""Labels: written on whatever has an id, shown with it, found by, and gone with it."""

import json
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from adapters.database import models
from adapters.database.labels import Labelled, LabelRow
from adapters.privileges import Stock
from api import label_verbs
from api.labelling import MANY
from api.routers.labels import KINDS
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.people import user
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture
from tests.api.test_events import one_of

APP = """\
appliance: shop
virtual_datacenter: demo
labels: {env: production, owner: ada}
vms:
  - name: web
    template: tiny
    replicas: 2
    labels: {role: front, env: production}
    volumes: [{name: data, size_mib: 8, labels: {kept: "30 days"}}]
  - {name: db, template: tiny, labels: {env: test}}
"""
LABELS = {"env": "production", "team/owner": "Ada L. = boss", "empty": ""}
# What is changed of one of a kind.
CHANGES: dict[str, dict[str, Any]] = {
    "enterprises": {"approval": True},
    "users": {"email": "ada@example.org"},
    "roles": {"name": "reader"},
    "racks": {"name": "r2"},
    "hosts": {"maintenance": True},
    "storage-devices": {"name": "other"},
    "storage-pools": {"name": "other"},
    "templates": {"category": "systems"},
    "tiers": {"name": "silver"},
    "virtual-datacenters": {"name": "other"},
    "template-repositories": {"name": "other"},
    "appliances": {"approval": True},
    "vms": {"protected": True},
    "networks": {"name": "other"},
    "dhcp-servers": {"name": "other"},
}


GOING = sorted({*CHANGES, "datacenters", "volumes"} - {"vms"})


def put(api: Api, path: str, labels: Any, **options: Any) -> Any:
    return api.call("PUT", f"{path}/labels", json=labels, **options)


def left() -> int:
    with cloud.database.read() as db:
        return db.scalar(select(func.count()).select_from(LabelRow)) or 0


def test_whatever_is_labelled_has_routes() -> None:
    tables = {each.__tablename__.replace("_", "-") for each in Labelled.__subclasses__()}
    assert tables == set(KINDS) == set(label_verbs.KINDS)


@pytest.mark.parametrize("collection", KINDS)
def test_labels_are_set_shown_and_found(api: Api, collection: str) -> None:
    path = one_of(api, collection)
    before = api.get(path)
    assert api.get(f"{path}/labels").json() == before.json()["labels"]
    answer = put(api, path, LABELS)
    assert answer.status_code == 200, answer.text
    assert answer.json() == dict(sorted(LABELS.items())) == api.get(f"{path}/labels").json()
    assert answer.headers["etag"] == api.get(f"{path}/labels").headers["etag"]
    shown = api.get(path)
    assert shown.json() == {**before.json(), "labels": answer.json()}
    assert shown.headers["etag"] != before.headers["etag"]
    for wanted, found in {
        ("env=production",): True,
        ("env",): True,
        ("team/owner=Ada L. = boss", "empty="): True,
        ("env=test",): False,
        ("env=production", "nothing"): False,
        ("env=",): False,
    }.items():
        listed = api.get(f"/v1/{collection}", params={"label": wanted}).json()
        ids = [each["id"] for each in listed]
        assert (shown.json()["id"] in ids) is found, wanted
        assert [each for each in listed if each["id"] == shown.json()["id"]] == (
            [shown.json()] if found else []
        )
    assert put(api, path, {}).json() == {}
    assert api.get(path).json()["labels"] == {}


@pytest.mark.parametrize("collection", CHANGES)
def test_who_changes_a_thing_is_shown_its_labels(api: Api, collection: str) -> None:
    path = one_of(api, collection)
    put(api, path, LABELS)
    headers = {"If-Match": api.get(path).headers["etag"]}
    answer = api.call("PATCH", path, json=CHANGES[collection], headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == api.get(path).json()
    assert answer.json()["labels"] == LABELS


@pytest.mark.parametrize("collection", GOING)
def test_labels_go_with_what_they_are_on(api: Api, collection: str) -> None:
    path = one_of(api, collection)
    put(api, path, LABELS)
    assert left() >= len(LABELS)
    answer = api.delete(path)
    if answer.status_code == 202:
        api.done(answer)
    else:
        assert answer.status_code == 204, answer.text
    assert left() == len(api.get("/v1/volumes?label=kept").json())


def test_what_a_blueprint_says_is_labelled_and_goes_with_its_appliance(api: Api) -> None:
    shop = api.appliance(APP)
    first, second, db = shop["vms"]
    assert shop["labels"] == {"env": "production", "owner": "ada"}
    assert first["labels"] == second["labels"] == {"env": "production", "role": "front"}
    assert db["labels"] == {"env": "test"}
    assert first["volumes"][0]["labels"] == {"kept": "30 days"}
    (volume,) = api.get("/v1/volumes?label=kept=30 days&name=data-1").json()
    assert volume == first["volumes"][0]
    assert [vm["name"] for vm in api.get("/v1/vms?label=env=production").json()] == [
        "web-1",
        "web-2",
    ]
    assert [vm["name"] for vm in api.get("/v1/vms?label=env=production&name=web-2").json()] == [
        "web-2"
    ]
    assert api.delete(f"/v1/appliances/{shop['id']}").status_code == 204
    assert left() == 2  # the volumes stay


def test_a_volume_that_is_there_keeps_its_labels(api: Api) -> None:
    path = one_of(api, "volumes")
    put(api, path, {"mine": "yes"})
    text = APP.replace("replicas: 2", "replicas: 1")
    assert api.appliance(text)["vms"][0]["volumes"][0]["labels"] == {"mine": "yes"}


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"a b": "x"},
        {"=": "x"},
        {"a": 1},
        {"a": None},
        {"a": "x\ny"},
        {"a" * 64: "x"},
        {"a": "x" * 256},
        {f"k{n}": "" for n in range(MANY + 1)},
        [],
        "a=b",
    ],
    ids=json.dumps,
)
def test_what_is_no_label_is_refused(api: Api, labels: Any) -> None:
    path = one_of(api, "tiers")
    refused(put(api, path, labels), 422, "invalid-request")
    text = json.dumps({"appliance": "x", "virtual_datacenter": "demo", "labels": labels})
    headers = {"Content-Type": "application/json"}
    answer = api.post("/v1/appliances", content=text, headers=headers)
    refused(answer, 422, "invalid-request")
    assert left() == 0


def test_labels_are_changed_only_by_who_has_read_them(api: Api) -> None:
    path = one_of(api, "vms")
    old = api.get(f"{path}/labels").headers["etag"]
    put(api, path, {"a": "1"})
    refused(put(api, path, {}, headers={"If-Match": old}), 412, "precondition-failed")
    new = {"If-Match": api.get(f"{path}/labels").headers["etag"]}
    assert put(api, path, {"a": "2"}, headers=new).status_code == 200


def test_another_tenant_finds_nothing_by_a_label(api: Api, stranger: Api) -> None:
    path = one_of(api, "vms")
    put(api, path, LABELS)
    assert stranger.get("/v1/vms?label=env=production").json() == []
    refused(stranger.get(f"{path}/labels"), 404, "not-found")
    refused(put(stranger, path, {}), 404, "not-found")
    refused(put(stranger, path, {}, headers={"If-Match": "*"}), 404, "not-found")
    assert api.get(f"{path}/labels").json() == LABELS


def test_a_stock_role_is_not_labelled(api: Api) -> None:
    (role,) = api.get("/v1/roles?name=USER").json()
    refused(put(api, f"/v1/roles/{role['id']}", LABELS), 409, "role-blocked")


def test_the_operators_networks_are_labelled_by_him_and_seen_by_who_may_use_them(api: Api) -> None:
    wish = {"name": "wan", "datacenter": "main", "kind": "unmanaged", "tag": 900}
    path = f"/v1/networks/{api.done(api.post('/v1/networks', json=wish))['target']['id']}"
    tenant = user(api, Stock.ENTERPRISE_ADMIN)
    refused(put(tenant, path, LABELS), 403, "privilege-missing")
    assert put(api, path, LABELS).status_code == 200
    assert tenant.get(path).json()["labels"] == LABELS
    assert put(tenant, one_of(tenant, "networks"), LABELS).status_code == 200


def test_rows_that_one_statement_removes_lose_their_labels(api: Api) -> None:
    for name in ("gold", "silver"):
        tier = api.post("/v1/tiers", json={"datacenter": "main", "name": name}).json()
        put(api, f"/v1/tiers/{tier['id']}", LABELS)
    with cloud.database.write() as db:
        db.execute(delete(models.Tier).where(models.Tier.name == "gold"))
    assert left() == len(LABELS)
    assert [each["name"] for each in api.get("/v1/tiers?label=env").json()] == ["silver"]


def test_the_command_line_labels(workers: Workers, api: Api) -> None:  # noqa: F811
    api.appliance(APP)
    assert run("labels", "set", "vms", "db", "env=live", "size=a=b").exit_code == 0
    shown = run("labels", "show", "vms", "db").output
    assert "live" in shown
    assert "a=b" in shown
    assert run("labels", "remove", "vms", "db", "env").exit_code == 0
    assert run("labels", "set", "tiers", "default", "class=slow").exit_code == 0
    assert "default" in run("tiers", "list", "label=class=slow").output
    listed = run("vms", "--label", "role=front", "--label", "env").output
    assert " web-1 " in listed
    assert " db " not in listed  # an id may have these letters
    assert " db " in run("vms", "--label", "size=a=b").output
    assert "data-1" in run("volumes", "--label", "kept").output
    wrong = run("labels", "set", "planets", "mars", "a=b")
    assert wrong.exit_code == 2
    assert "volumes" in wrong.output
