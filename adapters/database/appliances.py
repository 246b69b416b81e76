"""What appliances are made of: VMs come and go with what is theirs alone."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.secrets import forget_unused
from adapters.types import VolumeState


def strike(db: Session, vms: Iterable[models.VirtualMachine]) -> None:
    """Remove VMs that are not deployed, with what is only theirs; their volumes stay."""
    given: list[UUID | None] = []
    for vm in vms:
        for volume in db.scalars(select(models.VolumeRow).filter_by(vm_id=vm.id)):
            volume.vm_id, volume.position, volume.state = None, 0, VolumeState.DETACHED
        for table in (models.NicRow, models.VmDisk):
            for row in db.scalars(select(table).filter_by(vm_id=vm.id)):
                db.delete(row)
        db.flush()
        given += [vm.user_data_id, vm.screen_id]
        db.delete(vm)
    db.flush()
    forget_unused(db, given)
