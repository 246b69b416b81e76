"""Finding what a request names: by id or name, and only what belongs to the caller's enterprise.

What is another's is not found, in the same words as what does not exist, unless it is a template
that is shared; nor is what is in a virtual datacenter that the caller's user may not look into.
Who administers all enterprises finds every one of them, with their users, roles and operations.
"""

from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.conventions import Base
from adapters.database.events import singular
from adapters.database.packages import PackageRow
from adapters.database.people import ApiToken, Role, User
from adapters.database.repositories import RemotePackageRow, TemplateRepositoryRow
from adapters.errors import Conflict, NotAllowed, NotFound
from adapters.types import TemplateState
from api.tokens import Caller

T = TypeVar("T", bound=Base)
_INSIDE = ("appliance", "vm", "volume", "network")  # targets that are in a virtual datacenter


def enterprise(db: Session, caller: Caller, ref: str | UUID | None) -> models.Enterprise:
    """An enterprise; the caller's own when none is named."""
    return _one(db, models.Enterprise, ref or caller.enterprise_id, enterprises(caller))


def user(db: Session, caller: Caller, ref: UUID) -> User:
    """A user."""
    return _one(db, User, ref, select(User).where(_of(caller, User.enterprise_id)))


def role(db: Session, caller: Caller, ref: str | UUID, enterprise: UUID | None = None) -> Role:
    """A role, of all or of an enterprise; of one that is given, or of the caller's."""
    mine = Role.enterprise_id == enterprise if enterprise else _of(caller, Role.enterprise_id)
    return _one(db, Role, ref, select(Role).where(or_(Role.enterprise_id.is_(None), mine)))


def token(db: Session, caller: Caller, ref: UUID, *, everybodys: bool) -> ApiToken:
    """An API token: one's own, or of everybody in the enterprise."""
    return _one(db, ApiToken, ref, tokens(caller, everybodys=everybodys))


def operation(db: Session, caller: Caller, ref: UUID) -> models.Operation:
    """An operation; for who administers all enterprises, any one's."""
    query = select(models.Operation) if caller.sees_all else operations(caller)
    return _one(db, models.Operation, ref, query)


def package(db: Session, caller: Caller, ref: UUID) -> PackageRow:
    """A package."""
    return _one(db, PackageRow, ref, packages(caller))


def repository(db: Session, caller: Caller, ref: str | UUID) -> TemplateRepositoryRow:
    """A remote repository."""
    return _one(db, TemplateRepositoryRow, ref, repositories(caller))


def remote_package(
    db: Session, repository: TemplateRepositoryRow, ref: str | UUID
) -> RemotePackageRow:
    """A package that a repository lists."""
    return _one(db, RemotePackageRow, ref, remote_packages(repository))


def template(
    db: Session, caller: Caller, ref: str | UUID, datacenter: UUID | None = None
) -> models.Template:
    """A template, of a datacenter when one is given: one's own before one that is shared.

    Raises `Conflict` for the name of several shared ones: whose is meant, nobody knows.
    """
    table = models.Template
    own, seen = own_templates(caller), templates(caller)
    if datacenter:
        own, seen = (each.where(table.datacenter_id == datacenter) for each in (own, seen))
    named = seen.where(table.name == ref).limit(2) if isinstance(ref, str) else None
    if named is not None and len(db.scalars(named).all()) > 1:
        if found := db.scalars(own.where(table.name == ref)).first():
            return found
        text = f"there are several templates called {ref}, of others or elsewhere: say its id"
        raise Conflict(text, code="name-ambiguous")
    return _one(db, table, ref, seen)


def own_template(db: Session, caller: Caller, ref: UUID) -> models.Template:
    """A template that the caller's enterprise may change.

    Raises `Conflict` for one that it only sees.
    """
    row = template(db, caller, ref)
    if row.enterprise_id != caller.enterprise_id:
        text = f"template {row.name} is shared by another enterprise, which alone changes it"
        raise NotAllowed(text, code="shared-by-others")
    return row


def virtual_datacenter(db: Session, caller: Caller, ref: str | UUID) -> models.VirtualDatacenter:
    """A virtual datacenter."""
    return _one(db, models.VirtualDatacenter, ref, virtual_datacenters(caller))


def appliance(db: Session, caller: Caller, ref: UUID) -> models.Appliance:
    """An appliance."""
    return _one(db, models.Appliance, ref, appliances(caller))


def vm(db: Session, caller: Caller, ref: UUID) -> models.VirtualMachine:
    """A VM."""
    return _one(db, models.VirtualMachine, ref, vms(caller))


