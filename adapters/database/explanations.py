"""What the database says should be on the backends, and what of it operations are at work on."""

import json
from collections.abc import Collection, Iterable, Iterator
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.locks import Locked, lock
from adapters.database.operations import ENDED
from adapters.database.packages import PackageRow
from adapters.database.session import Database
from adapters.lan import GUARDED, LinkKind
from adapters.types import Kind, Thing, VmState

_NOT_MADE = (VmState.NOT_ALLOCATED, VmState.ALLOCATED)


class Explanations:
    """Rows as the things that they stand for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def things(self, datacenter: UUID) -> set[Thing]:
        """Everything that a datacenter's rows explain; a thing is its kind, place and name."""
        with self._database.read() as db:
            return {
                *_on_hosts(db, datacenter),
                *_in_networks(db, datacenter),
                *_in_pools(db),
                *_in_library(db, datacenter),
            }

    def neighbours(self) -> dict[UUID, set[UUID]]:
        """Of each host, those that have a datastore of its own, too: they show the same files."""
        with self._database.read() as db:
            having = _having(db.scalars(select(models.Datastore))).values()
            every = set().union(*having)
            return {host: set().union(*(x for x in having if host in x)) for host in every}

    def under_way(self, but: UUID) -> str:
        """All that operations say which are not settled: whatever is named there is theirs."""
        unsettled = (
            or_(
                models.Operation.state.not_in(ENDED),
                models.Operation.due_at.is_not(None),
                models.Operation.runner_host.is_not(None),
            ),
            models.Operation.id != but,
        )
        operations = select(
            models.Operation.target_id, models.Operation.arguments, models.Operation.objects
        )
        steps = select(models.Step.key, models.Step.arguments, models.Step.result).join(
            models.Operation
        )
        locks = select(models.Lock.object_id).where(models.Lock.operation_id != but)
        with self._database.read() as db:
            told = [
                *db.execute(operations.where(*unsettled)),
                *db.execute(steps.where(*unsettled)),
                *db.execute(locks),
            ]
        return json.dumps([list(each) for each in told], default=str)

    def never_heard_of(self, ids: Collection[str]) -> list[str]:
        """Those that no operation which we remember was about."""
        with self._database.read() as db:
            return [each for each in ids if not _is_remembered(db, each)]

    def sent_here(self, transfers: Collection[str]) -> set[str]:
        """Those of these transfers that were begun at a gateway of ours."""
        keys = models.IdempotencyKey
        begun = select(keys.key).where(keys.route == "transfer", keys.key.in_(transfers))
        with self._database.read() as db:
            return set(db.scalars(begun))

    def hold(self, operation: UUID, thing: UUID) -> bool:
        """Lock a thing, or the VM whose disk it is, for an operation; False: another has it."""
        with self._database.write() as db:
            disk = db.get(models.VmDisk, thing)
            try:
                lock(db, operation, [("orphan", disk.vm_id if disk else thing)])
            except Locked:
                return False
            return True


def _is_remembered(db: Session, thing: str) -> bool:
    lines = select(models.Step.key).where(models.Step.key.endswith(f"[{thing}]", autoescape=True))
    if db.scalars(lines.limit(1)).first() is not None:
        return True
    about = select(models.Operation.id).where(models.Operation.target_id == UUID(thing))
    return db.scalars(about.limit(1)).first() is not None


