"""Templates: images with their hardware wishes, in a datacenter's library."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database import operations as accepted
from adapters.database.persistent import is_of_volumes, require_images, volumes_of
from adapters.database.records import NewTemplate
from adapters.errors import Conflict
from adapters.forms import Form
from adapters.guests import Bus, Firmware
from adapters.packages import (
    MAX_CPU,
    MAX_RAM_MIB,
    PACKAGE,
    About,
    Expected,
    Package,
    Wishes,
)
from adapters.privileges import Privilege
from adapters.types import Family, Format, TemplateState
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
from api.routers.template_records import NOTE, Category, Line
from api.starting import Starting
from api.template_view import Template, template_of, templates_of
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
_SAID = "What {}: unless said, what a package says."
Said = Annotated[
    str, StringConstraints(pattern=NOTE, max_length=1000, strip_whitespace=True)
]  # in an address
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
            "file=@disk.vmdk -F file=@disk-f001.vmdk -F file=@disk-f002.vmdk ...`; "
            "or by tus, its files one behind the other, in that order, with `sizes` in "
            "`Upload-Metadata`: how long each of them is, in numbers with spaces between. "
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
    firmware: Annotated[Firmware | None, Query(description=_WISH.format("bios"))] = None,
    bus: Annotated[Bus | None, Query(description=_WISH.format("the fastest"))] = None,
    size_bytes: Annotated[
        int | None, Query(gt=0, le=2**53 - 1, description="How much will be sent.")
    ] = None,
    category: Annotated[Category | None, Query(description="What it is filed under.")] = None,
    description: Annotated[Said, Query(description=_SAID.format("is said of it"))] = "",
    version: Annotated[Line, Query(description=_SAID.format("version it is of"))] = "",
    licence: Annotated[Said, Query(description=_SAID.format("licence it is under"))] = "",
    shared: Annotated[bool, Query(description="Whether every enterprise sees it.")] = False,  # noqa: FBT002 - a query parameter
    master: Annotated[
        Reference | None, Query(description="The template that it is an instance of.")
    ] = None,
    dry_run: DryRun = False,  # noqa: FBT002 - a query parameter
    plan: PlanId = None,
    idempotency_key: Key = None,
) -> Response:
    """Import an image: the answer says where it may be sent, once, within an hour."""
    route, query = f"POST {request.url.path}", str(request.query_params)
    once = Once(caller, route, idempotency_key, query.encode())
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
        taken = finding.own_templates(caller).filter_by(datacenter_id=where, name=name)
        if db.scalars(taken).first():
            raise Conflict(f"there is a template called {name}", code="name-taken")
        of = finding.template(db, caller, master, where).id if master else None
    said = About(version=version, licence=licence, description=description)
    template = NewTemplate(
        id=uuid5(starter.id, "template"),
        enterprise_id=caller.enterprise_id,
        datacenter_id=where,
        name=name,
        category=category,
        shared=shared,
        owner_id=caller.user_id,
        master_id=of,
        about=said if said != About() else None,
        **{k: v for k, v in {"cpu": cpu, "ram_mib": ram_mib}.items() if v},
    )
    force = forcing.by(caller)
    transfer = Transfer(
        token_id=caller.token_id,
        route=route,
        key=idempotency_key,
        request=query,
        template=template,
        force=force,
        format=format,
        digest=sha256,
        wishes=Wishes(cpu=cpu, ram_mib=ram_mib),
        expects=Expected(firmware=firmware, bus=bus),
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
    category: str | None = None,
    shared: bool | None = None,
    own: bool | None = None,
    master_id: UUID | None = None,
    is_instance: bool | None = None,
    is_persistent: bool | None = None,
) -> list[Template]:
    """List the enterprise's templates, and those that others share."""
    table = models.Template
    query = chosen(
        finding.templates(caller),
        name=name,
        state=state,
        datacenter_id=datacenter_id,
        category=category,
        shared=shared,
        master_id=master_id,
    )
    if own is not None:
        query = query.where((table.enterprise_id == caller.enterprise_id) == own)
    if is_instance is not None:
        query = query.where(table.master_id.is_not(None) == is_instance)
    if is_persistent is not None:
        query = query.where(is_of_volumes() == is_persistent)
    if sought:  # labels are their enterprise's own
        query = sought.among(query.where(table.enterprise_id == caller.enterprise_id), table)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.Template, "name", "created_at")
        return templates_of(db, caller, rows)


@router.get("/{template_id}", dependencies=[needs(Privilege.APPLIB_VIEW)])
def read_template(template_id: UUID, caller: Caller) -> Template:
    """Read a template, with its disks and their conversions."""
    with cloud.database.read() as db:
        return template_of(db, caller, finding.template(db, caller, template_id))


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
        row = finding.own_template(db, caller, template_id)
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
        row = finding.own_template(db, caller, template_id)
        match.require(db, row, lambda db, row: template_of(db, caller, row))

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
    """A template of the caller's enterprise that is there, and free."""
    row = finding.own_template(db, caller, template_id)
    starter.require_free(db, "template", row.id)
    if row.state is not TemplateState.AVAILABLE:
        text = f"template {row.name} is {row.state}"
        raise Conflict(text, code="template-not-available")
    require_images(db, row)
    return row


def _require_unused(db: Session, caller: Caller, row: models.Template) -> None:
    """Raise `InUse` while something is made of it: it names what the caller may see."""
    vms, instances = models.VirtualMachine, models.Template
    seen = finding.vms(caller).where(vms.template_id == row.id).order_by(vms.name)
    known = finding.own_templates(caller).where(instances.master_id == row.id)
    users = [
        *(uses.User(kind="vm", id=x.id, name=x.name) for x in db.scalars(seen.limit(uses.TOLD))),
        *(
            uses.User(kind="template", id=x.id, name=x.name)
            for x in db.scalars(known.order_by(instances.name).limit(uses.TOLD))
        ),
    ]
    others = (
        select(vms.id).where(vms.template_id == row.id).limit(1),
        select(instances.id).where(instances.master_id == row.id).limit(1),
    )
    if users or any(db.scalars(each).first() for each in others):
        raise uses.in_use(row, users)
