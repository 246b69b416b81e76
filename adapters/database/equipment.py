"""What templates wish for their VMs, and say of themselves."""

from uuid import UUID

from adapters.database import models
from adapters.database.records import Image
from adapters.database.session import Database
from adapters.errors import NotFound
from adapters.packages import About, Wishes
from adapters.types import Value


class Described(Value):
    """A template as a package is made of it."""

    name: str
    enterprise_id: UUID
    wishes: Wishes
    images: list[Image]


class Equipment:
    """The wishes of templates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def equip(self, template: UUID, wishes: Wishes) -> None:
        """Write down what it wishes for, and says of itself. Raises `NotFound`."""
        with self._database.write() as db:
            row = db.get(models.Template, template)
            if row is None:
                raise NotFound(f"no template {template}")
            row.cpu, row.ram_mib = wishes.cpu or row.cpu, wishes.ram_mib or row.ram_mib
            row.hardware = wishes.hardware.model_dump(mode="json")
            if wishes.about != About():  # else what whoever imports it has said stays
                row.about = wishes.about.model_dump(mode="json")

    def strip(self, template: UUID) -> None:
        """Forget what it wishes for beside CPUs and memory; absent is success."""
        with self._database.write() as db:
            if row := db.get(models.Template, template):
                row.hardware = row.about = None

    def is_equipped(self, template: UUID) -> bool:
        """Whether more of its wishes is known than CPUs and memory."""
        with self._database.read() as db:
            row = db.get(models.Template, template)
            return row is not None and row.hardware is not None

    def described(self, template: UUID, images: list[Image]) -> Described:
        """What it is, to be told to others. Raises `NotFound`."""
        with self._database.read() as db:
            if (row := db.get(models.Template, template)) is None:
                raise NotFound(f"no template {template}")
            said = {name: getattr(row, name) for name in Wishes.model_fields}
            wishes = Wishes.model_validate({name: each for name, each in said.items() if each})
            whose = row.enterprise_id
            return Described(name=row.name, enterprise_id=whose, wishes=wishes, images=images)
