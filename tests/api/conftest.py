"""A client of the API over a small memory cloud, and a hand to carry operations out."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import inspect, text

from adapters.database.operations import Operation
from adapters.database.schema import METADATA
from adapters.database.session import Database
from api import tokens
from api.app import create_app
from api.dependencies import sender
from deployments.lab.mariadb import MariaDb
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.worlds import World, build

with warnings.catch_warnings():  # it asks for httpx2, which nothing else here needs
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient


@dataclass
class Api:
    """The API as one caller sees it; operations wait until `run`."""

    client: TestClient
    world: World
    token: str
    sent: list[Operation] = field(default_factory=list)

    def call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return self.client.request(
            method, path, headers=headers, follow_redirects=False, **options
        )

    def get(self, path: str, **options: Any) -> Any:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        return self.call("POST", path, **options)

    def delete(self, path: str, **options: Any) -> Any:
        return self.call("DELETE", path, **options)

    def run(self, response: Any) -> Any:
        """Carry out the operation that was accepted; answers it as the API then has it."""
        assert response.status_code == 202, response.text
        operation = response.json()
        FLOWS[operation["kind"]](UUID(operation["id"]))
        return self.get(f"/v1/operations/{operation['id']}").json()

    def done(self, response: Any) -> Any:
        ended = self.run(response)
        assert ended["state"] == "succeeded", ended["error"]
        return ended

    def appliance(self, text: str) -> Any:
        response = self.post(
            "/v1/appliances", content=text, headers={"Content-Type": "application/yaml"}
        )
        assert response.status_code == 201, response.text
        return response.json()

    def volume(self, name: str = "data", **changes: Any) -> UUID:
        body = {"name": name, "size_mib": 8, "virtual_datacenter": "demo", **changes}
        return self.done(self.post("/v1/volumes", json=body))["target"]["id"]


def refused(response: Any, status: int, code: str) -> Any:
    """The problem that a request met; every one has the same members."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:cloudloom:problem:{code}"
    assert problem["title"]
    assert problem["instance"]
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def dumped() -> bytes:
    """Every row of every table."""
    with cloud.database.engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        rows = [connection.exec_driver_sql(f"SELECT * FROM `{x}`").all() for x in tables]
    cells = [cell for each in rows for row in each for cell in row]
    return b"\n".join(x if isinstance(x, bytes) else str(x).encode() for x in cells)


@pytest.fixture(scope="session")
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite's; or of a database of MariaDB, where `CLOUDLOOM_TESTS_DATABASE` says so."""
    if os.environ.get("CLOUDLOOM_TESTS_DATABASE") != "mariadb":
        return ""
    server: MariaDb = request.getfixturevalue("mariadb")
    return server.fresh()


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """One for all tests: its routes are half a second's work, and are never forgotten."""
    return create_app()


@pytest.fixture
def api(
    app: FastAPI, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    folder = tmp_path_factory.getbasetemp()
    if database_url:
        _empty(database_url)
    # One home: its engine stays warm.
    world = build(folder / "api", database_url=database_url)
    app.middleware_stack = None  # what it counts is made anew
    app.dependency_overrides.clear()
    token = tokens.first_token(cloud.database)
    assert token
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 1)) as client:
        made = Api(client, world, token)
        app.dependency_overrides[sender] = lambda: made.sent.append
        yield made
    cloud.database.engine.dispose()


@pytest.fixture
def stranger(api: Api) -> Api:
    """The API as another enterprise sees it."""
    from uuid import uuid4

    from adapters.database import models

    enterprise = uuid4()
    api.world.add(models.Enterprise(id=enterprise, name="others"))
    token = tokens.mint(cloud.database, "stranger", enterprise)
    return Api(api.client, api.world, token, api.sent)


def _empty(database_url: str) -> None:
    """Remove every row of a database, if its tables are there."""
    with Database(database_url).engine.begin() as connection:
        there = set(inspect(connection).get_table_names())
        connection.execute(text("SET FOREIGN_KEY_CHECKS=0"))
        for table in METADATA.sorted_tables:
            if table.name in there:
                connection.execute(table.delete())
                if table.autoincrement_column is not None:  # a gap is waited for
                    connection.execute(text(f"ALTER TABLE {table.name} AUTO_INCREMENT = 1"))
        connection.execute(text("SET FOREIGN_KEY_CHECKS=1"))
