"""Row `list_25k`: a filtered page among 25,000 VMs of 500 enterprises on MariaDB, one client.

Seen by the largest enterprise, which has a tenth of them. Beside it FastAPI and PyMySQL alone, in
a process of its own like ours, with the same rows. `p95` is in the row, too.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.bench.measuring import Row, row, timed

RUNS = 60


def bench_list_25k(folder: Path) -> Iterator[Row]:
    """Pages by each filter, then the whole list as NDJSON."""
    from api import tokens
    from deployments.lab.mariadb import MariaDb
    from flows import prefect_env
    from flows.cloud import cloud
    from tests.labs import started
    from tests.many import fill
    from tests.worlds import build

    (folder / "mariadb").mkdir()
    server = MariaDb(folder / "mariadb")
    with ExitStack() as stack:
        stack.enter_context(started(server))
        url = server.fresh()
        world = build(folder / "home", hosts=100, database_url=url)
        largest = fill(world)
        token = tokens.mint(cloud.database, "bench", largest.enterprise)
        env = {**os.environ, **prefect_env.environment(cloud.settings)}
        env |= {**cloud.settings.variables(), "BENCH_DATABASE": url}
        ours = stack.enter_context(_served(["--factory", "api.app:create_app"], env))
        bare = stack.enter_context(_served(["tests.bench.bare:app"], env))
        ours.headers["Authorization"] = f"Bearer {token}"
        for name, value in {
            "none": "",
            "name": largest.vm,
            "state": "ON",
            "appliance_id": str(largest.appliance),
            "host_id": str(largest.host),
            "template_id": str(largest.template),
        }.items():
            wanted = {} if name == "none" else {name: value}
            keys = {
                field: each.replace("-", "") for field, each in wanted.items() if "_id" in field
            }
            asked = {**wanted, **keys, "enterprise": largest.enterprise.hex}
            mine = _asking(ours, "/v1/vms", wanted)
            peer = _asking(bare, "/vms", asked)
            yield _row(name, mine, peer)
        lines: list[int] = []

        def export() -> float:
            answer = ours.get("/v1/vms", headers={"Accept": "application/x-ndjson"}, timeout=120)
            lines.append(len(answer.text.splitlines()))
            return answer.elapsed.total_seconds()

        whole = [timed(export) for _ in range(3)]
        assert set(lines) == {largest.vms}
        pages = (largest.vms + 499) // 500
        took = statistics.median(whole)
        yield row("list_25k", 3, took, 0.05 * pages, "50 ms a page of 500", filter="export")
        cloud.database.engine.dispose()


def _row(name: str, mine: Callable[[], float], peer: Callable[[], float]) -> Row:
    for each in (mine, peer):
        for _ in range(5):
            each()
    samples = [(mine(), peer()) for _ in range(RUNS)]
    ours, bare = (sorted(column) for column in zip(*samples, strict=True))
    p95 = {"p95": round(ours[int(RUNS * 0.95)], 4), "peer_p95": round(bare[int(RUNS * 0.95)], 4)}
    medians = statistics.median(ours), statistics.median(bare)
    return row("list_25k", RUNS, *medians, "FastAPI and PyMySQL", filter=name, **p95)


def _asking(client: httpx.Client, path: str, query: dict[str, str]) -> Callable[[], float]:
    def ask() -> float:
        began = time.perf_counter()
        client.get(path, params=query).raise_for_status()
        return time.perf_counter() - began

    return ask


@contextmanager
def _served(what: list[str], env: dict[str, str]) -> Iterator[httpx.Client]:
    from deployments.lab.process import free_port, wait_for

    port = free_port()
    command = [sys.executable, "-m", "uvicorn", *what, "--log-level", "warning"]
    process = subprocess.Popen([*command, "--port", str(port)], env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def answers() -> bool:
                try:
                    return client.get("/docs").is_success
                except httpx.TransportError:
                    return False

            wait_for(answers, 120, "an API", every_s=0.2)
            yield client
    finally:
        process.terminate()
        process.wait()
