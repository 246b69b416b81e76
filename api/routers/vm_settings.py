"""VMs: what is changed of them at once, in the database alone; or once they are deployed."""

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.events import tell
from adapters.database.locks import require_unlocked
from adapters.database.secrets import forget_unused
from adapters.database.vms import settings_of
from adapters.lan import WaitFor
from adapters.privileges import Privilege
from api import finding
from api.blueprint import WAIT_FOR
from api.dependencies import Caller, Key, Send, once_without_secrets, sender
from api.matching import Match
from api.permissions import needs
from api.reports import Operation
from api.routers.vms import Vm, datacenter_of, vms_of, volume_locks
from api.settings import Wish
from api.starting import Starter
from api.user_data import USER_DATA, UserData, kept
from flows.cloud import cloud
from flows.policies import lifecycle
from flows.redefine_vm import set_up

router = APIRouter(prefix="/vms", tags=["vms"])


_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


class VmChange(Wish):
    """What is to be different; what is not said stays. How it starts, only while not deployed."""

    protected: bool | None = Field(
        None, description="What destroys it is refused, until it is protected no more."
    )
    user_data: UserData | None = Field(
        None, description=f"{USER_DATA} `null`: none. Only while the VM is not deployed."
    )
    wait_for: WaitFor | None = Field(
        None, description=f"{WAIT_FOR} `null`: as its appliance says."
    )


@router.patch("/{vm_id}", dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)])
def change_vm(vm_id: UUID, change: VmChange, caller: Caller, match: Match) -> Vm:
    """Change a VM that no operation has: its protection, user data, start, screen, wait."""

    def changed(db: Session) -> Vm:
        row = finding.vm(db, caller, vm_id)
        finding.held(db, finding.appliance(db, caller, row.appliance_id))  # nothing begins with it
        row = finding.held(db, row)
        match.require_same(_shown(db, row))
        require_unlocked(db, "vm", row.id)
        said: dict[str, Any] = {}
        if change.protected is not None:
            said["protected"] = row.protected = change.protected
        if "wait_for" in change.model_fields_set:
            said["wait_for"] = row.wait_for = change.wait_for
        if "user_data" in change.model_fields_set:
            lifecycle.require("seed", row.name, row.state)
            given, row.user_data_id = row.user_data_id, kept(db, change.user_data)
            db.flush()
            forget_unused(db, [given])
            said["has_user_data"] = row.user_data_id is not None
        if change.told:
            lifecycle.require("set up", row.name, row.state)
            former, fresh = settings_of(row), uuid4()
            now = change.over(former, fresh)
            change.keep(db, fresh)
            row.boot, row.screen_id = [*now.boot], now.screen
            db.flush()
            forget_unused(db, [former.screen])
            said |= change.told
        tell(db, "vm.changed", row, **said)
        return _shown(db, row)

    return cloud.database.alone(changed)


@router.post(
    "/{vm_id}/redefine",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def redefine(
    vm_id: UUID,
    wish: Wish,
    request: Request,
    caller: Caller,
    send: Annotated[Send, Depends(sender)],
    idempotency_key: Key = None,
) -> Response:
    """Set a deployed VM that is off up otherwise: what it starts from, what opens its screen."""
    starter = Starter(caller, once_without_secrets(request, caller, idempotency_key, wish), send)
    fresh = uuid4()

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "redefine", vm)
        former = settings_of(vm)
        now = wish.over(former, fresh)
        return starter.request(
            "redefine_vm",
            vm.id,
            vm.name,
            datacenter_of(db, vm.appliance_id),
            volume_locks(db, [vm]),
            intents=[set_up.intent(vm.id, now, former)] if now != former else [],
            settings=now,
            former=former,
        )

    return starter.start(plan, unchanged=lambda db: wish.keep(db, fresh))


def _shown(db: Session, row: models.VirtualMachine) -> Vm:
    return vms_of(db, [row])[0]
