"""Migrations with data in the tables: up and down again, on both databases."""

from uuid import uuid4

import pytest
from sqlalchemy import column as named
from sqlalchemy import insert, select, table, text

from adapters.database import models
from adapters.database.claims import Claims
from adapters.database.schema import differences, go_back, migrate
from adapters.database.session import Database, utc_now
from adapters.types import TemplateState, VmState, VolumeState

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
def kept(database):
    """Two datacenters with a pool each, of one tier's name; a volume hangs on one of them."""
    names = {}
    with database.write() as db:
        vdc, enterprise = uuid4(), db.scalars(select(models.Enterprise.id)).one()
        for where in ("east", "west"):
            dc, tier, device, pool = uuid4(), uuid4(), uuid4(), uuid4()
            names[where] = pool
            for row in (
                models.Datacenter(id=dc, name=where, repository="/r", repository_marker=uuid4()),
                models.Tier(id=tier, datacenter_id=dc, name="fast"),
                models.StorageDevice(
                    id=device,
                    datacenter_id=dc,
                    name="san",
                    technology="memory",
                    host="127.0.0.1",
                    port=3260,
                    control=0,
                ),
                models.StoragePool(
                    id=pool,
                    device_id=device,
                    name="p",
                    tier_id=tier,
                    directory="",
                    total_mib=8,
                ),
            ):
                db.add(row)
                db.flush()
        db.add(
            models.VirtualDatacenter(
                id=vdc, enterprise_id=enterprise, datacenter_id=dc, name="demo", family="memory"
            )
        )
        db.flush()
        db.add(
            models.VolumeRow(
                id=uuid4(),
                virtual_datacenter_id=vdc,
                pool_id=pool,
                name="data",
                size_mib=8,
                carved=True,
                state=VolumeState.DETACHED,
                position=0,
            )
        )
    return names


def test_a_tiers_name_becomes_a_row_and_a_name_again(database, kept, tmp_path):
    go_back(database, tmp_path, "0001")
    with database.read() as db:
        found = db.execute(text("SELECT tier, name FROM storage_pools")).all()
        assert sorted(found) == [("fast", "p"), ("fast", "p")]
        assert db.scalar(text("SELECT count(*) FROM volumes")) == 1
    migrate(database, tmp_path)
    with database.engine.connect() as connection:
        assert differences(connection) == []
    with database.read() as db:
        tiers = db.execute(
            select(models.Datacenter.name, models.Tier.name, models.Tier.enabled).join(
                models.Tier, models.Tier.datacenter_id == models.Datacenter.id
            )
        ).all()
        assert sorted(tiers) == sorted(
            (where, name, True) for where in kept for name in ("default", "fast")
        )
        for where, pool in kept.items():
            tier = db.get_one(models.Tier, db.get_one(models.StoragePool, pool).tier_id)
            assert tier.name == "fast"
            assert db.get_one(models.Datacenter, tier.datacenter_id).name == where
        assert db.scalars(select(models.VolumeRow.name)).all() == ["data"]


def test_an_older_databases_hosts_take_new_vms_as_before(database, tmp_path):
    go_back(database, tmp_path, "0001")
    datacenter, host = uuid4(), uuid4()
    with database.write() as db:
        site = {
            "id": datacenter.hex,
            "name": "old",
            "repository": "/r",
            "repository_marker": uuid4().hex,
        }
        db.execute(insert(table("datacenters", *map(named, site))).values(**site))
        old = {
            "id": host.hex,
            "datacenter_id": datacenter.hex,
            "name": "h",
            "family": "kvm",
            "address": "qemu:///system",
            "cpu": 4,
            "ram_mib": 64,
        }
        db.execute(insert(table("hosts", *map(named, old))).values(**old))
    migrate(database, tmp_path)
    with database.read() as db:
        row = db.get_one(models.Host, host)
        assert (row.maintenance, row.reserved_for_id, row.rack_id) == (False, None, None)


def test_networks_of_old_are_the_restricted_ones_that_they_were(database, kept, tmp_path):
    go_back(database, tmp_path, "0022")
    with database.write() as db:
        vdc = db.scalar(text("SELECT id FROM virtual_datacenters"))
        old = {
            "id": uuid4().hex,
            "virtual_datacenter_id": vdc,
            "name": "default",
            "kind": "unmanaged",
        }
        db.execute(insert(table("networks", *map(named, old))).values(**old))
    migrate(database, tmp_path)
    with database.engine.connect() as connection:
        assert differences(connection) == []
    with database.write() as db:
        row = db.scalars(select(models.Network)).one()
        vdc = db.scalars(select(models.VirtualDatacenter)).one()
        assert (row.kind, row.name) == ("restricted", "default")
        assert (row.datacenter_id, row.virtual_datacenter_id) == (vdc.datacenter_id, vdc.id)
        assert (row.tag, row.range, row.dns, row.routes, row.mtu) == (None, None, [], [], 1500)
        db.add(
            models.Network(
                id=uuid4(), datacenter_id=vdc.datacenter_id, name="out", kind="public", tag=7
            )
        )
    go_back(database, tmp_path, "0022")
    with database.read() as db:
        assert db.execute(text("SELECT name, kind FROM networks")).all() == [
            ("default", "unmanaged")
        ]
    migrate(database, tmp_path)


def test_copies_that_were_claimed_at_a_host_are_claimed_at_its_datastore(database, kept, tmp_path):
    dc, host, store, vm, disk = (uuid4() for _ in range(5))
    with database.write() as db:
        appliance, template = uuid4(), uuid4()
        vdc = db.scalars(select(models.VirtualDatacenter.id)).one()
        for row in (
            models.Datacenter(id=dc, name="north", repository="/r", repository_marker=uuid4()),
            models.Host(
                id=host, datacenter_id=dc, name="h", family="memory", address="", cpu=4, ram_mib=64
            ),
            models.Datastore(id=store, host_id=host, uuid=uuid4(), directory="/d"),
            models.Appliance(
                id=appliance, virtual_datacenter_id=vdc, name="shop", created_at=utc_now()
            ),
            models.Template(
                id=template,
                enterprise_id=db.scalars(select(models.Enterprise.id)).one(),
                datacenter_id=dc,
                name="tiny",
                state=TemplateState.AVAILABLE,
                cpu=1,
                ram_mib=64,
                created_at=utc_now(),
            ),
            models.VirtualMachine(
                id=vm,
                appliance_id=appliance,
                template_id=template,
                host_id=host,
                datastore_id=store,
                name="db",
                position=0,
                depends_on=[],
                cpu=1,
                ram_mib=64,
                state=VmState.ON,
            ),
            models.VmDisk(id=disk, vm_id=vm, position=0, size_mib=8),
        ):
            db.add(row)
            db.flush()
        uuid = db.get_one(models.Datastore, store).uuid
    claims = Claims(database)
    claims.claim(f"copy:{uuid}:abc", f"disk:{disk}")
    claims.claim("file:/r/x", "disk:other")
    go_back(database, tmp_path, "0025")
    with database.read() as db:
        found = db.execute(select(models.Claim.thing, models.Claim.holder)).all()
        assert {*found} == {(f"copy:{host}:abc", f"disk:{disk}"), ("file:/r/x", "disk:other")}
    migrate(database, tmp_path)
    assert claims.holders(f"copy:{uuid}:abc") == (f"disk:{disk}",)
    with database.read() as db:
        names = {*db.scalars(select(models.SharedThing.name))}
    assert names == {f"copy:{uuid}:abc", "file:/r/x"}
