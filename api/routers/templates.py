"""Templates: images with their hardware wishes, in a datacenter's library."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database import operations as accepted
from adapters.database.persistent import is_of_volumes, require_images, volumes_of
from adapters.database.records import NewTemplate
from adapters.errors import Conflict
from adapters.forms import Form
from adapters.packages import (
    MAX_CPU,
    MAX_RAM_MIB,
    PACKAGE,
    About,
    Hardware,
    Package,
    Wishes,
)
from adapters.privileges import Privilege
from adapters.types import ConversionState, Family, Format, TemplateState
from api import finding
from api.dependencies import Caller, Key, Name, Pages, Reference, Send, chosen, sender
from api.errors import Problem
from api.forcing import ForcingQuery
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Once
from api.permissions import needs
from api.planning import ANSWERS, DryRun, PlanId, starter_of
from api.reports import Operation
from api.starting import Starting
from api.transfers import Transfer, address
from flows.charges import require_within
from flows.cloud import cloud
from flows.unpacking import described

router = APIRouter(prefix="/templates", tags=["templates"])
_DIGEST = (
    "The image's SHA-256; of several files what `sha256sum FILES | cut -c-64 | sha256sum` says."
)
_SUBFORMAT = f"""How its bytes are laid out, where there are several ways; empty: as usual. {
    "; ".join(f"`{form.format}`: `{form.subformat}`" for form in Form if form.subformat)
}."""
_WISH = "Unless said, what a package says, or {}."
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": (
            "The image itself, streamed; sent to where the answer's `Location` says, in one "
            "request, or by [tus](https://tus.io) 1.0.0 (`Tus-Resumable`, `Upload-Length`), "
            "which goes on after whatever breaks off; its last answer's `Location` is the "
            "operation. An OVA "
            "(`format=ova`) becomes a template of all its disks. A VMDK of "
            "several files is sent as a form: its descriptor first, then every extent that it "
            "names, by that name, and nothing else: `curl --location-trusted -F "
            "file=@disk.vmdk -F file=@disk-f001.vmdk -F file=@disk-f002.vmdk ...`. "
            "To plan a package (`dry_run`), its descriptor alone: the `.ovf` in it."
        ),
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                },
                "example": {"file": ["disk.vmdk", "disk-f001.vmdk", "disk-f002.vmdk"]},
            },
        },
    }
}


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
    disks: list[TemplateDisk]
    labels: dict[str, str]


class NewConversion(BaseModel):
    """The format that a template is wanted in, or the family of hypervisors that is to boot it."""

    model_config = ConfigDict(extra="forbid")

    format: Format | None = None
    subformat: str = Field("", description=_SUBFORMAT)
    family: Family | None = Field(None, description="Instead of a format: what it boots best.")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.format is None) == (self.family is None):
            raise ValueError("either a format or a family has to be said")
        return self

    def arguments(self) -> dict[str, str]:
        """What the operation is told. Raises `Unsupported`."""
        if self.format is None:
            return {"family": str(self.family)}
        form = Form.wanted(self.format, self.subformat)
        return {"format": form.format, "subformat": form.subformat}


async def _descriptor(request: Request) -> bytes:
    """What is sent to plan a package by; else nothing is read of a body, which may be an image."""
    said = request.query_params
    planned = said.get("dry_run", "false").lower() in {"true", "1", "on", "yes", "t", "y"}
    return await request.body() if planned and said.get("format") == PACKAGE else b""


@router.post(
    "",
    status_code=307,
    response_class=RedirectResponse,
    openapi_extra=_UPLOAD,
    responses={
        200: ANSWERS[200],
        307: {"description": "Send the image to `Location`, with the same method."},
    },
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def create_template(
    request: Request,
    caller: Caller,
    descriptor: Annotated[bytes, Depends(_descriptor)],
    name: Name,
    format: Annotated[  # noqa: A002 - the API's word
        Format | Literal["ova"], Query(description="What the file is: a disk, or a package.")
    ],
    datacenter: Reference,
    forcing: ForcingQuery,
    send: Annotated[Send, Depends(sender)],
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description=_DIGEST)] = None,
    cpu: Annotated[int | None, Query(gt=0, le=MAX_CPU, description=_WISH.format(1))] = None,
    ram_mib: Annotated[
        int | None, Query(gt=0, le=MAX_RAM_MIB, description=_WISH.format(128))
    ] = None,
    size_bytes: Annotated[
        int | None, Query(gt=0, le=2**53 - 1, description="How much will be sent.")
    ] = None,
    dry_run: DryRun = False,  # noqa: FBT002 - a query parameter
    plan: PlanId = None,
    idempotency_key: Key = None,
) -> Response:
    """Import an image: the answer says where it may be sent, once, within an hour."""
    route, said = f"POST {request.url.path}", str(request.query_params)
    once = Once(caller, route, idempotency_key, said.encode())
    starter = starter_of(caller, once, send, route, dry_run=dry_run, plan=plan)
    if dry_run and (size_bytes is None or (format == PACKAGE and not descriptor)):
        text = "a plan needs size_bytes, and of a package its descriptor, as the request's body"
        raise Problem(422, "invalid-request", text)
    package = None
    if format == PACKAGE and (dry_run or plan):
        sent = described(descriptor).model_dump(mode="json") if dry_run else None
        if kept := starter.kept("package", sent):
            package = Package.model_validate(kept)
    with cloud.database.read() as db:
        where = finding.shared(db, models.Datacenter, datacenter).id
        taken = finding.templates(caller).filter_by(datacenter_id=where, name=name)
        if db.scalars(taken).first():
            raise Conflict(f"there is a template called {name}", code="name-taken")
    template = NewTemplate(
        id=uuid5(starter.id, "template"),
        enterprise_id=caller.enterprise_id,
        datacenter_id=where,
        name=name,
        **{k: v for k, v in {"cpu": cpu, "ram_mib": ram_mib}.items() if v},
    )
    force = forcing.by(caller)
    transfer = Transfer(
        token_id=caller.token_id,
        route=route,
        key=idempotency_key,
        request=said,
        template=template,
        force=force,
        format=format,
        digest=sha256,
        wishes=Wishes(cpu=cpu, ram_mib=ram_mib),
        size_bytes=size_bytes,
        plan=plan,
    )
    size_mib = -(-(size_bytes or 1) // 2**20)
    starter.foresee(transfer.stand_ins, size_mib=size_mib, ova=package)
    if dry_run:
        return starter.start(lambda _db: transfer.request_of(starter, ""), wish=transfer.wish)
    starter.require_as_shown(lambda _db: transfer.request_of(starter, ""), transfer.wish)
    uses = [cloud.ledger.of_template(template, size_mib)]
    require_within(uses, force)  # nothing is sent in vain
    return RedirectResponse(address(transfer), 307)


@router.get("", dependencies=[needs(Privilege.APPLIB_VIEW)])
def list_templates(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    state: TemplateState | None = None,
    datacenter_id: UUID | None = None,
    *,
    is_persistent: bool | None = None,
) -> list[Template]:
    """List templates."""
    query = chosen(finding.templates(caller), name=name, state=state, datacenter_id=datacenter_id)
    if is_persistent is not None:
        query = query.where(is_of_volumes() == is_persistent)
    query = sought.among(query, models.Template)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Template, "name", "created_at")
        return _templates(db, rows)


@router.get("/{template_id}", dependencies=[needs(Privilege.APPLIB_VIEW)])
def read_template(template_id: UUID, caller: Caller) -> Template:
    """Read a template, with its disks and their conversions."""
    with cloud.database.read() as db:
        return _templates(db, [finding.template(db, caller, template_id)])[0]


@router.delete(
    "/{template_id}",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def delete_template(
    template_id: UUID, caller: Caller, starter: Starting, match: Match
) -> Response:
    """Delete a template that no VM is made of, with its conversions that no other one has."""

    def plan(db: Session) -> accepted.Request:
        row = finding.template(db, caller, template_id)
        starter.require_free(db, "template", row.id)
        _require_unused(db, caller, row)
        where = row.datacenter_id  # its library is what the operation is about, too
        volumes = [finding.volume(db, caller, each.id).id for each in volumes_of(db, row.id)]
        return starter.request(
            "delete_template",
            row.id,
            row.name,
            where,
            [("volume", each) for each in volumes],
            former=row.state,
            library=where,
            volumes=volumes,
        )

    def unchanged(db: Session) -> None:
        row = finding.template(db, caller, template_id)
        match.require(db, row, lambda db, row: _templates(db, [row])[0])

    return starter.start(plan, unchanged=unchanged)


@router.post(
    "/{template_id}/conversions",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def convert(
    template_id: UUID, wanted: NewConversion, caller: Caller, starter: Starting
) -> Response:
    """Convert a template's disks to another format; what has been converted is not again."""
    asked: dict[str, Any] = wanted.arguments()

    def plan(db: Session) -> accepted.Request:
        row = _available(db, caller, template_id, starter)
        return starter.request("convert_image", row.id, row.name, row.datacenter_id, **asked)

    return starter.start(plan)


