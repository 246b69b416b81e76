"""A sweep: what it takes for an orphan, what it may remove, and what it never touches."""

import os
import time
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, update

from adapters.database import models
from adapters.database.locks import Locked
from adapters.database.session import engine
from adapters.types import Finding, Format, Kind, OperationState, Power, Thing
from adapters.world import World as Backends
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.orphans import everything
from flows.policies.sweeping import refusal
from tests.flows.breaking import Breaker
from tests.flows.scenarios import SCENARIOS, _seeded_vm, _volume, networked, put_rows_back, rows
from tests.flows.test_fates import places_named
from tests.worlds import World, put_migrated

# What people have made, and the database is to forget.
TENANTS = (
    models.Claim,
    models.SharedThing,
    models.ExportRow,
    models.NicRow,
    models.VmDisk,
    models.VolumeRow,
    models.VirtualMachine,
    models.Appliance,
)


def swept(world: World, **settings) -> list[Finding]:
    """What a sweep reports, with these settings."""
    cloud.__dict__["settings"] = cloud.settings.model_copy(update=settings)
    operation = world.run("sweep_orphans", world.datacenter)
    assert not operation.left_behind
    lines = cloud.journal.lines(operation.id)
    report = next(line.result for line in lines if line.name == "publish-report")
    return [Finding.model_validate(each) for each in report]


def states(report: list[Finding]) -> set[tuple[str, str]]:
    return {(each.what, each.state) for each in report[1:]}


def deployed(world: World, name: str, *, seeded: bool = False) -> UUID:
    """A VM, off, with a volume."""
    vm = _seeded_vm(world, name) if seeded else cloud.inventory.vms_of(world.appliance(name))[0].id
    volume = _volume(world, f"{name}-data", 8)
    world.run("create_iscsi_volume", UUID(volume["id"]), volume=volume)
    cloud.inventory.assign(UUID(volume["id"]), vm, 1)
    world.run("deploy_vm", vm)
    world.run("change_power", vm, power="off", former="ON")
    return vm


def forget_tenants() -> None:
    with cloud.database.write() as db:
        for table in TENANTS:
            db.execute(delete(table))


def things() -> set[str]:
    """What is on hosts and in pools."""
    return set(cloud.world.everything())


@pytest.mark.parametrize("name", [x for x in SCENARIOS if x != "sweep_orphans"])
def test_after_every_operation_all_is_explained(name, prepared):
    operation = prepared.put_back(name)
    assert FLOWS[operation.kind](operation.id).state is OperationState.SUCCEEDED
    world = prepared._made[name][0]
    assert [each for each in swept(world)[1:] if each.what != "conversion"] == []


def test_removal_is_off_unless_it_is_set(world):
    deployed(world, "db")
    forget_tenants()
    before = things()
    report = swept(world, sweep_removes=False)
    assert (report[0].state, report[0].detail) == ("left", "removal is off")
    assert ("vm", "orphan") in states(report)
    assert things() == before


def test_what_no_row_explains_goes_once_nothing_uses_it(world):
    nothing = things()
    deployed(world, "db")
    forget_tenants()
    first = states(swept(world, sweep_max_percent=100))
    assert first == {
        ("vm", "removed"),
        ("export", "removed"),
        ("disk", "orphan, in use"),
        ("volume", "orphan, in use"),
    }
    assert states(swept(world)) == {("disk", "removed"), ("volume", "removed")}
    assert {x for x in things() if not x.startswith("connection")} == nothing
    assert states(swept(world)) == set()


def test_a_seed_is_its_vms_and_goes_when_that_is_gone(world):
    vm = _seeded_vm(world)
    world.run("deploy_vm", vm)
    assert states(swept(world)) == set()
    cloud.world.remove("seed", vm)
    assert states(swept(world)) == {("seed", "missing")}
    made, _ = clean = [_seeded_vm(world) for _ in range(2)]
    for each in clean:
        world.run("deploy_vm", each)
    cloud.world.set_fate("hypervisors.delete_seed", "lies")
    assert world.run("undeploy_vm", made).left_behind
    found = [x for x in swept(world, sweep_max_percent=100) if x.state == "removed"]
    assert [(each.what, each.name) for each in found] == [("seed", str(made))]
    assert str(made) not in cloud.world.all("seed")


def test_a_vm_that_runs_and_a_volume_that_a_guest_has_written_stay(world):
    vm = deployed(world, "db")
    host = cloud.inventory.vm(vm).host
    cloud.hypervisor(host).set_power(vm, Power.ON, timeout_s=0)
    cloud.hypervisor(host).guest_writes(vm)
    forget_tenants()
    for _ in range(2):
        report = swept(world, sweep_max_percent=100)
        assert {state for _, state in states(report)} == {"orphan, in use"}
    assert cloud.world.all("volume")


