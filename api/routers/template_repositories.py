"""Template repositories: packages on somebody else's servers, browsed and installed."""

from datetime import datetime
from typing import Annotated
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.database import operations as accepted
from adapters.database.events import tell
from adapters.database.repositories import URL_LENGTH, RemotePackageRow, TemplateRepositoryRow
from adapters.database.session import utc_now
from adapters.errors import Conflict, Unsupported
from adapters.packages import MAX_CPU, MAX_RAM_MIB
from adapters.privileges import Privilege
from adapters.types import Chap
from api import finding
from api.dependencies import (
    NAME_LENGTH,
    Caller,
    Key,
    Name,
    Pages,
    Reference,
    chosen,
    once_without_secrets,
)
from api.forcing import Forcing
from api.labelling import SoughtLabels
from api.matching import Match, Precondition
from api.once import Answer
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.reports import Operation
from api.routers.imports import NewImport, ServerLogin, foresee, require_http, start
from api.starting import Starting
from flows.cloud import cloud
from flows.downloads import as_who
from flows.fetching import PACKAGES

router = APIRouter(prefix="/template-repositories", tags=["templates"])
_INDEX = "ovfindex.xml"
_CATEGORY_LENGTH = 63


def _shown_to_all(url: str) -> str:
    """An index's address is shown, so that nothing in it may be a right to it."""
    require_http(url)
    if urlsplit(url).query:
        raise ValueError("an address with a query would be kept, and shown")
    return url


Url = Annotated[
    str,
    Field(
        min_length=8,
        max_length=URL_LENGTH - len(_INDEX) - 1,
        description=f"Of an index; where it does not end in `.xml`, `{_INDEX}` there is meant.",
        examples=["https://templates.example.org/ovfindex.xml"],
    ),
    AfterValidator(_shown_to_all),
]


class NewTemplateRepository(BaseModel):
    """An index of packages, and the datacenter whose worker reads it and downloads them."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["public"])
    url: Url
    datacenter: Reference = Field(examples=["main"])
    login: ServerLogin | None = Field(
        None, description="As whom its server, and no other, is asked."
    )


class TemplateRepositoryChange(BaseModel):
    """What is to be different; without a login, nobody is asked as anybody."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    url: Url = ""
    login: ServerLogin | None = None


class TemplateRepository(BaseModel):
    """An index of packages; what it lists is as old as its last refresh."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    url: str
    created_at: datetime
    refreshed_at: datetime | None
    labels: dict[str, str]


class RemotePackage(BaseModel):
    """A package as its index describes it, in the index's own words; nothing of it is checked."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str
    category: str
    vendor: str
    version: str
    disk_format: str
    size_mib: int | None
    url: str
    icon: str


class Installation(Forcing):
    """The template that a package becomes; unless said, it is called as the package is."""

    name: Name | None = None
    cpu: int | None = Field(None, gt=0, le=MAX_CPU)
    ram_mib: int | None = Field(None, gt=0, le=MAX_RAM_MIB)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": TemplateRepository}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def create_template_repository(
    new: NewTemplateRepository, request: Request, caller: Caller, idempotency_key: Key = None
) -> Response:
    """Add a remote repository; it lists nothing until it is refreshed."""
    once = once_without_secrets(request, caller, idempotency_key, new)

    def act(db: Session) -> Answer:
        row = TemplateRepositoryRow(
            id=uuid4(),
            enterprise_id=caller.enterprise_id,
            datacenter_id=finding.shared(db, models.Datacenter, new.datacenter).id,
            name=new.name,
            url=_index(new.url),
            created_at=utc_now(),
        )
        try:
            with db.begin_nested():
                db.add(row)
        except IntegrityError as error:
            raise _taken(new.name) from error
        _keep_login(db, row, new.login)
        db.refresh(row)
        return Answer(201, _shown(row).model_dump(mode="json"), f"{_path(row.id)}")

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.APPLIB_VIEW)])
def list_template_repositories(
    caller: Caller, page: Pages, sought: SoughtLabels, name: str | None = None
) -> list[TemplateRepository]:
    """List remote repositories."""
    query = chosen(finding.repositories(caller), name=name)
    query = sought.among(query, TemplateRepositoryRow)
    with cloud.database.read() as db:
        rows = page.rows(db, query, TemplateRepositoryRow, "name")
        return [_shown(row) for row in rows]


@router.get("/{repository_id}", dependencies=[needs(Privilege.APPLIB_VIEW)])
def read_template_repository(repository_id: UUID, caller: Caller) -> TemplateRepository:
    """Read a remote repository."""
    with cloud.database.read() as db:
        return _shown(finding.repository(db, caller, repository_id))


@router.patch("/{repository_id}", dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)])
def change_template_repository(
    repository_id: UUID, wanted: TemplateRepositoryChange, caller: Caller, match: Match
) -> TemplateRepository:
    """Change a remote repository: what it lists stays until it is refreshed.

    Another server is not told the login that was for this one.
    """

    def changed(db: Session) -> TemplateRepository:
        row = _held(db, caller, repository_id, match)
        said, url = wanted.model_fields_set, row.url
        if said & {"url", "login"} and (users := [*uses.operations(db, row)]):
            raise uses.in_use(row, users)  # they ask that server, as that one
        try:
            with db.begin_nested():
                row.name = wanted.name or row.name
                row.url = _index(wanted.url) if wanted.url else row.url
        except IntegrityError as error:
            raise _taken(wanted.name) from error
        if "login" in said or _origin(row.url) != _origin(url):
            _keep_login(db, row, wanted.login)
        tell(db, "template-repository.changed", row)
        return _shown(row)

    return cloud.database.alone(changed)


