"""What has to hold once it is quiet: operations ended, and every inventory says the same."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from adapters.database import models
from adapters.database.conventions import Base
from adapters.images.repository import MARKS
from adapters.types import ConversionState, OperationState, TemplateState, VmState
from api.client import Client
from deployments.lab.cloudloom import Cloudloom
from flows.attach_volume import export_for
from flows.cloud import cloud
from flows.policies.lifecycle import power_of
from flows.vm_disks import claim_on

ENDS = {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED}

_DEPLOYED = {VmState.ON, VmState.OFF, VmState.PAUSED}

Inventory = dict[str, Any]


def rows(table: type[Base], *which: Any) -> list[Any]:
    with cloud.database.read() as db:
        found = list(db.scalars(select(table).where(*which)))
        db.expunge_all()
        return found


def at_rest() -> bool:
    """Whether every operation has ended, or is stuck, with its last receipt; nothing is due."""
    resting = {*ENDS, OperationState.STUCK, OperationState.ABANDONED}
    ended = models.Operation.state.in_(resting) & models.Operation.due_at.is_(None)
    return not rows(models.Operation, ~ended) and not rows(models.Lock)


def assert_settled(asked: set[UUID]) -> None:
    """Nothing is stuck, held, provisional or left behind; nothing was begun that nobody asked."""
    operations = rows(models.Operation)
    odd = [
        (str(x.id), x.kind, x.state, x.left_behind, x.provisional, x.runner_pid, x.error)
        for x in operations
        if x.state not in ENDS or x.left_behind or x.provisional or x.runner_pid or x.due_at
    ]
    assert not odd, odd
    accepted = {x.id for x in operations if x.requested_by != "maintenance"}
    assert accepted == asked, f"nobody was told of {accepted - asked}, or lost {asked - accepted}"
    unexpected = rows(models.Receipt, ~models.Receipt.as_expected)
    assert not unexpected, [(x.operation_id, x.key, x.answer) for x in unexpected]


def as_written_down() -> Inventory:
    """What our tables say there is on the backends."""
    vms = cloud.inventory.vms([row.id for row in rows(models.VirtualMachine)])
    deployed = [vm for vm in vms if vm.host_id]
    free = [vm for vm in vms if not vm.host_id]
    odd = [vm for vm in deployed if vm.state not in _DEPLOYED]
    odd += [vm for vm in free if vm.state is not VmState.NOT_ALLOCATED]
    assert not odd, odd
    volumes = rows(models.VolumeRow)
    exports = [export_for(volume.id, vm) for vm in deployed for volume in vm.volumes]
    disks = [(vm, disk) for vm in deployed for disk in vm.local_disks]
    repository = [disk.path for disk in rows(models.TemplateDisk)]
    repository += [
        each.path
        for each in rows(models.Conversion, models.Conversion.state == ConversionState.FINISHED)
    ]
    return {
        "vms": {str(vm.id): power_of(vm.state) for vm in deployed},
        "disks": {cloud.hypervisor(vm.host).disk_path(vm.disk(disk)) for vm, disk in disks},
        "volumes": {str(volume.id): volume.size_mib for volume in volumes if volume.carved},
        "exports": {export.iqn for export in exports},
        "connections": {
            (str(vm.id), export_for(volume.id, vm).iqn) for vm in deployed for volume in vm.volumes
        },
        "repository": set(repository),
        "exports written down": {str(each.id) for each in exports},
        "passwords": {str(each.id) for each in exports},
        "claims": {
            *(
                (claim_on(disk.base, vm.host), f"disk:{disk.id}")
                for vm, disk in disks
                if disk.base
            ),
            *(
                (f"export:{export_for(volume.id, vm).id}", f"vm:{vm.id}")
                for vm in deployed
                for volume in vm.volumes
            ),
        },
    }


def as_found(backends: Callable[[], Inventory]) -> Inventory:
    """What backends say, and the tables that follow from them."""
    return {
        **backends(),
        "repository": repository_files(),
        "exports written down": {str(row.id) for row in rows(models.ExportRow)},
        "passwords": {str(row.id) for row in rows(models.Secret)},
        "claims": {(row.thing, row.holder) for row in rows(models.Claim)},
    }


def assert_agreement(backends: Callable[[], Inventory]) -> None:
    """Backends have what is written down, and no more; nobody holds what nobody needs."""
    found, written = as_found(backends), as_written_down()
    odd = {what: _difference(found[what], written[what]) for what in found}
    assert not any(odd.values()), {what: each for what, each in odd.items() if each}
    shared = {row.name for row in rows(models.SharedThing)}
    assert shared == {row.thing for row in rows(models.Claim)}, shared
    assert not rows(models.Template, models.Template.state != TemplateState.AVAILABLE)
    assert not rows(models.Conversion, models.Conversion.state == ConversionState.ENQUEUED)


def assert_sweep_finds_nothing(ask: Client) -> None:
    """The installation itself, through its adapters, comes to the same."""
    (datacenter,) = ask.all("/v1/datacenters")
    wanted = {"kind": "sweep_orphans"}
    swept = ask.wait(ask.start(f"/v1/datacenters/{datacenter['id']}/maintenance", wanted).id)
    assert swept.state is OperationState.SUCCEEDED, swept.error
    odd = [found for found in swept.report or [] if found.what != "sweep"]
    assert swept.report, swept
    assert not odd, odd


def _difference(found: Any, written: Any) -> str:
    """What is only found, and what is only written down."""
    if found == written:
        return ""
    here, there = (set(x.items()) if isinstance(x, dict) else set(x) for x in (found, written))
    return f"only found: {here - there}; only written down: {there - here}"


def repository_files() -> set[str]:
    """All that is in the repositories, but their markers, and what became no operation.

    A transfer whose gateway was killed leaves its file to the sweep: nobody else may know of it.
    """
    found = set()
    imports = rows(models.Operation, models.Operation.kind == "import_image")
    known = {f"incoming/{each.arguments['upload']}" for each in imports}
    for datacenter in rows(models.Datacenter):
        root = cloud.repository(datacenter.id).root
        every = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
        ours = (path for path in every if path.parent != root and MARKS not in path.parts)
        found |= {str(path.relative_to(root)) for path in ours}
    return {each for each in found if not each.startswith("incoming/upload-") or each in known}


# --- nothing is repeated -----------------------------------------------------------------

_WATCHED = 'operation_id, "key", name, was, now, was_attempts, attempts, was_epoch, epoch, error'


def watch_journal() -> None:
    """Let the database itself write down every change of a line's state and attempts."""
    quote = cloud.database.engine.dialect.identifier_preparer.quote
    number = "INTEGER PRIMARY KEY" + " AUTO_INCREMENT" * (quote("key") == "`key`")
    watched = _WATCHED.replace('"key"', "its_key")
    columns = ", ".join(f"{name} VARCHAR(700)" for name in watched.split(", "))
    values = (
        f"OLD.operation_id, OLD.{quote('key')}, OLD.name, OLD.state, NEW.state, OLD.attempts, "
        "NEW.attempts, OLD.epoch, NEW.epoch, SUBSTR(OLD.error, 1, 600)"
    )
    with cloud.database.write() as db:
        db.execute(text(f"CREATE TABLE watched (number {number}, {columns})"))
        db.execute(
            text(
                "CREATE TRIGGER watching AFTER UPDATE ON steps FOR EACH ROW BEGIN "
                f"INSERT INTO watched ({watched}) VALUES ({values}); END"
            )
        )


