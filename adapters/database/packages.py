"""Packages that were made of templates and VMs, and wait in a repository to be fetched."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import Base, table
from adapters.database.session import Database, utc_now
from adapters.types import Value

_DAY_S = 86_400


class PackageRow(Base):
    """A package; its id is that of the operation that made it.

    Nothing depends on it, and it goes by itself: it outlives its template, and its enterprise.
    """

    __tablename__ = "packages"
    __table_args__ = table(
        Index("ix_packages_of_enterprise", "enterprise_id", "created_at"),
        Index("ix_packages_of_enterprise_by_name", "enterprise_id", "name"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID]
    virtual_datacenter_id: Mapped[UUID | None]  # of a VM's
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    path: Mapped[str] = mapped_column(String(500))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class KeptPackage(Value):
    """A package in its repository."""

    id: UUID
    enterprise_id: UUID
    datacenter_id: UUID
    name: str  # of what it was made of
    path: str
    size_bytes: int
    digest: str
    virtual_datacenter_id: UUID | None = None


class Packages:
    """The packages that wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, package: KeptPackage) -> None:
        """Write a package down; there already is success."""
        with self._database.write() as db:
            if db.get(PackageRow, package.id) is None:
                db.add(PackageRow(**package.model_dump(), created_at=utc_now()))

    def has(self, package: UUID) -> bool:
        """Whether it is written down."""
        with self._database.read() as db:
            return db.get(PackageRow, package) is not None

    def forget(self, package: UUID) -> None:
        """Remove its row; absent is success."""
        with self._database.write() as db:
            db.execute(delete(PackageRow).where(PackageRow.id == package))

    def older_than(self, datacenter: UUID, days: float) -> list[KeptPackage]:
        """Those that were made so long ago, the oldest first."""
        query = select(PackageRow).where(
            PackageRow.datacenter_id == datacenter,
            PackageRow.created_at < utc_now(-days * _DAY_S),
        )
        with self._database.read() as db:
            return [kept(row) for row in db.scalars(query.order_by(PackageRow.created_at))]


def kept(row: PackageRow) -> KeptPackage:
    """The value of a row."""
    return KeptPackage(**{name: getattr(row, name) for name in KeptPackage.model_fields})
