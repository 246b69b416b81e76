"""A VM's NICs: attached to networks, and detached; while it is on, where its host can."""

from ipaddress import IPv4Address
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
from api.matching import Match
from api.networking import usable_networks
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.routers.vms import Nic, datacenter_of, tell_addresses, volume_locks
from flows.abilities import require_hot_nic
from flows.attach_nic import is_restricted
from flows.cloud import cloud

router = APIRouter(prefix="/vms", tags=["vms"])


class NicOfVm(BaseModel):
    """A NIC in a network, with an address that is picked, or the next one."""

    model_config = ConfigDict(extra="forbid")

    network: Name = Field(examples=["default"])
    address: IPv4Address | None = Field(None, examples=["10.0.0.9"])


@router.post(
    "/{vm_id}/nics",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def attach_nic(vm_id: UUID, wanted: NicOfVm, caller: Caller, starter: PlannedStarting) -> Response:
    """Attach a NIC to a VM: its address is reserved at once.

    One that is on gets the card while it runs (`plug-nic`), where its host can that. The guest's
    packets go on leaving by the NIC by which they did.
    """
    nic, asked = starter.chosen("nic", uuid4), list[NewNic]()

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "attach a NIC to", vm)
        appliance = db.get_one(models.Appliance, vm.appliance_id)
        networks = usable_networks(db, appliance.virtual_datacenter_id)
        if (network := networks.get(wanted.network)) is None:
            raise NotFound(f"there is no network {wanted.network}", code="unknown-network")
        new = NewNic(id=nic, network=network.id, address=wanted.address)
        asked.append(new)
        where, locks = datacenter_of(db, vm.appliance_id), volume_locks(db, [vm])
        return starter.request("attach_nic", vm.id, vm.name, where, locks, nic=new)

    def check() -> None:
        restricted = is_restricted(asked[0].network)
        require_hot_nic(cloud.inventory.vm(vm_id), restricted=restricted)

    return starter.start(plan, check, wish=wanted)


@router.get("/{vm_id}/nics/{nic_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_nic(vm_id: UUID, nic_id: UUID, caller: Caller) -> Nic:
    """Read one of a VM's NICs."""
    with cloud.database.read() as db:
        return _shown(db, _nic(db, finding.vm(db, caller, vm_id), nic_id))


@router.delete(
    "/{vm_id}/nics/{nic_id}",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CUSTOMISE_SETTINGS)],
)
def detach_nic(
    vm_id: UUID, nic_id: UUID, caller: Caller, starter: PlannedStarting, match: Match
) -> Response:
    """Detach a NIC of a VM: its address is free again.

    A guest that is on is asked to release the card (`pull-nic`), where its host can that; one that
    keeps it has it as before (`nic-in-use`). The one by which the guest's packets leave goes last.
    """

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        row = _nic(db, vm, nic_id)
        starter.require(db, "detach a NIC of", vm)
        others = select(models.NicRow.id).where(
            models.NicRow.vm_id == vm.id, models.NicRow.id != row.id
        )
        if row.is_default and db.scalars(others).first():
            raise Conflict(f"VM {vm.name} reaches others by this NIC", code="default-nic")
        where, locks = datacenter_of(db, vm.appliance_id), volume_locks(db, [vm])
        return starter.request("detach_nic", vm.id, vm.name, where, locks, nic=row.id)

    def unchanged(db: Session) -> None:
        match.require(db, _nic(db, finding.vm(db, caller, vm_id), nic_id), _shown)

    def check() -> None:
        vm = cloud.inventory.vm(vm_id)
        require_hot_nic(vm, restricted=vm.is_restricted(nic_id))

    return starter.start(plan, check, unchanged)


def _nic(db: Session, vm: models.VirtualMachine, nic: UUID) -> models.NicRow:
    row = db.get(models.NicRow, nic)
    if row is None or row.vm_id != vm.id:
        raise NotFound(f"there is no NIC {nic}")
    return row


def _shown(db: Session, row: models.NicRow) -> Nic:
    told = ("id", "network_id", "position", "mac", "is_default", "model")
    nic = Nic.model_validate({name: getattr(row, name) for name in told})
    tell_addresses(db, [nic])
    return nic
