"""Templates become volumes that one VM at a time boots from; and what volumes hold, templates."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID, uuid5

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.persistent import master_of, require_images, template_with, volumes_of
from adapters.database.records import NewTemplate, VolumeRecord
from adapters.errors import Conflict
from adapters.packages import About, Hardware, Wishes
from adapters.privileges import Privilege
from adapters.types import TemplateState
from api import finding
from api.dependencies import NAME_LENGTH, Caller, Name, Reference
from api.forcing import Forcing
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.routers.volumes import require_new_name
from flows.charges import require_within
from flows.choose_pool import choose_pool
from flows.cloud import cloud
from flows.volume_images import most_mib

router = APIRouter()


class VolumeCapture(Forcing):
    """What the template will be called."""

    name: Name = Field(examples=["db-of-may"])


class PersistentTemplate(Forcing):
    """What the template and its volume will be called, and where they will be."""

    name: Name = Field(examples=["db-root"])
    virtual_datacenter: Reference = Field(examples=["demo"])
    tier: Name = "default"


@router.post(
    "/templates/{template_id}/persist",
    tags=["templates"],
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CREATE_STATEFUL)],
)
def persist_template(
    template_id: UUID, wish: PersistentTemplate, caller: Caller, starter: PlannedStarting
) -> Response:
    """Make a persistent template of one: volumes that one VM at a time boots from, and writes.

    What a VM of it has written is there for the next one. Further disks are called `NAME-1`, ...
    """
    with cloud.database.read() as db:
        row = _source(db, caller, template_id)
        vdc = finding.virtual_datacenter(db, caller, wish.virtual_datacenter)
        if vdc.datacenter_id != row.datacenter_id:
            text = f"template {row.name} is in another datacenter than {vdc.name}"
            raise Conflict(text, code="elsewhere")
        template = _instance(caller, wish.name, starter.id, vdc, row, row.id)
        disks = cloud.library.images(row.id)
        sizes = [disk.virtual_size_mib for disk in disks]
        where, names = vdc.id, _names(wish.name, len(disks))
    choose = partial(choose_pool, template.datacenter_id, wish.tier, sum(sizes))
    pool = starter.chosen("pool", choose)
    volumes = [
        VolumeRecord(
            id=uuid5(starter.id, f"volume-{position}"),
            name=name,
            virtual_datacenter_id=where,
            pool_id=pool,
            size_mib=size_mib,
        )
        for position, (name, size_mib) in enumerate(zip(names, sizes, strict=True))
    ]

    def plan(db: Session) -> accepted.Request:
        row = _source(db, caller, template_id)
        _require_new_name(db, template)
        for volume in volumes:
            require_new_name(db, where, volume.name)
        return starter.request(
            "persist_template",
            template.id,
            template.name,
            template.datacenter_id,
            source=row.id,
            template=template,
            volumes=volumes,
            virtual_datacenter_id=where,
            force=force,
        )

    uses, force = cloud.ledger.of_volumes(volumes), wish.by(caller)
    return starter.start(plan, lambda: require_within(uses, force), wish=wish)


@router.post(
    "/templates/{template_id}/capture",
    tags=["templates"],
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def capture_template(
    template_id: UUID, wish: VolumeCapture, caller: Caller, starter: PlannedStarting
) -> Response:
    """Make an ordinary template of a persistent one, which stays; its VM, if any, is off."""
    with cloud.database.read() as db:
        row = finding.own_template(db, caller, template_id)
        rows = volumes_of(db, row.id)
        if not rows:
            text = f"template {row.name} is in the library already"
            raise Conflict(text, code="template-not-persistent")
        vdc = db.get_one(models.VirtualDatacenter, rows[0].virtual_datacenter_id)
        template = _instance(caller, wish.name, starter.id, vdc, row, row.master_id)
        volumes, wishes = [each.id for each in rows], _wishes(row)
    return _capture(wish, caller, starter, template, volumes, wishes)


@router.post(
    "/volumes/{volume_id}/capture",
    tags=["volumes"],
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def capture_volume(
    volume_id: UUID, wish: VolumeCapture, caller: Caller, starter: PlannedStarting
) -> Response:
    """Make a template of what a volume holds, which stays as it is; its VM, if any, is off."""
    with cloud.database.read() as db:
        row = finding.volume(db, caller, volume_id)
        vdc = db.get_one(models.VirtualDatacenter, row.virtual_datacenter_id)
        origin = _origin(db, row)
        master = master_of(db, origin) if origin else None
        template = _instance(caller, wish.name, starter.id, vdc, origin, master)
        wishes = _wishes(origin)
    return _capture(wish, caller, starter, template, [volume_id], wishes)


def _capture(
    wish: VolumeCapture,
    caller: Caller,
    starter: PlannedStarting,
    template: NewTemplate,
    volumes: Sequence[UUID],
    wishes: Wishes,
) -> Response:
    force = wish.by(caller)

    def plan(db: Session) -> accepted.Request:
        rows = [finding.volume(db, caller, volume) for volume in volumes]
        starter.require_free(db, "volume", *volumes)
        _require_new_name(db, template)
        locks = [("volume", row.id) for row in rows]
        for row in rows:
            if not row.carved:
                text = f"volume {row.name} is not carved yet"
                raise Conflict(text, code="volume-not-carved")
            if row.vm_id:
                starter.require(db, "capture a volume of", finding.vm(db, caller, row.vm_id))
                locks.append(("vm", row.vm_id))
        return starter.request(
            "capture_volume",
            template.id,
            template.name,
            template.datacenter_id,
            locks,
            template=template,
            volumes=volumes,
            wishes=wishes,
            virtual_datacenter_id=rows[0].virtual_datacenter_id,
            force=force,
        )

    def check() -> None:
        sizes = [cloud.inventory.volume(volume).size_mib for volume in volumes]
        uses = cloud.ledger.of_template(template, sum(map(most_mib, sizes)))
        require_within([uses], force)

    return starter.start(plan, check, wish=wish)


def _source(db: Session, caller: Caller, template: UUID) -> models.Template:
    """A template that volumes can be filled from. Raises `Conflict`."""
    row = finding.template(db, caller, template)
    if row.state is not TemplateState.AVAILABLE:
        text = f"template {row.name} is {row.state}"
        raise Conflict(text, code="template-not-available")
    require_images(db, row)
    return row


def _origin(db: Session, volume: models.VolumeRow) -> models.Template | None:
    """The template that a volume's content began as, where that is known."""
    disk, vm = models.VmDisk, models.VirtualMachine
    of_vm = select(vm.template_id).join(disk, disk.vm_id == vm.id)
    if known := db.scalars(of_vm.where(disk.volume_id == volume.id)).first():
        return db.get(models.Template, known)
    return template_with(db, volume.id)


