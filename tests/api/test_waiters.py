"""Five hundred who wait cost the API no thread, and nobody else notices them."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from adapters.database.records import VolumeRecord
from api import tokens
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.worlds import build

pytestmark = pytest.mark.engine
WAITERS = 500


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A real server in a process of its own; its address and its pid."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port)]
    environment = {"CLOUDLOOM_HOME": str(tmp_path / "home"), "CLOUDLOOM_IMAGE_TOOL": "memory"}
    with subprocess.Popen(
        [sys.executable, *command, "--log-level", "warning"], env={**os.environ, **environment}
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()


def test_five_hundred_wait_and_health_answers(tmp_path: Path, server: tuple[str, int]) -> None:
    world = build(tmp_path / "home")
    headers = {"Authorization": f"Bearer {tokens.first_token(cloud.database)}"}
    volume = VolumeRecord(
        id=world.datacenter,
        name="data",
        virtual_datacenter_id=world.vdc,
        pool_id=world.pool,
        size_mib=8,
    )
    operation = world.accept(
        "create_iscsi_volume", volume.id, volume=volume.model_dump(mode="json")
    )
    url, pid = server
    _wait_for(url)

    async def story() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=120, trust_env=False
        ) as client:
            path = f"/v1/operations/{operation.id}?wait=60"
            waiting = [asyncio.create_task(client.get(path)) for _ in range(WAITERS)]
            await asyncio.to_thread(_wait_for_connections, pid)
            assert (await client.get("/health/live")).json() == {"status": "live"}
            assert (await client.get("/v1/volumes")).status_code == 200
            assert not any(each.done() for each in waiting)
            assert psutil.Process(pid).num_threads() < 100
            await asyncio.to_thread(FLOWS[operation.kind], operation.id)
            return [(await each).json()["state"] for each in waiting]

    assert asyncio.run(story()) == ["succeeded"] * WAITERS


def _wait_for_connections(pid: int) -> None:
    deadline = time.monotonic() + 60
    while len(psutil.Process(pid).net_connections("tcp")) < WAITERS:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/live", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")
