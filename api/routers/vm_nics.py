"""A VM's NICs: attached to networks, and detached, while it is off."""

from ipaddress import IPv4Address
from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.errors import Conflict, NotFound
from adapters.plugs import NewNic
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Name
from api.networking import usable_networks
from api.permissions import needs
from api.reports import Operation
from api.routers.vms import datacenter_of, volume_locks
from api.starting import Starting

router = APIRouter(prefix="/vms", tags=["vms"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


class WantedNic(BaseModel):
    """A NIC in a network, with an address that is picked, or the next one."""

    model_config = ConfigDict(extra="forbid")

    network: Name = Field(examples=["default"])
    address: IPv4Address | None = Field(None, examples=["10.0.0.9"])


@router.post(
    "/{vm_id}/nics",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def attach_nic(vm_id: UUID, wanted: WantedNic, caller: Caller, starter: Starting) -> Response:
    """Attach a NIC to a VM that is off, or not deployed: its address is reserved at once."""
    nic = uuid4()

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "attach a NIC to", vm)
        appliance = db.get_one(models.Appliance, vm.appliance_id)
        networks = usable_networks(db, appliance.virtual_datacenter_id)
        if (network := networks.get(wanted.network)) is None:
            raise NotFound(f"there is no network {wanted.network}", code="unknown-network")
        new = NewNic(id=nic, network=network.id, address=wanted.address)
        where, locks = datacenter_of(db, vm.appliance_id), volume_locks(db, [vm])
        return starter.request("attach_nic", vm.id, vm.name, where, locks, nic=new)

    return starter.start(plan)


@router.delete(
    "/{vm_id}/nics/{nic_id}",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def detach_nic(vm_id: UUID, nic_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Detach a NIC of a VM that is off, or not deployed: its address is free again.

    The one by which the guest's packets leave goes last.
    """

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        nics = db.scalars(select(models.NicRow).filter_by(vm_id=vm.id)).all()
        row = next((each for each in nics if each.id == nic_id), None)
        if row is None:
            raise NotFound(f"there is no NIC {nic_id}")
        starter.require(db, "detach a NIC of", vm)
        if row.is_default and len(nics) > 1:
            raise Conflict(f"VM {vm.name} reaches others by this NIC", code="default-nic")
        where, locks = datacenter_of(db, vm.appliance_id), volume_locks(db, [vm])
        return starter.request("detach_nic", vm.id, vm.name, where, locks, nic=row.id)

    return starter.start(plan)
