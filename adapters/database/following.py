"""Following: what hypervisors say of VMs becomes their state, where no operation works on them."""

from uuid import UUID

from sqlalchemy import exists, select

from adapters.database import models
from adapters.database.events import Severity, tell
from adapters.database.session import Database
from adapters.types import VmState

_VM, _LOCK = models.VirtualMachine, models.Lock
_DEPLOYED = (VmState.CONFIGURED, VmState.ON, VmState.OFF, VmState.PAUSED, VmState.UNKNOWN)


class Following:
    """The states of deployed VMs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, host: UUID) -> dict[UUID, VmState]:
        """The deployed VMs of a host that no operation has, and their states."""
        free = ~exists().where(_LOCK.object_id == _VM.id)
        wanted = select(_VM.id, _VM.state).where(_VM.host_id == host, _VM.state.in_(_DEPLOYED))
        with self._database.read() as db:
            return {row.id: row.state for row in db.execute(wanted.where(free))}

    def record(self, vm: UUID, former: VmState, state: VmState) -> bool:
        """Record and tell it, unless somebody else has changed the VM or is about to."""
        with self._database.write() as db:
            row = db.get(_VM, vm, with_for_update=True)
            taken = db.scalar(select(exists().where(_LOCK.object_id == vm)))
            if row is None or row.state is not former or taken:
                return False
            row.state = state
            grave = Severity.WARNING if state is VmState.UNKNOWN else Severity.INFO
            tell(db, "vm.state-changed", row, grave, state=state, former=former)
            return True
