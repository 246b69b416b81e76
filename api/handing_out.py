"""The image gateway's way out: packages that were made are fetched at signed addresses.

An address is good for an hour, as often as one likes: what breaks off is asked for from there on
(`Range`).
"""

import asyncio
from typing import Annotated, ClassVar
from uuid import UUID

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse

from adapters.database.packages import PackageRow, kept
from adapters.errors import NotFound
from adapters.privileges import Privilege
from api import finding, tokens
from api.tickets import Ticket, opened, sign
from flows.cloud import cloud

router = APIRouter(prefix="/gateway", tags=["gateway"])
_VALID_S = 3600
_FILE = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}


class Handout(Ticket):
    """One package that somebody may fetch."""

    use: ClassVar[str] = "handout"
    privilege: ClassVar[Privilege] = Privilege.APPLIB_ALLOW_MODIFY

    package: UUID


def address(caller: tokens.Caller, package: PackageRow) -> str:
    """The path where the package may be fetched."""
    return f"/gateway/packages/{sign(Handout(token_id=caller.token_id, package=package.id))}"


@router.get("/packages/{signed}", response_class=FileResponse, responses={200: _FILE, 206: _FILE})
async def fetch(signed: Annotated[str, Path()]) -> FileResponse:
    """Fetch a package, or a part of it."""
    return await asyncio.to_thread(_file, signed)


def _file(signed: str) -> FileResponse:
    handout, caller = opened(Handout, signed, _VALID_S)
    with cloud.database.read() as db:
        package = kept(finding.package(db, caller, handout.package))
    repository = cloud.repository(package.datacenter_id)
    if not repository.has(package.path):
        raise NotFound(f"package {package.id} is gone")
    return FileResponse(
        repository.path(package.path),
        media_type="application/octet-stream",
        filename=f"{package.name}.ova",
    )
