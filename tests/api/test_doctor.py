"""The doctor's words about machines that lack something."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from adapters.database.schema import migrate
from adapters.database.session import Database
from adapters.settings import Settings
from api import doctor
from api.doctor import Finding, State
from deployments.lab.process import free_port
from tests.api.test_cli import run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def look(home: Path, **changes: Any) -> dict[str, Finding]:
    ports = {"port": free_port(), "prefect_port": free_port()}
    settings = Settings(home=home, **{**ports, **changes})
    return {each.what: each for each in doctor.examine(settings)}


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on the loopback that has the same answer for everybody."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_it_names_the_package_of_a_program_that_is_missing(home, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_PATH", str(tmp_path))
    found = look(home)
    assert found["qemu-img"].state is State.ILL
    assert found["qemu-img"].remedy.endswith(" qemu-utils")
    assert found["tgtd"].state is State.LIMITED


def test_simulated_images_need_no_tool(home, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_PATH", str(tmp_path))
    assert look(home, image_tool="memory")["qemu-img"].state is State.LIMITED


def test_a_home_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    found = look(tmp_path / "file" / "home")["home"]
    assert (found.state, found.remedy[:15]) == (State.ILL, "CLOUDLOOM_HOME=")


def test_little_room_is_told(home):
    assert look(home, low_space_percent=100)["disk space"].state is State.LIMITED
    assert look(home, low_space_percent=0)["disk space"].state is State.WELL


@pytest.mark.parametrize(("mode", "state"), [(0o600, State.WELL), (0o640, State.LIMITED)])
def test_a_key_that_others_can_read_is_told(home, mode, state):
    home.mkdir()
    (home / "secret.key").touch()
    (home / "secret.key").chmod(mode)
    assert look(home)["secret key"].state is state


def test_a_database_is_as_its_tables_are(home):
    assert look(home)["database"].detail == "SQLite, made by the first start"
    database = Database(f"sqlite:///{home / 'cloudloom.sqlite'}")
    migrate(database, home)
    database.engine.dispose()
    assert look(home)["database"].state is State.WELL
    with closing(sqlite3.connect(home / "cloudloom.sqlite")) as db:
        db.execute("DROP TABLE receipts")
    assert look(home)["database"].state is State.LIMITED
    (home / "cloudloom.sqlite").write_bytes(b"no database" * 1000)
    assert look(home)["database"].state is State.ILL


def test_a_database_that_does_not_answer_is_told_without_its_password(home):
    url = f"mysql+pymysql://cloudloom:verysecret@127.0.0.1:{free_port()}/cloudloom"
    found = look(home, database_url=url)["database"]
    assert found.state is State.ILL
    assert "verysecret" not in str(found)


def test_what_answers_is_well_and_a_stranger_on_a_port_is_not(home):
    with answering(200) as ours, answering(404) as strange:
        found = look(home, port=ours, prefect_port=strange)
    assert (found["API"].state, found["Prefect"].state) == (State.WELL, State.ILL)
    assert found["Prefect"].remedy.startswith("CLOUDLOOM_PREFECT_PORT=")


def test_an_external_prefect_that_is_away_only_delays(home):
    url = f"http://127.0.0.1:{free_port()}/api"
    assert look(home, prefect_url=url)["Prefect"].state is State.LIMITED
    with answering(200) as port:
        url = f"http://127.0.0.1:{port}/api"
        assert look(home, prefect_url=url)["Prefect"].state is State.WELL


def test_kvm_that_is_wished_for_is_looked_for(home, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, _mode: path != "/dev/kvm")
    assert look(home)["/dev/kvm"].state is State.WELL
    assert look(home, domain_type="kvm")["/dev/kvm"].state is State.LIMITED


def test_the_command_ends_badly_where_cloudloom_cannot_run(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("CLOUDLOOM_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("CLOUDLOOM_HOME", str(tmp_path))
        monkeypatch.setattr("adapters.settings.settings", Settings)
        told = run("doctor")
    assert told.exit_code == 1
    assert "CLOUDLOOM_PORT=<a free port>" in told.output
