"""`python -m tests.bench.stock in-process|stock RUNS`: Prefect as it comes, seconds to a task.

Prints, for each run, the seconds from the call or the request to the first task's body.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

POOL = "stock"
PATIENCE_S = 120


@task
def note(path: str) -> None:
    """Say when it was reached."""
    Path(path).write_text(str(time.time()))


@flow
def probe(path: str) -> None:
    """One task."""
    note(path)


def in_process(runs: int, folder: Path) -> list[float]:
    """Call the flow here, with a client that is kept open and no heartbeats."""
    quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with quiet, SyncClientContext.get_or_create():
        return [called(folder / f"here-{n}") for n in range(runs + 3)][3:]


def called(path: Path) -> float:
    began = time.time()
    probe(str(path))
    return float(path.read_text()) - began


def stock(runs: int, folder: Path) -> list[float]:
    """Let Prefect's own process worker run it."""
    root = Path(__file__).parents[2]
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        deployment = client.create_deployment(
            client.create_flow(probe),
            name=POOL,
            work_pool_name=POOL,
            entrypoint="tests/bench/stock.py:probe",
            path=str(root),
            parameter_openapi_schema=probe.parameters.model_dump(),
        )
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        quick = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "0.5", "PYTHONPATH": str(root)}
        with (folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(command, env=quick, cwd=root, stdout=log, stderr=log)
        try:
            return [requested(client, deployment, folder / f"{n}") for n in range(runs + 1)][1:]
        finally:
            worker.terminate()
            worker.wait(60)


def requested(client: SyncPrefectClient, deployment: UUID, path: Path) -> float:
    began = time.time()
    client.create_flow_run_from_deployment(deployment, parameters={"path": str(path)})
    while not (path.exists() and path.read_text()):
        if time.time() - began > PATIENCE_S:
            raise TimeoutError("the stock worker did not start it")
        time.sleep(0.01)
    return float(path.read_text()) - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        measured = {"in-process": in_process, "stock": stock}[sys.argv[1]]
        sys.stdout.write(" ".join(map(str, measured(int(sys.argv[2]), Path(made)))))