def volume(db: Session, caller: Caller, ref: UUID) -> models.VolumeRow:
    """A volume."""
    return _one(db, models.VolumeRow, ref, volumes(caller))


def network(db: Session, caller: Caller, ref: str | UUID) -> models.Network:
    """A network."""
    return _one(db, models.Network, ref, networks(caller))


def address(db: Session, caller: Caller, ref: UUID) -> models.AddressRow:
    """An address that is bought, or has been given."""
    return _one(db, models.AddressRow, ref, addresses(caller))


def held(db: Session, row: T, *, shared: bool = False) -> T:
    """The row that was found, locked, as it is by now. Raises `NotFound` when it has gone."""
    table = cast(Any, type(row))
    query = select(table).where(table.id == cast(Any, row).id).with_for_update(read=shared)
    now = db.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if now is None:
        raise NotFound(f"there is no {_noun(table)} {cast(Any, row).id}")
    return cast(T, now)


def shared(db: Session, table: type[T], ref: str | UUID, **within: Any) -> T:
    """A part of the infrastructure, which belongs to everybody."""
    return _one(db, table, ref, select(table).filter_by(**within))


def enterprises(caller: Caller) -> Select[tuple[models.Enterprise]]:
    """The caller's enterprise, or all of them."""
    return select(models.Enterprise).where(_of(caller, models.Enterprise.id))


def users(caller: Caller, enterprise: UUID | None = None) -> Select[tuple[User]]:
    """The users of the caller's enterprise; or of another one, for who may."""
    which = User.enterprise_id == (enterprise or caller.enterprise_id)
    return select(User).where(which, _of(caller, User.enterprise_id))


def roles(caller: Caller, enterprise: UUID | None = None) -> Select[tuple[Role]]:
    """The roles that an enterprise's users can have: the caller's, or another one's."""
    own = Role.enterprise_id == (enterprise or caller.enterprise_id)
    stock = Role.enterprise_id.is_(None)
    return select(Role).where(or_(stock, and_(own, _of(caller, Role.enterprise_id))))


def tokens(caller: Caller, *, everybodys: bool) -> Select[tuple[ApiToken]]:
    """The caller's API tokens, or everybody's in the enterprise; no sessions."""
    row = ApiToken
    query = select(row).where(row.enterprise_id == caller.enterprise_id, ~row.session)
    return query if everybodys else query.where(row.user_id == caller.user_id)


def operations(caller: Caller) -> Select[tuple[models.Operation]]:
    """The caller's enterprise's operations, but those in virtual datacenters he may not see."""
    row = models.Operation
    query = select(row).where(row.enterprise_id == caller.enterprise_id)
    if caller.virtual_datacenters:
        outside = row.virtual_datacenter_id.is_(None) & row.target_kind.not_in(_INSIDE)
        inside = row.virtual_datacenter_id.in_(caller.virtual_datacenters)
        query = query.where(or_(outside, inside))
    return query


def templates(caller: Caller) -> Select[tuple[models.Template]]:
    """The templates that the caller may use: the enterprise's own, and those that are shared.

    Of the others' shared ones only those are there that VMs can be made of.
    """
    table = models.Template
    others = table.shared & (table.state == TemplateState.AVAILABLE)
    return select(table).where(or_(table.enterprise_id == caller.enterprise_id, others))


def own_templates(caller: Caller) -> Select[tuple[models.Template]]:
    """The templates of the caller's enterprise."""
    table = models.Template
    return select(table).where(table.enterprise_id == caller.enterprise_id)


def repositories(caller: Caller) -> Select[tuple[TemplateRepositoryRow]]:
    """The caller's remote repositories."""
    table = TemplateRepositoryRow
    return select(table).where(table.enterprise_id == caller.enterprise_id)


def remote_packages(repository: TemplateRepositoryRow) -> Select[tuple[RemotePackageRow]]:
    """What a remote repository lists."""
    return select(RemotePackageRow).where(RemotePackageRow.repository_id == repository.id)


def packages(caller: Caller) -> Select[tuple[PackageRow]]:
    """The caller's packages; of VMs only where he may look into their virtual datacenter."""
    query = select(PackageRow).where(PackageRow.enterprise_id == caller.enterprise_id)
    if caller.virtual_datacenters:
        where = PackageRow.virtual_datacenter_id
        query = query.where(or_(where.is_(None), where.in_(caller.virtual_datacenters)))
    return query


