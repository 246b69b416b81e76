"""What Prefect has to know before it can show and queue anything: pool, queues, deployments.

A queue is made once, and is the operator's from then on: what is set in the Prefect UI stays.
"""

import logging
from datetime import UTC, datetime
from threading import Event

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from adapters.types import Role
from flows import dispatch
from flows.catalog import FLOWS

FIRST_OF_SCHEDULES = datetime(2026, 1, 1, tzinfo=UTC)  # a restart moves no schedule
_AGAIN_S = 0.5

log = logging.getLogger(__name__)


def register(pool: str) -> None:
    """Make the work pool, its queues and a deployment of every flow, or bring them up to date."""
    prefect = dispatch.client()
    _make_queues(prefect, pool)
    for flow in FLOWS.values():
        every = flow.schedule and IntervalSchedule(
            interval=flow.schedule, anchor_date=FIRST_OF_SCHEDULES
        )
        prefect.create_deployment(
            prefect.create_flow(flow.flow),
            name=pool,
            version=flow.version[:12],
            description=flow.summary,
            work_pool_name=pool,
            work_queue_name=flow.role,
            schedules=[DeploymentScheduleCreate(schedule=every)] if every else [],
            parameter_openapi_schema=flow.flow.parameters.model_dump(),
            enforce_parameter_schema=True,
            tags=["cloudloom"],
        )


def _make_queues(prefect: SyncPrefectClient, pool: str) -> None:
    """Make what is missing; another worker that registers too is as good."""
    try:
        prefect.read_work_pool(pool)
    except ObjectNotFound:
        try:
            prefect.create_work_pool(WorkPoolCreate(name=pool, type="cloudloom"))
        except ObjectAlreadyExists:
            log.debug("somebody else has just made pool %s", pool)
    for priority, role in enumerate(Role, start=1):
        try:
            prefect.read_work_queue_by_name(role, pool)
        except ObjectNotFound:
            try:
                prefect.create_work_queue(role, priority=priority, work_pool_name=pool)
            except ObjectAlreadyExists:
                log.debug("somebody else has just made queue %s", role)


def register_patiently(pool: str, stop: Event) -> bool:
    """Register once Prefect answers: a worker may be there before its server. False: stopped."""
    while not stop.is_set():
        try:
            register(pool)
        except httpx.TransportError as error:
            log.info("waiting for Prefect: %s", error)
            stop.wait(_AGAIN_S)
        else:
            return True
    return False
