"""Turns at a DHCP server, on both databases: one at a time, and nobody for ever."""

import threading
from uuid import uuid4

import pytest

from adapters.database import models
from adapters.database.schema import migrate
from adapters.database.session import Database
from adapters.database.turns import Turns

BOTH = ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)]


@pytest.fixture(params=BOTH)
def database(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    if request.param == "mariadb":
        url = request.getfixturevalue("mariadb").fresh()
    made = Database(url)
    migrate(made, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def servers(database):
    """Two servers of a datacenter."""
    datacenter, ids = uuid4(), [uuid4(), uuid4()]
    with database.write() as db:
        db.add(
            models.Datacenter(
                id=datacenter, name="east", repository="/r", repository_marker=uuid4()
            )
        )
        db.flush()
        for number, key in enumerate(ids):
            db.add(
                models.DhcpServer(
                    id=key,
                    datacenter_id=datacenter,
                    name=f"dhcp-{number}",
                    kind="kea",
                    address="https://kea.example/",
                )
            )
    return ids


def test_one_is_at_a_server_at_a_time(database, servers, tmp_path):
    turns = Turns(database, tmp_path)
    entered, order = threading.Event(), []

    def second():
        entered.set()
        with turns.at(servers[0]):
            order.append("second")

    with turns.at(servers[0]):
        other = threading.Thread(target=second)
        other.start()
        assert entered.wait(90)
        other.join(0.5)
        with turns.at(servers[1]):
            order.append("elsewhere")
        order.append("first")
    other.join(30)
    assert order == ["elsewhere", "first", "second"]


def test_who_fails_is_in_nobodys_way(database, servers, tmp_path):
    turns = Turns(database, tmp_path)
    with pytest.raises(KeyError), turns.at(servers[0]):
        raise KeyError
    with turns.at(servers[0]):
        pass