def virtual_datacenters(caller: Caller) -> Select[tuple[models.VirtualDatacenter]]:
    """The caller's enterprise's virtual datacenters, of those that he may look into."""
    table = models.VirtualDatacenter
    query = select(table).where(table.enterprise_id == caller.enterprise_id)
    if caller.virtual_datacenters:
        query = query.where(table.id.in_(caller.virtual_datacenters))
    return query


def appliances(caller: Caller) -> Select[tuple[models.Appliance]]:
    """The caller's appliances."""
    mine = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    return select(models.Appliance).where(models.Appliance.virtual_datacenter_id.in_(mine))


def vms(caller: Caller) -> Select[tuple[models.VirtualMachine]]:
    """The caller's VMs."""
    mine = appliances(caller).with_only_columns(models.Appliance.id)
    return select(models.VirtualMachine).where(models.VirtualMachine.appliance_id.in_(mine))


def volumes(caller: Caller) -> Select[tuple[models.VolumeRow]]:
    """The caller's volumes."""
    mine = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    return select(models.VolumeRow).where(models.VolumeRow.virtual_datacenter_id.in_(mine))


def networks(caller: Caller) -> Select[tuple[models.Network]]:
    """The networks of the caller's virtual datacenters, and those of the operator's for him."""
    table = models.Network
    mine = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    for_him = table.enterprise_id.is_(None) | _of(caller, table.enterprise_id)
    operators = table.virtual_datacenter_id.is_(None) & for_him
    return select(table).where(or_(table.virtual_datacenter_id.in_(mine), operators))


def addresses(caller: Caller) -> Select[tuple[models.AddressRow]]:
    """The addresses that the caller's virtual datacenters have bought, or VMs have.

    For who administers all enterprises, all of those in operators' networks, too.
    """
    table, nic = models.AddressRow, models.NicRow
    bought = virtual_datacenters(caller).with_only_columns(models.VirtualDatacenter.id)
    his = vms(caller).with_only_columns(models.VirtualMachine.id)
    given = select(nic.id).where(nic.vm_id.in_(his))
    network = models.Network
    operators = select(network.id).where(network.virtual_datacenter_id.is_(None))
    his_own = or_(table.virtual_datacenter_id.in_(bought), table.nic_id.in_(given))
    if caller.sees_all:
        return select(table).where(or_(his_own, table.network_id.in_(operators)))
    return select(table).where(his_own)


def whereabouts(db: Session, kind: str, target: UUID, arguments: dict[str, Any]) -> UUID | None:
    """The virtual datacenter that an operation's target is in, or is to be made in."""
    if kind == "vm":
        target, kind = db.get_one(models.VirtualMachine, target).appliance_id, "appliance"
    if kind == "appliance":
        return db.get_one(models.Appliance, target).virtual_datacenter_id
    if kind == "volume":
        if row := db.get(models.VolumeRow, target):
            return row.virtual_datacenter_id
        return UUID(arguments["volume"]["virtual_datacenter_id"])
    if kind == "network":
        if (network := db.get(models.Network, target)) is not None:
            return network.virtual_datacenter_id
        arguments = arguments["network"]
    if within := arguments.get("virtual_datacenter_id"):  # where a template's content is from
        return UUID(within)
    return None


def _of(caller: Caller, enterprise: Any) -> ColumnElement[bool]:
    """That something is of the caller's enterprise, or that it makes no difference to him."""
    return true() if caller.sees_all else enterprise == caller.enterprise_id


def _one(db: Session, table: type[T], ref: str | UUID, query: Select[tuple[T]]) -> T:
    """The row of that id, else of that name; what a text names gets a code of its own."""
    columns = cast(Any, table)
    noun = _noun(table)
    if isinstance(ref, str):
        by_name = db.scalars(query.where(columns.name == ref)).first()
        found = by_name or _by_id(db, columns, ref, query)
        if found is None:
            raise NotFound(f"there is no {noun} {ref}", code=f"unknown-{noun}")
        return found
    if (row := db.scalars(query.where(columns.id == ref)).first()) is None:
        raise NotFound(f"there is no {noun} {ref}")
    return row


def _noun(table: Any) -> str:
    noun: str = table.__tablename__
    return _NOUNS.get(table, singular(noun).replace("_", "-"))


_NOUNS: dict[Any, str] = {models.VirtualMachine: "vm"}


def _by_id(db: Session, columns: Any, ref: str, query: Select[tuple[T]]) -> T | None:
    try:
        key = UUID(ref)
    except ValueError:
        return None
    return db.scalars(query.where(columns.id == key)).first()
