"""Capturing VMs: what their disks hold becomes a template."""

from collections.abc import Sequence
from uuid import UUID, uuid5

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.persistent import master_of
from adapters.database.records import NewTemplate
from adapters.errors import Conflict, NotFound
from adapters.guests import Bus, Firmware
from adapters.packages import About, Hardware, WishedNic, Wishes
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Name
from api.forcing import Forcing
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.routers.vms import datacenter_of, volume_locks
from flows.capture_image import require_capturable
from flows.cloud import cloud
from flows.policies.guests import BUSES, disk_bus

router = APIRouter(prefix="/vms", tags=["vms"])


class VmCapture(Forcing):
    """The template that a VM's disks become."""

    name: Name
    disks: list[UUID] = Field(
        default_factory=list,
        max_length=16,
        description="Of its disks and volumes; unless said, what it boots from.",
    )


@router.post(
    "/{vm_id}/capture",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_PERFORM_ACTIONS, Privilege.APPLIB_ALLOW_MODIFY)],
)
def capture(vm_id: UUID, wish: VmCapture, caller: Caller, starter: PlannedStarting) -> Response:
    """Make a template of a deployed VM, which stays as it is.

    While it is on, its disks are copied as they were at one moment. Where an agent in the guest
    answers (QEMU's), the guest has written everything by then; elsewhere they are as after a loss
    of power.
    """
    template, force = uuid5(starter.id, "template"), wish.by(caller)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "capture", vm)
        where = datacenter_of(db, vm.appliance_id)
        _require_new_name(db, caller, where, wish.name)
        disks = _held(db, vm, wish.disks)
        return starter.request(
            "capture_image",
            vm.id,
            vm.name,
            where,
            [*volume_locks(db, [vm]), ("template", template)],
            template=NewTemplate(
                id=template,
                enterprise_id=caller.enterprise_id,
                datacenter_id=where,
                name=wish.name,
                cpu=vm.cpu,
                ram_mib=vm.ram_mib,
                owner_id=caller.user_id,
                master_id=master_of(db, db.get_one(models.Template, vm.template_id)),
            ),
            disks=[disk for _, disk in disks],
            wishes=_wishes(db, vm, [position for position, _ in disks]),
            force=force,
        )

    return starter.start(plan, lambda: require_capturable(cloud.inventory.vm(vm_id)), wish=wish)


def _require_new_name(db: Session, caller: Caller, datacenter: UUID, name: str) -> None:
    mine = select(models.Template.id).filter_by(
        enterprise_id=caller.enterprise_id, datacenter_id=datacenter, name=name
    )
    if db.scalars(mine).first():
        raise Conflict(f"there is a template called {name}", code="name-taken")


def _held(
    db: Session, vm: models.VirtualMachine, wanted: Sequence[UUID]
) -> list[tuple[int, UUID]]:
    """Of a VM's disks and volumes these, or what it boots from: where each is, and its id."""
    disks, volumes = models.VmDisk, models.VolumeRow
    local = select(disks.position, disks.id).where(disks.vm_id == vm.id, disks.volume_id.is_(None))
    connected = select(volumes.position, volumes.id).where(volumes.vm_id == vm.id)
    has = [(x.position, x.id) for query in (local, connected) for x in db.execute(query)]
    found = sorted(x for x in has if (x[1] in wanted if wanted else x[0] == 0))
    if missing := {*wanted} - {disk for _, disk in found}:
        raise NotFound(f"VM {vm.name} has no disk or volume {min(map(str, missing))}")
    return found


def _wishes(db: Session, vm: models.VirtualMachine, positions: Sequence[int]) -> Wishes:
    """What the VM is, in its master's words where those became just that."""
    master = db.get_one(models.Template, vm.template_id)
    appliance = db.get_one(models.Appliance, vm.appliance_id)
    family = db.get_one(models.VirtualDatacenter, appliance.virtual_datacenter_id).family
    said = Hardware.model_validate(master.hardware or {}).buses
    buses = tuple(said[n] for n in positions if n < len(said))
    if vm.bus != disk_bus(family, said):  # the blueprint said otherwise
        buses = (Bus(vm.bus) if vm.bus else BUSES[family][0],) * len(positions)
    models_ = select(models.NicRow.model).filter_by(vm_id=vm.id).order_by(models.NicRow.position)
    return Wishes(
        cpu=vm.cpu,
        ram_mib=vm.ram_mib,
        hardware=Hardware(
            firmware=Firmware(vm.firmware or Firmware.BIOS),
            buses=buses,
            system=vm.guest_system or "",
            nics=tuple(WishedNic(model=model or "") for model in db.scalars(models_)),
        ),
        about=About.model_validate(master.about or {}),
    )