@router.delete(
    "/{repository_id}", status_code=204, dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)]
)
def delete_template_repository(repository_id: UUID, caller: Caller, match: Match) -> None:
    """Forget a remote repository that nothing is being installed from; its templates stay."""

    def deleted(db: Session) -> None:
        row = _held(db, caller, repository_id, match)
        tell(db, "template-repository.deleted", row)
        uses.remove(db, row)

    cloud.database.alone(deleted)


@router.post(
    "/{repository_id}/refresh",
    status_code=202,
    responses={202: {"model": Operation}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def refresh(repository_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Read a remote repository's index again."""

    def plan(db: Session) -> accepted.Request:
        row = finding.repository(db, caller, repository_id)
        return starter.request("refresh_repository", row.id, row.name, row.datacenter_id)

    return starter.start(plan, unchanged=lambda db: _stay(db, caller, repository_id))


@router.get("/{repository_id}/packages", dependencies=[needs(Privilege.APPLIB_VIEW)])
def list_remote_packages(
    repository_id: UUID,
    caller: Caller,
    page: Pages,
    name: str | None = None,
    category: str | None = None,
) -> list[RemotePackage]:
    """List what a remote repository has, as of its last refresh."""
    with cloud.database.read() as db:
        row = finding.repository(db, caller, repository_id)
        query = chosen(finding.remote_packages(row), name=name, category=category)
        rows = page.rows(db, query, RemotePackageRow, "name", "category")
        return [RemotePackage.model_validate(each) for each in rows]


@router.get(
    "/{repository_id}/packages/{remote_package_id}", dependencies=[needs(Privilege.APPLIB_VIEW)]
)
def read_remote_package(
    repository_id: UUID, remote_package_id: UUID, caller: Caller
) -> RemotePackage:
    """Read what a remote repository says of a package."""
    with cloud.database.read() as db:
        row = finding.repository(db, caller, repository_id)
        return RemotePackage.model_validate(finding.remote_package(db, row, remote_package_id))


@router.post(
    "/{repository_id}/packages/{remote_package_id}/install",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.APPLIB_UPLOAD_IMAGE)],
)
def install(
    repository_id: UUID,
    remote_package_id: UUID,
    caller: Caller,
    starter: PlannedStarting,
    wish: Installation | None = None,
) -> Response:
    """Download a package into the repository's datacenter: it becomes a template.

    Cancelled, it leaves nothing; interrupted, it goes on where it was. One package is installed
    once at a time. To plan it, its server is asked how large it is, and for its descriptor.
    """
    wish = wish or Installation()
    with cloud.database.read() as db:
        row = finding.repository(db, caller, repository_id)
        told = RemotePackage.model_validate(finding.remote_package(db, row, remote_package_id))
        source = _shown(row)
    new = _import(source, told, wish)
    login = source.id if _origin(source.url) == _origin(told.url) else None
    foresee(starter, as_who(new.source, login), new.kind)
    return start(
        starter,
        caller,
        new,
        source.datacenter_id,
        [("remote_package", told.id)],
        lambda db: _stay(db, caller, repository_id),
        login=login,
        wish=wish,
        repository=source.id,
    )


def _import(source: TemplateRepository, package: RemotePackage, wish: Installation) -> NewImport:
    """The import that installing a package is."""
    kind = unquote(urlsplit(package.url).path).rpartition(".")[2].lower()
    if kind not in PACKAGES:
        raise Unsupported(f"{package.name} is neither OVF nor OVA", code="package-unsupported")
    return NewImport(
        url=SecretStr(package.url),
        name=wish.name or _called(package.name),
        datacenter=str(source.datacenter_id),
        category=package.category[:_CATEGORY_LENGTH].strip() or None,
        **wish.model_dump(exclude={"name"}),
    )


def _called(name: str) -> str:
    """A package's name as a template's, whose letters are fewer."""
    fit = "".join(x if x.isascii() and (x.isalnum() or x in "._-") else "-" for x in name)
    return fit.strip("-._")[:NAME_LENGTH] or "package"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _index(url: str) -> str:
    return url if url.endswith(".xml") else f"{url.removesuffix('/')}/{_INDEX}"


def _path(repository: UUID) -> str:
    return f"/v1/template-repositories/{repository}"


def _keep_login(db: Session, row: TemplateRepositoryRow, login: ServerLogin | None) -> None:
    if login is not None:
        cloud.secrets.keep(db, row.id, Chap(user=login.user, password=login.password))
    elif secret := db.get(models.Secret, row.id):
        db.delete(secret)


def _held(
    db: Session, caller: Caller, repository: UUID, match: Precondition
) -> TemplateRepositoryRow:
    """Find it, and lock its row: nothing is begun with it meanwhile."""
    row = finding.held(db, finding.repository(db, caller, repository))
    match.require_same(_shown(row))
    return row


def _stay(db: Session, caller: Caller, repository: UUID) -> None:
    """Let it not go until what is begun with it is accepted."""
    finding.held(db, finding.repository(db, caller, repository), shared=True)


def _shown(row: TemplateRepositoryRow) -> TemplateRepository:
    return TemplateRepository.model_validate(row)


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a template repository called {name}", code="name-taken")
