"""What the worker decides without the engine."""

import pytest
from sqlalchemy import update

from adapters.database import models
from flows.cloud import cloud
from flows.worker import require_known_steps
from tests.flows.breaking import Breaker
from tests.flows.test_fates import places_named


def test_it_refuses_to_start_over_steps_that_it_does_not_know(prepared, monkeypatch):
    broken = Breaker(monkeypatch, prepared.put_back("create_iscsi_volume"))
    broken.mind_the_dead()
    broken.at(places_named("create_iscsi_volume", "carve-volume")[0], lambda *_: broken.kill())
    broken.run_until_killed()
    require_known_steps()
    with cloud.database.write() as db:
        known = models.Step.name == "carve-volume"
        db.execute(update(models.Step).where(known).values(name="carve-of-old"))
    with pytest.raises(SystemExit, match="carve-of-old"):
        require_known_steps()
