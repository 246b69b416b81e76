"""VMs: what is changed of them at once, in the database alone."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell
from adapters.database.locks import Locked
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller
from api.matching import Match
from api.permissions import needs
from api.routers.vms import Vm, vms_of
from flows.cloud import cloud

router = APIRouter(prefix="/vms", tags=["vms"])


class VmChange(BaseModel):
    """What is to be different; what is not said stays."""

    model_config = ConfigDict(extra="forbid")

    protected: bool | None = Field(
        None, description="What destroys it is refused, until it is protected no more."
    )


@router.patch("/{vm_id}", dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)])
def change_vm(vm_id: UUID, change: VmChange, caller: Caller, match: Match) -> Vm:
    """Change a VM that no operation has: protect it, or do so no more."""

    def changed(db: Session) -> Vm:
        row = finding.held(db, finding.vm(db, caller, vm_id))
        match.require_same(_shown(db, row))
        if held := db.get(models.Lock, row.id):
            raise Locked("vm", row.id, held.operation_id)
        said = change.model_dump(exclude_none=True)
        for name, value in said.items():
            setattr(row, name, value)
        tell(db, "vm.changed", row, **said)
        return _shown(db, row)

    return cloud.database.alone(changed)


def _shown(db: Session, row: models.VirtualMachine) -> Vm:
    return vms_of(db, [row])[0]
