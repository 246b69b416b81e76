"""The ledger: the same laws on SQLite and on MariaDB."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import String, column, event, insert, inspect, select, table

from adapters.amounts import Amounts, Charge, Force, Level
from adapters.database import models, schema
from adapters.database.ledger import ChargeRow, Ledger, Limit, standings
from adapters.database.records import VolumeRecord
from adapters.database.schema import FIRST_ENTERPRISE, migrate
from adapters.database.session import Database, utc_now
from adapters.errors import Conflict, NotFound
from adapters.types import Family, Format, OperationState, TemplateState, VmState, VolumeState
from flows.policies.limits import HardLimitExceeded, SoftLimitExceeded, require_settable, within
from tests.worlds import put_migrated

BOTH = ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)]
PATIENCE_S = 60
FORCE = Force(by="ann", reason="the fair is next week")


@pytest.fixture(params=BOTH)
def url(request, tmp_path):
    """An empty database's URL."""
    if request.param == "mariadb":
        return request.getfixturevalue("mariadb").fresh()
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture
def database(url, tmp_path):
    made = Database(url)
    if url.startswith("sqlite"):
        put_migrated(tmp_path / "test.sqlite")
    else:
        migrate(made, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def ledger(database):
    return Ledger(database)


@pytest.fixture
def place(database):
    """A VDC of the first enterprise: what a charge counts for."""
    with database.write() as db:
        return add_vdc(db, FIRST_ENTERPRISE)


def add_vdc(db, enterprise: UUID) -> dict[str, UUID]:
    datacenter, vdc = uuid4(), uuid4()
    db.add(
        models.Datacenter(
            id=datacenter, name=str(datacenter), repository="/r", repository_marker=uuid4()
        )
    )
    db.flush()
    db.add(
        models.VirtualDatacenter(
            id=vdc,
            enterprise_id=enterprise,
            datacenter_id=datacenter,
            name=str(vdc),
            family=Family.MEMORY,
        )
    )
    db.flush()
    return {
        "enterprise_id": enterprise,
        "datacenter_id": datacenter,
        "virtual_datacenter_id": vdc,
    }


def vm(place: dict[str, UUID], what: UUID | None = None, **amounts: int) -> Charge:
    return Charge(kind="vm", id=what or uuid4(), **place, amounts=Amounts(**amounts))


def levels_of(place) -> list[tuple[Level, UUID]]:
    return list(zip(Level, place.values(), strict=True))


def used(database, place) -> list[Amounts]:
    """What each level uses, the widest first."""
    with database.read() as db:
        return [x.used for x in standings(db, place["enterprise_id"], levels_of(place))]


def at_once(*calls):
    """Make the calls in threads that start together; answer what each answers or raises."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(PATIENCE_S)
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def limit(ledger, place, level: Level, *, soft=None, hard=None, require=require_settable):
    whose = dict(levels_of(place))[level]
    ledger.set_limits(
        place["enterprise_id"],
        (level, whose),
        Amounts(**soft or {}),
        Amounts(**hard or {}),
        require,
    )


def test_a_charge_is_the_same_when_repeated_and_another_when_changed(ledger, database, place):
    charge = vm(place, cpu=2, ram_mib=64)
    for _ in "12":
        ledger.charge([charge], within)
    assert used(database, place) == [charge.amounts] * 3
    smaller = charge.model_copy(update={"amounts": Amounts(cpu=1)})
    ledger.charge([smaller], within)
    assert used(database, place) == [Amounts(cpu=1)] * 3
    for _ in "12":
        ledger.refund("vm", [charge.id])
    assert used(database, place) == [Amounts()] * 3
    assert not ledger.has("vm", [charge.id])


def test_things_of_one_id_and_two_kinds_are_two(ledger, place):
    charge = vm(place, cpu=2)
    volume = charge.model_copy(update={"kind": "volume", "amounts": Amounts(storage_mib=1)})
    ledger.charge([charge, volume], within)
    ledger.refund("vm", [charge.id])
    assert ledger.has("volume", [charge.id])
    assert ledger.charged([charge, volume]) == [volume]


def test_what_moves_counts_elsewhere(ledger, database, place):
    with database.write() as db:
        other = add_vdc(db, FIRST_ENTERPRISE) | {"datacenter_id": place["datacenter_id"]}
    limit(ledger, place, Level.VIRTUAL_DATACENTER, hard={"cpu": 2})
    limit(ledger, other, Level.VIRTUAL_DATACENTER, hard={"cpu": 1})
    charge = vm(place, cpu=2)
    ledger.charge([charge], within)
    with pytest.raises(HardLimitExceeded):
        ledger.charge([charge.model_copy(update=other)], within)
    assert ledger.charged([charge]) == [charge]
    limit(ledger, other, Level.VIRTUAL_DATACENTER, hard={"cpu": 2})
    ledger.charge([charge.model_copy(update=other)], within)
    assert [x.cpu for x in used(database, place)] == [2, 2, 0]
    assert [x.cpu for x in used(database, other)] == [2, 2, 2]


@pytest.mark.parametrize("level", Level)
def test_a_refused_charge_is_not_made_nor_a_part_of_it(ledger, database, place, level):
    limit(ledger, place, level, hard={"cpu": 3})
    small, big = vm(place, cpu=1), vm(place, cpu=3)
    with pytest.raises(HardLimitExceeded) as refused:
        ledger.charge([small, big], within)
    assert [x["level"] for x in refused.value.details["exceeded"]] == [level]
    assert not ledger.has("vm", [small.id, big.id])
    ledger.charge([big], within)
    with pytest.raises(HardLimitExceeded):
        ledger.charge([vm(place, cpu=1)], within)
    ledger.charge([vm(place, ram_mib=9)], within)  # of which there is no limit


def test_only_the_increase_has_to_fit(ledger, place):
    limit(ledger, place, Level.ENTERPRISE, soft={"cpu": 1})
    charge = vm(place, cpu=4)
    ledger.charge([charge], partial(within, forced=True), FORCE)
    ledger.charge([charge.model_copy(update={"amounts": Amounts(cpu=3, ram_mib=1)})], within)
    with pytest.raises(SoftLimitExceeded) as refused:
        ledger.charge([charge], within)
    excess = refused.value.details["exceeded"][0]
    assert (excess["used"], excess["asked"]) == (3, 1)


def forced(database) -> set[tuple[str | None, str | None]]:
    with database.read() as db:
        return {(x.forced_by, x.forced_because) for x in db.scalars(select(ChargeRow))}


def test_who_forced_a_charge_is_kept_with_it(ledger, database, place):
    limit(ledger, place, Level.DATACENTER, soft={"cpu": 1})
    forcing = partial(within, forced=True)
    charge = vm(place, cpu=1)
    ledger.charge([charge], forcing, FORCE)
    assert forced(database) == {(None, None)}  # it fitted
    bigger = charge.model_copy(update={"amounts": Amounts(cpu=2)})
    for _ in "12":  # also when the answer to the first was lost
        ledger.charge([bigger], forcing, FORCE)
        assert forced(database) == {(FORCE.by, FORCE.reason)}
    ledger.lower([bigger.model_copy(update={"amounts": Amounts(ram_mib=1)})])
    assert forced(database) == {(FORCE.by, FORCE.reason)}
    assert used(database, place)[0] == Amounts(ram_mib=1)


@pytest.mark.parametrize("level", Level)
def test_of_many_that_charge_at_once_as_many_succeed_as_there_is_room_for(
    ledger, database, place, level
):
    """Each of two; room is for nine: four fit, and nobody is told of a deadlock."""
    limit(ledger, place, level, hard={"cpu": 9})
    answers = at_once(
        *[partial(ledger.charge, [vm(place, cpu=1), vm(place, cpu=1)], within) for _ in range(12)],
    )
    assert answers.count(None) == 4
    assert all(isinstance(each, HardLimitExceeded) for each in answers if each), answers
    assert used(database, place) == [Amounts(cpu=8)] * 3


def test_charges_refunds_and_other_enterprises_do_not_trip_over_each_other(
    ledger, database, place
):
    other = uuid4()
    with database.write() as db:
        db.add(models.Enterprise(id=other, name="others"))
        db.flush()
        theirs = add_vdc(db, other) | {"datacenter_id": place["datacenter_id"]}
    limit(ledger, place, Level.ENTERPRISE, hard={"cpu": 4})
    limit(ledger, theirs, Level.DATACENTER, hard={"cpu": 4})

    def comes_and_goes(where):
        for _ in range(6):
            charge = vm(where, cpu=1)
            ledger.charge([charge], within)
            ledger.refund("vm", [charge.id])

    # Four at once of each enterprise have room for one each: nobody is ever refused.
    answers = at_once(*[partial(comes_and_goes, x) for x in (place, theirs) for _ in range(4)])
    assert answers == [None] * 8
    assert used(database, place) == used(database, theirs) == [Amounts()] * 3


def test_lowering_a_limit_and_charging_race_and_one_of_them_is_refused(ledger, database, place):
    for _ in range(5):
        charge = vm(place, cpu=2)
        lowered, charged = at_once(
            lambda: limit(ledger, place, Level.ENTERPRISE, hard={"cpu": 1}),
            partial(ledger.charge, [charge], within),
        )
        refused = [each for each in (lowered, charged) if each]
        assert len(refused) == 1
        assert isinstance(refused[0], Conflict | HardLimitExceeded)
        ledger.refund("vm", [charge.id])
        ledger.lift_limits(
            FIRST_ENTERPRISE, (Level.ENTERPRISE, FIRST_ENTERPRISE), lambda _now: None
        )


def test_a_volume_of_no_virtual_datacenter_is_not_found(ledger):
    volume = VolumeRecord(
        id=uuid4(), name="x", virtual_datacenter_id=uuid4(), pool_id=uuid4(), size_mib=1
    )
    with pytest.raises(NotFound):
        ledger.of_volumes([volume])


def test_limits_go_with_whose_they_are(ledger, database, place):
    limit(ledger, place, Level.VIRTUAL_DATACENTER, hard={"cpu": 2})
    with database.write() as db:
        db.delete(db.get_one(models.VirtualDatacenter, place["virtual_datacenter_id"]))
    with database.read() as db:
        assert db.scalars(select(Limit)).all() == []


def test_use_is_summed_by_an_index_alone(ledger, database, place):
    ledger.charge([vm(place, cpu=1) for _ in range(200)], within)
    statements = []
    event.listen(database.engine, "before_cursor_execute", lambda *x: statements.append(x[2:4]))
    used(database, place)
    asked, values = next(each for each in statements if "sum(" in each[0])
    sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        plan = str(connection.exec_driver_sql(explain + asked, values).all())
    assert ("COVERING INDEX ix_charges_account" if sqlite else "Using index'") in plan


# --- from an older database -------------------------------------------------------------------


def test_an_older_database_is_charged_for_what_it_has(url, tmp_path):
    """But not for what unfinished operations have made: their journals refund nothing."""
    database = Database(url)
    with schema._alone(database, tmp_path) as connection:
        config = schema._config(connection)
        command.upgrade(config, "0001")
        connection.commit()
        expected = fill(database)
        command.upgrade(config, "0004")
        connection.commit()
        ledger = Ledger(database)
        assert {x.id: x for x in ledger.charged(list(expected.values()))} == expected
        with database.read() as db:
            assert len(db.scalars(select(ChargeRow)).all()) == len(expected)
        command.downgrade(config, "-1")
        connection.commit()
        assert not {"charges", "limits"} & set(inspect(connection).get_table_names())
        command.upgrade(config, "head")
        connection.commit()
    assert {x.id: x for x in ledger.charged(list(expected.values()))} == expected
    database.engine.dispose()


def fill(database) -> dict[UUID, Charge]:
    """An installation of the first version; answers what it has to be charged."""
    ids = {name: uuid4() for name in ("host", "template", "image", "app", "pool", "device")}
    vms = {name: uuid4() for name in ("on", "off", "deploying", "in-app", "persistent")}
    volumes = {name: uuid4() for name in ("carved", "uncarved", "creating", "persisting", "boot")}
    core, rows = models, []
    datacenter, vdc = uuid4(), uuid4()
    place = {"enterprise_id": FIRST_ENTERPRISE, "datacenter_id": datacenter}
    place |= {"virtual_datacenter_id": vdc}

    def add(model, **fields):
        """Not by the models: they know columns that this version has not."""
        types = {each.name: each.type for each in model.__table__.c}
        columns = [column(name, types.get(name, String())) for name in fields]
        rows.append((table(model.__tablename__, *columns), fields))

    add(core.Enterprise, id=FIRST_ENTERPRISE, name="default", approval=False)
    add(core.Datacenter, id=datacenter, name="d", repository="/r", repository_marker=uuid4())
    add(core.VirtualDatacenter, id=vdc, enterprise_id=FIRST_ENTERPRISE, datacenter_id=datacenter,
        name="v", family=Family.MEMORY)  # fmt: skip
    add(core.Host, id=ids["host"], datacenter_id=datacenter, name="h", family=Family.MEMORY,
        address="memory", cpu=9, ram_mib=9)  # fmt: skip
    add(core.StorageDevice, id=ids["device"], datacenter_id=datacenter, name="d",
        technology="memory", host="h", port=1, control=1)  # fmt: skip
    add(core.StoragePool, id=ids["pool"], device_id=ids["device"], name="p", tier="t",
        directory="", total_mib=1)  # fmt: skip
    add(core.Template, id=ids["template"], enterprise_id=FIRST_ENTERPRISE, name="t",
        state=TemplateState.AVAILABLE, datacenter_id=datacenter, cpu=1, ram_mib=1,
        created_at=utc_now())  # fmt: skip
    add(core.TemplateDisk, id=ids["image"], template_id=ids["template"], position=0, path="x",
        format=Format.RAW, subformat="", digest="", size_bytes=2**20 + 1, virtual_size_mib=5,
        identity={})  # fmt: skip
    add(core.Appliance, id=ids["app"], virtual_datacenter_id=vdc, name="a", approval=False,
        created_at=utc_now())  # fmt: skip
    for n, (name, each) in enumerate(volumes.items()):
        add(core.VolumeRow, id=each, virtual_datacenter_id=vdc, pool_id=ids["pool"], name=name,
            size_mib=10 + n, carved=name != "uncarved", state=VolumeState.DETACHED, vm_id=None,
            position=0)  # fmt: skip
    for n, (name, each) in enumerate(vms.items()):
        add(core.VirtualMachine, id=each, appliance_id=ids["app"], template_id=ids["template"],
            name=name, position=n, depends_on=[], cpu=1 + n, ram_mib=20 + n, state=VmState.ON,
            host_id=None if name == "off" else ids["host"], datastore_id=None)  # fmt: skip
        boot = volumes["boot"] if name == "persistent" else None
        add(core.VmDisk, id=uuid4(), vm_id=each, position=0, template_disk_id=ids["image"],
            size_mib=5, base=None, volume_id=boot)  # fmt: skip
    unfinished = {
        "deploy_vm": (vms["deploying"], {}),
        "deploy_appliance": (ids["app"], {"vms": [str(vms["in-app"])]}),
        "create_iscsi_volume": (volumes["creating"], {}),
        "persist_vm": (vms["on"], {"volume": {"id": str(volumes["persisting"])}}),
    }
    for kind, (target, arguments) in unfinished.items():
        add(core.Operation, id=uuid4(), kind=kind, version="1", state=OperationState.RUNNING,
            target_kind="vm", target_id=target, target_name="x", arguments=arguments, objects=[],
            enterprise_id=FIRST_ENTERPRISE, datacenter_id=datacenter, requested_by="tests",
            accepted_at=utc_now(), provisional=False, left_behind=False, epoch=1,
            attempt=1)  # fmt: skip
    with database.write() as db:
        for made, fields in rows:
            db.execute(insert(made).values(fields))
    charges = [
        vm(place, vms["on"], cpu=1, ram_mib=20, disk_mib=5),
        vm(place, vms["persistent"], cpu=5, ram_mib=24),
        Charge(kind="volume", id=volumes["carved"], **place, amounts=Amounts(storage_mib=10)),
        Charge(kind="volume", id=volumes["boot"], **place, amounts=Amounts(storage_mib=14)),
        Charge(
            kind="template",
            id=ids["template"],
            **place | {"virtual_datacenter_id": None},
            amounts=Amounts(repository_mib=2),
        ),
    ]
    return {each.id: each for each in charges}
