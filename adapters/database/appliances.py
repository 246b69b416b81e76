"""What appliances are made of: VMs come and go with what is theirs alone."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.types import VolumeState


def strike(db: Session, vms: Iterable[models.VirtualMachine]) -> None:
    """Remove VMs that are not deployed, with what is only theirs; their volumes stay.

    Nobody depends on them any more: a later VM of the same name is another one.
    """
    struck: dict[UUID, set[str]] = {}
    for vm in vms:
        for volume in db.scalars(select(models.VolumeRow).filter_by(vm_id=vm.id)):
            volume.vm_id, volume.position, volume.state = None, 0, VolumeState.DETACHED
        for table in (models.NicRow, models.VmDisk):
            for row in db.scalars(select(table).filter_by(vm_id=vm.id)):
                db.delete(row)
        db.flush()
        struck.setdefault(vm.appliance_id, set()).add(vm.name)
        db.delete(vm)
    db.flush()
    others = select(models.VirtualMachine).where(models.VirtualMachine.appliance_id.in_(struck))
    for vm in db.scalars(others):
        gone = struck[vm.appliance_id]
        if gone & {*vm.depends_on}:
            vm.depends_on = [name for name in vm.depends_on if name not in gone]
    db.flush()
