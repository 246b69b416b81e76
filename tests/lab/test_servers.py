"""The lab's iSCSI server and databases, and the sweep that ends what was left running."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import psutil
import pytest
import sqlalchemy as sa

from deployments.lab.kea import Kea
from deployments.lab.mariadb import MariaDb
from deployments.lab.postgresql import Postgresql
from deployments.lab.process import Process, free_port
from deployments.lab.relay import Relay
from deployments.lab.sweep import sweep
from deployments.lab.tgtd import Tgtd
from deployments.lab.vlans import Vlans
from flows import prefect_server

pytestmark = pytest.mark.lab
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_no_two_programs_are_given_the_same_port() -> None:
    assert len({free_port() for _ in range(2000)}) == 2000


def test_a_crashed_iscsi_server_comes_back_where_it_was(tgtd: Tgtd) -> None:
    numbers = tgtd.port, tgtd.control
    tgtd.crash()
    assert tgtd.start() == numbers
    assert tgtd.start() == numbers


def test_a_stopped_iscsi_server_leaves_no_socket(tmp_path: Path) -> None:
    tgtd = Tgtd(tmp_path)
    _, control = tgtd.start()
    sockets = Path("/var/run/tgtd")
    assert (sockets / f"socket.{control}").exists()
    tgtd.stop()
    tgtd.stop()
    assert list(sockets.glob(f"socket.{control}*")) == []


def test_each_database_is_empty_and_alone(mariadb: MariaDb) -> None:
    first, second = sa.create_engine(mariadb.fresh()), sa.create_engine(mariadb.fresh())
    with first.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (name VARCHAR(9) PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO t VALUES ('a'), ('A')"))  # names are binary
    assert sa.inspect(first).get_table_names() == ["t"]
    assert sa.inspect(second).get_table_names() == []
    first.dispose()
    second.dispose()


def test_each_database_of_prefect_is_migrated_and_alone(postgresql: Postgresql) -> None:
    async def look() -> None:
        async with (
            connected(postgresql.fresh()) as first,
            connected(postgresql.fresh()) as second,
        ):
            await first.execute("CREATE TABLE its_own ()")
            assert await second.fetchval("SELECT to_regclass('its_own')") is None
            assert await second.fetchval("SELECT count(*) FROM flow_run") == 0

    asyncio.run(look())


def test_servers_of_one_database_start_one_after_the_other(postgresql: Postgresql) -> None:
    """Their migrations know nothing of each other."""
    url, started = postgresql.fresh(), []

    async def start(name: str) -> None:
        async with prefect_server.alone(url):
            started.append(name)

    async def start_two() -> None:
        async with connected(url) as witness:
            async with prefect_server.alone(url):
                second = asyncio.create_task(start("second"))
                async with asyncio.timeout(60):
                    while not await witness.fetchval(WAITING):
                        pass
                assert started == []
            await second

    asyncio.run(start_two())
    assert started == ["second"]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


def test_the_sweep_ends_what_was_left_and_nothing_else(tmp_path: Path) -> None:
    Tgtd(tmp_path / "a").start()
    Process(tmp_path / "b", "nap").spawn("sleep", "60")
    Postgresql(tmp_path / "c").start()  # it writes a pid file of its own
    mark = str(uuid4())
    marked = subprocess.Popen(["sleep", "60"], env={**os.environ, "MARK": mark})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, "MARK": "another"})
    try:
        ended = sweep(tmp_path, f"MARK={mark}")
        assert len(ended) == 4
        assert not psutil.pid_exists(marked.pid)
        assert not Process(tmp_path / "a", "tgtd").alive()
        assert not Process(tmp_path / "b", "nap").alive()
        assert not Process(tmp_path / "c", "postgres").alive()
        assert other.poll() is None
        assert sweep(tmp_path, f"MARK={mark}") == []
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


def test_a_sweep_takes_networks_away_with_what_runs_in_them(tmp_path: Path) -> None:
    def namespaces() -> set[str]:
        listed = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True)
        return set(listed.stdout.split())

    vlans = Vlans(tmp_path / "vlans", {101: "10.77.101.1/24"})
    kea = Kea(tmp_path / "kea", vlans.servers[0])
    vlans.start()
    kea.start()
    relay = Relay(tmp_path / "relay", vlans)
    relay.start()
    (tmp_path / "host" / "etc" / "netns").mkdir(parents=True)  # what a host keeps of one
    names = {vlans.switch.name, vlans.servers[0].name}
    assert names <= namespaces()
    ended = sweep(tmp_path)
    assert len(ended) == 4
    assert not names & namespaces()
    assert sweep(tmp_path) == []
