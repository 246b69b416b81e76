"""What a VM is made of, changed: its size, and its disks."""

from typing import Any, Self
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.amounts import Amounts
from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.records import DiskRecord
from adapters.errors import Conflict, NotFound
from adapters.privileges import Privilege
from adapters.types import VmState
from api import finding
from api.dependencies import Caller
from api.forcing import Forcing
from api.matching import Match
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.protection import require_unprotected
from api.reports import Operation
from api.routers.vms import Disk, datacenter_of, volume_locks
from api.routers.volumes import next_position
from api.starting import Starting
from flows.abilities import Capability, require_ability, require_readable
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


class NewDisk(Forcing):
    """An empty disk for a VM."""

    size_mib: int = Field(gt=0, le=2**31 - 1, examples=[1024])


@router.post(
    "/{vm_id}/resize",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def resize(vm_id: UUID, size: Size, caller: Caller, starter: PlannedStarting) -> Response:
    """Give a VM more or less CPUs and memory where it is; while it is on, more, if a host can."""
    wanted = size.model_dump(include={"cpu", "ram_mib"}, exclude_none=True)
    force = size.by(caller)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        more = all(value >= getattr(vm, name) for name, value in wanted.items())
        starter.require(db, "grow" if vm.state is VmState.ON and more else "resize", vm)
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

    with cloud.database.read() as db:
        require_hot(finding.vm(db, caller, vm_id), wanted)
    return starter.start(plan, check, wish=size)


@router.post(
    "/{vm_id}/export",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_PERFORM_ACTIONS, Privilege.APPLIB_ALLOW_MODIFY)],
)
def export(vm_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Make an OVA of a deployed VM that is off, without its volumes.

    `GET /v1/packages/{id}` has it, by the operation's id.
    """

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "export", vm)
        boot = select(models.VmDisk.volume_id).filter_by(vm_id=vm.id, position=0)
        if db.scalars(boot).one() is not None:
            raise Conflict(f"VM {vm.name} boots from a volume", code="volume-in-use")
        return starter.request("export_vm", vm.id, vm.name, datacenter_of(db, vm.appliance_id))

    return starter.start(plan, lambda: require_readable(vm_id))


@router.post(
    "/{vm_id}/disks",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def add_disk(vm_id: UUID, new: NewDisk, caller: Caller, starter: Starting) -> Response:
    """Add an empty disk to a VM that is off, or not deployed: it is made on the host's datastore.

    Undeploying the VM takes it away, like its other disks. What is to outlive that is a volume.
    """
    disk, force = uuid4(), new.by(caller)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "add a disk to", vm)
        record = DiskRecord(id=disk, position=next_position(db, vm.id), size_mib=new.size_mib)
        return starter.request(
            "add_disk",
            vm.id,
            vm.name,
            datacenter_of(db, vm.appliance_id),
            volume_locks(db, [vm]),
            disk=record,
            force=force,
        )

    def check() -> None:
        uses = cloud.inventory.vm(vm_id).uses
        require_growth(vm_id, uses + Amounts(disk_mib=new.size_mib), force)

    return starter.start(plan, check)


@router.get("/{vm_id}/disks/{disk_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_disk(vm_id: UUID, disk_id: UUID, caller: Caller) -> Disk:
    """Read one of a VM's disks."""
    with cloud.database.read() as db:
        return Disk.model_validate(_disk(db, finding.vm(db, caller, vm_id), disk_id))


@router.delete(
    "/{vm_id}/disks/{disk_id}",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def delete_disk(
    vm_id: UUID, disk_id: UUID, caller: Caller, starter: Starting, match: Match
) -> Response:
    """Delete a disk that was added to a VM which is off, or not deployed, with its bytes."""

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        disk = _disk(db, vm, disk_id)
        starter.require(db, "delete a disk of", vm)
        require_unprotected(db, "delete a disk of", [vm])
        if disk.template_disk_id:
            text = f"VM {vm.name} is made from this disk"
            raise Conflict(text, code="disk-of-template")
        where = datacenter_of(db, vm.appliance_id)
        locks = volume_locks(db, [vm])
        return starter.request("delete_disk", vm.id, vm.name, where, locks, disk=disk.id)

    def unchanged(db: Session) -> None:
        disk = _disk(db, finding.vm(db, caller, vm_id), disk_id)
        match.require(db, disk, lambda _db, row: Disk.model_validate(row))

    return starter.start(plan, unchanged=unchanged)


def _disk(db: Session, vm: models.VirtualMachine, disk: UUID) -> models.VmDisk:
    row = db.get(models.VmDisk, disk)
    if row is None or row.vm_id != vm.id:
        raise NotFound(f"there is no disk {disk}")
    return row


def require_hot(vm: models.VirtualMachine, wanted: dict[str, int]) -> None:
    """Refuse at once what the host of a VM that is on cannot give it meanwhile."""
    if vm.state is VmState.ON:
        for name, ability in (("cpu", Capability.HOT_CPU), ("ram_mib", Capability.HOT_RAM)):
            if wanted.get(name, 0) > getattr(vm, name):
                require_ability(vm.id, ability)


def require_growth(vm_id: UUID, uses: Amounts, force: Any) -> None:
    """Refuse at once what limits or its host leave a deployed VM no room for."""
    vm = cloud.inventory.vm(vm_id)
    if vm.host_id is None:
        return
    more = uses.beyond(vm.uses)
    require_within(grown(vm_id, vm.uses + more), force)
    room_at(vm)(more, cloud.inventory.situation(vm.datacenter_id))
