"""Which way of converting is the fastest in a repository: measured once, then remembered."""

from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import Base
from adapters.database.session import Database
from adapters.forms import Form


class Way(Base):
    """How images are converted the fastest in a datacenter's repository: `form>form`."""

    __tablename__ = "ways"
    datacenter_id: Mapped[UUID] = mapped_column(
        ForeignKey("datacenters.id", ondelete="CASCADE"), primary_key=True
    )
    form: Mapped[str] = mapped_column(String(64), primary_key=True)
    way: Mapped[str] = mapped_column(String(64))


class Ways:
    """The ways of all datacenters."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, datacenter: UUID, has: Form, form: Form) -> str | None:
        """The fastest way from form to form; None before it was measured."""
        with self._database.read() as db:
            row = db.get(Way, (datacenter, _pair(has, form)))
            return row.way if row else None

    def remember(self, datacenter: UUID, has: Form, form: Form, way: str) -> None:
        """It was measured."""
        with self._database.write() as db:
            db.merge(Way(datacenter_id=datacenter, form=_pair(has, form), way=way))


def _pair(has: Form, form: Form) -> str:
    return f"{has.value}>{form.value}"
