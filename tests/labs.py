"""Real counterparts as fixtures, and where they are asked for (`-p tests.labs`, by conftest.py).

On Debian as root a lab that does not start is a failure; elsewhere its tests are skipped.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from cryptography.fernet import Fernet

from deployments.lab import appliance
from deployments.lab.kvm_host import KvmHost
from deployments.lab.mariadb import MariaDb
from deployments.lab.namespace import Namespace
from deployments.lab.postgresql import Postgresql
from deployments.lab.redis import Redis
from deployments.lab.tgtd import Tgtd
from deployments.lab.vcsim import Vcsim
from deployments.lab.wired_host import Wire, WiredHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the lab tier where it cannot run, saying why."""
    if reason := _unable():
        for item in items:
            if item.get_closest_marker("lab"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _unable() -> str:
    if not Path("/etc/debian_version").exists():
        return "the labs need Debian"
    if os.geteuid() != 0:
        return "the labs need root"
    return ""


class Server(Protocol):
    """One of the lab's."""

    def start(self) -> object:
        """Start it, and wait until it answers."""

    def stop(self) -> None:
        """End it, also where it has only half started."""


S = TypeVar("S", bound=Server)


@contextmanager
def started(server: S) -> Iterator[S]:
    """Have a server run while inside."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kvm_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmHost]:
    """A libvirt host; tests name their objects by new UUIDs, and share it."""
    with KvmHost(tmp_path_factory.mktemp("kvm")) as host:
        yield host


@pytest.fixture
def second_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmHost]:
    """Another private libvirt host."""
    with KvmHost(tmp_path_factory.mktemp("second")) as host:
        yield host


@pytest.fixture(scope="session")
def switched_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmHost]:
    """A libvirt host in a network namespace of its own, with a bridge `br-test`."""
    folder = tmp_path_factory.mktemp("sw")
    with Namespace(folder) as apart, KvmHost(folder, apart.name) as host:
        apart.ip("link", "add", "br-test", "type", "bridge", "forward_delay", "0")
        apart.ip("link", "set", "br-test", "up")
        yield host


@pytest.fixture(scope="session")
def appliance_image() -> Path:
    """The appliance's raw disk image; read only."""
    return appliance.build()


@pytest.fixture(scope="session")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcsim]:
    """A simulated vCenter; tests name their objects by new UUIDs, and share it."""
    with started(Vcsim(tmp_path_factory.mktemp("vcenter"))) as server:
        yield server


@pytest.fixture(scope="session")
def esxi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcsim]:
    """A simulated ESXi without a vCenter, shared in the same way."""
    with started(Vcsim(tmp_path_factory.mktemp("esxi"), esx=True)) as server:
        yield server


@pytest.fixture
def tgtd(tmp_path: Path) -> Iterator[Tgtd]:
    """An iSCSI server of the test's own."""
    with started(Tgtd(tmp_path / "tgtd")) as server:
        yield server


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """A switch of VLAN 101 and 102."""
    with started(Wire(tmp_path / "wire", (101, 102))) as switch:
        yield switch


@pytest.fixture
def wired_host(wire: Wire, tmp_path: Path) -> Iterator[WiredHost]:
    """A host at it."""
    with started(WiredHost(tmp_path / "one", wire.switch, wire.tags)) as host:
        yield host


@pytest.fixture
def another_wired_host(wire: Wire, tmp_path: Path) -> Iterator[WiredHost]:
    """Another one."""
    with started(WiredHost(tmp_path / "two", wire.switch, wire.tags)) as host:
        yield host


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A database server; take a `fresh()` database from it."""
    with started(MariaDb(tmp_path_factory.mktemp("mariadb"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgresql]:
    """A server of databases for Prefect; take a `fresh()` one from it."""
    with started(Postgresql(tmp_path_factory.mktemp("postgresql"))) as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis of the module's own: Prefect's names in it are always the same."""
    with started(Redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="module")
def shared(mariadb: MariaDb, postgresql: Postgresql, redis: Redis) -> dict[str, Any]:
    """The settings that homes have in common which are one installation."""
    return {
        "database_url": mariadb.fresh(),
        "prefect_database_url": postgresql.fresh(),
        "prefect_redis_url": redis.url,
        "prefect_auth": "cloudloom:in common",
        "prefect_key": Fernet.generate_key().decode(),
        "secret_keys": Fernet.generate_key().decode(),
    }
