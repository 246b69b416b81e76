"""VMs: what is changed of them at once, in the database alone."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell
from adapters.database.locks import require_unlocked
from adapters.database.secrets import forget_unused
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller
from api.matching import Match
from api.permissions import needs
from api.routers.vms import Vm, vms_of
from api.user_data import USER_DATA, UserData, kept
from flows.cloud import cloud
from flows.policies import lifecycle

router = APIRouter(prefix="/vms", tags=["vms"])


class VmChange(BaseModel):
    """What is to be different; what is not said stays."""

    model_config = ConfigDict(extra="forbid")

    protected: bool | None = Field(
        None, description="What destroys it is refused, until it is protected no more."
    )
    user_data: UserData | None = Field(
        None, description=f"{USER_DATA} `null`: none. Only while the VM is not deployed."
    )


@router.patch("/{vm_id}", dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)])
def change_vm(vm_id: UUID, change: VmChange, caller: Caller, match: Match) -> Vm:
    """Change a VM that no operation has: its protection, or its user data."""

    def changed(db: Session) -> Vm:
        row = finding.held(db, finding.vm(db, caller, vm_id))
        match.require_same(_shown(db, row))
        require_unlocked(db, "vm", row.id)
        said: dict[str, Any] = {}
        if change.protected is not None:
            said["protected"] = row.protected = change.protected
        if "user_data" in change.model_fields_set:
            lifecycle.require("seed", row.name, row.state)
            former, row.user_data_id = row.user_data_id, kept(db, change.user_data)
            db.flush()
            forget_unused(db, [former])
            said["has_user_data"] = row.user_data_id is not None
        tell(db, "vm.changed", row, **said)
        return _shown(db, row)

    return cloud.database.alone(changed)


def _shown(db: Session, row: models.VirtualMachine) -> Vm:
    return vms_of(db, [row])[0]
