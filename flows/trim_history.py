"""Forget what is over, so that nothing grows for ever: here, in Prefect, and in the library."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.exceptions import PrefectException

from adapters.database.history import BATCH
from adapters.database.library import Image
from adapters.database.operations import Operation
from adapters.errors import InUse
from adapters.types import Finding
from flows import prefect_history
from flows.cloud import cloud
from flows.engine import is_prefect_watching
from flows.operation import operation
from flows.running import running
from flows.steps import Effect, step
from flows.upkeep import publish_report

_BATCHES = 50  # at most, an hour: 10,000 operations; what is more waits for the next time


@operation("datacenter", every=timedelta(hours=1))
def trim_history(request: Operation) -> None:
    """Forget operations, keys and Prefect's runs that are over, and conversions not needed."""
    datacenter = request.datacenter_id
    findings = [forget_operations(datacenter), forget_keys(datacenter), forget_runs(datacenter)]
    for image in survey_conversions(datacenter):
        drop_conversion(image, datacenter)
        findings.append(Finding(what="conversion", name=image.path, state="forgotten"))
    publish_report(request.kind, datacenter, findings)


@step("forget-operations")
def forget_operations(datacenter: UUID) -> Finding:
    days, evidence = cloud.settings.history_days, cloud.settings.evidence_days
    forgotten = _in_batches(lambda: cloud.history.forget_operations(datacenter, days, evidence))
    cloud.history.compact()
    return Finding(what="operations", name=f"{days} days", state=f"{forgotten} forgotten")


@step("forget-keys")
def forget_keys(datacenter: UUID) -> Finding:
    days = cloud.settings.idempotency_days
    forgotten = _in_batches(lambda: cloud.history.forget_keys(days))
    _in_batches(lambda: cloud.history.forget_sessions(days))
    return Finding(what="idempotency keys", name=f"{days} days", state=f"{forgotten} forgotten")


@step("forget-runs")
def forget_runs(datacenter: UUID) -> Finding:
    """Forget the runs of this datacenter's pool, but those of operations that go on."""
    days = cloud.settings.history_days
    before = datetime.now(UTC) - timedelta(days=days)
    if not is_prefect_watching():
        return Finding(what="runs", name=f"{days} days", state="left", detail="without Prefect")
    pool, but = cloud.inventory.datacenter_name(datacenter), cloud.history.runs_in_use(datacenter)
    try:
        forgotten = _in_batches(lambda: prefect_history.forget_runs(pool, before, but))
    except (httpx.HTTPError, PrefectException) as error:
        return Finding(what="runs", name=f"{days} days", state="left", detail=str(error))
    return Finding(what="runs", name=f"{days} days", state=f"{forgotten} forgotten")


def _in_batches(forget: Callable[[], int]) -> int:
    forgotten = 0
    for _ in range(_BATCHES):
        forgotten += (batch := forget())
        if batch < BATCH:
            break
    return forgotten


@step("survey-conversions")
def survey_conversions(datacenter: UUID) -> list[Image]:
    """Those that no disk claims, and that were made long enough ago; none unless so set."""
    days, repository = cloud.settings.conversion_days, cloud.repository(datacenter)
    if not days:
        return []
    before_ns = time.time_ns() - int(timedelta(days=days).total_seconds() * 1e9)
    return [
        image
        for image in cloud.library.conversions(datacenter)
        if image.identity.modified_ns < before_ns
        and not cloud.claims.holders(f"file:{repository.path(image.path)}")
    ]


@step("drop-conversion", Effect.REMOVES)
def drop_conversion(image: Image, datacenter: UUID) -> None:
    """Remove row and file, unless a disk has claimed it meanwhile."""
    repository = cloud.repository(datacenter)
    file = f"file:{repository.path(image.path)}"
    try:
        cloud.claims.begin_removal(file, running())
    except InUse:
        return
    cloud.library.forget_conversion(image.id)
    repository.delete(image.path)
    cloud.claims.removed(file, running())


@drop_conversion.look
def _(image: Image, datacenter: UUID) -> bool:
    """Whether it is there although nobody needs it."""
    repository = cloud.repository(datacenter)
    claimed = cloud.claims.holders(f"file:{repository.path(image.path)}")
    return repository.has(image.path) and not claimed
