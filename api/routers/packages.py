"""Packages: what was made of templates and VMs for other products, and waits to be fetched."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict

from adapters.database.packages import PackageRow
from adapters.privileges import Privilege
from api import finding
from api.dependencies import Caller, Pages, chosen
from api.handing_out import address
from api.permissions import needs
from flows.cloud import cloud

router = APIRouter(prefix="/packages", tags=["templates"])


class Package(BaseModel):
    """An OVA; its id is that of the operation that made it, its name that of its origin."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    datacenter_id: UUID
    name: str
    size_bytes: int
    digest: str
    created_at: datetime


@router.get("", dependencies=[needs(Privilege.APPLIB_VIEW)])
def list_packages(caller: Caller, page: Pages, name: str | None = None) -> list[Package]:
    """List the packages that wait to be fetched."""
    query = chosen(finding.packages(caller), name=name)
    with cloud.database.read() as db:
        rows = page.rows(db, query, PackageRow, "created_at", "name")
        return [Package.model_validate(row) for row in rows]


@router.get("/{package_id}", dependencies=[needs(Privilege.APPLIB_VIEW)])
def read_package(package_id: UUID, caller: Caller) -> Package:
    """Read a package; it goes by itself after a while."""
    with cloud.database.read() as db:
        return Package.model_validate(finding.package(db, caller, package_id))


@router.get(
    "/{package_id}/content",
    status_code=307,
    response_class=RedirectResponse,
    responses={307: {"description": "The file is at `Location`, for an hour."}},
    dependencies=[needs(Privilege.APPLIB_ALLOW_MODIFY)],
)
def read_content(package_id: UUID, caller: Caller) -> Response:
    """Fetch a package: the answer says where its file is."""
    with cloud.database.read() as db:
        return RedirectResponse(address(caller, finding.package(db, caller, package_id)), 307)
