"""VLAN tags of private networks: taken when a VM is first placed in one, freed with the last."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.vlans import FIRST, LAST, usable
from adapters.database.vms import parts
from adapters.errors import OutOfSpace, Transient

PRIVATE = "private"
_VM, _NIC, _NETWORK = models.VirtualMachine, models.NicRow, models.Network


def lock_networks(db: Session, vms: Sequence[UUID]) -> dict[UUID, models.Network]:
    """The private networks of these VMs, which nobody else places into, or frees, meanwhile."""
    found: set[UUID] = set()
    for some in parts(vms):
        query = select(_NIC.network_id).join(_NETWORK, _NETWORK.id == _NIC.network_id)
        found.update(db.scalars(query.where(_NIC.vm_id.in_(some), _NETWORK.kind == PRIVATE)))
    if not found:
        return {}
    rows = select(_NETWORK).where(_NETWORK.id.in_(found)).order_by(_NETWORK.id).with_for_update()
    return {row.id: row for row in db.scalars(rows.execution_options(populate_existing=True))}


def take_tags(
    db: Session, datacenter: UUID, networks: Mapping[UUID, models.Network], vms: Sequence[UUID]
) -> None:
    """Give each of these locked networks that has none a tag which all its hosts' racks carry.

    Raises `OutOfSpace`; `Transient` where one was given meanwhile that a rack does not carry.
    """
    if not networks:
        return
    db.flush()
    taken = tags_of(db, datacenter)
    for network in networks.values():
        possible = reduce(set.intersection, _carried(db, network.id, vms), rack_tags(None))
        if network.tag is None:
            if not (free := possible - taken):
                text = f"no VLAN is left for network {network.name} in the racks of its hosts"
                raise OutOfSpace(text, code="no-vlan")
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


def tags_of(db: Session, datacenter: UUID) -> set[int]:
    """All tags that a datacenter's networks have."""
    query = select(_NETWORK.tag).where(_NETWORK.datacenter_id == datacenter)
    return {tag for tag in db.scalars(query.where(_NETWORK.tag.is_not(None))) if tag is not None}


def rack_tags(rack: models.Rack | None) -> set[int]:
    """The tags that a rack carries; without a rack there is no limit."""
    if rack is None:
        return {*range(FIRST, LAST + 1)}
    return usable(rack.vlan_min, rack.vlan_max, rack.vlans_avoided)


def _carried(db: Session, network: UUID, vms: Collection[UUID]) -> Iterable[set[int]]:
    """For each rack with hosts of these VMs that are in the network, the tags it carries."""
    racks: set[UUID | None] = set()
    for some in parts([*vms]):
        query = (
            select(models.Host.rack_id)
            .join(_VM, _VM.host_id == models.Host.id)
            .join(_NIC, _NIC.vm_id == _VM.id)
            .where(_NIC.network_id == network, _VM.id.in_(some))
        )
        racks.update(db.scalars(query.distinct()))
    return [rack_tags(db.get_one(models.Rack, rack) if rack else None) for rack in racks]
