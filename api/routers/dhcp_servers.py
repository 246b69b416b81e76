"""DHCP servers: they tell guests the addresses that are reserved for them."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models, uses
from adapters.errors import Conflict
from adapters.privileges import Privilege
from api import finding, infrastructure
from api.dependencies import Caller, Key, Name, Pages, Reference, once_without_secrets
from api.labelling import SoughtLabels
from api.matching import Match
from api.once import Answer
from api.permissions import needs
from api.routers.hosts import HostLogin
from flows import enrolment
from flows.cloud import cloud

router = APIRouter(prefix="/dhcp-servers", tags=["infrastructure"])
Address = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class DhcpKind(StrEnum):
    """What DHCP servers there are."""

    KEA = "kea"
    DNSMASQ = "dnsmasq"
    MEMORY = "memory"


class NewDhcpServer(BaseModel):
    """A DHCP server that runs, and where it is changed."""

    model_config = ConfigDict(extra="forbid")

    datacenter: Reference = Field(examples=["main"])
    name: Name = Field(examples=["dhcp-1"])
    kind: DhcpKind = DhcpKind.KEA
    address: Address = Field(
        examples=["/run/kea/kea4.sock"],
        description="Kea's control socket, or its agent's URL; dnsmasq's folder.",
    )
    login: HostLogin | None = Field(None, description="As whom Kea's agent is asked.")


class DhcpServerChange(BaseModel):
    """What is to be different; where it is found only while no network is served by it."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    address: Address = ""
    login: HostLogin | None = None


class DhcpServer(BaseModel):
    """A DHCP server."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    kind: DhcpKind
    address: str
    labels: dict[str, str]


_shown = infrastructure.plainly(DhcpServer)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": DhcpServer}},
    dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK)],
)
def create_dhcp_server(
    request: Request, new: NewDhcpServer, caller: Caller, idempotency_key: Key = None
) -> Response:
    """Add a DHCP server; it is asked whether it can serve networks of its datacenter, first."""
    once, made = once_without_secrets(request, caller, idempotency_key, new), uuid4()
    login = new.login.chap if new.login else None
    enrolment.ask_dhcp_at(new.kind, new.address, made, login)

    def act(db: Session) -> Answer:
        datacenter = finding.shared(db, models.Datacenter, new.datacenter).id
        uses.held(db, models.Datacenter, datacenter)
        fields = new.model_dump(include={"name", "kind", "address"}, mode="json")
        row = models.DhcpServer(id=made, datacenter_id=datacenter, **fields)
        _require_new(db, row)
        infrastructure.enter(db, row, row.name)
        if login:
            cloud.secrets.keep(db, made, login)
        return infrastructure.created("dhcp-servers", DhcpServer.model_validate(row))

    return once.answer(act).response()


@router.get("", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def list_dhcp_servers(
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    datacenter_id: UUID | None = None,
) -> list[DhcpServer]:
    """List DHCP servers."""
    wanted = {"name": name, "datacenter_id": datacenter_id}
    query = select(models.DhcpServer).filter_by(**{k: v for k, v in wanted.items() if v})
    query = sought.among(query, models.DhcpServer)
    with cloud.database.read() as db:
        rows = page.rows(db, query, models.DhcpServer, "name")
        return [DhcpServer.model_validate(row) for row in rows]


@router.get("/{server_id}", dependencies=[needs(Privilege.PHYS_DC_RETRIEVE_DETAILS)])
def read_dhcp_server(server_id: UUID) -> DhcpServer:
    """Read a DHCP server."""
    with cloud.database.read() as db:
        return DhcpServer.model_validate(finding.shared(db, models.DhcpServer, server_id))


@router.patch("/{server_id}", dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK)])
def change_dhcp_server(server_id: UUID, wanted: DhcpServerChange, match: Match) -> DhcpServer:
    """Change its name or login; or where it is found, while no network is served by it.

    At a new address, and with a new login, it is asked first, as when it was added.
    """
    values = wanted.model_dump(exclude_unset=True, exclude={"login"})
    login = wanted.login.chap if wanted.login else None
    if "address" in values or login:
        now = read_dhcp_server(server_id)
        enrolment.ask_dhcp_at(now.kind, values.get("address", now.address), server_id, login)

    def act(db: Session, row: models.DhcpServer) -> DhcpServer:
        if "address" in values and (users := [*uses.users_of(db, row)]):
            raise uses.in_use(row, users)
        infrastructure.assign(row, values)
        if "address" in values:
            _require_new(db, row)
        if login:
            cloud.secrets.keep(db, row.id, login)
        return DhcpServer.model_validate(row)

    return infrastructure.change(models.DhcpServer, server_id, act, match, _shown)


@router.delete(
    "/{server_id}", status_code=204, dependencies=[needs(Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK)]
)
def delete_dhcp_server(server_id: UUID, match: Match) -> None:
    """Forget a DHCP server that no network is served by; nothing of it is touched."""
    infrastructure.remove(models.DhcpServer, server_id, match, _shown)


def _require_new(db: Session, row: models.DhcpServer) -> None:
    """Raise `Conflict` where another one is the same: each would undo what the other is told.

    A path is the same only within a datacenter, whose worker has it.
    """
    table, place = models.DhcpServer, row.address.rstrip("/")
    others = select(table).where(table.id != row.id, table.kind == row.kind)
    if "://" not in place:
        others = others.where(table.datacenter_id == row.datacenter_id)
    with db.no_autoflush:
        for other in db.scalars(others):
            if other.address.rstrip("/") == place:
                text = f"the DHCP server at {row.address} is there already, as {other.name}"
                raise Conflict(text, code="dhcp-server-known")
