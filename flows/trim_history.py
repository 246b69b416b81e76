"""Forget what is over, so that nothing grows for ever: here, in Prefect, and in the library."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import httpx
from prefect.exceptions import PrefectException

from adapters.database.history import BATCH
from adapters.database.operations import Operation
from adapters.types import Finding
from flows import prefect_history
from flows.cloud import cloud
from flows.drop_conversions import drop_conversion, survey_conversions
from flows.drop_packages import drop_package, survey_packages
from flows.drop_uploads import drop_upload, survey_uploads
from flows.engine import is_prefect_watching
from flows.operation import operation
from flows.steps import step
from flows.upkeep import publish_report

_BATCHES = 50  # at most, an hour: 10,000 operations; what is more waits for the next time


@operation("datacenter", every=timedelta(hours=1))
def trim_history(request: Operation) -> None:
    """Forget operations, keys and Prefect's runs that are over; conversions, packages, uploads."""
    datacenter = request.datacenter_id
    forgetting = (forget_operations, forget_events, forget_keys, forget_runs)
    findings = [forget(datacenter) for forget in forgetting]
    for image in survey_conversions(datacenter):
        drop_conversion(image, datacenter)
        findings.append(Finding(what="conversion", name=image.path, state="forgotten"))
    for package in survey_packages(datacenter):
        drop_package(package)
        findings.append(Finding(what="package", name=package.name, state="forgotten"))
    for upload in survey_uploads(datacenter):
        drop_upload(upload, datacenter)
        findings.append(Finding(what="upload", name=upload, state="forgotten"))
    publish_report(request.kind, datacenter, findings)


@step("forget-operations")
def forget_operations(datacenter: UUID) -> Finding:
    days, evidence = cloud.settings.history_days, cloud.settings.evidence_days
    forget = partial(cloud.history.forget_operations, datacenter, days, evidence)
    forgotten = _forgotten("operations", days, forget)
    cloud.history.compact()
    return forgotten


@step("forget-keys")
def forget_keys(datacenter: UUID) -> Finding:
    days = cloud.settings.idempotency_days
    for forget in (cloud.history.forget_sessions, cloud.history.forget_plans):
        _in_batches(partial(forget, days))
    return _forgotten("idempotency keys", days, partial(cloud.history.forget_keys, days))


@step("forget-events")
def forget_events(datacenter: UUID) -> Finding:
    days = cloud.settings.event_days
    return _forgotten("events", days, partial(cloud.history.forget_events, days))


@step("forget-runs")
def forget_runs(datacenter: UUID) -> Finding:
    """Forget the runs of this datacenter's pool, but those of operations that go on.

    And its workers that are gone: each process has been one.
    """
    days = cloud.settings.history_days
    before = datetime.now(UTC) - timedelta(days=days)
    if not is_prefect_watching():
        return Finding(what="runs", name=f"{days} days", state="left", detail="without Prefect")
    pool, but = cloud.inventory.datacenter_name(datacenter), cloud.history.runs_in_use(datacenter)
    try:
        forgotten = _in_batches(lambda: prefect_history.forget_runs(pool, before, but))
        workers = _in_batches(lambda: prefect_history.forget_workers(pool, before))
    except (httpx.HTTPError, PrefectException) as error:
        return Finding(what="runs", name=f"{days} days", state="left", detail=str(error))
    state, detail = f"{forgotten} forgotten", f"and {workers} workers that are gone"
    return Finding(what="runs", name=f"{days} days", state=state, detail=detail)


def _forgotten(what: str, days: float, forget: Callable[[], int]) -> Finding:
    return Finding(what=what, name=f"{days} days", state=f"{_in_batches(forget)} forgotten")


def _in_batches(forget: Callable[[], int]) -> int:
    forgotten = 0
    for _ in range(_BATCHES):
        forgotten += (batch := forget())
        if batch < BATCH:
            break
    return forgotten
