"""Journals of former versions are still undone: names and arguments of steps are a promise.

`tests/journals/<version>.json` is the row and the journal of a `deploy_vm` that was killed when
everything was made and the VM had just been switched on, with ids as `${names}`. Made once per
release, and never again, by `.venv/bin/python -m tests.flows.test_journals`.
"""

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, update

from adapters.database import models
from adapters.database.ledger import ChargeRow
from adapters.database.operations import Operation
from adapters.database.records import Conversion
from adapters.types import Format, OperationState, StepState
from flows.attach_volume import export_for
from flows.cloud import cloud
from tests.flows.breaking import Breaker, Place
from tests.flows.conftest import made_folder
from tests.flows.scenarios import SCENARIOS
from tests.worlds import World, build

JOURNALS = Path(__file__).parents[1] / "journals"


@pytest.mark.parametrize("journal", sorted(JOURNALS.glob("*.json")), ids=lambda path: path.stem)
def test_a_journal_of_a_former_version_is_undone_to_nothing(journal, world, monkeypatch):
    scenario = SCENARIOS["deploy_vm"]
    operation = scenario.accept(world)
    before = scenario.before()
    killed = killed_at_the_end(operation, monkeypatch)
    assert scenario.before() != before
    kept = json.loads(Template(journal.read_text()).substitute(names(world, operation)))
    pretend(operation, kept)
    cloud.operations.want(operation.id, "unwind")
    ended = killed.run()
    assert ended.state is OperationState.CANCELLED
    assert scenario.photograph() == before
    assert not ended.left_behind
    states = {line.state for line in cloud.journal.lines(operation.id)}
    assert states <= {StepState.UNDONE, StepState.SKIPPED}


def test_this_version_has_a_journal_and_it_holds_no_id_of_its_own():
    journal = (JOURNALS / f"{version('cloudloom')}.json").read_text()
    assert json.loads(journal)["operation"]["kind"] == "deploy_vm"
    steps = {step["name"] for step in json.loads(journal)["steps"]}
    assert steps >= {"reserve-hosts", "hold-base", "define-vm", "export-volume", "switch-vm"}


def killed_at_the_end(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Run the operation, and kill its runner right after the VM is on."""
    broken = Breaker(monkeypatch, operation)
    broken.mind_the_dead()
    broken.at(Place("switch-vm", "", 0), lambda do, arguments: (do(**arguments), broken.kill()))
    broken.run_until_killed()
    return broken


def pretend(operation: Operation, kept: dict[str, Any]) -> None:
    """Let the operation have the kept journal instead of its own."""
    steps = [as_row(step) for step in kept["steps"]]
    with cloud.database.write() as db:
        charged = {step["name"] for step in kept["steps"]} & {"charge-vms", "charge-volume"}
        if not charged:  # a version that charged nothing: no charge is there to be refunded
            db.execute(delete(ChargeRow).where(ChargeRow.id.in_(made_by(operation))))
        db.execute(delete(models.Step).where(models.Step.operation_id == operation.id))
        db.execute(insert(models.Step), steps)
        db.execute(
            update(models.Operation)
            .where(models.Operation.id == operation.id)
            .values(version=kept["operation"]["version"])
        )


def made_by(operation: Operation) -> set[UUID]:
    """What this version has charged, until it was killed."""
    charging = {"charge-vms", "charge-volume"}
    lines = [x for x in cloud.journal.lines(operation.id) if x.name in charging]
    return {UUID(x.key.partition("[")[2].removesuffix("]")) for x in lines}


def as_row(kept: dict[str, Any]) -> dict[str, Any]:
    """A kept step as its table takes it."""
    types: dict[str, Callable[[str], Any]] = {
        "operation_id": UUID,
        "started_at": datetime.fromisoformat,
        "ended_at": datetime.fromisoformat,
    }
    return {k: types[k](v) if k in types and v is not None else v for k, v in kept.items()}


def names(world: World, operation: Operation) -> dict[str, str]:
    """What a journal's ids stand for; equal in meaning from world to world."""
    vm = cloud.inventory.vm(operation.target_id)
    conversion = Conversion(
        datacenter_id=vm.datacenter_id, source=vm.disks[0].image, format=Format.QCOW2
    )
    found = {
        "operation": operation.id,
        "enterprise": operation.enterprise_id,
        "installation": vm.installation,
        "datacenter": vm.datacenter_id,
        "virtual_datacenter": vm.virtual_datacenter_id,
        "appliance": vm.appliance_id,
        "vm": vm.id,
        "host": vm.host_id,
        "pool": world.pool,
        "disk": vm.disks[0].id,
        "nic": vm.nics[0].id,
        "mac": vm.nics[0].mac,
        "image": vm.disks[0].image.id,
        "template": vm.disks[0].image.path.split("/")[1],
        "conversion": conversion.id,
        "datastore": vm.datastore,
        "home": world.home,
    }
    for volume in vm.volumes:
        found[f"volume_{volume.name}"] = volume.id
        found[f"export_{volume.name}"] = export_for(volume.id, vm).id
    return {name: str(what) for name, what in found.items()}


def write() -> None:
    """Keep a journal of this version."""
    folder = made_folder()
    try:
        world = build(folder / "home")
        operation = SCENARIOS["deploy_vm"].accept(world)
        with pytest.MonkeyPatch.context() as monkeypatch:
            killed_at_the_end(operation, monkeypatch)
        lines = select(models.Step.__table__).where(models.Step.operation_id == operation.id)
        own = select(models.Operation.__table__).where(models.Operation.id == operation.id)
        with cloud.database.read() as db:
            row = dict(db.execute(own).mappings().one())
            steps = db.execute(lines.order_by(models.Step.position)).mappings().all()
        kept = {
            "operation": {**row, "runner_host": "a machine/a boot"},
            "steps": [dict(step) for step in steps],
        }
        text = json.dumps(kept, indent=1, default=str, sort_keys=True, ensure_ascii=False)
        for name, what in names(world, operation).items():
            text = text.replace(what, "${" + name + "}")
        (JOURNALS / f"{version('cloudloom')}.json").write_text(text + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    write()
