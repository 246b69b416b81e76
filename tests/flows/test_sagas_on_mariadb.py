"""The fault matrix of one flow on MariaDB (conftest.py picks it): the laws need no SQLite."""

import pytest

from flows.cloud import cloud
from tests.flows.scenarios import Worlds
from tests.flows.test_fates import test_a_real_sigkill_is_resumed
from tests.flows.test_sagas import (
    breaker,
    test_a_runner_that_was_overtaken_stops_before_its_next_effect,
    test_a_step_that_fails_leaves_nothing_or_sticks,
    test_a_transient_failure_is_tried_again,
    test_an_undo_that_lies_once_leaves_nothing_or_sticks,
    test_an_undo_that_stumbles,
    test_killed_and_resumed_repeats_no_effect,
    test_killed_and_unwound_leaves_nothing,
    test_what_was_there_before_stays,
)

__all__ = [
    "breaker",
    "test_a_real_sigkill_is_resumed",
    "test_a_runner_that_was_overtaken_stops_before_its_next_effect",
    "test_a_step_that_fails_leaves_nothing_or_sticks",
    "test_a_transient_failure_is_tried_again",
    "test_an_undo_that_lies_once_leaves_nothing_or_sticks",
    "test_an_undo_that_stumbles",
    "test_killed_and_resumed_repeats_no_effect",
    "test_killed_and_unwound_leaves_nothing",
    "test_what_was_there_before_stays",
]
pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def prepared(mariadb, tmp_path_factory):
    yield Worlds(tmp_path_factory.mktemp("worlds"), mariadb.fresh)
    assert cloud.settings.database.startswith("mysql")
    cloud.database.engine.dispose()