def assert_nothing_repeated() -> None:
    """Only what was in flight is begun again: by a new runner, or after an error was told."""
    with cloud.database.read() as db:
        changes = db.execute(text("SELECT * FROM watched ORDER BY number")).mappings().all()
    wrong = []
    for change in changes:
        again = change["attempts"] != change["was_attempts"]
        first_undo = (change["was"], change["now"]) != ("undoing", "undoing") and (
            change["now"] == "undoing"
        )
        over = change["was"] in {"done", "undone", "skipped"}
        explained = first_undo or change["epoch"] != change["was_epoch"] or change["error"]
        if again and (
            (over and change["now"] == "running")
            or (change["was"] in {"undone", "skipped"})
            or not explained
        ):
            wrong.append(dict(change))
    assert not wrong, wrong


def attempts(step: str) -> dict[str, int]:
    """How often a step's do was begun, by the id that its key names."""
    with cloud.database.read() as db:
        lines = db.execute(
            select(models.Step.key, func.count()).filter_by(name=step).group_by(models.Step.key)
        ).all()
        again = db.execute(
            text(
                "SELECT its_key, COUNT(*) FROM watched WHERE name = :name AND now = 'running' "
                "AND attempts <> was_attempts GROUP BY its_key"
            ),
            {"name": step},
        ).all()
    found: dict[str, int] = {}
    for key, number in [*lines, *again]:
        what = key.partition("[")[2].rstrip("]")
        found[what] = found.get(what, 0) + number
    return found


def look_from_outside(served: Cloudloom) -> None:
    """Be one more process of that installation."""
    from adapters.settings import Settings

    names = {k.removeprefix("CLOUDLOOM_").lower(): v for k, v in served.env.items()}
    cloud.become(Settings(**{k: v for k, v in names.items() if k in Settings.model_fields}))
