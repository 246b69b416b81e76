"""One key at two replicas at once, over HTTP: one operation."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from api import tokens
from deployments.lab.process import free_port, wait_for
from flows import prefect_env
from flows.cloud import cloud
from tests.worlds import build

AT_ONCE = 50


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)])
def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Two processes of the API on one database; nobody carries out what they accept."""
    changes = {"prefect_url": f"http://127.0.0.1:{free_port()}/api"}
    if request.param == "mariadb":
        changes["database_url"] = request.getfixturevalue("mariadb").fresh()
    build(tmp_path / "home", **changes)
    ours = prefect_env.environment(cloud.settings) | cloud.settings.variables()
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app"]
    processes = [
        subprocess.Popen(
            [*command, "--log-level", "warning", "--port", str(port)], env={**os.environ, **ours}
        )
        for port in ports
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        wait_for(lambda: all(answers(url) for url in urls), 120, "both replicas", every_s=0.2)
        yield urls
    finally:
        for process in processes:
            process.kill()
            process.wait()
        cloud.database.engine.dispose()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=1).is_success
    except httpx.TransportError:
        return False


@pytest.mark.engine
def test_fifty_equal_requests_at_once_are_one_operation(replicas: list[str]) -> None:
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    token = tokens.first_token(cloud.database)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k-1"}
    together = Barrier(AT_ONCE)
    clients = [
        httpx.Client(base_url=replicas[n % 2], headers=headers, timeout=120)
        for n in range(AT_ONCE)
    ]

    def post(client: httpx.Client) -> httpx.Response:
        client.get("/health/live")  # connected, so that the requests meet
        together.wait(120)
        return client.post("/v1/volumes", json=body)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(post, clients))
    assert {each.status_code for each in told} == {202}, {each.text for each in told}
    assert len({each.json()["id"] for each in told}) == 1
    assert len(clients[1].get("/v1/operations").json()) == 1
    for client in clients:
        client.close()
