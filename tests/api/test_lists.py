"""Lists: found by what people look for, by an index, and asking no more for many than for one."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from adapters.database import models
from adapters.errors import Transient
from adapters.types import Family, Format, Scope, VmState
from api import finding, tokens
from api.app import create_app
from api.exporting import Exporting
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused
from tests.many import Largest, fill
from tests.worlds import build

SHOP = """\
appliance: {name}
virtual_datacenter: demo
vms: [{{name: web, template: tiny}}, {{name: db, template: tiny}}]
"""
SORTS = {
    "hosts": ["name"],
    "appliances": ["name", "created_at"],
    "vms": ["name", "state"],
    "volumes": ["name", "size_mib"],
    "templates": ["name", "created_at"],
    "operations": ["accepted_at", "kind"],
}
FEW = 150  # a table of so few rows may be read whole


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()]


def lists(client: TestClient) -> dict[str, set[str]]:
    """Every list, with its filters; but those of what one thing has."""
    paths = client.get("/openapi.json").json()["paths"]
    found = {}
    for path, methods in paths.items():
        said = {each["name"] for each in methods.get("get", {}).get("parameters", [])}
        if "cursor" in said and "{" not in path:
            found[path] = said - {"limit", "cursor", "sort"}
    return found


def test_vms_are_found_by_what_they_are_and_where(api: Api) -> None:
    shop, other = api.appliance(SHOP.format(name="shop")), api.appliance(SHOP.format(name="x"))
    api.done(api.post(f"/v1/vms/{shop['vms'][0]['id']}/deploy"))
    (host,) = {vm["host"]["id"] for vm in api.get("/v1/vms").json() if vm["host"]}
    for query, found in {
        "name=web": 2,
        f"name=web&appliance_id={shop['id']}": 1,
        f"appliance_id={other['id']}": 2,
        f"host_id={host}": 1,
        f"template_id={api.world.template}": 4,
        f"template_id={shop['id']}": 0,
        f"virtual_datacenter_id={api.world.vdc}": 4,
        f"virtual_datacenter_id={shop['id']}": 0,
        "state=ON": 1,
        "state=NOT_ALLOCATED": 3,
        "state=LOCKED": 0,
        "name=": 0,
    }.items():
        assert len(api.get(f"/v1/vms?{query}").json()) == found, query
    waiting = api.post(f"/v1/vms/{shop['vms'][0]['id']}/undeploy")
    assert waiting.status_code == 202
    for state, found in {VmState.ON: 0, VmState.LOCKED: 1, VmState.NOT_ALLOCATED: 3}.items():
        told = api.get(f"/v1/vms?state={state}").json()
        assert [vm["state"] for vm in told] == [state] * found


def test_infrastructure_is_found_by_name_and_place(api: Api) -> None:
    (device,) = api.get("/v1/storage-devices").json()
    here, elsewhere = api.world.datacenter, api.world.pool
    assert names(api.get(f"/v1/hosts?datacenter_id={here}")) == ["host-0", "host-1"]
    assert names(api.get(f"/v1/hosts?datacenter_id={elsewhere}")) == []
    assert names(api.get("/v1/hosts?name=host-1&family=memory")) == ["host-1"]
    assert names(api.get("/v1/hosts?family=kvm")) == []
    assert names(api.get(f"/v1/storage-devices?datacenter_id={here}&name=san")) == ["san"]
    assert names(api.get(f"/v1/storage-pools?device_id={device['id']}&tier=default")) == ["pool"]
    assert names(api.get("/v1/storage-pools?name=pool-2")) == []
    assert names(api.get(f"/v1/virtual-datacenters?datacenter_id={here}")) == ["demo"]
    assert names(api.get("/v1/virtual-datacenters?family=kvm")) == []


def test_a_page_goes_on_where_it_ended_whatever_it_is_sorted_by(api: Api) -> None:
    for number in range(3):
        api.appliance(SHOP.format(name=f"shop-{number}"))
        api.volume(f"data-{number}")
    for kind, sorts in SORTS.items():
        whole = {each["id"] for each in api.get(f"/v1/{kind}").json()}
        for sort in [*sorts, *(f"-{field}" for field in sorts)]:
            told, where = [], f"/v1/{kind}?limit=1&sort={sort}"
            while where:
                answer = api.get(where)
                assert answer.status_code == 200, answer.text
                told += [each["id"] for each in answer.json()]
                where = answer.links.get("next", {}).get("url")
            assert len(told) == len(set(told))
            assert set(told) == whole


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vms", ["state", "NOWHERE"]),
        ("vms", ["name", 7]),
        ("volumes", ["size_mib", "x"]),
        ("volumes", ["size_mib", 2**70]),
        ("operations", ["accepted_at", "yesterday"]),
    ],
)
def test_a_cursor_that_somebody_made_up_is_refused(api: Api, kind: str, said: list[Any]) -> None:
    made = urlsafe_b64encode(json.dumps([*said, str(uuid4())]).encode()).decode()
    answer = api.get(f"/v1/{kind}", params={"sort": said[0], "cursor": made})
    refused(answer, 422, "invalid-cursor")


ONE_OF_EACH = {
    "users": {"name": "ada", "password": "correct horse battery", "role": "USER"},
    "racks": {"datacenter": "main", "name": "r1"},
    "template-repositories": {
        "datacenter": "main",
        "name": "public",
        "url": "https://images.example",
    },
    "allocation-rules": {"kind": "fit", "policy": "progressive"},
    "dhcp-servers": {"datacenter": "main", "name": "d", "kind": "memory", "address": "m"},
}
PUBLIC = {"name": "net", "datacenter": "main", "kind": "public", "range": "10.0.0.0/24"}


def test_many_cost_no_more_questions_than_one(api: Api) -> None:
    asked: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        asked.append(statement)

    def cost() -> dict[str, int]:
        told = {}
        for path in lists(api.client):
            asked.clear()
            assert api.get(path).json() or path == "/v1/operations", path
            told[path] = len(asked)
        return told

    api.appliance(SHOP.format(name="first"))
    api.volume("first")
    for noun, body in ONE_OF_EACH.items():
        assert api.post(f"/v1/{noun}", json=body).status_code == 201
    api.done(api.post(f"/v1/templates/{api.world.template}/export"))
    api.done(api.post("/v1/networks", json=PUBLIC))
    bought = {"network": "net", "virtual_datacenter": "demo"}
    assert api.post("/v1/addresses", json=bought).status_code == 201
    limits = api.call("PUT", f"/v1/limits/virtual-datacenter/{api.world.vdc}", json={})
    assert limits.status_code == 200
    event.listen(cloud.database.engine, "before_cursor_execute", hear)
    try:
        before = cost()
        for number in range(3):
            api.appliance(SHOP.format(name=f"shop-{number}"))
            api.volume(f"data-{number}")
            assert api.post("/v1/addresses", json=bought).status_code == 201
            api.world.image(f"image-{number}", Format.QCOW2)
        assert cost() == before
    finally:
        event.remove(cloud.database.engine, "before_cursor_execute", hear)


@pytest.fixture
def many(mariadb: Any, tmp_path: Path) -> Iterator[Any]:
    """2,000 VMs on MariaDB, and the API as the largest of 40 enterprises sees it."""
    url = mariadb.fresh()
    world = build(tmp_path / "home", hosts=200, database_url=url)
    largest = fill(world, vms=2000, enterprises=40)
    with cloud.database.write() as db:
        for table in models.Base.metadata.tables:
            db.execute(text(f"ANALYZE TABLE {table}"))  # as it does by itself, later
    client = TestClient(create_app())
    tenant = tokens.mint(cloud.database, "reader", largest.enterprise)
    operator = tokens.mint(cloud.database, "operator", scopes=Scope)

    def read(path: str) -> Any:
        """What the tenant reads; of what is not for tenants, the operator."""
        for token in (tenant, operator):
            answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code != 403:
                break
        return answer

    yield client, read, largest
    cloud.database.engine.dispose()


def values(largest: Largest) -> dict[str, list[str]]:
    """What filters are asked with."""
    return {
        "name": [largest.vm, "shop-00010", "linux-1", "data-00010", "host-7"],
        "state": ["ON", "AVAILABLE", "DETACHED", "succeeded"],
        "kind": ["deploy_vm"],
        "family": [Family.MEMORY],
        "tier": ["tier-3"],
        "label": ["env=live", "env", "env=live&label=few=yes"],
        "target_id": [str(largest.appliance)],
        "virtual_datacenter_id": [str(largest.vdc)],
        "appliance_id": [str(largest.appliance)],
        "template_id": [str(largest.template)],
        "host_id": [str(largest.host)],
    }


@pytest.mark.lab
def test_every_list_is_read_by_an_index_whatever_is_looked_for(many: Any) -> None:
    client, read, largest = many
    asked: list[tuple[str, Any]] = []
    told = values(largest)

    def hear(_c: object, _x: object, statement: str, parameters: Any, *_more: object) -> None:
        asked.append((statement, parameters))

    queries = []
    for path, filters in lists(client).items():
        queries.append(f"{path}?limit=5")  # so few that an index pays, in any of the tables
        queries += [
            f"{path}?limit=5&{name}={value}"
            for name in filters
            for value in told.get(name, [str(largest.vdc)])
        ]
        queries += [
            f"{path}?limit=5&sort={way}{field}"
            for field in SORTS.get(path.removeprefix("/v1/"), ["name"])
            for way in ("", "-")
        ]
    event.listen(cloud.database.engine, "before_cursor_execute", hear)
    answers = [read(query) for query in queries]
    answers += [read(answer.links["next"]["url"]) for answer in answers if "next" in answer.links]
    event.remove(cloud.database.engine, "before_cursor_execute", hear)
    assert {answer.status_code for answer in answers} <= {200, 422}  # 422: another list's state
    assert len(asked) > 200
    bad = set()
    with cloud.database.read() as db:
        connection = db.connection()
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings()
            bad |= {
                (str(dict(step)), statement[-400:])
                for step in plan
                if step["type"] == "ALL" and int(step["rows"]) > FEW
            }
    assert not bad


# --- exports ----------------------------------------------------------------------------------

EXPORT = {"Accept": "application/x-ndjson"}


def test_every_list_is_exported_as_it_is(api: Api) -> None:
    for number in range(3):
        api.appliance(SHOP.format(name=f"shop-{number}"))
        api.volume(f"data-{number}")
    for path in lists(api.client):
        answer = api.get(path, headers=EXPORT)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in answer.text.splitlines()] == api.get(path).json()


def test_an_export_is_what_was_looked_for_in_the_order_that_was_asked_for(
    api: Api, stranger: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.exporting._PAGE", "2")
    for number in range(3):
        api.appliance(SHOP.format(name=f"shop-{number}"))
    answer = api.get("/v1/vms?name=web&sort=-name&limit=1", headers=EXPORT)
    assert [json.loads(line)["name"] for line in answer.text.splitlines()] == ["web"] * 3
    assert len({json.loads(line)["id"] for line in answer.text.splitlines()}) == 3
    assert stranger.get("/v1/vms", headers=EXPORT).text == ""
    refused(api.get("/v1/vms?sort=nothing", headers=EXPORT), 422, "invalid-request")
    refused(api.client.get("/v1/vms", headers=EXPORT), 401, "unauthenticated")
    (volume,) = [api.volume()]
    assert api.get(f"/v1/volumes/{volume}", headers=EXPORT).json()["id"] == volume


def test_an_export_that_breaks_off_does_not_look_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.exporting._PAGE", "1")
    for number in range(2):
        api.volume(f"data-{number}")
    pages = []

    def broken(*_: object) -> Any:
        pages.append(1)
        if len(pages) > 1:
            raise Transient("database: gone")
        return found(*_)

    found = finding.volumes
    monkeypatch.setattr("api.routers.volumes.finding.volumes", broken)
    with pytest.raises(RuntimeError, match="broke off"):
        TestClient(api.client.app).get(
            "/v1/volumes", headers={**EXPORT, "Authorization": f"Bearer {api.token}"}
        )


def test_an_export_reads_a_page_when_the_one_before_has_been_taken(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        api.volume(f"data-{number}")
    monkeypatch.setattr("api.exporting._PAGE", "2")
    page, happened = Exporting._page, []

    async def read(self: Exporting, scope: Any, query: str) -> Any:
        said = await page(self, scope, query)
        happened.append(f"read {len(json.loads(said.body))}")
        return said

    async def take(message: Any) -> None:
        if lines := message.get("body", b"").count(b"\n"):
            happened.append(f"taken {lines}")

    async def nothing() -> Any:
        return {"type": "http.request", "body": b""}

    monkeypatch.setattr(Exporting, "_page", read)
    told = [
        (b"accept", b"application/x-ndjson"),
        (b"authorization", f"Bearer {api.token}".encode()),
    ]
    scope = {"type": "http", "method": "GET", "path": "/v1/volumes", "query_string": b""}
    more = {"headers": told, "client": ("127.0.0.1", 1), "scheme": "http", "server": ("x", 80)}
    asyncio.run(api.client.app({**scope, **more}, nothing, take))
    assert happened == ["read 2", "taken 2", "read 2", "taken 2", "read 1", "taken 1"]
