"""VMs' cards one by one: written down with an address and a VLAN, or struck with both."""

from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import free_addresses
from adapters.database.appliances import new_mac
from adapters.database.records import VmRecord
from adapters.database.tags import free_tags, lock_networks, take_tags
from adapters.errors import NotFound
from adapters.types import Value
from flows.addresses import reserve
from flows.cloud import cloud


class WrittenNic(Value):
    """A card that a VM is to have more, after those that it has."""

    id: UUID
    network_id: UUID
    address: IPv4Address | None = None  # else the next one
    model: str | None = None


def enter(nic: WrittenNic, vm: UUID) -> None:
    """Write a card down, with its address, and its network's VLAN where the VM has a host."""

    def entered(db: Session) -> None:
        row, datacenter, vdc = _held(db, vm)
        if db.get(models.NicRow, nic.id):
            return
        table = models.NicRow
        others = [*db.scalars(select(table.position).where(table.vm_id == vm))]
        card = table(
            id=nic.id,
            vm_id=vm,
            network_id=nic.network_id,
            position=max(others, default=-1) + 1,
            mac=new_mac(db, nic.id),
            model=nic.model,
            is_default=not others,
        )
        db.add(card)
        db.flush()
        reserve(db, [card], vdc, {nic.id: nic.address} if nic.address else {})
        if row.host_id:
            take_tags(db, datacenter, lock_networks(db, [vm]), [vm])

    cloud.database.alone(entered)


def strike(nic: UUID, vm: UUID) -> None:
    """Remove a card's row, its address, and the VLAN that nobody else needs; absent is success.

    The first of those that are left has the gateway then, if this one had it.
    """

    def struck(db: Session) -> None:
        if (card := db.get(models.NicRow, nic)) is None:
            return
        _held(db, vm)
        networks = lock_networks(db, [vm])
        free_addresses(db, [nic])
        had_gateway = card.is_default
        db.delete(card)
        db.flush()
        left = select(models.NicRow).filter_by(vm_id=vm).order_by(models.NicRow.position)
        if had_gateway and (first := db.scalars(left).first()):
            first.is_default = True
        free_tags(db, networks)

    cloud.database.alone(struck)


def is_there(nic: UUID) -> bool:
    """Whether there is such a row."""
    with cloud.database.read() as db:
        return db.get(models.NicRow, nic) is not None


def only(vm: VmRecord, nic: UUID) -> VmRecord:
    """The VM as if it had no other card."""
    cards = {"nics": tuple(x for x in vm.nics if x.id == nic)}
    return vm.model_copy(update={**cards, "plugs": tuple(x for x in vm.plugs if x.nic == nic)})


def without(vm: VmRecord, nic: UUID) -> VmRecord:
    """The VM without one of its cards."""
    cards = {"nics": tuple(x for x in vm.nics if x.id != nic)}
    return vm.model_copy(update={**cards, "plugs": tuple(x for x in vm.plugs if x.nic != nic)})


def _held(db: Session, vm: UUID) -> tuple[models.VirtualMachine, UUID, UUID]:
    """The VM's row, its datacenter, whose row is locked as placements do, and its VDC."""
    if (row := db.get(models.VirtualMachine, vm)) is None:
        raise NotFound(f"no vm {vm}")
    appliance = db.get_one(models.Appliance, row.appliance_id)
    vdc = db.get_one(models.VirtualDatacenter, appliance.virtual_datacenter_id)
    db.get(models.Datacenter, vdc.datacenter_id, with_for_update=True)
    return row, vdc.datacenter_id, vdc.id
