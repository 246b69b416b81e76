"""The whole engine tier with two of each: PostgreSQL, Redis, MariaDB, two homes."""

import pytest

from flows.cloud import cloud
from tests.flows import test_engine
from tests.flows.test_engine import Stack, beside, customer, engine, no_fate_outlives_its_test

__all__ = ["beside", "customer", "engine", "no_fate_outlives_its_test"]
pytestmark = [pytest.mark.engine, pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]
globals().update({k: v for k, v in vars(test_engine).items() if k.startswith("test_")})


@pytest.fixture(scope="module")
def stack(shared) -> Stack:
    return Stack(homes=2, settings=shared)


def test_this_is_the_second_stack(engine):
    _, services = engine
    names = ["prefect", "worker", "api"]
    assert list(services)[:6] == [*names, *(f"{name}-2" for name in names)]
    assert cloud.settings.database.startswith("mysql")
