"""The pictures of templates, in a table of their own: no list of templates reads them."""

from collections.abc import Iterable
from hashlib import sha256
from uuid import UUID

from sqlalchemy import ForeignKey, String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from adapters.database.conventions import LONG_BYTES, Base


class TemplateIcon(Base):
    """The picture of a template."""

    __tablename__ = "template_icons"
    template_id: Mapped[UUID] = mapped_column(ForeignKey("templates.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    png: Mapped[bytes] = mapped_column(LONG_BYTES)


def set_icon(db: Session, template: UUID, png: bytes | None) -> None:
    """Let a template have this picture, or none."""
    db.execute(delete(TemplateIcon).where(TemplateIcon.template_id == template))
    if png is not None:
        db.add(TemplateIcon(template_id=template, digest=sha256(png).hexdigest(), png=png))
    db.flush()


def icons_of(db: Session, templates: Iterable[UUID]) -> dict[UUID, str]:
    """The digests of these templates' pictures, by one query."""
    columns = (TemplateIcon.template_id, TemplateIcon.digest)
    query = select(*columns).where(TemplateIcon.template_id.in_([*templates]))
    return {row.template_id: row.digest for row in db.execute(query)}
