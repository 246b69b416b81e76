"""Appliances: given as a blueprint, deployed whole, taken away whole."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from adapters.database import models, uses
from adapters.database import operations as accepted
from adapters.database.appliances import strike
from adapters.database.events import tell
from adapters.errors import Conflict
from adapters.lan import WaitFor
from adapters.privileges import Privilege
from adapters.types import ApplianceState, OnFailure, VmState
from api import blueprint, finding
from api.blueprint import WAIT_FOR
from api.composing import Composer
from api.dependencies import Caller, Key, Name, Pages, chosen, once_without_secrets
from api.deploying import Deploying
from api.infrastructure import assign
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs, require
from api.planning import ANSWERS, PlannedStarting
from api.protection import require_unprotected
from api.reports import Operation
from api.routers.vms import Vm, datacenter_of, require_room, vms_of, volume_locks
from api.starting import Starting
from flows.cloud import cloud
from flows.policies.lifecycle import appliance_state

router = APIRouter(prefix="/appliances", tags=["appliances"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}
_SCHEMA = {"$ref": "#/components/schemas/Blueprint"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": _SCHEMA, "example": blueprint.EXAMPLE},
            "application/json": {"schema": _SCHEMA},
        },
    }
}


class Appliance(BaseModel):
    """A virtual appliance; its state follows from those of its VMs."""

    id: UUID
    name: str
    virtual_datacenter_id: UUID
    state: ApplianceState
    approval: bool
    wait_for: WaitFor | None
    created_at: datetime
    labels: dict[str, str]
    vms: list[Vm]


class Deployment(Deploying):
    """How an appliance is deployed."""

    on_failure: OnFailure = Field(
        OnFailure.UNDO,
        description="When a VM fails: `undo` all; or `keep` those that came up, and undo it alone,"
        " with those that depend on it.",
        examples=["keep"],
    )


class ApplianceChange(BaseModel):
    """What is to be different."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    approval: bool = Field(default=False, description="Deployments wait until somebody approves.")
    wait_for: WaitFor | None = Field(None, description=f"{WAIT_FOR} `null`: nothing is said.")


async def _content(request: Request) -> bytes:
    return await request.body()


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Appliance}},
    openapi_extra=_BODY,
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def create_appliance(
    request: Request,
    content: Annotated[bytes, Depends(_content)],
    caller: Caller,
    idempotency_key: Key = None,
) -> Response:
    """Create an appliance from a blueprint; nothing is deployed yet."""
    wanted = blueprint.read(content, request.headers.get("content-type", ""))
    once = once_without_secrets(request, caller, idempotency_key, wanted)
    composer = Composer(caller, wanted)

    def act(db: Session) -> Answer:
        composer.write(db)
        row = db.get_one(models.Appliance, composer.appliance)
        db.refresh(row)
        body = shown(db, row).model_dump(mode="json")
        return Answer(201, body, f"/v1/appliances/{row.id}")

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_appliances(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    virtual_datacenter_id: UUID | None = None,
) -> list[Appliance]:
    """List appliances."""
    query = finding.appliances(caller)
    query = chosen(query, name=name, virtual_datacenter_id=virtual_datacenter_id)
    query = sought.among(query, models.Appliance)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Appliance, "name", "created_at")
        return _appliances(db, rows)


@router.get("/{appliance_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_appliance(appliance_id: UUID, caller: Caller) -> Appliance:
    """Read an appliance."""
    with cloud.database.read() as db:
        return shown(db, finding.appliance(db, caller, appliance_id))


@router.patch("/{appliance_id}", dependencies=[needs(Privilege.VDC_MANAGE_VAPP)])
def change_appliance(
    appliance_id: UUID, change: ApplianceChange, caller: Caller, match: Match
) -> Appliance:
    """Rename it; ask for approval of deployments, or no more, which needs OPERATION_APPROVE."""
    wanted = change.model_dump(exclude_unset=True)

    def changed(db: Session) -> Appliance:
        row = finding.held(db, finding.appliance(db, caller, appliance_id))
        match.require_same(shown(db, row))
        if row.approval and not wanted.get("approval", True):
            require(caller, Privilege.OPERATION_APPROVE)
        try:
            with db.begin_nested():
                assign(row, wanted)
        except IntegrityError as error:
            text = f"there is an appliance called {change.name}"
            raise Conflict(text, code="name-taken") from error
        tell(db, "appliance.changed", row, **wanted)
        return shown(db, row)

    return cloud.database.alone(changed)


@router.delete(
    "/{appliance_id}",
    status_code=204,
    dependencies=[needs(Privilege.VDC_MANAGE_VAPP)],
)
def delete_appliance(appliance_id: UUID, caller: Caller, starter: Starting, match: Match) -> None:
    """Delete an appliance that is not deployed; its volumes stay, detached."""

    def deleted(db: Session) -> None:
        row = finding.held(db, finding.appliance(db, caller, appliance_id))
        match.require_same(shown(db, row))
        vms = free_vms(db, row, starter)
        require_undeployed(row, vms)
        require_unprotected(db, "delete", vms)
        tell(db, "appliance.deleted", row, vms=[vm.name for vm in vms])
        strike(db, vms)
        db.delete(row)

    cloud.database.alone(deleted)


@router.post(
    "/{appliance_id}/deploy",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_DEPLOY_UNDEPLOY)],
)
def deploy(
    appliance_id: UUID, caller: Caller, starter: PlannedStarting, how: Deployment | None = None
) -> Response:
    """Deploy all VMs that are not deployed yet, or none; or, if so asked, those that come up.

    VMs that leave are taken away once the others are up; what is up and stays is not touched.
    Where the appliance or its enterprise asks for approval, the operation is `waiting` for it.
    """
    wish = how or Deployment()
    force = wish.by(caller)
    with cloud.database.read() as db:
        row = finding.appliance(db, caller, appliance_id)
        datacenter = datacenter_of(db, row.id)
        wanted = [vm.id for vm in _new(_vms(db, row))]

    def plan(db: Session) -> accepted.Request:
        row = finding.appliance(db, caller, appliance_id)
        vms = free_vms(db, row, starter)
        new, leaving = _new(vms), [vm for vm in vms if vm.leaving]
        if not (new or leaving):
            raise Conflict(f"appliance {row.name} is deployed", code="wrong-state")
        require_unprotected(db, "delete", leaving)
        more: dict[str, Any] = {"leaving": [vm.id for vm in leaving]} if leaving else {}
        return starter.request(
            "sync_appliance" if leaving else "deploy_appliance",
            row.id,
            row.name,
            datacenter,
            [("vm", vm.id) for vm in vms] + volume_locks(db, vms),
            starter.waits_s(db, row.id),
            vms=[vm.id for vm in new],
            on_failure=wish.on_failure,
            force=force,
            **(wish.waits if new else {}),
            **more,
        )

    def check() -> None:
        if wanted:
            require_room(wanted, datacenter, force)

    return starter.start(plan, check, wish=wish)


