"""What a maintenance operation found: its step's result, and a table that Prefect shows."""

import logging
from uuid import UUID

import httpx
from prefect.artifacts import create_table_artifact
from prefect.exceptions import PrefectException

from adapters.types import Finding
from flows.engine import is_prefect_watching
from flows.steps import step

_ROWS = 200  # more would be read by nobody, and are kept twice

log = logging.getLogger(__name__)


@step("publish-report")
def publish_report(kind: str, datacenter: UUID, findings: list[Finding]) -> list[Finding]:
    """Keep what was found; in Prefect, the tables of one kind and datacenter are a history.

    Prefect away is no error: our database has it.
    """
    kept = findings[:_ROWS]
    if more := len(findings) - len(kept):
        kept = [*kept, Finding(what="report", name=kind, state="cut", detail=f"{more} more")]
    if is_prefect_watching():
        try:
            create_table_artifact(
                [each.model_dump() for each in kept],
                key=f"{kind.replace('_', '-')}-{datacenter}",
                description=f"{len(findings)} findings of {kind} in datacenter {datacenter}",
            )
        except (httpx.HTTPError, PrefectException) as error:
            log.warning("Prefect does not show the report of %s: %s", kind, error)
    return kept


@publish_report.plan
def _(kind: str, datacenter: UUID, findings: list[Finding]) -> list[Finding]:
    """What was found is known when it is carried out."""
    return findings
