"""What every test may ask for."""

import gc

import pytest
from hypothesis import HealthCheck, settings

from flows.catalog import CATALOG

pytest_plugins = ["tests.labs"]

# Without a clock, as a machine may stand still meanwhile, and without a folder of its own.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("house", database=None, **_UNTIMED)
settings.load_profile("house")


def pytest_collection_finish() -> None:
    """What is loaded by now stays: looking for garbage among it took a third of the matrix."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _versions_are_those_of_whole_steps() -> None:
    """Ask each flow for its version, which it keeps, before a test bends one of its steps."""
    for flow in CATALOG:
        assert flow.version