@router.post(
    "/{appliance_id}/undeploy",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_DEPLOY_UNDEPLOY)],
)
def undeploy(appliance_id: UUID, caller: Caller, starter: PlannedStarting) -> Response:
    """Take all VMs off their hosts: their disks go, their volumes stay."""

    def plan(db: Session) -> accepted.Request:
        row = finding.appliance(db, caller, appliance_id)
        vms = free_vms(db, row, starter)
        deployed = [vm for vm in vms if vm.state is not VmState.NOT_ALLOCATED]
        if not deployed:
            raise Conflict(f"appliance {row.name} is not deployed", code="wrong-state")
        starter.require(db, "undeploy", *deployed)
        require_unprotected(db, "undeploy", deployed)
        locks = [("vm", vm.id) for vm in vms] + volume_locks(db, vms)
        return starter.request(
            "undeploy_appliance",
            row.id,
            row.name,
            datacenter_of(db, row.id),
            locks,
            vms=[vm.id for vm in deployed],
        )

    return starter.start(plan)


def _new(vms: Sequence[models.VirtualMachine]) -> list[models.VirtualMachine]:
    """Those that deploying the appliance brings up."""
    return [vm for vm in vms if vm.state is VmState.NOT_ALLOCATED and not vm.leaving]


def require_undeployed(row: models.Appliance, vms: Sequence[models.VirtualMachine]) -> None:
    """Raise `Conflict`, which names the VMs that are deployed."""
    deployed = [vm for vm in vms if vm.state is not VmState.NOT_ALLOCATED]
    if deployed:
        refusal = Conflict(f"appliance {row.name} is deployed", code="wrong-state")
        users = [uses.User(kind="vm", id=vm.id, name=vm.name) for vm in deployed[: uses.TOLD]]
        refusal.details = {"users": [each.model_dump(mode="json") for each in users]}
        raise refusal


def free_vms(db: Session, row: models.Appliance, starter: Starting) -> list[models.VirtualMachine]:
    """An appliance's VMs, if no operation has it or one of them."""
    vms = _vms(db, row)
    starter.require_free(db, "appliance", row.id)
    starter.require_free(db, "vm", *(vm.id for vm in vms))
    return vms


def _vms(db: Session, row: models.Appliance) -> list[models.VirtualMachine]:
    table = models.VirtualMachine
    query = select(table).where(table.appliance_id == row.id).order_by(table.position)
    return list(db.scalars(query))


def shown(db: Session, row: models.Appliance) -> Appliance:
    """An appliance with its VMs."""
    return _appliances(db, [row])[0]


def _appliances(db: Session, rows: Sequence[models.Appliance]) -> list[Appliance]:
    """Appliances with their VMs, however many, by a few queries."""
    table = models.VirtualMachine
    mine = select(table).where(table.appliance_id.in_([row.id for row in rows]))
    vms: dict[UUID, list[Vm]] = {row.id: [] for row in rows}
    mine = mine.order_by(table.position).options(selectinload(table.label_rows))
    for vm in vms_of(db, list(db.scalars(mine))):
        vms[vm.appliance_id].append(vm)
    return [
        Appliance(
            id=row.id,
            name=row.name,
            virtual_datacenter_id=row.virtual_datacenter_id,
            state=appliance_state(
                [vm.state for vm in vms[row.id]], leaving=any(vm.leaving for vm in vms[row.id])
            ),
            approval=row.approval,
            wait_for=row.wait_for and WaitFor(row.wait_for),
            created_at=row.created_at,
            labels=row.labels,
            vms=vms[row.id],
        )
        for row in rows
    ]
