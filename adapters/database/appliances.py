"""What appliances are made of: VMs come and go with what is theirs alone, and are copied."""

from collections.abc import Iterable, Mapping
from typing import TypeVar
from uuid import UUID, uuid4

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.addressing import free_addresses
from adapters.database.conventions import Base
from adapters.database.labels import label
from adapters.database.secrets import copied, forget_unused
from adapters.lan import macs
from adapters.types import VmState, VolumeState

R = TypeVar("R", bound=Base)
_VM = models.VirtualMachine


def strike(db: Session, vms: Iterable[_VM]) -> None:
    """Remove VMs that are not deployed, with what is only theirs; their volumes stay.

    Nobody depends on them any more: a later VM of the same name is another one.
    """
    struck: dict[UUID, set[str]] = {}
    given: list[UUID | None] = []
    for vm in vms:
        for volume in db.scalars(select(models.VolumeRow).filter_by(vm_id=vm.id)):
            volume.vm_id, volume.position, volume.state = None, 0, VolumeState.DETACHED
        free_addresses(db, db.scalars(select(models.NicRow.id).filter_by(vm_id=vm.id)))
        for table in (models.NicRow, models.VmDisk):
            for row in db.scalars(select(table).filter_by(vm_id=vm.id)):
                db.delete(row)
        db.flush()
        struck.setdefault(vm.appliance_id, set()).add(vm.name)
        given += [vm.user_data_id, vm.screen_id]
        db.delete(vm)
    db.flush()
    forget_unused(db, given)
    for vm in db.scalars(select(_VM).where(_VM.appliance_id.in_(struck))):
        gone = struck[vm.appliance_id]
        if gone & {*vm.depends_on}:
            vm.depends_on = [name for name in vm.depends_on if name not in gone]
    db.flush()


def copy_vm(db: Session, vm: _VM, appliance: UUID, networks: Mapping[UUID, UUID]) -> UUID:
    """Write a VM down once more, not deployed, as one of another appliance.

    Its disks start from their images anew; its NICs are in `networks` instead of the former ones.
    """
    made = uuid4()
    fresh = {"state": VmState.NOT_ALLOCATED, "host_id": None, "datastore_id": None}
    own = {"user_data_id": copied(db, vm.user_data_id)}
    copy = _like(vm, id=made, appliance_id=appliance, leaving=False, **own, **fresh)
    db.add(copy)
    db.flush()
    label(db, copy, vm.labels)
    for disk in db.scalars(select(models.VmDisk).filter_by(vm_id=vm.id)).all():
        db.add(_like(disk, id=uuid4(), vm_id=made, base=None, volume_id=None))
    for nic in db.scalars(select(models.NicRow).filter_by(vm_id=vm.id)).all():
        there, card = networks[nic.network_id], uuid4()
        db.add(_like(nic, id=card, vm_id=made, network_id=there, mac=new_mac(db, card)))
        db.flush()
    return made


def copy_volume(
    db: Session, volume: models.VolumeRow, vm: UUID, vdc: UUID, pool: UUID, name: str
) -> None:
    """Write a volume of the same size down, for a VM, to be carved when that is deployed."""
    there = {"virtual_datacenter_id": vdc, "pool_id": pool, "vm_id": vm}
    copy = _like(volume, id=uuid4(), name=name, carved=False, **there)
    db.add(copy)
    db.flush()
    label(db, copy, volume.labels)


def new_mac(db: Session, nic: UUID) -> str:
    """A NIC's MAC: the first of its own that no NIC has."""
    taken = select(models.NicRow.id)
    return next(mac for mac in macs(nic) if db.scalar(taken.filter_by(mac=mac)) is None)


def _like(row: R, **different: object) -> R:
    """A row like this one, but for what is different; nothing is shared that is secret."""
    table = type(row)
    same = {
        each.key: getattr(row, each.key)
        for each in inspect(table).columns
        if not any(
            key.column.table.name == models.Secret.__tablename__ for key in each.foreign_keys
        )
    }
    return table(**{**same, **different})