def _instance(
    caller: Caller,
    name: str,
    request: UUID,
    vdc: models.VirtualDatacenter,
    origin: models.Template | None,
    master: UUID | None,
) -> NewTemplate:
    """A template to be, as an instance of the master that it comes from."""
    return NewTemplate(
        id=uuid5(request, "template"),
        enterprise_id=caller.enterprise_id,
        datacenter_id=vdc.datacenter_id,
        name=name,
        owner_id=caller.user_id,
        category=origin.category if origin else None,
        master_id=master,
        **({"cpu": origin.cpu, "ram_mib": origin.ram_mib} if origin else {}),
    )


def _names(name: str, disks: int) -> list[str]:
    names = [name, *(f"{name}-{position}" for position in range(1, disks))]
    if len(names[-1]) > NAME_LENGTH:
        text = f"a volume's name has at most {NAME_LENGTH} letters, unlike {names[-1]}"
        raise Conflict(text, code="name-too-long")
    return names


def _wishes(origin: models.Template | None) -> Wishes:
    """What VMs of the template need: as those of which it is an instance."""
    if origin is None:
        return Wishes()
    return Wishes(
        cpu=origin.cpu,
        ram_mib=origin.ram_mib,
        hardware=Hardware.model_validate(origin.hardware or {}),
        about=About.model_validate(origin.about or {}),
    )


def _require_new_name(db: Session, template: NewTemplate) -> None:
    """Refuse a name that another template of the enterprise has in the datacenter."""
    whose = {x: getattr(template, x) for x in ("enterprise_id", "datacenter_id", "name")}
    if db.scalars(select(models.Template).filter_by(**whose)).first():
        raise Conflict(f"there is a template called {template.name}", code="name-taken")
