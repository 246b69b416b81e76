"""Health: alive is whoever answers; ready is who can do something."""

import httpx
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text

from flows.cloud import cloud

router = APIRouter(prefix="/health", tags=["health"])


class Readiness(BaseModel):
    """Whether requests can be accepted, and whether they are carried out at once."""

    status: str
    database: bool
    prefect: bool


@router.get("/live")
async def live() -> dict[str, str]:
    """Answer, touching nothing."""
    return {"status": "live"}


@router.get("/ready")
def ready() -> Readiness:
    """Answer when the database does; without Prefect operations are accepted, and wait."""
    with cloud.database.read() as db:
        db.execute(text("SELECT 1"))
    return Readiness(status="ready", database=True, prefect=_prefect_answers())


def _prefect_answers() -> bool:
    settings = cloud.settings
    url = settings.prefect_url or f"http://127.0.0.1:{settings.prefect_port}/api"
    try:
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            return client.get(f"{url.rstrip('/')}/health").is_success
    except httpx.HTTPError:
        return False
