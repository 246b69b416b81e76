"""The ledger: what is charged for what exists, and the limits that charging keeps within.

A charge has the key of what it is for, so that charging and refunding can be repeated. Charging
locks the enterprise, which all levels lie within, and sums what is charged: use is never kept
beside the charges that it is the sum of. A refund only makes room, and locks nothing but its row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast
from uuid import UUID, uuid5

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    Select,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from adapters.amounts import Amounts, Charge, Force, Level, Standing
from adapters.database import models
from adapters.database.conventions import Base, table
from adapters.database.events import Severity, acting, tell
from adapters.database.records import NewTemplate, VolumeRecord
from adapters.database.session import Database
from adapters.database.vms import parts
from adapters.errors import NotFound

Decide = Callable[[list[Standing]], bool]
Require = Callable[[Standing], None]
Key = tuple[Level, UUID]  # a level, and which of its kind
_VDC = models.VirtualDatacenter
_VM = models.VirtualMachine
_HOLDERS: dict[Level, type[Base]] = {
    Level.ENTERPRISE: models.Enterprise,
    Level.DATACENTER: models.Datacenter,
    Level.VIRTUAL_DATACENTER: models.VirtualDatacenter,
}
_RESOURCES = tuple(Amounts.model_fields)
_TOLD = 100  # things that an event names
_ACCOUNT = ("enterprise_id", "datacenter_id", "virtual_datacenter_id")


class Limit(Base):
    """The limits of one level; a level without a row has none."""

    __tablename__ = "limits"
    id: Mapped[UUID] = mapped_column(primary_key=True)  # follows from the enterprise and whose
    level: Mapped[str] = mapped_column(String(24))
    enterprise_id: Mapped[UUID] = mapped_column(
        ForeignKey("enterprises.id", ondelete="CASCADE"), index=True
    )
    datacenter_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("datacenters.id", ondelete="CASCADE")
    )
    virtual_datacenter_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("virtual_datacenters.id", ondelete="CASCADE")
    )
    soft: Mapped[dict[str, Any]]
    hard: Mapped[dict[str, Any]]

    @property
    def holder(self) -> UUID:
        """Whose limits they are: an enterprise's, or its own in a datacenter, or a VDC's."""
        return self.virtual_datacenter_id or self.datacenter_id or self.enterprise_id


class ChargeRow(Base):
    """A charge; `forced_by` and `forced_because` where it has passed a soft limit."""

    __tablename__ = "charges"
    __table_args__ = table(Index("ix_charges_account", *_ACCOUNT, *_RESOURCES))
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID]
    datacenter_id: Mapped[UUID]
    virtual_datacenter_id: Mapped[UUID | None]
    cpu: Mapped[int] = mapped_column(BigInteger)
    ram_mib: Mapped[int] = mapped_column(BigInteger)
    disk_mib: Mapped[int] = mapped_column(BigInteger)
    storage_mib: Mapped[int] = mapped_column(BigInteger)
    vlans: Mapped[int] = mapped_column(BigInteger)
    public_addresses: Mapped[int] = mapped_column(BigInteger)
    repository_mib: Mapped[int] = mapped_column(BigInteger)
    forced_by: Mapped[str | None]
    forced_because: Mapped[str | None]


_CHARGES = cast(Table, ChargeRow.__table__)
_AMOUNTS = tuple(_CHARGES.c[name] for name in _RESOURCES)


class Ledger:
    """All charges and all limits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- charges ------------------------------------------------------------------------------

    def charge(
        self, charges: Sequence[Charge], decide: Decide, force: Force | None = None
    ) -> None:
        """Charge all of these, or none; a thing that is charged already is charged this instead.

        `decide` is told how each level stands that has limits, and raises what it refuses with.
        Where it answers that force was needed, the charges keep whose it was, and why.
        """
        with self._database.write() as db:
            for enterprise in sorted({each.enterprise_id for each in charges}):
                _lock(db, enterprise)
            former = _charged(db, charges)
            fits = decide(_standings(db, charges, former))
            changed = [each for each in charges if each not in former]
            _strike(db, changed)
            _write(db, changed, None if fits else force)
            if force and changed and not fits:
                _tell_forced(db, changed, force)

    def lower(self, charges: Sequence[Charge]) -> None:
        """Charge less for these things: that always fits, and what was forced stays so."""
        with self._database.write() as db:
            for each in charges:
                mine = (_CHARGES.c.kind == each.kind) & (_CHARGES.c.id == each.id)
                db.execute(update(_CHARGES).where(mine).values(each.amounts.model_dump()))

    def refund(self, kind: str, ids: Sequence[UUID]) -> None:
        """Charge these things no more; what is not charged stays so."""
        with self._database.write() as db:
            for some in parts(ids):
                db.execute(delete(ChargeRow).where(ChargeRow.kind == kind, ChargeRow.id.in_(some)))

    def has(self, kind: str, ids: Sequence[UUID]) -> bool:
        """Whether any of these things is charged."""
        with self._database.read() as db:
            return any(db.execute(x).first() is not None for x in _rows(_CHARGES.c.id, kind, ids))

    def charged(self, charges: Sequence[Charge]) -> list[Charge]:
        """What the things of these charges are charged by now; those that are."""
        with self._database.read() as db:
            return _charged(db, charges)

    def preview(self, charges: Sequence[Charge]) -> list[Standing]:
        """How each level that has limits would stand; nobody is kept from changing it."""
        with self._database.read() as db:
            return _standings(db, charges, _charged(db, charges))

    # --- what there is to charge --------------------------------------------------------------

    def of_vms(self, vms: Sequence[UUID]) -> list[Charge]:
        """What deployed VMs use: CPUs, memory, and their local disks."""
        disks = (
            select(models.VmDisk.vm_id, func.sum(models.VmDisk.size_mib).label("size"))
            .where(models.VmDisk.volume_id.is_(None))
            .group_by(models.VmDisk.vm_id)
        )
        found = []
        with self._database.read() as db:
            for some in parts(vms):
                local = disks.where(models.VmDisk.vm_id.in_(some)).subquery()
                query = (
                    select(_VM.id, _VM.cpu, _VM.ram_mib, local.c.size, *_account())
                    .join(models.Appliance, models.Appliance.id == _VM.appliance_id)
                    .join(_VDC, _VDC.id == models.Appliance.virtual_datacenter_id)
                    .outerjoin(local, local.c.vm_id == _VM.id)
                    .where(_VM.id.in_(some))
                )
                for vm, cpu, ram_mib, disk, *account in db.execute(query):
                    amounts = Amounts(cpu=cpu, ram_mib=ram_mib, disk_mib=int(disk or 0))
                    found.append(_charge("vm", vm, account, amounts))
        return found

    def of_volumes(self, volumes: Iterable[VolumeRecord]) -> list[Charge]:
        """What volumes use once they are carved."""
        with self._database.read() as db:
            return [_of_volume(db, each) for each in volumes]

    @staticmethod
    def of_template(template: NewTemplate, size_mib: int) -> Charge:
        """What a template uses in its datacenter's repository."""
        account = [template.enterprise_id, template.datacenter_id, None]
        return _charge("template", template.id, account, Amounts(repository_mib=size_mib))

    def uncarved(self, vms: Sequence[UUID]) -> list[Charge]:
        """What the volumes of these VMs will use that are only written down yet."""
        with self._database.read() as db:
            query = select(models.VolumeRow).where(models.VolumeRow.carved.is_(False))
            rows = [
                row
                for some in parts(vms)
                for row in db.scalars(query.where(models.VolumeRow.vm_id.in_(some)))
            ]
            return [_of_volume(db, row) for row in rows]

    # --- limits -------------------------------------------------------------------------------

    def set_limits(
        self,
        enterprise: UUID,
        whose: Key,
        soft: Amounts,
        hard: Amounts,
        require: Callable[[Standing, Amounts, Amounts], None],
    ) -> None:
        """Limit a level from now on, unless `require` refuses, knowing how it stands."""
        level, holder = whose
        with self._database.write() as db:
            _lock(db, enterprise)
            require(standings(db, enterprise, [whose])[0], soft, hard)
            key = limits_id(enterprise, whose)
            row = db.get(Limit, key)
            if row is None:
                row = Limit(id=key, level=level, enterprise_id=enterprise, soft={}, hard={})
                if level is Level.DATACENTER:
                    row.datacenter_id = holder
                if level is Level.VIRTUAL_DATACENTER:
                    row.virtual_datacenter_id = holder
                db.add(row)
            row.soft, row.hard = soft.model_dump(), hard.model_dump()
            about = db.get(_HOLDERS[level], holder)
            tell(db, "limits.changed", about, level=level, soft=row.soft, hard=row.hard)

    def lift_limits(self, enterprise: UUID, whose: Key, require: Require) -> None:
        """Limit a level no more, unless `require` refuses, knowing how it stands."""
        level, holder = whose
        with self._database.write() as db:
            _lock(db, enterprise)
            require(standings(db, enterprise, [whose])[0])
            if row := db.get(Limit, limits_id(enterprise, whose)):
                db.delete(row)
                tell(db, "limits.lifted", db.get(_HOLDERS[level], holder), level=level)


