"""What a template's record says: name, category, picture, notes, whose it is, who sees it."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import tell
from adapters.database.icons import TemplateIcon, set_icon
from adapters.database.people import User
from adapters.database.persistent import require_images
from adapters.errors import Conflict, NotFound
from adapters.guests import Bus, Firmware
from adapters.packages import MAX_CPU, MAX_RAM_MIB, About, Expected, Hardware
from adapters.png import MAX_BYTES, require_png
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Name
from api.matching import Match
from api.permissions import needs
from api.starting import Starting
from api.template_view import Template, template_of
from flows.cloud import cloud

router = APIRouter(prefix="/templates", tags=["templates"])
PNG = "image/png"
NOTE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
Category = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=63, strip_whitespace=True),
]
Line = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200, strip_whitespace=True)
]
Note = Annotated[str, StringConstraints(pattern=NOTE, max_length=16_000, strip_whitespace=True)]


class AboutChange(BaseModel):
    """What it is to say of itself from now on, as far as that changes."""

    model_config = ConfigDict(extra="forbid")

    product: Line | None = None
    vendor: Line | None = None
    version: Line | None = None
    licence: Note | None = None
    description: Note | None = None


class TemplateChange(BaseModel):
    """What is to be different; what may be nothing goes by `null`."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    category: Category | None = None
    icon: Base64Bytes | None = Field(
        None,
        description=f"A PNG of at most {MAX_BYTES} bytes and 512 x 512 pixels, in base64.",
    )
    shared: bool | None = Field(None, description="Whether every enterprise sees it.")
    owner_id: UUID | None = Field(None, description="A user of its enterprise.")
    cpu: int | None = Field(None, gt=0, le=MAX_CPU)
    ram_mib: int | None = Field(None, gt=0, le=MAX_RAM_MIB)
    firmware: Firmware | None = Field(None, description="What its guest expects.")
    bus: Bus | None = Field(None, description="Of all its disks, and its VMs' volumes.")
    about: AboutChange | None = None

    def applied(self, db: Session, row: models.Template) -> None:
        """Write it into a row that is locked."""
        said = self.model_fields_set
        for name in ("name", "shared", "cpu", "ram_mib"):
            if (wanted := getattr(self, name)) is not None:
                setattr(row, name, wanted)
        if "category" in said:
            row.category = self.category
        if "owner_id" in said:
            row.owner_id = self.owner_id and _user(db, row, self.owner_id)
        if "icon" in said:
            set_icon(db, row.id, self.icon)
        expected = Expected(firmware=self.firmware, bus=self.bus)
        if expected != Expected():
            count = select(func.count()).where(models.TemplateDisk.template_id == row.id)
            former = Hardware.model_validate(row.hardware or {})
            row.hardware = expected.over(former, db.scalar(count) or 1).model_dump(mode="json")
        if self.about is not None:
            changed = self.about.model_dump(exclude_none=True)
            row.about = About.model_validate((row.about or {}) | changed).model_dump(mode="json")

    def told(self) -> dict[str, Any]:
        """What an event says of it; a picture only that there is one."""
        said = self.model_dump(mode="json", exclude_unset=True, exclude={"icon"})
        return said | ({"icon": bool(self.icon)} if "icon" in self.model_fields_set else {})


@router.patch("/{template_id}", dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)])
def change_template(
    template_id: UUID, change: TemplateChange, caller: Caller, match: Match, starter: Starting
) -> Template:
    """Change what a template's record says; VMs that were made of it stay as they are."""
    if change.icon is not None:
        require_png(change.icon)

    def act(db: Session) -> Template:
        row = finding.held(db, finding.own_template(db, caller, template_id))
        match.require_same(template_of(db, caller, row))
        starter.require_free(db, "template", row.id)
        if change.shared:
            require_images(db, row)  # volumes are their virtual datacenter's
        try:
            with db.begin_nested():
                change.applied(db, row)
        except IntegrityError as error:
            text = f"there is a template called {change.name}"
            raise Conflict(text, code="name-taken") from error
        tell(db, "template.changed", row, **change.told())
        return template_of(db, caller, row)

    return cloud.database.alone(act)


@router.get(
    "/{template_id}/icon",
    response_class=Response,
    responses={
        200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}},
    },
    dependencies=[needs(Privilege.APPLIB_VIEW)],
)
def read_icon(template_id: UUID, caller: Caller) -> Response:
    """Read a template's picture."""
    with cloud.database.read() as db:
        row = finding.template(db, caller, template_id)
        if (icon := db.get(TemplateIcon, row.id)) is None:
            raise NotFound(f"template {row.name} has no icon", code="no-icon")
        return Response(icon.png, media_type=PNG, headers={"ETag": f'"{icon.digest[:32]}"'})


def _user(db: Session, row: models.Template, user: UUID) -> UUID:
    """A user of the template's enterprise."""
    found = db.get(User, user)
    if found is None or found.enterprise_id != row.enterprise_id:
        raise NotFound(f"there is no user {user}", code="unknown-user")
    return found.id
