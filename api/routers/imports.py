"""Imports from addresses: what lies on somebody else's server becomes a template."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.records import NewTemplate
from adapters.errors import Conflict
from adapters.guests import Bus, Firmware
from adapters.packages import MAX_CPU, MAX_RAM_MIB, About, Expected, Wishes
from adapters.privileges import Privilege
from adapters.types import Chap, Format, Source
from api import finding, tokens
from api.dependencies import Caller, Key, Name, Reference, Send, sender
from api.forcing import Forcing
from api.once import Once
from api.permissions import needs
from api.planning import ANSWERS, DryRun, PlanId, PlannedStarter, starter_of
from api.routers.template_records import Category, Line, Note
from flows.charges import require_within
from flows.cloud import cloud
from flows.downloads import kept, look_at
from flows.fetching import OVF, PACKAGES, Wanted
from flows.import_from_url import take_source

router = APIRouter(prefix="/templates", tags=["templates"])
_URL_LENGTH, _MOST_FILES = 2000, 500
_CHECKSUM = "sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"
FileName = Annotated[str, Field(min_length=1, max_length=255)]
Checksum = Annotated[str, Field(pattern=f"^({_CHECKSUM})$")]
_Kind = Format | Literal["ova", "ovf"]


class ServerLogin(BaseModel):
    """As whom a server is asked: kept encrypted while it is needed, and never told."""

    model_config = ConfigDict(extra="forbid")

    user: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f:]*$")
    password: SecretStr = Field(min_length=1, max_length=255)


class Address(BaseModel):
    """Where something is, and as whom it may be had."""

    model_config = ConfigDict(extra="forbid")

    url: SecretStr = Field(
        min_length=8,
        max_length=_URL_LENGTH,
        description="`http` or `https`, without a user in it. Kept as secret as a password: a "
        "signed address is one.",
        examples=["https://images.example.org/debian.qcow2"],
    )
    login: ServerLogin | None = None

    @field_validator("url")
    @classmethod
    def _is_asked_by_http(cls, url: SecretStr) -> SecretStr:
        require_http(url.get_secret_value())
        return url

    @property
    def source(self) -> Source:
        """The same, as adapters take it."""
        login = self.login and Chap(user=self.login.user, password=self.login.password)
        return Source(url=self.url, login=login)

    @property
    def shown(self) -> str:
        """The address without what may give a right to it."""
        parts = urlsplit(self.url.get_secret_value())
        return parts._replace(query="", fragment="").geturl()


class NewImport(Address, Forcing):
    """An image, an OVA, or an OVF whose disks lie beside it, and the template that it becomes.

    A VMDK that is a descriptor brings the files that it names, which lie beside it.
    """

    name: Name
    datacenter: Reference = Field(examples=["main"])
    format: _Kind | None = Field(None, description="Unless said, `.ova` and `.ovf` tell.")
    checksum: str = Field(
        "",
        pattern=f"^({_CHECKSUM})?$",
        description="What it has to have; of an OVF, or of a VMDK in several files, its "
        "descriptor.",
    )
    checksums: dict[FileName, Checksum] = Field(
        {},
        max_length=_MOST_FILES,
        description="Of the files beside a descriptor, by name. An OVF's have a manifest, too.",
        examples=[{"disk-flat.vmdk": f"sha256:{'0' * 64}"}],
    )
    category: Category | None = Field(None, description="What it is filed under.")
    description: Note = Field("", description="What is said of it.")
    version: Line = Field("", description="The version of what is in it.")
    licence: Note = Field("", description="The licence that it is under.")
    shared: bool = Field(default=False, description="Whether every enterprise sees it.")
    master: Reference | None = Field(None, description="The template it is an instance of.")
    cpu: int | None = Field(None, gt=0, le=MAX_CPU)
    ram_mib: int | None = Field(None, gt=0, le=MAX_RAM_MIB)
    firmware: Firmware | None = Field(None, description="What its guest expects.")
    bus: Bus | None = Field(None, description="Of its disks.")

    @model_validator(mode="after")
    def _has_files_beside_it(self) -> Self:
        if self.checksums and self.kind not in {OVF, Format.VMDK}:
            raise ValueError("only beside an OVF or a VMDK there may be files of it")
        return self

    @model_validator(mode="after")
    def _has_a_format(self) -> Self:
        if self.format is None and self.kind not in PACKAGES:
            raise ValueError("the format has to be said: only .ova and .ovf tell theirs")
        return self

    @property
    def kind(self) -> str:
        """What it is, as was said, or as its name tells."""
        return self.format or unquote(urlsplit(self.shown).path).rpartition(".")[2].lower()

    @property
    def wishes(self) -> Wishes:
        """What wins over what a package says."""
        return Wishes(cpu=self.cpu, ram_mib=self.ram_mib)

    @property
    def about(self) -> About | None:
        """What is said of it, if anything is."""
        said = About(version=self.version, licence=self.licence, description=self.description)
        return said if said != About() else None

    @property
    def expects(self) -> dict[str, Any]:
        """What is said of its guest, if anything is."""
        said = Expected(firmware=self.firmware, bus=self.bus)
        return {"expects": said} if said != Expected() else {}


class _Wish(BaseModel):
    """What a plan was asked for, in words."""

    said: str


def require_http(url: str) -> None:
    """Refuse an address that is not spoken, or that names a user: it would be shown."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ValueError("that is no address") from error
    if not fits or any(letter <= " " for letter in url):
        raise ValueError("that is no address of http or https")
    if parts.username is not None or parts.password is not None:
        raise ValueError("user and password are said apart, as login")


