"""Health and metrics, without a token, for the local network.

Alive is whoever answers; ready is who can do something.
"""

from ipaddress import ip_address

import httpx
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import text

from api.errors import Problem
from api.metrics import exposition
from flows.cloud import cloud

router = APIRouter(tags=["health"])


def require_near(request: Request) -> None:
    """Raise `Problem` unless whoever asks has a loopback or private address."""
    if request.client and not _is_near(request.client.host):  # a Unix socket's peer has none
        raise Problem(403, "not-local", "health and metrics are for the local network only")


def _is_near(address: str) -> bool:
    try:
        peer = ip_address(address)
    except ValueError:
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_private


class Readiness(BaseModel):
    """Whether requests can be accepted, and whether they are carried out at once."""

    status: str
    database: bool
    prefect: bool


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Answer, touching nothing."""
    return {"status": "live"}


@router.get("/health/ready")
def ready() -> Readiness:
    """Answer when the database does; without Prefect operations are accepted, and wait."""
    with cloud.database.read() as db:
        db.execute(text("SELECT 1"))
    return Readiness(status="ready", database=True, prefect=_prefect_answers())


@router.get("/metrics", response_class=Response)
def metrics() -> Response:
    """Answer what Prometheus scrapes."""
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


def _prefect_answers() -> bool:
    settings = cloud.settings
    url = settings.prefect_url or f"http://127.0.0.1:{settings.prefect_port}/api"
    try:
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            return client.get(f"{url.rstrip('/')}/health").is_success
    except httpx.HTTPError:
        return False
