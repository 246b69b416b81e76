"""NICs come and go: rows with addresses, and the tags of networks that they are the first in."""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import free_addresses
from adapters.database.appliances import new_mac
from adapters.database.records import VmRecord
from adapters.database.session import Database
from adapters.database.tags import free_tags, lock_networks, take_tags
from adapters.database.vms import whole_vms
from adapters.errors import NotFound, Refused, Unsupported
from adapters.guests import MOST_NICS
from adapters.lan import NetworkKind
from adapters.plugs import NewNic

Assign = Callable[[Session, Sequence[models.NicRow], UUID, Mapping[UUID, IPv4Address]], None]


class Cards:
    """NICs of VMs that exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, nic: NewNic, vm: UUID, assign: Assign) -> None:
        """Write a NIC down that a VM is to have more, its address being what `assign` gives it.

        It has the first place that is free: the others stay where their guest knows them. Where
        the VM is on a host, its network has a tag there from now on. Raises `Refused`.
        """
        self._database.alone(lambda db: _enter(db, nic, vm, assign))

    def foreseen(self, nic: NewNic, vm: UUID, assign: Assign, installation: UUID) -> VmRecord:
        """The VM as it would be with the NIC, which is written down and forgotten at once."""
        with self._database.write() as db:
            tried = db.begin_nested()
            _enter(db, nic, vm, assign)
            (found,) = whole_vms(db, models.VirtualMachine.id == vm, installation)
            tried.rollback()
        return found

    def strike(self, nic: UUID) -> None:
        """Remove a NIC's row, with what was its own; absent is success."""
        with self._database.write() as db:
            if (row := db.get(models.NicRow, nic)) is None:
                return
            networks = lock_networks(db, [row.vm_id])
            free_addresses(db, [nic])
            db.delete(row)
            free_tags(db, networks)

    def has(self, nic: UUID) -> bool:
        """Whether there is such a row."""
        with self._database.read() as db:
            return db.get(models.NicRow, nic) is not None


def _enter(db: Session, nic: NewNic, vm: UUID, assign: Assign) -> None:
    row = db.get_one(models.VirtualMachine, vm)
    appliance = db.get_one(models.Appliance, row.appliance_id)
    vdc = db.get_one(models.VirtualDatacenter, appliance.virtual_datacenter_id)
    db.get(models.Datacenter, vdc.datacenter_id, with_for_update=True)
    if db.get(models.NicRow, nic.id):
        return
    if (network := db.get(models.Network, nic.network)) is None:
        raise NotFound(f"there is no network {nic.network}", code="unknown-network")
    host = db.get(models.Host, row.host_id) if row.host_id else None
    if host and not host.uplink and network.kind != NetworkKind.RESTRICTED:
        text = f"host {host.name} has no uplink for networks"
        raise Unsupported(text, code="link-unsupported")
    others = db.scalars(select(models.NicRow.position).filter_by(vm_id=vm)).all()
    if len(others) >= MOST_NICS:
        raise Refused(f"VM {row.name} has {MOST_NICS} NICs", code="too-many-nics")
    card = models.NicRow(
        id=nic.id,
        vm_id=vm,
        network_id=nic.network,
        position=min({*range(MOST_NICS)} - {*others}),
        mac=new_mac(db, nic.id),
        model=nic.model or None,
        is_default=not others,
    )
    db.add(card)
    db.flush()
    assign(db, [card], vdc.id, {nic.id: nic.address} if nic.address else {})
    if host:
        take_tags(db, vdc.datacenter_id, lock_networks(db, [vm]), [vm])
