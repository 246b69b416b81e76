"""A fresh memory cloud per test, on a file system without a disk where there is one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.database.session import engine
from tests.flows.breaking import Breaker
from tests.flows.scenarios import Worlds
from tests.worlds import World


def made_folder() -> Path:
    """A folder for a world, in memory where there is such a place; `python -m tests` names one."""
    in_memory = os.environ.get("CLOUDLOOM_TESTS_MEMORY", "/dev/shm")
    where = in_memory if os.access(in_memory, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="cloudloom-world-", dir=where))


def pytest_configure() -> None:
    """Become what `tests.mutation` asks for."""
    if mutant := os.environ.get("CLOUDLOOM_MUTANT"):
        from tests.mutation import plant

        plant(mutant)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On MariaDB run the matrix of one flow: what all flows do to the database, it does."""
    items[:] = [
        item
        for item in items
        if item.path.stem != "test_sagas_on_mariadb"
        or getattr(item, "callspec").params["name"] == "create_iscsi_volume"  # noqa: B009
    ]


@pytest.fixture(scope="session")
def prepared() -> Iterator[Worlds]:
    """Every scenario's world, made once and put back for every test."""
    folder = made_folder()
    yield Worlds(folder)
    engine.cache_clear()
    shutil.rmtree(folder)


@pytest.fixture
def world(prepared: Worlds) -> World:
    return prepared.new()


@pytest.fixture
def breaker(prepared: Worlds, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Breaker]:
    """What breaks a scenario's operation at a place, and counts its effects."""

    def make(name: str) -> Breaker:
        made = Breaker(monkeypatch, prepared.put_back(name))
        made.mind_the_dead()
        made.count_effects()
        return made

    return make
