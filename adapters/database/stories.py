"""Operations as people are told of them in Prefect: by few queries, and never all of it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select

from adapters.database import models
from adapters.database.operations import Operation
from adapters.database.session import Database
from adapters.types import StepState, Value


class PlannedVm(Value):
    """A VM as its operation finds it; `host` is empty until one is reserved."""

    name: str
    cpu: int
    ram_mib: int
    depends_on: tuple[str, ...]
    volumes: int
    host: str


class Moment(Value):
    """What one step did, where and when."""

    key: str
    name: str
    lane: str
    host: str
    state: StepState
    attempts: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class Question(Value):
    """What was asked about one step when its operation had ended, and what was answered."""

    key: str
    lane: str
    expected: str
    answer: str
    as_expected: bool
    looked_at: datetime


class Stories:
    """The stories of all operations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tags(self, operation: Operation) -> list[str]:
        """What to find it by: itself, its enterprise and its appliances, by id and by name."""
        appliance, vm = models.Appliance, models.VirtualMachine
        objects = [operation.target_id, *operation.objects]
        of_its_vms = select(vm.appliance_id).where(vm.id.in_(objects))
        theirs = or_(appliance.id.in_(objects), appliance.id.in_(of_its_vms))
        with self._database.read() as db:
            enterprise = db.get_one(models.Enterprise, operation.enterprise_id).name
            found = db.execute(select(appliance.id, appliance.name).where(theirs)).all()
        named = {f"enterprise:{x}" for x in (operation.enterprise_id, enterprise)}
        named |= {f"appliance:{x}" for row in found for x in row}
        return [f"operation:{operation.id}", *sorted(named)]

    def vms(self, vms: Sequence[UUID]) -> list[PlannedVm]:
        """These VMs, in the blueprint's order."""
        vm, host = models.VirtualMachine, models.Host
        volumes = select(func.count()).where(models.VolumeRow.vm_id == vm.id).scalar_subquery()
        columns = vm.name, vm.cpu, vm.ram_mib, vm.depends_on
        query = (
            select(*columns, volumes.label("volumes"), func.coalesce(host.name, "").label("host"))
            .outerjoin(host, host.id == vm.host_id)
            .where(vm.id.in_(vms))
            .order_by(vm.position)
        )
        with self._database.read() as db:
            return [PlannedVm(**row) for row in db.execute(query).mappings()]

    def done(self, operation: UUID, steps: Collection[str]) -> int:
        """How many of the lines of these steps are done."""
        line = models.Step
        mine = (line.operation_id == operation) & line.name.in_(steps)
        query = select(func.count()).where(mine, line.state == StepState.DONE)
        with self._database.read() as db:
            return db.scalars(query).one()

    def moments(self, operation: UUID) -> list[Moment]:
        """Its steps in the order of their intents, without what they were given and answered."""
        line, host = models.Step, models.Host
        names = [name for name in Moment.model_fields if name != "host"]
        query = (
            select(*(getattr(line, name) for name in names), line.host)
            .where(line.operation_id == operation)
            .order_by(line.position)
        )
        with self._database.read() as db:
            rows = db.execute(query).mappings().all()
            at = {UUID(row["host"]) for row in rows if row["host"]}
            named = db.execute(select(host.id, host.name).where(host.id.in_(at))).all()
        hosts = {str(key): name for key, name in named}
        return [
            Moment.model_construct(**{**row, "host": hosts.get(row["host"], "")}) for row in rows
        ]

    def questions(self, operation: UUID, most: int) -> list[Question]:
        """Its receipt, what is not as expected first."""
        asked, line = models.Receipt, models.Step
        names = [name for name in Question.model_fields if name != "lane"]
        same = (line.operation_id == asked.operation_id) & (line.key == asked.key)
        query = (
            select(*(getattr(asked, name) for name in names), line.lane)
            .join(line, same)
            .where(asked.operation_id == operation)
            .order_by(asked.as_expected, line.position)
            .limit(most)
        )
        with self._database.read() as db:
            return [Question(**row) for row in db.execute(query).mappings()]

    def answers(self, operation: UUID) -> tuple[int, int]:
        """How many questions its receipt has, and how many were answered otherwise."""
        asked = models.Receipt
        query = select(asked.as_expected, func.count()).group_by(asked.as_expected)
        with self._database.read() as db:
            rows = db.execute(query.where(asked.operation_id == operation)).all()
        return sum(row[1] for row in rows), sum(row[1] for row in rows if not row[0])