def _on_hosts(db: Session, datacenter: UUID) -> list[Thing]:
    deployed = (
        select(models.VirtualMachine)
        .join(models.Host, models.Host.id == models.VirtualMachine.host_id)
        .where(models.Host.datacenter_id == datacenter)
        .where(models.VirtualMachine.state.not_in(_NOT_MADE))
    )
    vms = {row.id: row for row in db.scalars(deployed)}
    disks = select(models.VmDisk).where(models.VmDisk.volume_id.is_(None))
    copies = select(models.Claim.thing).where(models.Claim.thing.startswith("copy:")).distinct()
    stores = list(db.scalars(select(models.Datastore)))
    uuids, hosts = {store.id: store.uuid for store in stores}, _having(stores)

    def kept(kind: Kind, vm: UUID, name: UUID) -> Iterator[Thing]:
        """On the VM's datastore, which each host that has it shows."""
        row = vms[vm]
        store = uuids[row.datastore_id] if row.datastore_id else None
        for host in hosts.get(store, {row.host_id}):
            yield Thing(kind=kind, place=host, name=str(name))

    return [
        *(Thing(kind=Kind.VM, place=row.host_id, name=str(vm)) for vm, row in vms.items()),
        *(x for vm, row in vms.items() if row.user_data_id for x in kept(Kind.SEED, vm, vm)),
        *(
            x
            for disk in db.scalars(disks)
            if disk.vm_id in vms
            for x in kept(Kind.DISK, disk.vm_id, disk.id)
        ),
        *(
            Thing(kind=Kind.COPY, place=host, name=claim.split(":")[2])
            for claim in db.scalars(copies)
            for host in hosts.get(UUID(claim.split(":")[1]), ())
        ),
    ]


def _having(stores: Iterable[models.Datastore]) -> dict[UUID | None, set[UUID]]:
    """The hosts that have each datastore, by its `uuid`."""
    hosts: dict[UUID | None, set[UUID]] = {}
    for store in stores:
        hosts.setdefault(store.uuid, set()).add(store.host_id)
    return hosts


def _in_networks(db: Session, datacenter: UUID) -> list[Thing]:
    """Links that VMs claim, and guards of their cards in them, where there are any."""
    hosts = select(models.Host).where(models.Host.datacenter_id == datacenter)
    kinds = {row.id: row.link_kind or LinkKind.BRIDGE for row in db.scalars(hosts)}
    claims = select(models.Claim).where(models.Claim.thing.startswith("link:"))
    users = [(UUID(x.thing.split(":")[1]), x) for x in db.scalars(claims)]
    here = [(host, UUID(x.thing.split(":")[2]), x.holder) for host, x in users if host in kinds]
    nics = select(models.NicRow)
    cards: dict[tuple[UUID, str], list[UUID]] = {}
    for nic in db.scalars(nics) if here else ():
        cards.setdefault((nic.network_id, f"vm:{nic.vm_id}"), []).append(nic.id)
    return [
        *(Thing(kind=Kind.LINK, place=host, name=str(network)) for host, network, _ in here),
        *(
            Thing(kind=Kind.GUARD, place=host, name=str(nic))
            for host, network, holder in here
            if kinds[host] in GUARDED
            for nic in cards.get((network, holder), ())
        ),
    ]


def _in_pools(db: Session) -> list[Thing]:
    carved = {
        row.id: row.pool_id
        for row in db.scalars(select(models.VolumeRow).where(models.VolumeRow.carved))
    }
    return [
        *(Thing(kind=Kind.VOLUME, place=pool, name=str(each)) for each, pool in carved.items()),
        *(
            Thing(kind=Kind.EXPORT, place=carved[row.volume_id], name=str(row.id))
            for row in db.scalars(select(models.ExportRow))
            if row.volume_id in carved
        ),
    ]


def _in_library(db: Session, datacenter: UUID) -> list[Thing]:
    templates = select(models.Template.id).where(models.Template.datacenter_id == datacenter)
    conversions = select(models.Conversion.path).where(
        models.Conversion.datacenter_id == datacenter
    )
    packages = select(PackageRow.path).where(PackageRow.datacenter_id == datacenter)
    paths = (
        *(f"templates/{each}" for each in db.scalars(templates)),
        *map(_entry, db.scalars(conversions)),
        *db.scalars(packages),
    )
    return [Thing(kind=Kind.FILE, place=datacenter, name=path) for path in paths]


def _entry(path: str) -> str:
    """What the repository lists for a conversion: its file, or the folder of a set."""
    return "/".join(path.split("/")[:3])