def limits_id(enterprise: UUID, whose: Key) -> UUID:
    """The id of a level's limits: two that set them at once mean the same row."""
    level, holder = whose
    return uuid5(enterprise, f"{level}/{holder}")


def standings(db: Session, enterprise: UUID, whose: Sequence[Key]) -> list[Standing]:
    """How these levels of an enterprise stand, with their limits or without."""
    rows = select(Limit).where(Limit.id.in_([limits_id(enterprise, each) for each in whose]))
    limits = {(Level(row.level), row.holder): row for row in db.scalars(rows)}
    used = _used(db, enterprise)
    found = []
    for level, holder in whose:
        row = limits.get((level, holder))
        found.append(
            Standing(
                level=level,
                id=holder,
                soft=Amounts(**row.soft) if row else Amounts(),
                hard=Amounts(**row.hard) if row else Amounts(),
                used=used.get((level, holder), Amounts()),
            )
        )
    return found


def _lock(db: Session, enterprise: UUID) -> None:
    query = select(models.Enterprise.id).where(models.Enterprise.id == enterprise)
    if db.scalar(query.with_for_update()) is None:
        raise NotFound(f"no enterprise {enterprise}")


def _standings(db: Session, charges: Sequence[Charge], former: Sequence[Charge]) -> list[Standing]:
    """How the levels that limit these charges stand, each with how much more is asked for."""
    asked, had = _by_level(charges), _by_level(former)
    levels: defaultdict[UUID, dict[Key, None]] = defaultdict(dict)
    for each in charges:
        levels[each.enterprise_id] |= dict.fromkeys(each.holders.items())
    found = []
    for enterprise, keys in levels.items():
        for standing in standings(db, enterprise, _limited(db, enterprise, keys)):
            key = (standing.level, standing.id)
            more = asked[enterprise, key].beyond(had.get((enterprise, key), Amounts()))
            found.append(standing.model_copy(update={"more": more}))
    return found


