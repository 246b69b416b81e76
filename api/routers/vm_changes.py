"""What a VM is made of, changed: its size."""

from typing import Any, Self
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Field, model_validator
from sqlalchemy.orm import Session

from adapters.amounts import Amounts
from adapters.database import operations as accepted
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller
from api.forcing import Forcing
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.reports import Operation
from api.routers.vms import datacenter_of, volume_locks
from flows.charges import require_within
from flows.cloud import cloud
from flows.growth import grown
from flows.reserve_host import room_at

router = APIRouter(prefix="/vms", tags=["vms"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


class Size(Forcing):
    """How many CPUs, how much memory a VM is to have; what is left out stays."""

    cpu: int | None = Field(None, gt=0, le=1024, examples=[2])
    ram_mib: int | None = Field(None, gt=0, le=2**24, examples=[256])

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.cpu is None and self.ram_mib is None:
            raise ValueError("say cpu, or ram_mib, or both")
        return self


@router.post(
    "/{vm_id}/resize",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def resize(vm_id: UUID, size: Size, caller: Caller, starter: PlannedStarting) -> Response:
    """Give a VM that is off, or not deployed, more or less CPUs and memory, where it is."""
    wanted = size.model_dump(include={"cpu", "ram_mib"}, exclude_none=True)
    force = size.by(caller)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "resize", vm)
        return starter.request(
            "resize_vm",
            vm.id,
            vm.name,
            datacenter_of(db, vm.appliance_id),
            volume_locks(db, [vm]),
            size=wanted,
            force=force,
        )

    def check() -> None:
        uses = cloud.inventory.vm(vm_id).uses
        require_growth(vm_id, uses.model_copy(update=wanted), force)

    return starter.start(plan, check, wish=size)


def require_growth(vm_id: UUID, uses: Amounts, force: Any) -> None:
    """Refuse at once what limits or its host leave a deployed VM no room for."""
    vm = cloud.inventory.vm(vm_id)
    if vm.host_id is None:
        return
    more = uses.beyond(vm.uses)
    require_within(grown(vm_id, vm.uses + more), force)
    room_at(vm)(more, cloud.inventory.situation(vm.datacenter_id))
