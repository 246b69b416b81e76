"""What is used stays, and what is placed or removed at once is not both; on both databases."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import select

from adapters.database import models, uses
from adapters.database.inventory import Inventory
from adapters.database.records import VolumeRecord
from adapters.database.session import Database, Deadlock
from adapters.errors import InUse, NotFound, OutOfSpace
from tests.adapters.test_database import (
    BOTH,
    PATIENCE_S,
    at_once,
    database,
    datacenter,
    slowly_choose,
    url,
    vms,
)

__all__ = ["BOTH", "database", "datacenter", "url", "vms"]  # fixtures


def the_host(database):
    with database.read() as db:
        return db.scalars(select(models.Host.id)).one()


def removed(database, table, key):
    def call():
        database.alone(lambda db: uses.remove(db, uses.held(db, table, key)))

    return call


def reserved(inventory, vm):
    def call():
        def choose(left, now):
            if not now.hosts:
                raise OutOfSpace("there are no hosts")
            return slowly_choose(left, now)

        inventory.reserve([vm], inventory.vm(vm).datacenter_id, choose)
        return inventory.vm(vm).host

    return call


def test_a_host_does_not_go_from_under_a_placement(database, vms):
    """Whoever is first has it: the other learns that the host is in use, or is not there."""
    inventory, host = Inventory(database), the_host(database)
    placed, gone = at_once(reserved(inventory, vms[0]), removed(database, models.Host, host))
    if isinstance(gone, InUse):
        assert placed == host
        assert [each["kind"] for each in gone.details["users"]] == ["vm"]
    else:
        assert gone is None
        assert isinstance(placed, OutOfSpace)
        assert inventory.vm(vms[0]).host_id is None


def test_a_removal_waits_for_a_placement_that_has_begun(database, vms):
    inventory, host, begun = Inventory(database), the_host(database), threading.Event()

    def choose(left, now):
        begun.set()
        return slowly_choose(left, now)

    def remove():
        begun.wait(PATIENCE_S)
        removed(database, models.Host, host)()

    datacenter = inventory.vm(vms[0]).datacenter_id
    placed, gone = at_once(lambda: inventory.reserve([vms[0]], datacenter, choose), remove)
    assert placed is None
    assert isinstance(gone, InUse)
    assert inventory.vm(vms[0]).host_id == host


def test_what_goes_takes_its_own_along(database, datacenter, vms):
    host = the_host(database)
    with database.write() as db:
        db.add(
            models.AllocationRule(
                id=uuid4(),
                kind="load",
                about=f"load:{host}",
                host_id=host,
                cpu_percent=1,
                ram_percent=1,
            )
        )
    removed(database, models.Host, host)()
    with database.read() as db:
        for table in (models.Host, models.Datastore, models.AllocationRule):
            assert db.scalars(select(table)).all() == []
    with pytest.raises(NotFound):
        removed(database, models.Host, host)()
    with pytest.raises(InUse, match="virtual-datacenter demo"):
        removed(database, models.Datacenter, datacenter)()


def test_a_refusal_names_so_many_users_and_no_more(database, vms):
    inventory, host = Inventory(database), the_host(database)
    with database.write() as db:
        row = db.get_one(models.VirtualMachine, vms[0])
        for n in range(uses.TOLD + 5):
            more = {
                column.name: getattr(row, column.name)
                for column in models.VirtualMachine.__table__.c
            }
            db.add(
                models.VirtualMachine(**{**more, "id": uuid4(), "name": f"n{n}", "host_id": host})
            )
    with pytest.raises(InUse) as refused:
        removed(database, models.Host, host)()
    assert len(refused.value.details["users"]) == uses.TOLD
    assert inventory.host(host)


def test_a_volume_of_a_pool_that_has_gone_is_not_called_taken(database, vms):
    inventory = Inventory(database)
    volume = VolumeRecord(
        id=uuid4(),
        name="data",
        virtual_datacenter_id=inventory.vm(vms[0]).virtual_datacenter_id,
        pool_id=uuid4(),
        size_mib=8,
    )
    with pytest.raises(NotFound, match="no storage pool"):
        inventory.enter_volume(volume)


@pytest.mark.lab
def test_who_loses_a_deadlock_does_it_again(mariadb, tmp_path):
    """Two that take two rows crosswise: the server undoes one, which nobody hears of."""
    from adapters.database.schema import migrate

    database = Database(mariadb.fresh())
    migrate(database, tmp_path)
    names = ["a", "b"]
    with database.write() as db:
        db.add_all(models.Enterprise(id=uuid4(), name=name) for name in names)
    crossed, attempts = threading.Barrier(2), []

    def rename(first, second):
        def act(db):
            attempts.append(first)
            for name in (first, second):
                query = select(models.Enterprise).where(models.Enterprise.name == name)
                row = db.scalars(query.with_for_update()).one()
                row.approval = True
                db.flush()
                if name == first and attempts.count(first) == 1:
                    crossed.wait(PATIENCE_S)

        return lambda: database.alone(act)

    assert at_once(rename("a", "b"), rename("b", "a")) == [None, None]
    assert len(attempts) == 3
    database.engine.dispose()


def test_a_deadlock_that_never_ends_is_told(database):
    attempts = []

    def act(_):
        attempts.append(1)
        raise Deadlock("always")

    with pytest.raises(Deadlock):
        database.alone(act)
    assert len(attempts) > 5