@router.post(
    "/{template_id}/export",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def export(template_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Make an OVA of a template; `GET /v1/packages/{id}` has it, by the operation's id."""

    def plan(db: Session) -> accepted.Request:
        row = _available(db, caller, template_id, starter)
        return starter.request("export_template", row.id, row.name, row.datacenter_id)

    return starter.start(plan)


def _available(
    db: Session, caller: Caller, template_id: UUID, starter: Starting
) -> models.Template:
    """A template that is there, and free."""
    row = finding.template(db, caller, template_id)
    starter.require_free(db, "template", row.id)
    if row.state is not TemplateState.AVAILABLE:
        text = f"template {row.name} is {row.state}"
        raise Conflict(text, code="template-not-available")
    require_images(db, row)
    return row


def _require_unused(db: Session, caller: Caller, row: models.Template) -> None:
    """Raise `InUse` while a VM is made of it: it names those that the caller may see."""
    table = models.VirtualMachine
    if db.scalars(select(table.id).where(table.template_id == row.id).limit(1)).first():
        seen = finding.vms(caller).where(table.template_id == row.id).order_by(table.name)
        users = db.scalars(seen.limit(uses.TOLD))
        raise uses.in_use(row, [uses.User(kind="vm", id=vm.id, name=vm.name) for vm in users])


def _templates(db: Session, rows: Sequence[models.Template]) -> list[Template]:
    """Templates with their disks and conversions, however many, by two queries."""
    table = models.TemplateDisk
    mine = select(table).where(table.template_id.in_([row.id for row in rows]))
    disks = list(db.scalars(mine.order_by(table.position)))
    digests = models.Conversion.source_digest.in_({disk.digest for disk in disks})
    made: dict[tuple[UUID, str], list[Conversion]] = {}
    for each in db.scalars(select(models.Conversion).where(digests)):
        key = each.datacenter_id, each.source_digest
        made.setdefault(key, []).append(Conversion.model_validate(each))
    return [
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
            disks=[
                _disk(disk, made.get((row.datacenter_id, disk.digest), []))
                for disk in disks
                if disk.template_id == row.id
            ],
            labels=row.labels,
        )
        for row in rows
    ]


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
