"""What the worker decides without the engine."""

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.schema import migrate
from adapters.database.session import Database
from api import serve
from deployments.lab.process import free_port, wait_for
from flows.cloud import cloud
from flows.worker import require_known_steps
from tests.flows.breaking import Breaker
from tests.flows.test_fates import places_named
from tests.worlds import settings_in


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


@pytest.mark.engine
def test_told_to_stop_while_prefect_is_away_it_ends(tmp_path):
    settings = settings_in(tmp_path / "home", prefect_port=free_port(), port=free_port())
    database = Database(settings.database)
    migrate(database, settings.home)
    database.engine.dispose()
    worker = next(each for each in serve.services(settings) if each.name == "worker")
    worker.start()
    try:
        wait_for(lambda: "waiting for Prefect" in worker.log.read_text(), 120, "its complaint")
        worker.process.terminate()
        assert worker.process.wait(30) == 0
    finally:
        worker.process.kill()
        worker.process.wait()