def _by_level(charges: Sequence[Charge]) -> dict[tuple[UUID, Key], Amounts]:
    found: defaultdict[tuple[UUID, Key], Amounts] = defaultdict(Amounts)
    for each in charges:
        for key in each.holders.items():
            found[each.enterprise_id, key] += each.amounts
    return found


def _limited(db: Session, enterprise: UUID, keys: Iterable[Key]) -> list[Key]:
    """Those that have limits: without any, nothing has to be summed."""
    ids = {limits_id(enterprise, key): key for key in keys}
    found = set(db.scalars(select(Limit.id).where(Limit.id.in_(ids))))
    return [key for each, key in ids.items() if each in found]


def _used(db: Session, enterprise: UUID) -> dict[Key, Amounts]:
    """What each level of an enterprise uses, by one query that an index answers alone."""
    account = (ChargeRow.datacenter_id, ChargeRow.virtual_datacenter_id)
    query = (
        select(*account, *(func.sum(each) for each in _AMOUNTS))
        .where(ChargeRow.enterprise_id == enterprise)
        .group_by(*account)
    )
    used: defaultdict[Key, Amounts] = defaultdict(Amounts)
    for datacenter, vdc, *sums in db.execute(query):
        amounts = Amounts(**dict(zip(_RESOURCES, map(int, sums), strict=True)))
        used[Level.ENTERPRISE, enterprise] += amounts
        used[Level.DATACENTER, datacenter] += amounts
        if vdc:
            used[Level.VIRTUAL_DATACENTER, vdc] += amounts
    return used


