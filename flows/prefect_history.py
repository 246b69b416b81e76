"""What Prefect remembers of runs that are over, and how it is made to forget them."""

from collections.abc import Collection
from datetime import datetime
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterLastHeartbeatTime,
    WorkerFilterStatus,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import TERMINAL_STATES

from flows import dispatch

BATCH = 200  # as many as Prefect's server answers at once


def forget_runs(pool: str, before: datetime, but: Collection[UUID]) -> int:
    """Delete a batch of a pool's runs that ended before, with all of theirs; how many they were.

    Task runs, states and logs go with their run; artifacts do not.
    """
    prefect = dispatch.client()
    over = FlowRunFilter(
        id=FlowRunFilterId(not_any_=list(but)),
        end_time=FlowRunFilterEndTime(before_=before),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
    )
    theirs = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    runs = prefect.read_flow_runs(flow_run_filter=over, work_pool_filter=theirs, limit=BATCH)
    shown = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]))
    while artifacts := prefect.read_artifacts(artifact_filter=shown, limit=BATCH) if runs else []:
        for artifact in artifacts:
            prefect.delete_artifact(artifact.id)
    for run in runs:
        prefect.delete_flow_run(run.id)
    return len(runs)


def forget_workers(pool: str, before: datetime) -> int:
    """Delete a batch of a pool's workers that were last heard of before; how many they were.

    A worker is a process to Prefect: each restart leaves one.
    """
    prefect = dispatch.client()
    gone = WorkerFilter(
        status=WorkerFilterStatus(any_=["OFFLINE"]),
        last_heartbeat_time=WorkerFilterLastHeartbeatTime(before_=before),
    )
    found = prefect.read_workers_for_work_pool(pool, worker_filter=gone, limit=BATCH)
    return sum(_forget_worker(pool, each.name) for each in found)


def _forget_worker(pool: str, name: str) -> bool:
    address = {"work_pool_name": quote(pool, safe=""), "name": quote(name, safe="")}
    try:
        dispatch.client().request(
            "DELETE", "/work_pools/{work_pool_name}/workers/{name}", path_params=address
        )
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        return False  # forgotten by another meanwhile, or its name has a slash
    return True
