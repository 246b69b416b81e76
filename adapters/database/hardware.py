"""What VMs are made of: how much of what, and which disks; and how large volumes are.

What a host has to give more of is reserved under the datacenter's lock, as placing is.

What an operation writes here is idempotent, and undone by a call of its own.
"""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapters.allocation import Situation
from adapters.amounts import Amounts
from adapters.database import models, placing
from adapters.database.records import DiskRecord
from adapters.database.secrets import forget_unused
from adapters.database.session import Database
from adapters.database.vms import settings_of
from adapters.errors import NotFound
from adapters.types import Settings

Fits = Callable[[Amounts, Situation], None]


class Hardware:
    """CPUs, memory and disks of VMs, sizes of volumes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_vm(self, vm: UUID) -> Amounts:
        """A VM's CPUs and memory. Raises `NotFound`."""
        with self._database.read() as db:
            row = _vm(db, vm)
            return Amounts(cpu=row.cpu, ram_mib=row.ram_mib)

    def reserve(self, vm: UUID, datacenter: UUID, size: Amounts, fits: Fits) -> None:
        """Let a VM have this size; what its host has to give more of, `fits` may refuse.

        `fits` must not ask this database: as with placing, there might be no connection left.
        """

        def reserved(db: Session) -> None:
            db.get(models.Datacenter, datacenter, with_for_update=True)
            row = _vm(db, vm)
            now = size.model_copy(update={"cpu": row.cpu, "ram_mib": row.ram_mib})
            if row.host_id and (more := size.beyond(now)) != Amounts():
                fits(more, placing.situation(db, datacenter))
            row.cpu, row.ram_mib = size.cpu, size.ram_mib

        self._database.alone(reserved)

    def give_back(self, vm: UUID, size: Amounts) -> None:
        """Let a VM have this size, which is no more than it has."""
        with self._database.write() as db:
            row = _vm(db, vm)
            row.cpu, row.ram_mib = size.cpu, size.ram_mib

    def settings(self, vm: UUID) -> Settings:
        """A VM's settings. Raises `NotFound`."""
        with self._database.read() as db:
            return settings_of(_vm(db, vm))

    def set_up(self, vm: UUID, settings: Settings, not_needed: UUID | None = None) -> None:
        """Record how a VM is set up; that secret goes, unless a VM has it."""
        with self._database.write() as db:
            row = _vm(db, vm)
            row.boot, row.screen_id = [*settings.boot], settings.screen
            db.flush()
            forget_unused(db, [not_needed])

    def enter_disk(self, disk: DiskRecord, vm: UUID, datacenter: UUID, fits: Fits) -> None:
        """Write down a disk that a VM is to have more; `fits` may refuse it, as above."""

        def entered(db: Session) -> None:
            db.get(models.Datacenter, datacenter, with_for_update=True)
            row = _vm(db, vm)
            if db.get(models.VmDisk, disk.id):
                return
            if row.host_id:
                fits(Amounts(disk_mib=disk.size_mib), placing.situation(db, datacenter))
            what = disk.model_dump(include={"id", "position", "size_mib"})
            db.add(models.VmDisk(vm_id=vm, **what))

        self._database.alone(entered)

    def strike_disk(self, disk: UUID) -> None:
        """Remove a disk's row; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.VmDisk).where(models.VmDisk.id == disk))

    def has_disk(self, disk: UUID) -> bool:
        """Whether there is such a row."""
        with self._database.read() as db:
            return db.get(models.VmDisk, disk) is not None

    def set_volume(self, volume: UUID, size_mib: int) -> None:
        """Let a volume have this size, and the disks that it is, if any. Raises `NotFound`."""
        with self._database.write() as db:
            if (row := db.get(models.VolumeRow, volume)) is None:
                raise NotFound(f"no volume {volume}")
            row.size_mib = size_mib
            for disk in db.scalars(select(models.VmDisk).filter_by(volume_id=volume)):
                disk.size_mib = size_mib
            for its in db.scalars(select(models.TemplateDisk).filter_by(volume_id=volume)):
                its.virtual_size_mib = size_mib


def _vm(db: Session, vm: UUID) -> models.VirtualMachine:
    if (row := db.get(models.VirtualMachine, vm)) is None:
        raise NotFound(f"no vm {vm}")
    return row
