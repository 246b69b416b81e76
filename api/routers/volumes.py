"""Volumes: carved in a pool, attached to VMs, deleted."""

from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import Request
from adapters.database.persistent import require_no_templates
from adapters.database.records import VolumeRecord
from adapters.errors import Conflict
from adapters.privileges import Privilege
from adapters.types import MOST_DISKS, VolumeState
from api import finding
from api.dependencies import Caller, Name, Pages, Reference, chosen
from api.forcing import Forcing
from api.labelling import SoughtLabels
from api.matching import Match
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.reports import Operation
from api.starting import Starting
from flows.abilities import require_sockets
from flows.charges import require_within
from flows.choose_pool import choose_pool, require_more
from flows.cloud import cloud

router = APIRouter(prefix="/volumes", tags=["volumes"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


class NewVolume(Forcing):
    """A volume to be carved in a pool of its tier."""

    name: Name = Field(examples=["data"])
    size_mib: int = Field(gt=0, le=2**31 - 1, examples=[64])
    virtual_datacenter: Reference = Field(examples=["demo"])
    tier: Name = "default"


class VolumeSize(Forcing):
    """How large a volume is to be."""

    size_mib: int = Field(gt=0, le=2**31 - 1, examples=[128])


class Attachment(BaseModel):
    """The VM that a volume is attached to, or detached from."""

    model_config = ConfigDict(extra="forbid")

    vm: UUID


class Volume(BaseModel):
    """A block device."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    virtual_datacenter_id: UUID
    pool_id: UUID
    name: str
    size_mib: int
    carved: bool
    state: VolumeState
    vm_id: UUID | None
    position: int
    labels: dict[str, str] = {}


@router.post(
    "", status_code=202, responses=_ACCEPTED, dependencies=[needs(Privilege.VDC_MANAGE_STORAGE)]
)
def create_volume(new: NewVolume, caller: Caller, starter: Starting) -> Response:
    """Create a volume in the pool of its tier with the most room."""
    with cloud.database.read() as db:
        vdc = finding.virtual_datacenter(db, caller, new.virtual_datacenter)
        vdc_id, datacenter = vdc.id, vdc.datacenter_id
        require_new_name(db, vdc_id, new.name)
    record = VolumeRecord(
        id=uuid4(),
        name=new.name,
        virtual_datacenter_id=vdc_id,
        pool_id=choose_pool(datacenter, new.tier, new.size_mib),
        size_mib=new.size_mib,
    )

    def plan(db: Session) -> Request:
        require_new_name(db, vdc_id, new.name)
        return starter.request(
            "create_iscsi_volume", record.id, new.name, datacenter, volume=record, force=force
        )

    uses, force = cloud.ledger.of_volumes([record]), new.by(caller)
    return starter.start(plan, lambda: require_within(uses, force))


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_volumes(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    state: VolumeState | None = None,
    virtual_datacenter_id: UUID | None = None,
    vm_id: UUID | None = None,
    pool_id: UUID | None = None,
) -> list[Volume]:
    """List volumes."""
    query = chosen(
        finding.volumes(caller),
        name=name,
        state=state,
        virtual_datacenter_id=virtual_datacenter_id,
        vm_id=vm_id,
        pool_id=pool_id,
    )
    query = sought.among(query, models.VolumeRow)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.VolumeRow, "name", "size_mib")
        return [Volume.model_validate(row) for row in rows]


@router.get("/{volume_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_volume(volume_id: UUID, caller: Caller) -> Volume:
    """Read a volume."""
    with cloud.database.read() as db:
        return Volume.model_validate(finding.volume(db, caller, volume_id))


@router.delete(
    "/{volume_id}",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VDC_MANAGE_STORAGE)],
)
def delete_volume(volume_id: UUID, caller: Caller, starter: Starting, match: Match) -> Response:
    """Delete a detached volume, with its bytes."""

    def plan(db: Session) -> Request:
        row = finding.volume(db, caller, volume_id)
        starter.require_free(db, "volume", row.id)
        _require_detached(db, row)
        return starter.request("delete_iscsi_volume", row.id, row.name, _datacenter(db, row))

    def unchanged(db: Session) -> None:
        row = finding.volume(db, caller, volume_id)
        match.require(db, row, lambda _db, row: Volume.model_validate(row))

    return starter.start(plan, unchanged=unchanged)


@router.post(
    "/{volume_id}/attach",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_ASSIGN_VOLUME)],
)
def attach(volume_id: UUID, to: Attachment, caller: Caller, starter: Starting) -> Response:
    """Attach a volume to a VM, as its next disk; a running guest sees it at once."""

    def plan(db: Session) -> Request:
        row, vm = finding.volume(db, caller, volume_id), finding.vm(db, caller, to.vm)
        starter.require_free(db, "volume", row.id)
        starter.require(db, "attach", vm)
        _require_detached(db, row)
        appliance = db.get_one(models.Appliance, vm.appliance_id)
        if appliance.virtual_datacenter_id != row.virtual_datacenter_id:
            raise Conflict("volume and VM are in different virtual datacenters", code="elsewhere")
        if vm.host_id and not row.carved:
            raise Conflict(f"volume {row.name} is not carved yet", code="volume-not-carved")
        return starter.request(
            "attach_volume",
            row.id,
            row.name,
            _datacenter(db, row),
            [("vm", vm.id)],
            vm=vm.id,
            position=next_position(db, vm.id),
        )

    return starter.start(plan, lambda: require_sockets(to.vm))


@router.post(
    "/{volume_id}/detach",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_ASSIGN_VOLUME)],
)
def detach(volume_id: UUID, of: Attachment, caller: Caller, starter: Starting) -> Response:
    """Detach a volume from a VM, when its guest has released it; its bytes stay."""

    def plan(db: Session) -> Request:
        row, vm = finding.volume(db, caller, volume_id), finding.vm(db, caller, of.vm)
        starter.require_free(db, "volume", row.id)
        starter.require(db, "detach", vm)
        if row.vm_id != vm.id:
            text = f"volume {row.name} is not attached to VM {vm.name}"
            raise Conflict(text, code="volume-not-attached")
        boots = select(models.VmDisk).where(models.VmDisk.volume_id == row.id)
        if db.scalars(boots).first():
            raise Conflict(f"VM {vm.name} boots from volume {row.name}", code="volume-in-use")
        return starter.request(
            "detach_volume",
            row.id,
            row.name,
            _datacenter(db, row),
            [("vm", vm.id)],
            vm=vm.id,
        )

    return starter.start(plan, lambda: require_sockets(of.vm))


@router.post(
    "/{volume_id}/resize",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VDC_MANAGE_STORAGE)],
)
def resize(
    volume_id: UUID, size: VolumeSize, caller: Caller, starter: PlannedStarting
) -> Response:
    """Let a volume grow, which is detached or whose VM is off; its guest has to be told then."""
    force = size.by(caller)

    def plan(db: Session) -> Request:
        row = finding.volume(db, caller, volume_id)
        starter.require_free(db, "volume", row.id)
        if size.size_mib < row.size_mib:
            text = f"volume {row.name} has {row.size_mib} MiB: it becomes no smaller"
            raise Conflict(text, code="volume-only-grows")
        locks = []
        if row.vm_id:
            starter.require(db, "grow a volume of", finding.vm(db, caller, row.vm_id))
            locks.append(("vm", row.vm_id))
        where = _datacenter(db, row)
        return starter.request(
            "resize_volume", row.id, row.name, where, locks, size_mib=size.size_mib, force=force
        )

    def check() -> None:
        volume = cloud.inventory.volume(volume_id)
        if volume.carved:
            grown = volume.model_copy(update={"size_mib": size.size_mib})
            require_within(cloud.ledger.of_volumes([grown]), force)
            require_more(volume.pool_id, size.size_mib - volume.size_mib)

    return starter.start(plan, check, wish=size)


def require_new_name(db: Session, virtual_datacenter: UUID, name: str) -> None:
    """Refuse a name that another volume of the virtual datacenter has."""
    query = select(models.VolumeRow).filter_by(virtual_datacenter_id=virtual_datacenter, name=name)
    if db.scalars(query).first():
        raise Conflict(f"there is a volume called {name}", code="name-taken")


def _require_detached(db: Session, row: models.VolumeRow) -> None:
    if row.vm_id is not None:
        text = f"volume {row.name} is attached to VM {row.vm_id}"
        raise Conflict(text, code="volume-in-use")
    require_no_templates(db, row)


def _datacenter(db: Session, row: models.VolumeRow) -> UUID:
    return db.get_one(models.VirtualDatacenter, row.virtual_datacenter_id).datacenter_id


def next_position(db: Session, vm: UUID) -> int:
    """Where the VM's next disk goes. Raises `Conflict` when it has as many as it may."""
    disks = select(models.VmDisk.position).where(models.VmDisk.vm_id == vm)
    volumes = select(models.VolumeRow.position).where(models.VolumeRow.vm_id == vm)
    taken = {0, *db.scalars(disks), *db.scalars(volumes)}
    free = min(set(range(len(taken) + 1)) - taken)
    if free >= MOST_DISKS:
        text = f"VM {vm} has {MOST_DISKS} disks, and may have no more"
        raise Conflict(text, code="too-many-disks")
    return free
