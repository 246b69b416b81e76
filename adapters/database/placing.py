"""What placement decides on: hosts with what is reserved on them, rules, and what VMs wish for.

Read by column, and in few queries: a placement reads it while others wait.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from adapters.allocation import (
    Fit,
    Load,
    Neighbour,
    Room,
    RuleKind,
    Rules,
    Situation,
    Store,
    Wish,
)
from adapters.database import models
from adapters.database.tags import TAKES_TAGS, tags_taken, usable_tags
from adapters.database.vms import parts
from adapters.errors import NotFound
from adapters.guests import Firmware
from adapters.lan import NetworkKind

_VM, _DISK, _STORE, _HOST = (
    models.VirtualMachine,
    models.VmDisk,
    models.Datastore,
    models.Host,
)


def situation(db: Session, datacenter: UUID, appliances: Iterable[UUID] = ()) -> Situation:
    """A datacenter's hosts and rules, and the VMs of these appliances that are placed."""
    rules = _rules(db, datacenter)
    hosts = rooms(db, datacenter)
    if rules.excluded:
        tenants = _tenants(db, datacenter)
        hosts = [x.model_copy(update={"tenants": tenants.get(x.id, frozenset())}) for x in hosts]
    return Situation(
        hosts=tuple(hosts), rules=rules, neighbours=tuple(_neighbours(db, {*appliances}))
    )


def rooms(db: Session, datacenter: UUID) -> list[Room]:
    """Every host, with what is reserved there; what its datastores have only it can say."""
    reserved = (
        select(_VM.host_id, func.sum(_VM.cpu).label("cpu"), func.sum(_VM.ram_mib).label("ram_mib"))
        .join(_HOST, _HOST.id == _VM.host_id)
        .where(_HOST.datacenter_id == datacenter)
        .group_by(_VM.host_id)
        .subquery()
    )
    query = (
        select(*_HOST.__table__.c, reserved.c.cpu.label("cpus"), reserved.c.ram_mib.label("ram"))
        .outerjoin(reserved, reserved.c.host_id == _HOST.id)
        .where(_HOST.datacenter_id == datacenter)
        .order_by(_HOST.name)
    )
    stores = _stores(db, datacenter)
    taken = tags_taken(db, datacenter)
    racks = {
        row.id: row
        for row in db.scalars(select(models.Rack).where(models.Rack.datacenter_id == datacenter))
    }
    tags = {rack: usable_tags(racks.values(), rack) for rack in (*racks, None)}
    return [
        Room(
            id=row.id,
            name=row.name,
            family=row.family,
            cpu=row.cpu,
            ram_mib=row.ram_mib,
            cpu_reserved=int(row.cpus or 0),
            ram_reserved_mib=int(row.ram or 0),
            stores=tuple(stores.get(row.id, ())),
            maintenance=row.maintenance,
            reserved_for=row.reserved_for_id,
            datacenter_id=datacenter,
            rack_id=row.rack_id,
            rack=racks[row.rack_id].name if row.rack_id else "",
            vlans_free=len(tags[row.rack_id] - taken) if row.rack_id else None,
            vlans=frozenset(tags[row.rack_id] & taken),
            unlinked="" if row.uplink else "has no uplink for networks",
        )
        for row in db.execute(query)
    ]


def wishes(db: Session, vms: Sequence[UUID]) -> dict[UUID, Wish]:
    """What these VMs wish for, in this order. Raises `NotFound`."""
    found: dict[UUID, Wish] = {}
    for some in parts(vms):
        local = (_DISK.vm_id.in_(some), _DISK.volume_id.is_(None))
        sizes = select(_DISK.vm_id, func.sum(_DISK.size_mib)).where(*local).group_by(_DISK.vm_id)
        disk_mib = {vm: int(size_mib) for vm, size_mib in db.execute(sizes)}
        nets = _networks(db, some)
        found |= {
            row.id: _wish(row, disk_mib.get(row.id, 0), nets.get(row.id, []))
            for row in db.execute(_wanted(some))
        }
    if missing := [vm for vm in vms if vm not in found]:
        raise NotFound(f"no vm {missing[0]}")
    return {vm: found[vm] for vm in vms}


def _wanted(vms: Sequence[UUID]) -> Select[Any]:
    vdc = models.VirtualDatacenter
    return (
        select(
            *(_VM.id, _VM.cpu, _VM.ram_mib, _VM.affinity, _VM.anti_affinity),
            _VM.firmware,
            *(vdc.family, vdc.enterprise_id, models.Tier.name.label("tier")),
        )
        .join(models.Appliance, models.Appliance.id == _VM.appliance_id)
        .join(vdc, vdc.id == models.Appliance.virtual_datacenter_id)
        .outerjoin(models.Tier, models.Tier.id == _VM.tier_id)
        .where(_VM.id.in_(vms))
    )


