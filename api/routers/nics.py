"""A VM's cards: attached to its networks, and detached, one by one."""

from ipaddress import IPv4Address
from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.errors import Conflict, NotFound
from adapters.lan import NetworkKind
from adapters.packages import WishedNic
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Name
from api.matching import Match
from api.networking import usable_networks
from api.permissions import needs
from api.reports import Operation
from api.routers.vms import Nic, datacenter_of, vms_of, volume_locks
from api.starting import Starting
from flows.cards import WrittenNic
from flows.cloud import cloud
from flows.policies.nics import nic_model

router = APIRouter(prefix="/vms", tags=["vms"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}
MOST = 8  # as many as a blueprint may say


class NewNic(BaseModel):
    """The network that a VM is to be in, too."""

    model_config = ConfigDict(extra="forbid")

    network: Name = Field(examples=["default"])
    address: IPv4Address | None = Field(None, description="Else the next one that is free.")
    model: str | None = Field(None, max_length=32, examples=["e1000"])


@router.post(
    "/{vm_id}/nics",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def attach_nic(vm_id: UUID, new: NewNic, caller: Caller, starter: Starting) -> Response:
    """Attach a card to a VM that is off, or not deployed: after those that it has."""
    nic = uuid4()

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "attach a card to", vm)
        appliance = db.get_one(models.Appliance, vm.appliance_id)
        network = usable_networks(db, appliance.virtual_datacenter_id).get(new.network)
        if network is None:
            raise NotFound(f"there is no network {new.network}", code="unknown-network")
        _require_place(db, vm, network)
        vdc = db.get_one(models.VirtualDatacenter, appliance.virtual_datacenter_id)
        wished = [WishedNic(model=new.model)] if new.model else []
        card = WrittenNic(
            id=nic,
            network_id=network.id,
            address=new.address,
            model=nic_model(vdc.family, wished, 0) or None,
        )
        where, locks = vdc.datacenter_id, volume_locks(db, [vm])
        return starter.request("attach_nic", vm.id, vm.name, where, locks, nic=card)

    return starter.start(plan)


@router.get("/{vm_id}/nics/{nic_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_nic(vm_id: UUID, nic_id: UUID, caller: Caller) -> Nic:
    """Read one of a VM's cards."""
    with cloud.database.read() as db:
        return _nic(db, finding.vm(db, caller, vm_id), nic_id)


@router.delete(
    "/{vm_id}/nics/{nic_id}",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def detach_nic(
    vm_id: UUID, nic_id: UUID, caller: Caller, starter: Starting, match: Match
) -> Response:
    """Detach a card from a VM that is off, or not deployed; its address is free then."""

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        nic = _nic(db, vm, nic_id)
        starter.require(db, "detach a card from", vm)
        where, locks = datacenter_of(db, vm.appliance_id), volume_locks(db, [vm])
        return starter.request("detach_nic", vm.id, vm.name, where, locks, nic=nic.id)

    def unchanged(db: Session) -> None:
        match.require_same(_nic(db, finding.vm(db, caller, vm_id), nic_id))

    return starter.start(plan, unchanged=unchanged)


def _nic(db: Session, vm: models.VirtualMachine, nic: UUID) -> Nic:
    found = next((each for each in vms_of(db, [vm])[0].nics if each.id == nic), None)
    if found is None:
        raise NotFound(f"there is no card {nic}")
    return found


def _require_place(db: Session, vm: models.VirtualMachine, network: models.Network) -> None:
    """Raise `Conflict` when the VM has as many cards as it may, or its host has no networks."""
    had = select(func.count()).select_from(models.NicRow).where(models.NicRow.vm_id == vm.id)
    if (db.scalar(had) or 0) >= MOST:
        text = f"VM {vm.name} has {MOST} cards, and may have no more"
        raise Conflict(text, code="too-many-nics")
    if vm.host_id and network.kind is not NetworkKind.RESTRICTED:
        host = db.get_one(models.Host, vm.host_id)
        if host.uplink is None:
            text = f"host {host.name} has no uplink for network {network.name}"
            raise Conflict(text, code="link-unsupported")
