"""Templates as the API shows them: whole to their enterprise, as shared ones to the others."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.icons import icons_of
from adapters.packages import About, Hardware
from adapters.types import ConversionState, Format, TemplateState
from api import finding
from api.tokens import Caller


class Conversion(BaseModel):
    """An image in another format."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    format: Format
    subformat: str = Field(validation_alias="options", description="Empty: its usual one.")
    state: ConversionState
    path: str


class TemplateDisk(BaseModel):
    """One disk of a template: an image, or a volume where the template is persistent."""

    id: UUID
    position: int
    format: Format
    subformat: str
    digest: str
    path: str
    size_bytes: int
    virtual_size_mib: int
    volume_id: UUID | None
    conversions: list[Conversion]


class Template(BaseModel):
    """Images with their hardware wishes; packages tell more of these, and something of theirs."""

    id: UUID
    datacenter_id: UUID
    name: str
    state: TemplateState
    cpu: int
    ram_mib: int
    created_at: datetime
    hardware: Hardware | None
    about: About | None
    category: str | None
    icon_digest: str | None = Field(description="Of the picture that `/icon` has; null: none.")
    own: bool = Field(description="It is of the caller's enterprise, which alone changes it.")
    shared: bool = Field(description="Every enterprise sees it, and makes VMs of it.")
    owner_id: UUID | None = Field(description="The user whose it is; another enterprise's: null.")
    master_id: UUID | None = Field(
        description="The template that it is an instance of, where the caller sees that one."
    )
    instances: int = Field(description="Templates that are instances of it, and that one sees.")
    disks: list[TemplateDisk]
    labels: dict[str, str] = Field(description="Its own enterprise's: none for others.")


def templates_of(db: Session, caller: Caller, rows: Sequence[models.Template]) -> list[Template]:
    """Templates with their disks and conversions, however many, by a few queries."""
    ids = [row.id for row in rows]
    table = models.TemplateDisk
    disks = list(
        db.scalars(select(table).where(table.template_id.in_(ids)).order_by(table.position))
    )
    digests = models.Conversion.source_digest.in_({disk.digest for disk in disks})
    made: dict[tuple[UUID, str], list[Conversion]] = {}
    for each in db.scalars(select(models.Conversion).where(digests)):
        key = each.datacenter_id, each.source_digest
        made.setdefault(key, []).append(Conversion.model_validate(each))
    icons, masters = icons_of(db, ids), _seen(db, caller, {row.master_id for row in rows})
    instances = _instances(db, caller, ids)
    shown = []
    for row in rows:
        own = row.enterprise_id == caller.enterprise_id
        shown.append(
            Template(
                id=row.id,
                datacenter_id=row.datacenter_id,
                name=row.name,
                state=row.state,
                cpu=row.cpu,
                ram_mib=row.ram_mib,
                created_at=row.created_at,
                hardware=row.hardware and Hardware.model_validate(row.hardware),
                about=row.about and About.model_validate(row.about),
                category=row.category,
                icon_digest=icons.get(row.id),
                own=own,
                shared=row.shared,
                owner_id=row.owner_id if own else None,
                master_id=row.master_id if row.master_id in masters else None,
                instances=instances.get(row.id, 0),
                disks=[
                    _disk(disk, made.get((row.datacenter_id, disk.digest), []))
                    for disk in disks
                    if disk.template_id == row.id
                ],
                labels=row.labels if own else {},
            )
        )
    return shown


def template_of(db: Session, caller: Caller, row: models.Template) -> Template:
    """One template."""
    return templates_of(db, caller, [row])[0]


def _seen(db: Session, caller: Caller, ids: set[UUID | None]) -> set[UUID]:
    """Those of these templates that the caller sees."""
    table = models.Template
    wanted = ids - {None}
    query = finding.templates(caller).with_only_columns(table.id).where(table.id.in_(wanted))
    return {*db.scalars(query)} if wanted else set()


def _instances(db: Session, caller: Caller, masters: Sequence[UUID]) -> dict[UUID, int]:
    """How many instances of each the caller sees."""
    table = models.Template
    query = finding.templates(caller).where(table.master_id.in_(masters))
    counted = query.with_only_columns(table.master_id, func.count()).group_by(table.master_id)
    return {master: count for master, count in db.execute(counted) if master}


def _disk(row: models.TemplateDisk, conversions: list[Conversion]) -> TemplateDisk:
    return TemplateDisk(
        id=row.id,
        position=row.position,
        format=row.format,
        subformat=row.subformat,
        digest=row.digest,
        path=row.path,
        size_bytes=row.size_bytes,
        virtual_size_mib=row.virtual_size_mib,
        volume_id=row.volume_id,
        conversions=conversions,
    )