def _networks(db: Session, vms: Sequence[UUID]) -> dict[UUID, list[Any]]:
    """The networks of VMs, but for those that lead nowhere."""
    net, nic = models.Network, models.NicRow
    query = (
        select(nic.vm_id, net.id, net.tag, TAKES_TAGS.label("takes_tags"))
        .join(net, net.id == nic.network_id)
        .where(nic.vm_id.in_(vms), net.kind != NetworkKind.RESTRICTED)
        .distinct()
    )
    found: dict[UUID, list[Any]] = {}
    for row in db.execute(query):
        found.setdefault(row.vm_id, []).append(row)
    return found


def _wish(row: Any, disk_mib: int, networks: Sequence[Any]) -> Wish:
    own = [each.tag for each in networks if each.takes_tags]
    return Wish(
        linked=bool(networks),
        tagged=bool(own) or any(each.tag for each in networks),
        tags=frozenset(tag for tag in own if tag),
        vlans=own.count(None),
        family=row.family,
        cpu=row.cpu,
        ram_mib=row.ram_mib,
        disk_mib=disk_mib,
        enterprise=row.enterprise_id,
        tier=row.tier or "",
        affinity=row.affinity or "",
        anti_affinity=row.anti_affinity or "",
        firmware=row.firmware or Firmware.BIOS,
    )


def _stores(db: Session, datacenter: UUID) -> dict[UUID, list[Store]]:
    """Each host's enabled datastores; what is promised is summed over all that are the same."""
    here = aliased(_HOST)
    promised = (
        select(_STORE.uuid, func.sum(_DISK.size_mib).label("mib"))
        .join(_VM, _VM.datastore_id == _STORE.id)
        .join(_DISK, _DISK.vm_id == _VM.id)
        .join(here, here.id == _STORE.host_id)
        .where(here.datacenter_id == datacenter, _DISK.volume_id.is_(None))
        .group_by(_STORE.uuid)
    )
    promised_mib = {uuid: int(mib) for uuid, mib in db.execute(promised)}
    tier = models.Tier
    query = (
        select(_STORE, tier.name)
        .join(_HOST, _HOST.id == _STORE.host_id)
        .outerjoin(tier, tier.id == _STORE.tier_id)
        .where(_HOST.datacenter_id == datacenter, _STORE.enabled)
        .where(or_(tier.id.is_(None), tier.enabled))
        .order_by(_STORE.directory)
    )
    found: dict[UUID, list[Store]] = {}
    for row, name in db.execute(query):
        store = Store(
            id=row.id,
            uuid=row.uuid,
            directory=row.directory,
            tier=name or "",
            promised_mib=promised_mib.get(row.uuid, 0),
        )
        found.setdefault(row.host_id, []).append(store)
    return found


def _rules(db: Session, datacenter: UUID) -> Rules:
    """What is decided about this datacenter; its own fit goes before that of all."""
    table = models.AllocationRule
    fits: dict[UUID | None, Fit | None] = {}
    loads: dict[UUID, Load] = {}
    excluded: set[frozenset[UUID]] = set()
    restricted: set[UUID] = set()
    for row in db.scalars(select(table)):
        about = row.host_id or row.rack_id or row.datacenter_id
        if row.kind is RuleKind.FIT:
            fits[row.datacenter_id] = row.policy
        elif row.kind is RuleKind.LOAD and about:
            loads[about] = Load(cpu_percent=row.cpu_percent or 0, ram_percent=row.ram_percent or 0)
        elif row.enterprise_id and row.other_enterprise_id:
            excluded.add(frozenset({row.enterprise_id, row.other_enterprise_id}))
        elif row.enterprise_id:
            restricted.add(row.enterprise_id)
    return Rules(
        loads=loads,
        fit=fits.get(datacenter) or fits.get(None) or Fit.PERFORMANCE,
        excluded=frozenset(excluded),
        restricted=frozenset(restricted),
    )


def _tenants(db: Session, datacenter: UUID) -> dict[UUID, frozenset[UUID]]:
    vdc = models.VirtualDatacenter
    query = (
        select(_VM.host_id, vdc.enterprise_id)
        .join(models.Appliance, models.Appliance.id == _VM.appliance_id)
        .join(vdc, vdc.id == models.Appliance.virtual_datacenter_id)
        .where(vdc.datacenter_id == datacenter, _VM.host_id.is_not(None))
        .distinct()
    )
    found: dict[UUID, frozenset[UUID]] = {}
    for host, enterprise in db.execute(query):
        found[host] = found.get(host, frozenset()) | {enterprise}
    return found


def _neighbours(db: Session, appliances: set[UUID]) -> Iterable[Neighbour]:
    query = select(_VM.host_id, _VM.affinity, _VM.anti_affinity).where(
        _VM.appliance_id.in_(appliances),
        _VM.host_id.is_not(None),
        or_(_VM.affinity.is_not(None), _VM.anti_affinity.is_not(None)),
    )
    for host, near, apart in db.execute(query):
        yield Neighbour(host=host, affinity=near or "", anti_affinity=apart or "")
