"""A stream that goes on where it was loses nothing, in whatever order events were committed."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from adapters.database.events import EventRow, Tide, origin, singular, tell
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import utc_now
from tests.adapters.test_database import database, url  # noqa: F401 - fixtures


def told(database, name):  # noqa: F811
    with database.write() as db:
        tell(db, f"test.{name}")


def ids(database):  # noqa: F811
    with database.read() as db:
        return {each.kind: each.id for each in db.scalars(select(EventRow))}


def test_the_tide_follows_what_is_told(database):  # noqa: F811
    tide = Tide(database)
    assert tide.look([FIRST_ENTERPRISE]) == {}
    told(database, "a")
    told(database, "b")
    last = ids(database)["test.b"]
    assert tide.look([FIRST_ENTERPRISE, uuid4()]) == {FIRST_ENTERPRISE: last}
    assert tide.mark == last


@pytest.mark.lab
@pytest.mark.parametrize("url", ["mariadb"], indirect=True)  # a writer of SQLite's is alone
def test_an_event_that_is_committed_late_is_waited_for(database):  # noqa: F811
    told(database, "first")
    tide, inserted, go_on = Tide(database), threading.Event(), threading.Event()

    def slowly():
        with database.engine.begin() as connection:
            values = {c.name: None for c in EventRow.__table__.c if c.nullable}
            values |= {"at": utc_now(), "enterprise_id": FIRST_ENTERPRISE, "kind": "test.late"}
            values |= {"about": {}, "details": {}, "severity": "info", "who": ""}
            values |= {"object_kind": "", "object_name": ""}
            connection.execute(EventRow.__table__.insert().values(values))
            inserted.set()
            assert go_on.wait(30)

    writer = threading.Thread(target=slowly)
    writer.start()
    assert inserted.wait(30)
    told(database, "early")
    tide.look()
    assert tide.mark == ids(database)["test.first"]
    go_on.set()
    writer.join()
    tide.look()
    known = ids(database)
    assert known["test.late"] < known["test.early"] == tide.mark


@pytest.mark.lab
@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
def test_an_event_that_never_comes_is_waited_for_no_longer_than_a_while(database):  # noqa: F811
    told(database, "first")
    tide = Tide(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE events AUTO_INCREMENT = 10")
    told(database, "second")
    tide.look()
    assert tide.mark == ids(database)["test.first"]
    with database.write() as db:
        db.execute(update(EventRow).values(at=utc_now(-61)))
    tide.look()
    assert tide.mark == 10


def test_what_is_rolled_back_is_not_told(database):  # noqa: F811
    def fails():
        with database.write() as db:
            tell(db, "test.never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    told(database, "after")
    assert list(ids(database)) == ["test.after"]


def test_nobody_is_who_acts_here():
    assert origin.get().who == ""


@pytest.mark.parametrize(
    ("plural", "one"),
    [("vms", "vm"), ("addresses", "address"), ("policies", "policy"), ("events", "event")],
)
def test_nouns(plural, one):
    assert singular(plural) == one