def test_what_hosts_share_goes_once_all_of_them_say_that_nobody_uses_it(world):
    first, second = (host.id for host in cloud.inventory.loads(world.datacenter))
    with cloud.database.write() as db:
        db.execute(update(models.Datastore).values(uuid=uuid4()))
        db.get_one(models.Host, first).maintenance = True
    vm = deployed(world, "db")
    (disk,) = cloud.world.all("disk")
    assert cloud.inventory.vm(vm).host == second
    forget_tenants()
    swept(world, sweep_max_percent=100)  # its VM goes
    cloud.world.set_fate("hypervisors.vms", "fails")  # of the first that is asked
    report = swept(world, sweep_max_percent=100)
    assert {("host", "away"), ("disk", "orphan, in use")} <= states(report)
    assert ("disk", "removed") in states(swept(world, sweep_max_percent=100))
    assert disk not in cloud.world.all("disk")


def test_a_vm_that_somebody_has_moved_to_another_host_is_no_orphan(world):
    vm = deployed(world, "db")
    (here, other) = sorted(world.hosts, key=lambda host: host != cloud.inventory.vm(vm).host)
    found = cloud.world.find("vm", vm)
    cloud.world.put("vm", vm, {**found, "host": str(other)})
    report = swept(world, sweep_max_percent=100)
    assert states(report) == {("vm", "moved"), ("vm", "missing")}
    assert [each.detail for each in report if each.state == "moved"] == [f"at {other}"]
    assert cloud.world.find("vm", vm)
    cloud.world.set_fate("hypervisors.vms", "fails", times=9)  # of the first that is asked
    swept(world, sweep_max_percent=100)
    assert cloud.world.find("vm", vm)
    assert here != other


def test_rows_without_their_objects_are_told(world):
    vm = deployed(world, "db")
    volume = cloud.inventory.vm(vm).volumes[0].id
    cloud.hypervisor(cloud.inventory.vm(vm).host).delete_vm(vm)
    cloud.world.remove("export", next(iter(cloud.world.all("export"))))
    cloud.world.remove("volume", volume)
    assert states(swept(world)) == {(kind, "missing") for kind in ("vm", "export", "volume")}


def test_a_backend_that_is_away_makes_nothing_missing(world):
    deployed(world, "db")
    cloud.world.set_fate("hypervisors.vms", "fails", times=9)
    cloud.world.set_fate("storage.exports", "fails", times=9)
    assert states(swept(world)) == {("host", "away"), ("pool", "away")}


@pytest.mark.parametrize("step", ["carve-volume", "make-disk", "define-vm", "export-volume"])
def test_what_an_operation_is_at_work_on_is_no_orphan(step, prepared, monkeypatch):
    broken = Breaker(monkeypatch, prepared.put_back("deploy_vm"))
    broken.mind_the_dead()

    def kill(do, arguments):
        do(**arguments)
        broken.kill()

    broken.at(places_named("deploy_vm", step)[0], kill)
    broken.run_until_killed()
    assert states(swept(prepared._made["deploy_vm"][0])) == set()
    assert broken.resumed()


def test_what_is_claimed_by_a_request_meanwhile_is_left(world, monkeypatch):
    """Between finding an orphan and removing it, somebody deploys that VM."""
    vm = deployed(world, "db")
    for method in ("hypervisors.delete_vm", "hypervisors.delete_disk", "storage.delete_export"):
        cloud.world.set_fate(method, "lies")
    world.run("undeploy_vm", vm)
    operation = world.accept("sweep_orphans", world.datacenter)
    broken = Breaker(monkeypatch, operation)

    def accept_first(do, arguments):
        world.accept("deploy_vm", vm)
        return do(**arguments)

    broken.at(places_named("sweep_orphans", "hold-orphans")[0], accept_first)
    cloud.__dict__["settings"] = cloud.settings.model_copy(update={"sweep_max_percent": 100})
    broken.resumed()
    assert cloud.world.find("vm", vm)


def test_what_is_being_removed_is_locked(world, monkeypatch):
    """From the moment that it is held, nobody deploys that VM."""
    vm = deployed(world, "db")
    for method in ("hypervisors.delete_vm", "hypervisors.delete_disk", "storage.delete_export"):
        cloud.world.set_fate(method, "lies")
    world.run("undeploy_vm", vm)
    broken, refused = Breaker(monkeypatch, world.accept("sweep_orphans", world.datacenter)), []

    def accept_first(do, arguments):
        with pytest.raises(Locked) as refusal:
            world.accept("deploy_vm", vm)
        refused.append(refusal)
        return do(**arguments)

    broken.at(places_named("sweep_orphans", "remove-orphan")[0], accept_first)
    cloud.__dict__["settings"] = cloud.settings.model_copy(update={"sweep_max_percent": 100})
    broken.resumed()
    assert refused
    world.run("deploy_vm", vm)