def _charged(db: Session, charges: Sequence[Charge]) -> list[Charge]:
    return [
        Charge(
            **{name: getattr(row, name) for name in Charge.model_fields if name != "amounts"},
            amounts=Amounts(**{name: getattr(row, name) for name in _RESOURCES}),
        )
        for kind, ids in _kinds(charges).items()
        for query in _rows(_CHARGES, kind, ids)
        for row in db.execute(query)
    ]


def _strike(db: Session, charges: Sequence[Charge]) -> None:
    for kind, ids in _kinds(charges).items():
        for some in parts(ids):
            db.execute(delete(_CHARGES).where(_CHARGES.c.kind == kind, _CHARGES.c.id.in_(some)))


def _kinds(charges: Sequence[Charge]) -> dict[str, list[UUID]]:
    found: defaultdict[str, list[UUID]] = defaultdict(list)
    for each in charges:
        found[each.kind].append(each.id)
    return found


def _rows(what: Any, kind: str, ids: Sequence[UUID]) -> Iterator[Select[Any]]:
    """The queries for these things' charges, some hundreds at a time."""
    for some in parts(ids):
        yield select(what).where(_CHARGES.c.kind == kind, _CHARGES.c.id.in_(some))


def _write(db: Session, charges: Sequence[Charge], force: Force | None) -> None:
    """Write the charges down; what was forced is recorded here, in the same transaction."""
    rows = [
        {
            **each.model_dump(exclude={"amounts"}),
            **each.amounts.model_dump(),
            "forced_by": force.by if force else None,
            "forced_because": force.reason if force else None,
        }
        for each in charges
    ]
    if rows:
        db.execute(insert(_CHARGES), rows)


def _tell_forced(db: Session, charges: Sequence[Charge], force: Force) -> None:
    """Say who has passed a soft limit, and why: of the narrowest level that they all lie in."""
    level, holder = list(charges[0].holders.items())[-1]
    what = [f"{each.kind}:{each.id}" for each in charges[:_TOLD]]
    with acting(force.by):
        about = db.get(_HOLDERS[level], holder)
        tell(db, "limits.forced", about, Severity.WARNING, reason=force.reason, charged=what)


def _account() -> tuple[Any, ...]:
    return _VDC.enterprise_id, _VDC.datacenter_id, _VDC.id


def _of_volume(db: Session, volume: Any) -> Charge:
    vdc = volume.virtual_datacenter_id
    account = db.execute(select(*_account()).where(_VDC.id == vdc)).one_or_none()
    if account is None:
        raise NotFound(f"no virtual datacenter {vdc}")
    return _charge("volume", volume.id, list(account), Amounts(storage_mib=volume.size_mib))


def _charge(kind: str, what: UUID, account: Sequence[UUID | None], amounts: Amounts) -> Charge:
    enterprise, datacenter, vdc = account
    return Charge(
        kind=kind,
        id=what,
        enterprise_id=cast(UUID, enterprise),
        datacenter_id=cast(UUID, datacenter),
        virtual_datacenter_id=vdc,
        amounts=amounts,
    )
