"""VMs read whole: each with its disks and their images, its NICs and its volumes.

Rows are read by column: as objects of the ORM a thousand VMs would take several times as long.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Network
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.library import image_of
from adapters.database.records import DiskRecord, VmRecord, VolumeRecord
from adapters.guests import MOST_NICS
from adapters.lan import LinkKind, NetworkKind, stateless
from adapters.plugs import Plug, Uplink
from adapters.types import Base, Nic, Settings

K = TypeVar("K")
_KEYS_A_QUERY = 500


def whole_vms(db: Session, which: ColumnElement[bool], installation: UUID) -> list[VmRecord]:
    """The VMs of which this holds, in the blueprint's order."""
    vdc = models.VirtualDatacenter
    query = (
        select(
            *models.VirtualMachine.__table__.c,
            models.Appliance.wait_for.label("all_wait_for"),
            vdc.id.label("virtual_datacenter_id"),
            vdc.datacenter_id,
            vdc.family,
            models.Datastore.directory,
            *(models.Host.uplink, models.Host.link_kind, models.Host.switch),
        )
        .join(models.Appliance, models.Appliance.id == models.VirtualMachine.appliance_id)
        .join(vdc)
        .outerjoin(models.Datastore, models.Datastore.id == models.VirtualMachine.datastore_id)
        .outerjoin(models.Host, models.Host.id == models.VirtualMachine.host_id)
        .where(which)
        .order_by(models.VirtualMachine.position)
    )
    rows = db.execute(query).all()
    ids = [row.id for row in rows]
    disks, nics = _by_vm(db, models.VmDisk, ids), _by_vm(db, models.NicRow, ids)
    used = {disk.template_disk_id for each in disks.values() for disk in each} - {None}
    images = {image.id: image for image in rows_having(db, models.TemplateDisk.id, [*used])}
    volumes = _by_vm(db, models.VolumeRow, ids)
    plugs = _plugs(db, nics)
    return [
        VmRecord(
            id=row.id,
            name=row.name,
            appliance_id=row.appliance_id,
            virtual_datacenter_id=row.virtual_datacenter_id,
            datacenter_id=row.datacenter_id,
            family=row.family,
            cpu=row.cpu,
            ram_mib=row.ram_mib,
            state=row.state,
            depends_on=tuple(row.depends_on),
            host_id=row.host_id,
            datastore=row.directory or "",
            disks=tuple(_disk(x, images.get(x.template_disk_id)) for x in disks.get(row.id, ())),
            nics=tuple(_nic(each) for each in nics.get(row.id, ())),
            volumes=tuple(volume_of(each) for each in volumes.get(row.id, ())),
            installation=installation,
            user_data=row.user_data_id,
            settings=settings_of(row),
            plugs=plugs.get(row.id, ()),
            uplink=uplink_of(row),
            wait_for=row.wait_for or row.all_wait_for,
        )
        for row in rows
    ]


def rows_having(db: Session, column: Any, keys: Sequence[UUID]) -> list[Any]:
    """The rows whose column has one of these, some hundreds at a time."""
    table = column.class_.__table__
    return [
        row for some in parts(keys) for row in db.execute(select(table).where(column.in_(some)))
    ]


def parts(keys: Sequence[K]) -> Iterator[Sequence[K]]:
    """As many keys as one query may have."""
    for start in range(0, len(keys), _KEYS_A_QUERY):
        yield keys[start : start + _KEYS_A_QUERY]


def settings_of(row: Any) -> Settings:
    """A VM's settings as a value."""
    said = {"boot": row.boot, "firmware": row.firmware, "system": row.guest_system}
    said = {name: each for name, each in said.items() if each}
    return Settings.model_validate({**said, "screen": row.screen_id, "bus": row.bus})


def uplink_of(row: Any) -> Uplink | None:
    """How a host has networks, if it has any."""
    if not row.uplink:
        return None
    kind = LinkKind(row.link_kind or LinkKind.BRIDGE)
    interface = row.uplink.rpartition("/")[2]  # the host's own word: where it is, its access says
    return Uplink(interface=interface, kind=kind, switch=row.switch)


def volume_of(row: Any) -> VolumeRecord:
    """A volume's row as a value."""
    return VolumeRecord(**{name: getattr(row, name) for name in VolumeRecord.model_fields})


def _by_vm(db: Session, table: Any, vms: Sequence[UUID]) -> dict[UUID, list[Any]]:
    """Rows of VMs, each VM's in their order."""
    found: dict[UUID, list[Any]] = {}
    for row in sorted(rows_having(db, table.vm_id, vms), key=lambda row: row.position):
        found.setdefault(row.vm_id, []).append(row)
    return found


def _plugs(db: Session, nics: dict[UUID, list[Any]]) -> dict[UUID, tuple[Plug, ...]]:
    """What VMs' NICs are plugged into: all but the restricted ones."""
    every = [nic for each in nics.values() for nic in each]
    rows = rows_having(db, models.Network.id, [*{nic.network_id for nic in every}])
    networks = {row.id: row for row in rows if row.kind != NetworkKind.RESTRICTED}
    plugged = [nic for nic in every if nic.network_id in networks]
    told = rows_having(db, models.AddressRow.nic_id, [nic.id for nic in plugged])
    addresses = {row.nic_id: row.address for row in told}
    found: dict[UUID, tuple[Plug, ...]] = {}
    for nic in plugged:
        network, address = networks[nic.network_id], addresses.get(nic.id)
        plug = Plug(
            nic=nic.id,
            network=network.id,
            tag=network.tag,
            mtu=network.mtu,
            server=network.dhcp_server_id,
            address=IPv4Address(address) if address else None,
            address6=stateless(IPv6Network(network.range6), nic.mac) if network.range6 else None,
        )
        found[nic.vm_id] = (*found.get(nic.vm_id, ()), plug)
    return found


def _nic(row: Any) -> Nic:
    place = row.position if row.position < MOST_NICS else None
    return Nic(id=row.id, mac=row.mac, model=row.model or "", place=place)


def _disk(row: Any, image: Any) -> DiskRecord:
    return DiskRecord(
        id=row.id,
        position=row.position,
        size_mib=row.size_mib,
        image=image_of(image) if image else None,
        base=Base(**row.base) if row.base else None,
        volume_id=row.volume_id,
    )