# --- an old database ---------------------------------------------------------------------------


def test_a_restored_database_is_known_by_the_marks_of_what_it_has_forgotten(world):
    vm = deployed(world, "db")
    world.run("undeploy_vm", vm)
    backup = rows()
    world.run("deploy_vm", vm)
    world.run("change_power", vm, power="off", former="ON")
    put_rows_back(backup)
    deployed(world, "later")
    before = things()
    for _ in range(2):  # and it stays so
        report = swept(world, sweep_max_percent=100)
        assert "older than operation" in report[0].detail
        assert ("vm", "orphan") in states(report)
    assert things() == before


def test_a_restored_database_is_known_by_what_it_has_never_heard_of(world):
    backup = rows()
    volume = _volume(world, "new", 8)
    world.run("create_iscsi_volume", UUID(volume["id"]), volume=volume)
    put_rows_back(backup)
    report = swept(world, sweep_max_percent=100)
    assert f"never heard of {volume['id']}" in report[0].detail
    assert cloud.world.find("volume", volume["id"])


def test_too_many_orphans_are_a_sign_of_lost_rows(world):
    deployed(world, "db")
    forget_tenants()
    before = things()
    report = swept(world, sweep_max_percent=20)
    assert report[0].detail == "2 of 5 things would go, which is more than 20 %"
    assert things() == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"removes": False}, "off"),
        ({"lost_marks": ["b", "a"]}, "older than operation a"),
        ({"never_heard_of": ["x"]}, "never heard of x"),
        ({"orphans": 2}, "2 of 10"),
        ({"orphans": 0, "seen": 0}, ""),
    ],
)
def test_why_nothing_may_go(changes, says):
    asked = {
        "removes": True, "lost_marks": [], "never_heard_of": [], "orphans": 1, "seen": 10,
        "max_percent": 10,
    }  # fmt: skip
    answer = refusal(**{**asked, **changes})
    assert says in answer
    assert bool(says) == bool(answer)


# --- the repository ----------------------------------------------------------------------------


def test_old_uploads_of_nobody_go_and_young_ones_stay(world):
    repository = cloud.repository(world.datacenter)
    old, young, imported = (f"upload-{uuid4()}" for _ in range(3))
    for name in (old, young, imported):
        repository.scratch(name, 1).write_bytes(b"half")
    for name in (old, imported):
        os.utime(repository.root / "incoming" / name, (time.time() - 90_000,) * 2)
    world.accept("import_image", uuid4(), upload=imported)
    (repository.root / "templates" / "notes").mkdir()
    assert states(swept(world, sweep_max_percent=100)) == {("file", "removed")}
    left = set(repository.entries())
    assert f"incoming/{old}" not in left
    assert {f"incoming/{young}", f"incoming/{imported}", "templates/notes"} <= left


# --- two installations on the same hosts, pools and repository ---------------------------------


def second_installation(world: World) -> World:
    """Another installation, which began with the same infrastructure and shares all of it."""
    theirs = replace(world, home=world.home.parent / "second")
    theirs.home.mkdir()
    put_migrated(theirs.home / "cloudloom.sqlite")
    kept = rows()
    become(theirs, world)
    put_rows_back(kept)
    with cloud.database.write() as db:
        db.execute(update(models.Installation).values(id=uuid4()))
    become(theirs, world)
    return theirs


def become(installation: World, first: World, **settings) -> None:
    """Act as one of them; the backends are the first one's."""
    engine.cache_clear()
    changes = {"home": installation.home, **settings}
    cloud.become(cloud.settings.model_copy(update=changes))
    cloud.__dict__["world"] = Backends(first.home / "world.sqlite")


def test_the_other_installations_things_stay(world):
    for host in world.hosts:  # copies on the hosts, too, which both have in the same datastore
        cloud.world.put("sees", host, {"sees": False})
    other = second_installation(world)
    become(world, world, sweep_max_percent=100)
    networked(world)
    deployed(world, "mine", seeded=True)
    become(other, world, sweep_max_percent=100)
    networked(other)
    vm = deployed(other, "theirs", seeded=True)
    other.image("theirs", Format.QCOW2)
    theirs = {(kind, each.name) for kind in Kind for each in seen_by(other) if each.kind is kind}
    become(world, world, sweep_max_percent=100)
    mine = seen_by(world)
    assert {x.kind for x in mine} == set(Kind)
    forget_tenants()
    for _ in range(3):
        swept(world)
    assert {x.kind for x in seen_by(world)} == {Kind.FILE}
    become(other, world, sweep_max_percent=100)
    assert {(x.kind, x.name) for x in seen_by(other)} == theirs
    assert states(swept(other)) == set()
    other.run("change_power", vm, power="on", former="OFF")


def seen_by(world: World) -> set[Thing]:
    return set(everything(world.datacenter)[0])
