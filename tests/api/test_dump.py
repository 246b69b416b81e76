"""A dump of MariaDB, and all that the API tells: no secret that was planted is in them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from adapters.database import models
from api import tokens
from api.app import create_app
from api.dependencies import sender
from deployments.lab.mariadb import MariaDb
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, dumped, refused
from tests.worlds import build

VMS = """{appliance: shop, virtual_datacenter: demo, vms: [
    {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}]}"""


@pytest.fixture
def on_mariadb(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("dump")
    world = build(folder / "home", database_url=mariadb.fresh())
    app = create_app()
    token = tokens.first_token(cloud.database)
    assert token
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        made = Api(client, world, token)
        app.dependency_overrides[sender] = lambda: made.sent.append
        yield made
    cloud.database.engine.dispose()


@pytest.mark.lab
def test_a_dump_has_no_secret(on_mariadb: Api) -> None:
    api = on_mariadb
    vm = api.appliance(VMS)["vms"][0]["id"]
    api.done(api.post(f"/v1/vms/{vm}/deploy"))
    guest = api.post("/v1/api-tokens", json={"name": "guest"}).json()["token"]
    with cloud.database.read() as db:
        ids = list(db.scalars(select(models.Secret.id)))
    planted = [cloud.secrets.read(each).password.get_secret_value() for each in ids]
    assert planted
    planted += [api.token.split("_", 2)[2], guest.split("_", 2)[2]]
    planted.append((cloud.settings.home / "secret.key").read_text())
    dump = dumped()
    assert b"secret.read" in dump
    assert str(guest.split("_")[1]).encode() in dump
    assert [each for each in planted if each.encode() in dump] == []
    assert [each for each in planted if each.encode().hex().encode() in dump.lower()] == []


def test_an_address_with_a_password_is_refused_and_not_told(api: Api) -> None:
    body = {"datacenter": "main", "name": "fresh", "family": "memory", "datastores": ["/d"]}
    for address in ("qemu+tcp://root:planted@host/system", "//root:planted@host"):
        answer = api.post("/v1/hosts", json={**body, "address": address})
        refused(answer, 422, "invalid-request")
        assert "planted" not in answer.text
