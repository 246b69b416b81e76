"""VLAN tags of tenants' networks: taken when a VM is first placed in one, freed with the last.

They are taken and freed in the transaction that places VMs, or frees their hosts: what uses a tag
are the VMs that have a host.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.vlans import FIRST, LAST, usable, within
from adapters.database.vms import parts
from adapters.errors import OutOfSpace, Transient
from adapters.lan import NetworkKind

_VM, _NIC, _NETWORK = models.VirtualMachine, models.NicRow, models.Network
TAKES_TAGS = _NETWORK.kind.in_([NetworkKind.PRIVATE, NetworkKind.UNMANAGED]) & (
    _NETWORK.virtual_datacenter_id.is_not(None)
)


def lock_networks(db: Session, vms: Sequence[UUID]) -> dict[UUID, models.Network]:
    """The tenants' networks of these VMs, which nobody else places into, or frees, meanwhile."""
    found: set[UUID] = set()
    for some in parts(vms):
        query = select(_NIC.network_id).join(_NETWORK, _NETWORK.id == _NIC.network_id)
        found.update(db.scalars(query.where(_NIC.vm_id.in_(some), TAKES_TAGS)))
    if not found:
        return {}
    rows = select(_NETWORK).where(_NETWORK.id.in_(found)).order_by(_NETWORK.id).with_for_update()
    return {row.id: row for row in db.scalars(rows.execution_options(populate_existing=True))}


def take_tags(
    db: Session, datacenter: UUID, networks: Mapping[UUID, models.Network], vms: Sequence[UUID]
) -> None:
    """Give each of these locked networks that has none a tag which all its hosts may use.

    Raises `OutOfSpace`; `Transient` where one was given meanwhile that a host may not use.
    """
    if not networks:
        return
    db.flush()
    taken = tags_taken(db, datacenter)
    for network in networks.values():
        possible = reduce(set.intersection, _usable(db, datacenter, network.id, vms))
        if network.tag is None:
            if not (free := possible - taken):
                text = f"no VLAN is left for network {network.name} that all its hosts may use"
                raise OutOfSpace(text, code="no-vlan-left")
            network.tag = min(free)
            taken.add(network.tag)
        elif network.tag not in possible:
            raise Transient(f"network {network.name} has got VLAN {network.tag} meanwhile")


def free_tags(db: Session, networks: Mapping[UUID, models.Network]) -> None:
    """Take the tags of those locked networks away that no placed VM is in any more."""
    db.flush()
    for network in networks.values():
        used = select(func.count()).select_from(_NIC).join(_VM, _VM.id == _NIC.vm_id)
        if not db.scalar(used.where(_NIC.network_id == network.id, _VM.host_id.is_not(None))):
            network.tag = None


def tags_taken(db: Session, datacenter: UUID) -> set[int]:
    """The tags that any network of the datacenter has."""
    query = select(_NETWORK.tag).where(_NETWORK.datacenter_id == datacenter)
    return {tag for tag in db.scalars(query) if tag}


def usable_tags(racks: Iterable[models.Rack], rack: UUID | None) -> set[int]:
    """The tags that a rack's hosts may use; those in no rack, what no rack has."""
    by_id = {each.id: each for each in racks}
    if rack is not None:
        own = by_id[rack]
        return usable(own.vlan_min, own.vlan_max, own.vlans_avoided)
    others = (within(each.vlan_min, each.vlan_max) for each in by_id.values())
    return {*within(FIRST, LAST)}.difference(*others)


def _usable(
    db: Session, datacenter: UUID, network: UUID, vms: Sequence[UUID]
) -> Iterable[set[int]]:
    """The tags that the hosts of these VMs may use, by rack."""
    racks: set[UUID | None] = set()
    for some in parts(vms):
        query = (
            select(models.Host.rack_id)
            .join(_VM, _VM.host_id == models.Host.id)
            .join(_NIC, _NIC.vm_id == _VM.id)
            .where(_NIC.network_id == network, _VM.id.in_(some))
        )
        racks.update(db.scalars(query.distinct()))
    every = db.scalars(select(models.Rack).filter_by(datacenter_id=datacenter)).all()
    return [usable_tags(every, rack) for rack in racks]
