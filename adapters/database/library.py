"""The library's rows: templates, their disks' images, and conversions of those."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from adapters.database import models
from adapters.database.icons import TemplateIcon
from adapters.database.records import Conversion, Image, Kept, NewTemplate
from adapters.database.session import Database, utc_now
from adapters.errors import Conflict, InUse, NotFound
from adapters.types import ConversionState, Identity, TemplateState

_NOTHING = Identity(size_bytes=0, modified_ns=0, inode=0)
_TOLD = 20  # users that a refusal names
_STATE_OF_ITS_TEMPLATE = (
    select(models.Template.state)
    .join(models.TemplateDisk, models.TemplateDisk.template_id == models.Template.id)
    .where(models.TemplateDisk.id == bindparam("image"))
)


def image_of(row: models.TemplateDisk) -> Image:
    """The value of a template disk's row."""
    return Image(
        id=row.id,
        format=row.format,
        subformat=row.subformat,
        digest=row.digest,
        path=row.path,
        virtual_size_mib=row.virtual_size_mib,
        identity=Identity(**row.identity),
    )


class Library:
    """Templates and conversions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter_template(self, template: NewTemplate) -> None:
        """Write a template down, DOWNLOADING. Raises `Conflict` when its name is taken.

        So it does when it is to be an instance of a master that is not there any more.
        """
        with self._database.write() as db:
            if db.get(models.Template, template.id):
                return
            if template.master_id:
                _require_staying(db, template.master_id)
            try:
                with db.begin_nested():
                    db.add(
                        models.Template(
                            **template.model_dump(),
                            state=TemplateState.DOWNLOADING,
                            created_at=utc_now(),
                        )
                    )
            except IntegrityError as error:
                taken = f"there is a template called {template.name}"
                raise Conflict(taken, code="name-taken") from error

    def template_state(self, template: UUID) -> TemplateState | None:
        """Its state, or None when there is no such template."""
        with self._database.read() as db:
            row = db.get(models.Template, template)
            return row.state if row else None

    def enterprise_called(self, name: str) -> UUID | None:
        """The enterprise of this name, or of this id, as a folder may be called."""
        table = models.Enterprise
        with self._database.read() as db:
            known = {row.name: row.id for row in db.execute(select(table.name, table.id))}
        return known.get(name) or next((x for x in known.values() if str(x) == name), None)

    def has_name(self, enterprise: UUID, datacenter: UUID, name: str) -> bool:
        """Whether an enterprise has a template of this name there."""
        within = {"enterprise_id": enterprise, "datacenter_id": datacenter, "name": name}
        with self._database.read() as db:
            return db.scalars(select(models.Template.id).filter_by(**within)).first() is not None

    def forget_template(self, template: UUID) -> None:
        """Remove a template's rows; absent is success."""
        with self._database.write() as db:
            for table in (models.TemplateDisk, TemplateIcon):
                db.execute(delete(table).where(table.template_id == template))
            db.execute(delete(models.Template).where(models.Template.id == template))

    def offer(self, template: UUID, images: list[Image]) -> None:
        """The images are in place: the template is AVAILABLE."""
        with self._database.write() as db:
            row = db.get(models.Template, template, with_for_update=True)
            if row is None:
                raise NotFound(f"no template {template}")
            for position, image in enumerate(images):
                fields: dict[str, Any] = image.model_dump(mode="python")
                fields["identity"] = image.identity.model_dump()
                db.merge(
                    models.TemplateDisk(
                        **fields,
                        template_id=template,
                        position=position,
                        size_bytes=image.identity.size_bytes,
                    )
                )
            row.state = TemplateState.AVAILABLE

    def withdraw(self, template: UUID) -> None:
        """Take the offer back: DOWNLOADING, without disks; absent is success."""
        with self._database.write() as db:
            db.execute(
                delete(models.TemplateDisk).where(models.TemplateDisk.template_id == template)
            )
            if row := db.get(models.Template, template):
                row.state = TemplateState.DOWNLOADING

    def retire(self, template: UUID) -> None:
        """It is DELETING: nothing is made of it any more. Raises `InUse` while something is."""
        with self._database.write() as db:
            row = db.get(models.Template, template, with_for_update=True)
            if row is None:
                raise NotFound(f"no template {template}")
            if told := [*_made_of(db, row)]:
                raise InUse(f"template {row.name} is in use by {told[0]}", users=told)
            row.state = TemplateState.DELETING

    def set_template_state(self, template: UUID, state: TemplateState) -> None:
        """It is what it was before; absent is success."""
        with self._database.write() as db:
            if row := db.get(models.Template, template):
                row.state = state

    def only_its(self, template: UUID) -> list[Image]:
        """The conversions of its images that no other template of its datacenter has."""
        mine, others = models.TemplateDisk, aliased(models.TemplateDisk)
        with self._database.read() as db:
            datacenter = db.get_one(models.Template, template).datacenter_id
            shared = (
                select(others.id)
                .join(models.Template, models.Template.id == others.template_id)
                .where(others.template_id != template, others.digest == mine.digest)
                .where(models.Template.datacenter_id == datacenter)
            )
            digests = select(mine.digest).where(mine.template_id == template, ~shared.exists())
            query = select(models.Conversion).where(
                models.Conversion.datacenter_id == datacenter,
                models.Conversion.source_digest.in_(digests),
            )
            return [_converted(row) for row in db.scalars(query.order_by(models.Conversion.id))]

    def images(self, template: UUID) -> list[Image]:
        """The images of a template's disks, in order. Raises `NotFound`."""
        query = (
            select(models.TemplateDisk)
            .where(models.TemplateDisk.template_id == template)
            .order_by(models.TemplateDisk.position)
        )
        with self._database.read() as db:
            if db.get(models.Template, template) is None:
                raise NotFound(f"no template {template}")
            return [image_of(row) for row in db.scalars(query)]

    def enqueue(self, conversion: Conversion) -> None:
        """Write a conversion down, unless it is known; a failed one is tried anew."""
        fresh = models.Conversion(
            id=conversion.id,
            datacenter_id=conversion.datacenter_id,
            source_digest=conversion.source.digest,
            format=conversion.format,
            options=conversion.options,
            state=ConversionState.ENQUEUED,
            path=conversion.path,
            digest="",
            identity={},
        )
        with self._database.write() as db:
            row = db.get(models.Conversion, conversion.id)
            if row is None:
                with suppress(IntegrityError), db.begin_nested():  # another may be first
                    db.add(fresh)
            elif row.state is ConversionState.FAILED:
                row.state = ConversionState.ENQUEUED

    def finish(self, conversion: Conversion, digest: str, identity: Identity) -> None:
        """The converted image is in place; one that nobody has enqueued stays unknown."""
        with self._database.write() as db:
            if row := db.get(models.Conversion, conversion.id):
                row.state, row.digest = ConversionState.FINISHED, digest
                row.identity = identity.model_dump()

    def give_up(self, conversion: Conversion) -> None:
        """It FAILED, unless it is FINISHED; absent is success."""
        with self._database.write() as db:
            row = db.get(models.Conversion, conversion.id)
            if row and row.state is not ConversionState.FINISHED:
                row.state = ConversionState.FAILED

    def conversions(self, datacenter: UUID) -> list[Image]:
        """A datacenter's finished conversions."""
        query = select(models.Conversion).where(
            models.Conversion.datacenter_id == datacenter,
            models.Conversion.state == ConversionState.FINISHED,
        )
        with self._database.read() as db:
            return [_converted(row) for row in db.scalars(query.order_by(models.Conversion.path))]

    def kept(self, datacenter: UUID) -> list[Kept]:
        """Everything that has been put in place, in an order that lasts."""
        templates = (
            select(models.TemplateDisk)
            .join(models.Template)
            .where(models.Template.datacenter_id == datacenter, models.TemplateDisk.path != "")
            .order_by(models.TemplateDisk.id)
        )
        conversions = select(models.Conversion).where(
            models.Conversion.datacenter_id == datacenter, models.Conversion.digest != ""
        )
        with self._database.read() as db:
            originals = [
                Kept(image=image_of(row), owner=row.template_id, is_conversion=False)
                for row in db.scalars(templates)
            ]
            made = [
                Kept(image=_converted(row), owner=row.id, is_conversion=True)
                for row in db.scalars(conversions.order_by(models.Conversion.id))
            ]
        return originals + made

    def vouch(self, kept: Kept, identity: Identity, *, offered: bool) -> None:
        """The file has its digest: it is known by this fingerprint, and may be offered (again)."""
        with self._database.write() as db:
            if kept.is_conversion and (conversion := db.get(models.Conversion, kept.id)):
                conversion.identity = identity.model_dump()
                if conversion.state is ConversionState.FAILED:
                    conversion.state = ConversionState.FINISHED
            elif disk := db.get(models.TemplateDisk, kept.id):
                disk.identity = identity.model_dump()
                template = db.get_one(models.Template, disk.template_id)
                if offered and template.state is TemplateState.ERROR:
                    template.state = TemplateState.AVAILABLE

    def condemn(self, kept: Kept) -> None:
        """The file is not what it was: a template is in ERROR, a conversion has FAILED.

        The digest stays: it tells the damaged file from one that another operation has made.
        """
        with self._database.write() as db:
            if kept.is_conversion and (conversion := db.get(models.Conversion, kept.owner)):
                conversion.state = ConversionState.FAILED
            elif (template := db.get(models.Template, kept.owner)) and (
                template.state is not TemplateState.DELETING
            ):
                template.state = TemplateState.ERROR

    def is_condemned(self, image: Image) -> bool:
        """Whether it is a template's own image, and that was found damaged."""
        with self._database.read() as db:
            return db.scalar(_STATE_OF_ITS_TEMPLATE, {"image": image.id}) is TemplateState.ERROR

    def is_offered(self, kept: Kept) -> bool:
        """Whether VMs may start from it."""
        with self._database.read() as db:
            if kept.is_conversion:
                conversion = db.get(models.Conversion, kept.owner)
                return conversion is not None and conversion.state is ConversionState.FINISHED
            template = db.get(models.Template, kept.owner)
            return template is not None and template.state is TemplateState.AVAILABLE

    def expected_digest(self, conversion: Conversion) -> str:
        """What the file had when it was finished; empty when it never was."""
        with self._database.read() as db:
            row = db.get(models.Conversion, conversion.id)
            return row.digest if row else ""

    def forget_conversion(self, conversion: UUID) -> None:
        """Remove a conversion's row; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.Conversion).where(models.Conversion.id == conversion))

    def converted(self, conversion: Conversion) -> Image | None:
        """The converted image, once it is FINISHED."""
        with self._database.read() as db:
            row = db.get(models.Conversion, conversion.id)
            if row is None or row.state is not ConversionState.FINISHED:
                return None
            return _converted(row, conversion.source.virtual_size_mib)


def _require_staying(db: Session, master: UUID) -> None:
    """Hold a master, so that it does not go before its instance is there."""
    row = db.get(models.Template, master, with_for_update={"read": True})
    if row is None or row.state is TemplateState.DELETING:
        text = f"there is no master {master} any more"
        raise Conflict(text, code="template-not-available")


def _made_of(db: Session, row: models.Template) -> Iterator[str]:
    """The VMs and instances of a template: its enterprise's by name, others' without one."""
    vms, instances = models.VirtualMachine, aliased(models.Template)
    of_vms = (
        select(vms.name, models.VirtualDatacenter.enterprise_id)
        .join(models.Appliance, models.Appliance.id == vms.appliance_id)
        .join(
            models.VirtualDatacenter,
            models.VirtualDatacenter.id == models.Appliance.virtual_datacenter_id,
        )
        .where(vms.template_id == row.id)
        .order_by(vms.name)
    )
    of_instances = (
        select(instances.name, instances.enterprise_id)
        .where(instances.master_id == row.id)
        .order_by(instances.name)
    )
    for kind, query in (("vm", of_vms), ("template", of_instances)):
        for name, enterprise in db.execute(query.limit(_TOLD)):
            own = enterprise == row.enterprise_id
            yield f"{kind} {name}" if own else f"a {kind} of another enterprise"


def _converted(row: models.Conversion, virtual_size_mib: int = 0) -> Image:
    """One that never was in place has no identity."""
    return Image(
        id=row.id,
        format=row.format,
        subformat=row.options,
        digest=row.digest,
        path=row.path,
        virtual_size_mib=virtual_size_mib,
        identity=Identity(**row.identity) if row.identity else _NOTHING,
    )
