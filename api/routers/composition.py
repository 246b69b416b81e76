"""What appliances are made of: VMs come and leave, also while the others are deployed.

An appliance is copied and moved, too, between the virtual datacenters of a datacenter.
"""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.appliances import strike
from adapters.database.events import tell
from adapters.database.locks import require_unlocked
from adapters.errors import Conflict
from adapters.privileges import Privilege
from adapters.types import VmState
from api import finding, moving
from api.blueprint import Blueprint, WantedVm
from api.composing import Composer
from api.dependencies import Caller, Key, Name, Once, Reference, once_without_secrets
from api.forcing import Forcing
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from api.protection import require_unprotected
from api.routers.appliances import Appliance, free_vms, require_undeployed, shown
from api.routers.vms import Vm, vms_of
from api.starting import Starter, Starting
from flows.cloud import cloud

router = APIRouter()


class ApplianceCopy(BaseModel):
    """What an appliance's copy is called, and where it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["shop-2"])
    virtual_datacenter: Reference | None = Field(
        None, description="Another one, of the same datacenter and family."
    )


class ApplianceMove(Forcing):
    """Where an appliance is to be."""

    virtual_datacenter: Reference = Field(description="Of the same datacenter and family.")


@router.post(
    "/appliances/{appliance_id}/vms",
    tags=["appliances"],
    status_code=201,
    responses={201: {"model": Appliance}},
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def add_vm(
    request: Request,
    appliance_id: UUID,
    wanted: WantedVm,
    caller: Caller,
    idempotency_key: Key = None,
) -> Response:
    """Add a VM, or replicas of it, as in a blueprint; they come up when it is deployed again."""
    once = once_without_secrets(request, caller, idempotency_key, wanted)
    table = models.VirtualMachine
    with cloud.database.read() as db:
        row = finding.appliance(db, caller, appliance_id)
        here = select(table.name).where(table.appliance_id == row.id, ~table.leaving)
        there = list(db.scalars(here))
        blueprint = Blueprint(
            appliance=row.name,
            virtual_datacenter=str(row.virtual_datacenter_id),
            vms=[wanted],
        )
    composer = Composer(caller, blueprint, there)

    def act(db: Session) -> Answer:
        row = finding.held(db, finding.appliance(db, caller, appliance_id))
        require_unlocked(db, "appliance", row.id)
        tell(db, "appliance.vms-added", row, vms=composer.add(db, row))
        body = shown(db, row).model_dump(mode="json")
        return Answer(201, body, f"/v1/appliances/{row.id}")

    return once.answer(act).response()


@router.delete(
    "/vms/{vm_id}",
    tags=["vms"],
    status_code=204,
    responses={200: {"model": Vm, "description": "It is deployed, and marked as leaving."}},
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def remove_vm(vm_id: UUID, caller: Caller, starter: Starting, match: Match) -> Response:
    """Remove a VM at once; or, where it is deployed, when its appliance is deployed again.

    Until then its appliance is NEEDS_SYNC, and the VM can be kept. Its volumes stay, detached.
    """

    def removed(db: Session) -> Vm | None:
        row = _held(db, caller, vm_id, starter)
        match.require_same(_shown(db, row))
        require_unprotected(db, "delete", [row])
        if row.state is VmState.NOT_ALLOCATED:
            tell(db, "vm.deleted", row)
            strike(db, [row])
            return None
        row.leaving = True
        tell(db, "vm.leaving", row)
        return _shown(db, row)

    marked = cloud.database.alone(removed)
    return JSONResponse(marked.model_dump(mode="json")) if marked else Response(status_code=204)


@router.post(
    "/vms/{vm_id}/keep",
    tags=["vms"],
    responses={200: {"model": Vm}},
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def keep(vm_id: UUID, caller: Caller, starter: Starting, once: Once) -> Response:
    """Let a VM stay that was to leave its appliance."""

    def act(db: Session) -> Answer:
        row = _held(db, caller, vm_id, starter)
        if not row.leaving:
            raise Conflict(f"VM {row.name} stays anyway", code="vm-not-leaving")
        row.leaving = False
        tell(db, "vm.kept", row)
        return Answer(200, _shown(db, row).model_dump(mode="json"))

    return once.answer(act).response()


@router.post(
    "/appliances/{appliance_id}/copy",
    tags=["appliances"],
    status_code=201,
    responses={201: {"model": Appliance}},
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def copy(
    appliance_id: UUID, wanted: ApplianceCopy, caller: Caller, starter: Starting, once: Once
) -> Response:
    """Describe an appliance once more: nothing is deployed, and no bytes are copied.

    The copy's disks start from their templates, its volumes are new ones of the same sizes and
    tiers, and its MACs are its own. A VM that boots from a volume cannot be copied.
    """
    with cloud.database.read() as db:
        free_vms(db, finding.appliance(db, caller, appliance_id), starter)
    copier = moving.Copier(caller, appliance_id, wanted.name, wanted.virtual_datacenter)

    def act(db: Session) -> Answer:
        row = finding.held(db, finding.appliance(db, caller, appliance_id))
        free_vms(db, row, starter)
        made = copier.write(db, row)
        tell(db, "appliance.copied", made, source={"id": row.id, "name": row.name})
        body = shown(db, made).model_dump(mode="json")
        return Answer(201, body, f"/v1/appliances/{made.id}")

    return once.answer(act).response()


@router.post(
    "/appliances/{appliance_id}/move",
    tags=["appliances"],
    responses={200: {"model": Appliance}},
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def move(
    appliance_id: UUID, wanted: ApplianceMove, caller: Caller, starter: Starting, once: Once
) -> Response:
    """Move an appliance that is not deployed, with its volumes, to another virtual datacenter."""
    force = wanted.by(caller)

    def act(db: Session) -> Answer:
        row = finding.held(db, finding.appliance(db, caller, appliance_id))
        vms = free_vms(db, row, starter)
        require_undeployed(row, vms)
        starter.require_free(db, "volume", *(each.id for each in moving.volumes_of(db, vms)))
        there = moving.destination(db, caller, row, wanted.virtual_datacenter)
        moving.move(db, row, vms, there, force)
        tell(db, "appliance.moved", row)
        return Answer(200, shown(db, row).model_dump(mode="json"))

    return once.answer(act).response()


def _held(db: Session, caller: Caller, vm: UUID, starter: Starter) -> models.VirtualMachine:
    """Find a VM, its appliance's row and its own locked; no operation has either."""
    row = finding.vm(db, caller, vm)
    finding.held(db, finding.appliance(db, caller, row.appliance_id))
    row = finding.held(db, row)
    starter.require_free(db, "appliance", row.appliance_id)
    starter.require_free(db, "vm", row.id)
    return row


def _shown(db: Session, row: models.VirtualMachine) -> Vm:
    return vms_of(db, [row])[0]
