"""Persistent templates: their disks are volumes, which one VM at a time boots from."""

from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.records import VolumeRecord
from adapters.database.session import Database
from adapters.database.vms import volume_of
from adapters.errors import Conflict, NotFound
from adapters.types import Format, TemplateState

_NO_FILE = {"size_bytes": 0, "modified_ns": 0, "inode": 0}


class PersistentTemplates:
    """Templates that have volumes where others have images."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def offer(self, template: UUID, volumes: list[UUID]) -> None:
        """These volumes are its disks, and filled: it is AVAILABLE. Raises `NotFound`."""
        with self._database.write() as db:
            row = db.get(models.Template, template, with_for_update=True)
            if row is None:
                raise NotFound(f"no template {template}")
            there = {disk.volume_id for disk in _disks(db, template)}
            for position, volume in enumerate(volumes):
                if volume not in there:
                    db.add(_disk(template, position, db.get_one(models.VolumeRow, volume)))
            row.state = TemplateState.AVAILABLE

    def volumes(self, template: UUID) -> list[VolumeRecord]:
        """The volumes that its disks are, in order; none where they are images."""
        with self._database.read() as db:
            return [volume_of(row) for row in volumes_of(db, template)]


def volumes_of(db: Session, template: UUID) -> list[models.VolumeRow]:
    """The volumes that a template's disks are, in order."""
    held = (disk.volume_id for disk in _disks(db, template))
    return [db.get_one(models.VolumeRow, volume) for volume in held if volume]


def template_with(db: Session, volume: UUID) -> models.Template | None:
    """The template of which a volume is a disk."""
    table = models.TemplateDisk
    query = select(models.Template).join(table, table.template_id == models.Template.id)
    return db.scalars(query.where(table.volume_id == volume)).first()


def master_of(db: Session, template: models.Template) -> UUID | None:
    """What a capture of its VMs is an instance of: a persistent one may go without it."""
    return template.master_id if volumes_of(db, template.id) else template.id


def is_of_volumes() -> ColumnElement[bool]:
    """Whether a template's disks are volumes, as a condition on its row."""
    table = models.TemplateDisk
    mine = select(table.id).where(table.template_id == models.Template.id)
    return mine.where(table.volume_id.is_not(None)).exists()


def require_no_templates(db: Session, volume: models.VolumeRow) -> None:
    """Refuse what is not done to a volume that is a template's disk. Raises `Conflict`."""
    if template := template_with(db, volume.id):
        text = f"volume {volume.name} is a disk of template {template.name}"
        raise Conflict(text, code="volume-in-use")


def require_images(db: Session, template: models.Template) -> None:
    """Refuse what is done with files of a template whose disks are volumes. Raises `Conflict`."""
    if volumes_of(db, template.id):
        text = f"the disks of template {template.name} are volumes"
        raise Conflict(text, code="template-persistent")


def _disks(db: Session, template: UUID) -> list[models.TemplateDisk]:
    table = models.TemplateDisk
    query = select(table).where(table.template_id == template).order_by(table.position)
    return list(db.scalars(query))


def _disk(template: UUID, position: int, volume: models.VolumeRow) -> models.TemplateDisk:
    """What it holds changes, so it has no digest; it is no file of the library's."""
    return models.TemplateDisk(
        id=volume.id,
        template_id=template,
        position=position,
        format=Format.RAW,
        subformat="",
        digest="",
        path="",
        size_bytes=0,
        virtual_size_mib=volume.size_mib,
        identity=_NO_FILE,
        volume_id=volume.id,
    )
