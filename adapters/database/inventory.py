"""The inventory: hosts, pools, VMs and volumes; rows in, values out.

What an operation writes here is idempotent, keyed by the object it is about, and undone by a
call of its own.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Table,
    Update,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.allocation import Situation, Wish
from adapters.database import models, placing
from adapters.database.appliances import strike
from adapters.database.records import (
    HostLoad,
    HostRecord,
    PoolRecord,
    VmRecord,
    VolumeRecord,
)
from adapters.database.session import Database
from adapters.database.tags import free_tags, lock_networks, take_tags
from adapters.database.vms import parts, rows_having, uplink_of, volume_of, whole_vms
from adapters.errors import Conflict, NotFound
from adapters.plugs import Uplink
from adapters.types import (
    Base,
    Export,
    Target,
    VmState,
    VolumeState,
)

Chooser = Callable[[list[UUID], Situation], dict[UUID, tuple[UUID, UUID]]]
_VM = models.VirtualMachine
_STATE = select(_VM.state).where(_VM.id == bindparam("vm"))


@cache
def _change(table: Any) -> Update:
    """Made once a table; what is changed are the columns that values are given for."""
    made: Table = table.__table__
    return update(made).where(made.c.id == bindparam("key"))


class Inventory:
    """Everything that is, was asked for, or is reserved."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as db:
            self.installation = db.scalars(select(models.Installation.id)).one()

    # --- infrastructure -----------------------------------------------------------------------

    def host(self, host: UUID) -> HostRecord:
        """A host. Raises `NotFound`."""
        with self._database.read() as db:
            row = _get(db, models.Host, host)
            return HostRecord(**{name: getattr(row, name) for name in HostRecord.model_fields})

    def datastore(self, host: UUID, directory: str) -> UUID:
        """Which one that is: the same on all hosts that share it. Raises `NotFound`."""
        store = models.Datastore
        with self._database.read() as db:
            found = db.scalars(select(store.uuid).filter_by(host_id=host, directory=directory))
            if (uuid := found.first()) is None:
                raise NotFound(f"host {host} has no datastore {directory}")
            return uuid

    def pool(self, pool: UUID) -> PoolRecord:
        """A storage pool. Raises `NotFound`."""
        with self._database.read() as db:
            query = (
                select(models.StoragePool, models.StorageDevice)
                .join(models.StorageDevice)
                .where(models.StoragePool.id == pool)
            )
            if (found := db.execute(query).one_or_none()) is None:
                raise NotFound(f"no storage pool {pool}")
            row, device = found
            return PoolRecord(
                id=row.id,
                datacenter_id=device.datacenter_id,
                name=row.name,
                technology=device.technology,
                directory=row.directory,
                total_mib=row.total_mib,
                host=device.host,
                port=device.port,
                control=device.control,
            )

    def uplink(self, host: UUID) -> Uplink | None:
        """How a host has networks, if it has any. Raises `NotFound`."""
        with self._database.read() as db:
            return uplink_of(_get(db, models.Host, host))

    def pools(self, datacenter: UUID | None = None) -> tuple[UUID, ...]:
        """Every storage pool, or a datacenter's."""
        query = select(models.StoragePool.id).order_by(models.StoragePool.name)
        if datacenter:
            query = query.join(models.StorageDevice).filter_by(datacenter_id=datacenter)
        with self._database.read() as db:
            return tuple(db.scalars(query))

    def datacenter_name(self, datacenter: UUID) -> str:
        """A datacenter's name, which is its work pool's. Raises `NotFound`."""
        with self._database.read() as db:
            name: str = _get(db, models.Datacenter, datacenter).name
            return name

    def datacenter_called(self, name: str) -> UUID | None:
        """The datacenter of that name."""
        with self._database.read() as db:
            query = select(models.Datacenter.id).where(models.Datacenter.name == name)
            return db.scalars(query).one_or_none()

    def repository(self, datacenter: UUID) -> tuple[str, UUID]:
        """A datacenter's image repository: its directory and its marker."""
        with self._database.read() as db:
            row = _get(db, models.Datacenter, datacenter)
            return row.repository, row.repository_marker

    # --- VMs ----------------------------------------------------------------------------------

    def vm(self, vm: UUID) -> VmRecord:
        """A VM. Raises `NotFound`."""
        return self.vms([vm])[0]

    def vms(self, vms: Sequence[UUID]) -> list[VmRecord]:
        """These VMs, in this order, by few queries. Raises `NotFound`."""
        found: dict[UUID, VmRecord] = {}
        with self._database.read() as db:
            for some in parts(vms):
                found |= {vm.id: vm for vm in self._vms(db, models.VirtualMachine.id.in_(some))}
        if missing := [vm for vm in vms if vm not in found]:
            raise NotFound(f"no vm {missing[0]}")
        return [found[vm] for vm in vms]

    def vms_of(self, appliance: UUID) -> list[VmRecord]:
        """An appliance's VMs, in the blueprint's order."""
        with self._database.read() as db:
            return self._vms(db, models.VirtualMachine.appliance_id == appliance)

    def state(self, vm: UUID) -> VmState:
        """A VM's state. Raises `NotFound`."""
        with self._database.read() as db:
            if (state := db.scalar(_STATE, {"vm": vm})) is None:
                raise NotFound(f"no vm {vm}")
            return state

    def have_host(self, vms: Sequence[UUID]) -> bool:
        """Whether a host is reserved for any of these VMs."""
        with self._database.read() as db:
            return any(row.host_id for row in rows_having(db, _VM.id, vms))

    def _vms(self, db: Session, which: ColumnElement[bool]) -> list[VmRecord]:
        return whole_vms(db, which, self.installation)

    def loads(self, datacenter: UUID) -> list[HostLoad]:
        """Every host of a datacenter, with what is reserved there, and all of its datastores."""
        stores: dict[UUID, list[tuple[UUID, str]]] = {}
        with self._database.read() as db:
            for store in db.scalars(select(models.Datastore).order_by(models.Datastore.directory)):
                stores.setdefault(store.host_id, []).append((store.id, store.directory))
            return [
                HostLoad(
                    id=host.id,
                    name=host.name,
                    family=host.family,
                    cpu=host.cpu,
                    ram_mib=host.ram_mib,
                    cpu_reserved=host.cpu_reserved,
                    ram_reserved_mib=host.ram_reserved_mib,
                    datastores=tuple(stores.get(host.id, ())),
                )
                for host in placing.rooms(db, datacenter)
            ]

    def situation(self, datacenter: UUID, vms: Sequence[UUID] = ()) -> Situation:
        """What placing these VMs would have to go by now."""
        with self._database.read() as db:
            appliances = {row.appliance_id for row in rows_having(db, _VM.id, vms)}
            return placing.situation(db, datacenter, appliances)

    def wishes(self, vms: Sequence[UUID]) -> dict[UUID, Wish]:
        """What these VMs need of a host. Raises `NotFound`."""
        with self._database.read() as db:
            return placing.wishes(db, vms)

    def reserve(self, vms: Sequence[UUID], datacenter: UUID, choose: Chooser) -> None:
        """Reserve the hosts and datastores that `choose` picks, and VLANs there, all or none.

        One call of a datacenter at a time, of all processes, and no change of its hosts or rules
        meanwhile; a VM that has a host keeps it. Raises what `choose` raises, which must not ask
        this database: with all connections waiting here, it would be given none.
        """

        def reserved(db: Session) -> None:
            db.get(models.Datacenter, datacenter, with_for_update=True)
            networks = lock_networks(db, vms)
            rows = _having(db, models.VirtualMachine.id, vms)
            without = {row.id: row for row in rows if row.host_id is None}
            left = [vm for vm in vms if vm in without]
            if not left:
                return
            appliances = {row.appliance_id for row in without.values()}
            chosen = choose(left, placing.situation(db, datacenter, appliances))
            for vm, (host, datastore) in chosen.items():
                without[vm].host_id, without[vm].datastore_id = host, datastore
                without[vm].state = VmState.ALLOCATED
            take_tags(db, datacenter, networks, vms)

        self._database.alone(reserved)

    def free(self, vms: Sequence[UUID]) -> None:
        """Give the VMs' hosts back; their disks are overlays of nothing any more.

        The VLANs of networks that no other VM is in are free again.
        """
        with self._database.write() as db:
            networks = lock_networks(db, vms)
            for row in _having(db, models.VirtualMachine.id, vms):
                row.host_id = row.datastore_id = None
                row.state = VmState.NOT_ALLOCATED
            for disk in _having(db, models.VmDisk.vm_id, vms):
                disk.base = None
            free_tags(db, networks)

    def strike(self, vms: Sequence[UUID]) -> None:
        """Remove VMs; absent is success. Raises `Conflict` for one that still has a host."""
        with self._database.write() as db:
            rows = _having(db, _VM.id, vms)
            if held := [row.name for row in rows if row.host_id]:
                raise Conflict(f"VM {held[0]} still has a host", code="wrong-state")
            strike(db, rows)

    def are_there(self, vms: Sequence[UUID]) -> bool:
        """Whether there is any of these VMs."""
        with self._database.read() as db:
            return bool(rows_having(db, _VM.id, vms))

    def set_state(self, vm: UUID, state: VmState) -> None:
        """Record the VM's state."""
        self._set(models.VirtualMachine, vm, state=state)

    def set_base(self, disk: UUID, base: Base | None) -> None:
        """Record what the disk is an overlay of."""
        self._set(models.VmDisk, disk, base=base.model_dump(mode="json") if base else None)

    def _set(self, table: Any, key: UUID, **values: Any) -> None:
        with self._database.write() as db:
            change = db.execute(_change(table), {"key": key, **values})
            if not cast(CursorResult[Any], change).rowcount:
                _get(db, table, key)  # MySQL does not count what stays as it was

    # --- volumes ------------------------------------------------------------------------------

    def volume(self, volume: UUID) -> VolumeRecord:
        """A volume. Raises `NotFound`."""
        with self._database.read() as db:
            return volume_of(_get(db, models.VolumeRow, volume))

    def has_volume(self, volume: UUID) -> bool:
        """Whether there is such a row."""
        with self._database.read() as db:
            return db.get(models.VolumeRow, volume) is not None

    def enter_volume(self, volume: VolumeRecord) -> None:
        """Write a new volume down. Raises `Conflict` when its name is taken, `NotFound`."""
        with self._database.write() as db:
            if db.get(models.VolumeRow, volume.id):
                return
            _get(db, models.StoragePool, volume.pool_id)  # it may have gone since it was chosen
            try:
                with db.begin_nested():
                    db.add(models.VolumeRow(**volume.model_dump(), state=VolumeState.DETACHED))
            except IntegrityError as error:
                taken = f"there is a volume called {volume.name}"
                raise Conflict(taken, code="name-taken") from error

    def forget_volume(self, volume: UUID) -> None:
        """Remove a volume's row; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.VolumeRow).where(models.VolumeRow.id == volume))

    def set_carved(self, volume: UUID, *, carved: bool) -> None:
        """Record whether the volume is in its pool."""
        self._set(models.VolumeRow, volume, carved=carved)

    def assign(self, volume: UUID, vm: UUID, position: int) -> None:
        """Give a volume to a VM, as its disk at this position. Raises `Conflict`."""
        with self._database.write() as db:
            row = _get(db, models.VolumeRow, volume)
            if row.vm_id not in {None, vm}:
                raise Conflict(f"volume {row.name} is attached", code="volume-in-use")
            row.vm_id, row.position, row.state = vm, position, VolumeState.ATTACHED

    def unassign(self, volume: UUID) -> None:
        """Take a volume away from its VM."""
        with self._database.write() as db:
            row = _get(db, models.VolumeRow, volume)
            row.vm_id, row.position, row.state = None, 0, VolumeState.DETACHED

    def set_persistent(self, disk: UUID, volume: UUID | None) -> None:
        """Record the volume that is the disk from now on; None: the datastore's file is."""
        self._set(models.VmDisk, disk, volume_id=volume)

    def persistent_on(self, disk: UUID) -> UUID | None:
        """The volume that is the disk, if one is."""
        with self._database.read() as db:
            volume: UUID | None = _get(db, models.VmDisk, disk).volume_id
            return volume

    def enter_export(self, export: Export, target: Target) -> None:
        """Remember an export, so that its target can be rebuilt. Its secret has its id."""
        with self._database.write() as db:
            if db.get(models.ExportRow, export.id) is None:
                db.add(
                    models.ExportRow(
                        id=export.id,
                        volume_id=export.volume,
                        initiator=export.initiator,
                        secret_id=export.id,
                        target=target.model_dump(),
                    )
                )

    def forget_export(self, export: UUID) -> None:
        """Remove an export's row; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.ExportRow).where(models.ExportRow.id == export))

    def target(self, export: UUID) -> Target:
        """Where an initiator finds an exported volume. Raises `NotFound`."""
        with self._database.read() as db:
            return Target(**_get(db, models.ExportRow, export).target)

    def exports_of(self, pool: UUID, volume: UUID | None = None) -> list[Export]:
        """Every export of a pool's volumes, or of one of them."""
        query = (
            select(models.ExportRow)
            .join(models.VolumeRow, models.VolumeRow.id == models.ExportRow.volume_id)
            .where(models.VolumeRow.pool_id == pool)
            .order_by(models.ExportRow.id)
        )
        if volume:
            query = query.where(models.VolumeRow.id == volume)
        with self._database.read() as db:
            return [
                Export(
                    id=row.id,
                    volume=row.volume_id,
                    initiator=row.initiator,
                    installation=self.installation,
                )
                for row in db.scalars(query)
            ]


def _get(db: Session, table: type[Any], key: UUID) -> Any:
    if (row := db.get(table, key)) is None:
        raise NotFound(f"no {_noun(table)} {key}")
    return row


def _noun(table: type[Any]) -> str:
    name: str = table.__tablename__
    return name.rstrip("s").replace("_", " ")


def _having(db: Session, column: Any, keys: Sequence[UUID]) -> list[Any]:
    """The rows whose column has one of these, some hundreds at a time."""
    found: list[Any] = []
    for some in parts(keys):
        found += db.scalars(select(column.class_).where(column.in_(some)))
    return found
