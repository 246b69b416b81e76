"""More deployments at once than there is room for, at four replicas: the rest learns why not."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from adapters.amounts import Amounts, Level
from adapters.database import models
from adapters.database.ledger import ChargeRow
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.types import VmState
from api import tokens
from deployments.lab.process import free_port, wait_for
from flows import prefect_env
from flows.cloud import cloud
from flows.policies.limits import require_settable
from tests.api.test_once_at_two_replicas import answers
from tests.worlds import World, build

REPLICAS, HOSTS = 4, 4
PATIENCE_S = 240
VM_MIB = 64


class Crowd:
    """So many appliances of one VM, and hosts that have room for some of them."""

    def __init__(self, world: World, urls: list[str], asked: int, room: int) -> None:
        self.urls, self.room = urls, room
        self.appliances = [world.appliance("vm") for _ in range(asked)]
        each = {"cpu": room // HOSTS, "ram_mib": room // HOSTS * VM_MIB * 2}
        with cloud.database.write() as db:
            db.execute(update(models.Host).values(**each))

    def limit(self) -> None:
        """Hosts have room for all; a limit of the enterprise has not."""
        with cloud.database.write() as db:
            db.execute(update(models.Host).values(cpu=640, ram_mib=2**20))
        whose = (Level.ENTERPRISE, FIRST_ENTERPRISE)
        hard = Amounts(cpu=self.room)
        cloud.ledger.set_limits(FIRST_ENTERPRISE, whose, Amounts(), hard, require_settable)

    def deploy_all(self) -> list[Any]:
        """Every appliance at once; what became of each."""
        headers = {"Authorization": f"Bearer {tokens.first_token(cloud.database)}"}
        together = Barrier(len(self.appliances))
        clients = [
            httpx.Client(base_url=self.urls[n % REPLICAS], headers=headers, timeout=PATIENCE_S)
            for n in range(len(self.appliances))
        ]

        def deploy(client: httpx.Client, appliance: Any) -> Any:
            client.get("/health/live")  # connected, so that the requests meet
            together.wait(PATIENCE_S)
            told = client.post(f"/v1/appliances/{appliance}/deploy")
            if told.status_code != 202:
                return told.json()
            path = told.headers["location"]
            ended: Any = {}

            def has_ended() -> bool:
                nonlocal ended
                ended = client.get(path, params={"wait": 30}).json()
                return ended["ended_at"] is not None

            wait_for(has_ended, PATIENCE_S, path)
            return ended

        with ThreadPoolExecutor(len(clients)) as pool:
            told = list(pool.map(deploy, clients, self.appliances))
        for client in clients:
            client.close()
        return told


@pytest.fixture(params=[(16, 8), pytest.param((64, 40), marks=pytest.mark.lab)])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    """Sixteen on SQLite, sixty-four on MariaDB."""
    asked, room = request.param
    changes: dict[str, Any] = {
        "prefect_url": f"http://127.0.0.1:{free_port()}/api",
        "cpu_overcommit": 1,
        "lease_s": 60,
    }
    if asked > 16:
        changes["database_url"] = request.getfixturevalue("mariadb").fresh()
    world = build(tmp_path / "home", hosts=HOSTS, **changes)
    ours = prefect_env.environment(cloud.settings) | cloud.settings.variables()
    ports = [free_port() for _ in range(REPLICAS)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.replica", str(port)], env={**os.environ, **ours}
        )
        for port in ports
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        wait_for(lambda: all(answers(url) for url in urls), 120, "the replicas", every_s=0.2)
        yield Crowd(world, urls, asked, room)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        cloud.database.engine.dispose()


@pytest.mark.engine
def test_as_many_are_placed_as_there_is_room_for_and_the_rest_learns_why(crowd: Crowd) -> None:
    told = crowd.deploy_all()
    placed = [each for each in told if each.get("state") == "succeeded"]
    refusals = [each.get("error") or each for each in told if each not in placed]
    assert len(placed) == crowd.room, Counter(str(each) for each in refusals)
    assert {each["code"] for each in refusals} == {"no-room"}
    hosts = {f"host-{n}" for n in range(HOSTS)}
    assert all(each["hosts"].keys() == hosts for each in refusals)
    assert {why for each in refusals for why in each["hosts"].values()} == {
        "0 CPUs free, 1 needed"
    }
    vm = models.VirtualMachine
    with cloud.database.read() as db:
        on = db.execute(
            select(vm.host_id, func.count()).where(vm.state == VmState.ON).group_by(vm.host_id)
        )
        assert sorted(count for _, count in on) == [crowd.room // HOSTS] * HOSTS
        assert db.scalar(select(func.count()).where(vm.host_id.is_not(None))) == crowd.room


@pytest.mark.engine
def test_a_limit_lets_as_many_through_and_is_exact(crowd: Crowd) -> None:
    crowd.limit()
    told = crowd.deploy_all()
    placed = [each for each in told if each.get("state") == "succeeded"]
    refusals = [each.get("error") or each for each in told if each not in placed]
    assert len(placed) == crowd.room, Counter(str(each) for each in refusals)
    assert {each["code"] for each in refusals} == {"hard-limit"}
    with cloud.database.read() as db:
        assert db.scalar(select(func.sum(ChargeRow.cpu))) == crowd.room
        state = models.VirtualMachine.state
        on = select(func.count()).where(state == VmState.ON)
        assert db.scalar(on) == crowd.room
