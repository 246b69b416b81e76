"""Remote repositories: indexes of packages on somebody else's servers, and what they list."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid5

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, delete, insert
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import Base, table
from adapters.database.labels import Labelled
from adapters.database.session import Database, utc_now
from adapters.errors import NotFound
from adapters.packages import RemotePackage
from adapters.types import Value

URL_LENGTH = 2000


class TemplateRepositoryRow(Labelled, Base):
    """An index, and whose it is; a secret of the same id has the login, where there is one.

    What it lists is installed in its datacenter, whose worker reads it.
    """

    __tablename__ = "template_repositories"
    __table_args__ = table(UniqueConstraint("enterprise_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    url: Mapped[str] = mapped_column(String(URL_LENGTH))
    created_at: Mapped[datetime]
    refreshed_at: Mapped[datetime | None]
    refreshed_by: Mapped[UUID | None]  # the operation that did


class RemotePackageRow(Base):
    """A package that a repository lists; its id follows from its address."""

    __tablename__ = "remote_packages"
    __table_args__ = table(Index("ix_remote_packages_by_name", "repository_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    repository_id: Mapped[UUID] = mapped_column(
        ForeignKey("template_repositories.id", ondelete="CASCADE")
    )
    url: Mapped[str] = mapped_column(String(URL_LENGTH))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(String(1000))
    category: Mapped[str]
    vendor: Mapped[str]
    version: Mapped[str]
    disk_format: Mapped[str] = mapped_column(String(64))
    size_mib: Mapped[int | None] = mapped_column(BigInteger)
    icon: Mapped[str] = mapped_column(String(URL_LENGTH))


class Remote(Value):
    """Where a repository's index is."""

    id: UUID
    url: str


class Repositories:
    """Remote repositories, as operations see them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remote(self, repository: UUID) -> Remote:
        """Where its index is. Raises `NotFound`."""
        with self._database.read() as db:
            row = db.get(TemplateRepositoryRow, repository)
            if row is None:
                raise NotFound(f"no template repository {repository}")
            return Remote(id=row.id, url=row.url)

    def refresh(
        self, repository: UUID, operation: UUID, packages: Sequence[RemotePackage]
    ) -> None:
        """It lists these packages, and no others: all at once."""
        rows = {package_id(repository, each.url): each for each in packages}
        with self._database.write() as db:
            row = db.get(TemplateRepositoryRow, repository, with_for_update=True)
            if row is None:
                raise NotFound(f"no template repository {repository}")
            db.execute(
                delete(RemotePackageRow).where(RemotePackageRow.repository_id == repository)
            )
            told = [
                {"id": key, "repository_id": repository, **each.model_dump()}
                for key, each in rows.items()
            ]
            if told:
                db.execute(insert(RemotePackageRow), told)
            row.refreshed_at, row.refreshed_by = utc_now(), operation

    def is_refreshed_by(self, repository: UUID, operation: UUID) -> bool:
        """Whether what it lists is what this operation has read."""
        with self._database.read() as db:
            row = db.get(TemplateRepositoryRow, repository)
            return row is not None and row.refreshed_by == operation


def package_id(repository: UUID, url: str) -> UUID:
    """The id of what a repository has at an address."""
    return uuid5(repository, url)
