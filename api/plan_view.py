"""What the API says of a plan."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from adapters.amounts import Amounts, Level
from adapters.database.operations import Request
from adapters.database.plans import limits_after
from adapters.plans import Outlook
from adapters.types import Family, Format
from api.reports import Target
from flows.cloud import cloud

_VM, _HOST = "7c9e6679-7425-40de-944b-e07fc1f90ae7", "3f333df6-90a4-4fda-8dd3-9485d27cee36"
_EXAMPLE: dict[str, Any] = {
    "id": "5b1f7c1e-7d0f-4bb0-b5b5-7c0d3d5a2a11",
    "kind": "deploy_vm",
    "target": {"kind": "vm", "id": _VM, "name": "db"},
    "valid_until": "2026-11-22T12:15:00.000000Z",
    "needs_approval": False,
    "steps": [
        {"name": "charge-vms", "what": _VM, "lane": ""},
        {"name": "reserve-hosts", "what": _VM, "lane": ""},
    ],
    "placement": [
        {
            "vm": {"id": _VM, "name": "db"},
            "host": {"id": _HOST, "name": "kvm-1"},
            "datastore": {"id": "0d9a3f3e-27f1-4f5e-9a0a-0f1c9e0c1b22", "name": "/srv/vms"},
            "because": "kvm-1: room for 12 like it, the most (performance)",
            "others": {"kvm-2": "is in maintenance"},
        }
    ],
    "bytes_to_copy": 16777216,
    "copies": [{"what": "conversions/5f/0d9a3f3e.qcow2", "size_bytes": 16777216}],
    "disks": [],
    "limits": [],
}


class PlannedStep(BaseModel):
    """A step that would be taken: its name, and what of."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    what: str
    lane: str


class PlannedObject(BaseModel):
    """A VM, host or datastore of a plan, and what it is called."""

    id: UUID
    name: str


class Placement(BaseModel):
    """Where a VM would go, and why there; of some other hosts, why not."""

    vm: PlannedObject
    host: PlannedObject
    datastore: PlannedObject
    because: str
    others: dict[str, str]


class Copy(BaseModel):
    """Bytes that would be copied or converted."""

    model_config = ConfigDict(from_attributes=True)

    what: str
    size_bytes: int


class PlannedDisk(BaseModel):
    """A disk that would come, and what each family of hypervisors would be given of it."""

    model_config = ConfigDict(from_attributes=True)

    file: str
    format: Format
    virtual_size_mib: int
    becomes: dict[Family, str] = Field(description="Its own form: it boots as it is.")


class LimitAfter(BaseModel):
    """How a level of limits stands, and how it would afterwards; a limit of 0 is none."""

    model_config = ConfigDict(from_attributes=True)

    level: Level
    id: UUID
    soft: Amounts
    hard: Amounts
    used: Amounts
    after: Amounts


class Plan(BaseModel):
    """What an action would do. Its id, as `plan` of the same action, has that done, once."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    kind: str
    target: Target
    valid_until: datetime
    needs_approval: bool = Field(description="Whether it will wait until somebody approves.")
    steps: list[PlannedStep]
    placement: list[Placement]
    bytes_to_copy: int
    copies: list[Copy]
    disks: list[PlannedDisk] = Field(description="Of a package, or a set of VMDK files.")
    limits: list[LimitAfter]


def limits_of(db: Session, outlook: Outlook) -> list[LimitAfter]:
    """How limits would stand after a plan."""
    former = cloud.ledger.charged(outlook.charges)
    after = limits_after(db, outlook.charges, former)
    return [LimitAfter.model_validate(each) for each in after]


def plan_of(
    request: Request, outlook: Outlook, limits: list[LimitAfter], valid_until: datetime
) -> Plan:
    """A plan as it is shown."""
    return Plan(
        id=request.id,
        kind=request.kind,
        target=Target(kind=request.target_kind, id=request.target_id, name=request.target_name),
        valid_until=valid_until,
        needs_approval=request.waits_s is not None,
        steps=[PlannedStep.model_validate(each) for each in outlook.steps],
        placement=[
            Placement(
                vm=PlannedObject(id=vm, name=each.name),
                host=PlannedObject(id=each.host, name=each.host_name),
                datastore=PlannedObject(id=each.datastore, name=each.directory),
                because=each.because,
                others=each.others,
            )
            for vm, each in outlook.placement.items()
        ],
        bytes_to_copy=outlook.size_bytes,
        copies=[Copy.model_validate(each) for each in outlook.copies],
        disks=[PlannedDisk.model_validate(each) for each in outlook.disks],
        limits=limits,
    )