@router.post(
    "/import",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def import_from_url(
    new: NewImport,
    request: Request,
    caller: Caller,
    send: Annotated[Send, Depends(sender)],
    dry_run: DryRun = False,  # noqa: FBT002 - a query parameter
    plan: PlanId = None,
    idempotency_key: Key = None,
) -> Response:
    """Import what lies at an address: the datacenter's worker downloads it.

    To plan it, its server is asked how large it is, and of a package for its descriptor.
    """
    route = f"POST {request.url.path}"
    wish = _Wish(said=f"{new.model_dump_json()}\n{new.shown}")  # secrets are hidden in the former
    said = f"{request.query_params}\n{wish.said}".encode()
    request.state.once = once = Once(caller, route, idempotency_key, said)
    starter = starter_of(caller, once, send, route, dry_run=dry_run, plan=plan)
    with cloud.database.read() as db:
        where = finding.shared(db, models.Datacenter, new.datacenter).id
    foresee(starter, new.source, new.kind)
    return start(starter, caller, new, where, wish=wish)


def foresee(starter: PlannedStarter, source: Source, kind: str) -> None:
    """Have a source's server asked what would come, where a plan is made or used."""
    if starter.looks_ahead:
        starter.foresee({}, **look_at(source, kind).foreseen)


def start(
    starter: PlannedStarter,
    caller: tokens.Caller,
    new: NewImport,
    where: UUID,
    locks: Iterable[tuple[str, UUID]] = (),
    unchanged: Callable[[Session], None] = lambda _db: None,
    login: UUID | None = None,
    wish: BaseModel | None = None,
    **more: Any,
) -> Response:
    """Accept an import; its source is kept in the same transaction. `login` is a secret's id."""
    with cloud.database.read() as db:
        of = finding.template(db, caller, new.master, where).id if new.master else None
    template = NewTemplate(
        id=uuid5(starter.id, "template"),
        enterprise_id=caller.enterprise_id,
        datacenter_id=where,
        name=new.name,
        category=new.category,
        shared=new.shared,
        owner_id=caller.user_id,
        master_id=of,
        about=new.about,
        **new.wishes.model_dump(include={"cpu", "ram_mib"}, exclude_none=True),
    )
    source, force = uuid5(starter.id, "source"), new.by(caller)
    sums = {"checksum": new.checksum, "checksums": new.checksums}
    wanted = Wanted(source=source, format=new.kind, login=login, **sums)

    def plan(db: Session) -> accepted.Request:
        mine = finding.own_templates(caller).filter_by(datacenter_id=where, name=new.name)
        if db.scalars(mine).first():
            raise Conflict(f"there is a template called {new.name}", code="name-taken")
        return starter.request(
            "import_from_url",
            template.id,
            template.name,
            where,
            locks,
            intents=[take_source.intent(source)],
            template=template,
            wanted=wanted,
            wishes=new.wishes,
            force=force,
            **new.expects,
            **more,
        )

    def keep(db: Session) -> None:
        unchanged(db)
        cloud.secrets.keep(db, source, kept(new.source))

    uses = [cloud.ledger.of_template(template, 1)]
    return starter.start(plan, lambda: require_within(uses, force), keep, wish)
