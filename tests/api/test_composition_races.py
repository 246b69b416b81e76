"""What is changed and what begins at the same time: one of them comes second, and is told so."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest

from adapters.database.locks import require_unlocked
from adapters.types import Format
from api import starting, tokens
from api.app import create_app
from api.dependencies import sender
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient
from tests.worlds import World, build, require_ledger_exact

ROUNDS = 5
SHOP = (
    "{{appliance: shop, virtual_datacenter: {where}, vms: [{{name: web, template: {template}}}]}}"
)


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    changes = {}
    if request.param == "mariadb":
        changes["database_url"] = request.getfixturevalue("mariadb").fresh()
    world: World = build(tmp_path / "home", **changes)
    token, app = tokens.first_token(cloud.database), create_app()
    assert token
    with TestClient(app, raise_server_exceptions=False) as client:
        made = Api(client, world, token)
        app.dependency_overrides[sender] = lambda: made.sent.append
        yield made
    cloud.database.engine.dispose()


def at_once(*deeds: Callable[[], Any]) -> list[Any]:
    together = Barrier(len(deeds))

    def do(deed: Callable[[], Any]) -> Any:
        together.wait(60)
        return deed()

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(do, deeds))


def succeeds(answer: Any) -> bool:
    assert answer.status_code < 500, answer.text
    return bool(answer.status_code < 300)


def compose(api: Api, where: str = "demo", template: str = "tiny") -> Any:
    text = SHOP.format(where=where, template=template)
    headers = {"Content-Type": "application/yaml"}
    return api.post("/v1/appliances", content=text, headers=headers)


@pytest.mark.parametrize("what", ["appliance", "vm"])
def test_what_goes_is_not_deployed_and_what_is_deployed_does_not_go(crowd: Api, what: str) -> None:
    for _ in range(ROUNDS):
        shop = compose(crowd).json()
        whole = f"/v1/appliances/{shop['id']}"
        path = whole if what == "appliance" else f"/v1/vms/{shop['vms'][0]['id']}"
        gone, begun = at_once(partial(crowd.delete, path), partial(crowd.post, f"{path}/deploy"))
        assert succeeds(gone) != succeeds(begun), (gone.text, begun.text)
        if begun.status_code == 202:
            crowd.done(begun)
            crowd.done(crowd.post(f"{path}/undeploy"))
        crowd.delete(whole)


def test_nothing_is_made_in_what_goes(crowd: Api) -> None:
    new = {"name": "lab", "datacenter": "main", "family": "memory"}
    for _ in range(ROUNDS):
        vdc = crowd.post("/v1/virtual-datacenters", json=new).headers["location"]
        gone, made = at_once(partial(crowd.delete, vdc), partial(compose, crowd, "lab"))
        assert succeeds(gone) != succeeds(made), (gone.text, made.text)
        if made.status_code == 201:
            crowd.delete(made.headers["location"])
            assert crowd.delete(vdc).status_code == 204


def test_nothing_is_made_of_what_goes(crowd: Api) -> None:
    for number in range(ROUNDS):
        name = f"image-{number}"
        template = crowd.world.image(name, Format.QCOW2)
        accepted = crowd.delete(f"/v1/templates/{template}").json()["id"]
        delete = partial(FLOWS["delete_template"], UUID(accepted))
        ended, made = at_once(delete, partial(compose, crowd, "demo", name))
        assert (ended.state == "succeeded") != succeeds(made), (ended.error, made.text)
        if made.status_code == 201:
            crowd.done(crowd.post(f"{made.headers['location']}/deploy"))
            crowd.done(crowd.post(f"{made.headers['location']}/undeploy"))
            crowd.delete(made.headers["location"])


def test_what_moves_is_deployed_where_it_is_then(crowd: Api) -> None:
    new = {"name": "lab", "datacenter": "main", "family": "memory"}
    assert crowd.post("/v1/virtual-datacenters", json=new).status_code == 201
    shop = compose(crowd).json()
    path, where = f"/v1/appliances/{shop['id']}", "demo"
    for _ in range(ROUNDS):
        there = "lab" if where == "demo" else "demo"
        to = {"virtual_datacenter": there}
        moved, begun = at_once(
            partial(crowd.post, f"{path}/move", json=to), partial(crowd.post, f"{path}/deploy")
        )
        assert succeeds(moved) | succeeds(begun)
        where = there if moved.status_code == 200 else where
        if begun.status_code == 202:
            crowd.done(begun)
            require_ledger_exact()
            crowd.done(crowd.post(f"{path}/undeploy"))


def test_what_begins_waits_for_who_changes_its_vm(
    crowd: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = f"/v1/vms/{compose(crowd).json()['vms'][0]['id']}"
    begun: list[Any] = []
    with ThreadPoolExecutor(1) as pool:

        def overtaken(db: Any, kind: str, thing: UUID) -> None:
            require_unlocked(db, kind, thing)
            begun.append(pool.submit(crowd.post, f"{vm}/deploy"))
            assert not wait(begun, timeout=2).done

        monkeypatch.setattr("api.routers.vm_settings.require_unlocked", overtaken)
        changed = crowd.call("PATCH", vm, json={"user_data": "said-in-time"})
        assert changed.status_code == 200, changed.text
    crowd.done(begun[0].result())
    (seed,) = cloud.settings.home.glob("datastore-*/seed-*")
    assert b"said-in-time" in seed.read_bytes()


def test_what_goes_between_two_looks_is_told_as_gone(crowd: Api, monkeypatch: Any) -> None:
    path = f"/v1/vms/{compose(crowd).json()['vms'][0]['id']}"

    def gone_first(_db: Any, request: Any) -> Any:
        monkeypatch.undo()
        assert crowd.delete(path).status_code == 204
        with cloud.database.read() as db:
            return starting.placed(db, request)

    monkeypatch.setattr(starting, "placed", gone_first)
    answer = crowd.post(f"{path}/deploy")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
