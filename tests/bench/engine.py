"""Rows about the engine, on memory adapters: `first_step`, `steps`, `deploy_1000`, `recover`.

A simulated host takes no time: what is measured is what we and Prefect cost.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
from sqlalchemy import select, update

from tests.bench.measuring import Row, row, timed

RUNS = 30
TURNS = 3
STOCK_RUNS = 3
SIZES = (50, 200, 1000)
GOAL_VMS_A_MINUTE = 5000


@contextmanager
def simulated(folder: Path, hosts: int = 20, **settings: str) -> Iterator[tuple[Any, Any]]:
    """A cloud on memory adapters under a Cloudloom as users start it, and a client of it."""
    from adapters.database import models
    from api.client import Client
    from deployments.lab.cloudloom import Cloudloom
    from flows.cloud import cloud
    from tests import worlds

    home = folder / "home"
    world = worlds.build(home, hosts=hosts)
    with cloud.database.write() as db:
        large = {"cpu": 640, "ram_mib": 2**20, "address": "memory?without=news"}
        db.execute(update(models.Host).values(**large))
    ours = Cloudloom(home, image_tool="memory", **settings)
    ours.start()
    try:
        with Client(ours.url, ours.token) as client:
            yield world, client
    finally:
        ours.stop()


def first_line_at(operation: UUID) -> float:
    """When an operation wrote its first intent."""
    from flows.cloud import cloud

    return min(line.started_at.timestamp() for line in cloud.journal.lines(operation))


def bench_first_step(folder: Path) -> Iterator[Row]:
    """From the request to the first step: through API, Prefect and worker; beside two others."""
    with simulated(folder) as (_, client):

        def ours(pause_s: float) -> float:
            time.sleep(pause_s)
            asked = {"virtual_datacenter": "demo", "name": f"v-{uuid4().hex[:12]}", "size_mib": 1}
            began = time.time()
            operation = client.start("/v1/volumes", asked)
            ended = client.wait(operation.id)
            assert ended.state == "succeeded", ended.error
            return first_line_at(operation.id) - began

        for _ in range(5):
            ours(0.5)
        taken: dict[str, list[float]] = {"idle": [], "busy": [], "in-process": []}
        for _ in range(TURNS):  # so that drift hits all
            taken["idle"] += [ours(1.0) for _ in range(RUNS // TURNS)]
            taken["busy"] += [ours(0.0) for _ in range(RUNS // TURNS)]
            taken["in-process"] += _others(folder / "home", "in-process", RUNS // TURNS)
        idle, busy, in_process = map(statistics.median, taken.values())
        stock = statistics.median(_others(folder / "home", "stock", STOCK_RUNS))
    yield row("first_step", RUNS, idle, in_process, "in-process", load="idle")
    yield row("first_step", RUNS, busy, in_process, "in-process", load="back to back")
    yield row("first_step", STOCK_RUNS, idle, stock, "stock worker", load="idle")


def _others(home: Path, which: str, runs: int) -> list[float]:
    """The same server, used as Prefect comes: in a process of its own."""
    from adapters.settings import Settings
    from flows import prefect_env

    port = _prefect_port(home)
    env = {**os.environ, **prefect_env.environment(Settings(home=home, prefect_port=port))}
    command = [sys.executable, "-m", "tests.bench.stock", which, str(runs)]
    told = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return [float(each) for each in told.stdout.split()]


def _prefect_port(home: Path) -> int:
    """The port that the Prefect server of this home was started with."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or []
        if "flows.prefect_server" in words:
            environment = process.info["environ"] or {}
            if environment.get("CLOUDLOOM_HOME") == str(home.absolute()):
                return int(words[-1])
    raise LookupError("no Prefect server")


def bench_steps(folder: Path) -> Iterator[Row]:
    """Ten steps that do nothing, from the first to `succeeded`; the journal alone; TaskFlow."""
    from tests import worlds
    from tests.bench import ten_steps

    world = worlds.build(folder / "home")
    told = ten_steps.run(world, folder / "home", RUNS)
    taskflow = statistics.median(
        timed(ten_steps.taskflow(folder / f"taskflow-{n}.sqlite")) for n in range(RUNS)
    )
    yield row("steps", RUNS, statistics.median(told), taskflow, "TaskFlow with SQLite")
    journal = statistics.median(ten_steps.journal(world, 50) for _ in range(10))
    yield row("steps", 10, journal, 0.0025, "goal of the journal, a step", part="journal")


def bench_deploy_1000(folder: Path) -> Iterator[Row]:
    """Deploy N simulated VMs through API and worker; a VM of many costs no more than of few."""
    with simulated(folder) as (_, client):
        client.wait(_deployed(client, "warm", 5)[0])
        for size in SIZES:
            operation, began, known = _deployed(client, f"app-{size}", size)
            ended = client.wait(operation)
            assert ended.state == "succeeded", ended.error
            took = ended.ended_at.timestamp() - began
            shown = _shown_complete(folder / "home", operation)
            costs = _costs(folder / "home")
            at_goal = size * 60 / GOAL_VMS_A_MINUTE
            yield row(
                "deploy_1000",
                1,
                took,
                at_goal,
                f"{GOAL_VMS_A_MINUTE} a minute",
                size=size,
                accepted_s=round(known, 2),
                shown_s=round(shown - ended.ended_at.timestamp(), 2),
                **costs,
            )


def _deployed(client: Any, name: str, vms: int) -> tuple[UUID, float, float]:
    text = f"""{{appliance: {name}, virtual_datacenter: demo,
    vms: [{{name: vm, template: tiny, replicas: {vms}, networks: [default]}}]}}"""
    appliance = client.post_yaml("/v1/appliances", text)["id"]
    began = time.time()
    operation = client.start(f"/v1/appliances/{appliance}/deploy")
    return operation.id, began, time.time() - began


def _costs(home: Path) -> dict[str, float]:
    """CPU and memory of the processes of a home, by what they are."""
    parts = {"flows.prefect_server": "prefect", "flows.worker": "worker", "uvicorn": "api"}
    found: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline", "environ", "memory_info", "cpu_times"]):
        info = process.info
        if (info["environ"] or {}).get("CLOUDLOOM_HOME") != str(home.absolute()):
            continue
        words = info["cmdline"] or []
        part = next((what for word, what in parts.items() if word in words), "runner")
        rss, spent = f"{part}_rss_mib", f"{part}_cpu_s"
        found[rss] = max(found.get(rss, 0), info["memory_info"].rss // 2**20)
        cpu = info["cpu_times"].user + info["cpu_times"].system
        found[spent] = round(found.get(spent, 0) + cpu, 1)
    return found


def _shown_complete(home: Path, operation: UUID) -> float:
    """When Prefect shows the operation's run as completed."""
    from adapters.settings import Settings
    from flows import prefect_env
    from flows.cloud import cloud

    run = cloud.operations.read(operation).flow_run_id
    env = prefect_env.environment(Settings(home=home, prefect_port=_prefect_port(home)))
    code = (
        "import sys\nfrom prefect.client.orchestration import get_client\n"
        "import time\n"
        "with get_client(sync_client=True) as client:\n"
        "    while not (state := client.read_flow_run(sys.argv[1]).state).is_final():\n"
        "        time.sleep(0.05)\n"
        "    print(state.timestamp.timestamp())\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(told.stdout)


def bench_recover(folder: Path) -> Iterator[Row]:
    """From SIGKILL to work again: of a runner and a worker, the operation's next attempt; of the
    API and of Prefect's server, the first attempt of what is asked for at once.
    """
    from flows.cloud import cloud

    with simulated(folder) as (_, client):
        for what, limit_s, victim in (
            ("child", 2.0, _runner),
            ("worker", 30.0, lambda _operation: _process(folder / "home", "flows.worker")),
        ):
            spent = []
            for n in range(5):
                cloud.world.set_fate("storage.ensure_volume", delay_s=2.0)
                asked = {"virtual_datacenter": "demo", "name": f"{what}-{n}", "size_mib": 1}
                operation = client.start("/v1/volumes", asked)
                _until(lambda o=operation: len(cloud.journal.lines(o.id)) > 1)
                os.kill(victim(operation.id), signal.SIGKILL)
                began = time.monotonic()
                _until(lambda o=operation: cloud.operations.read(o.id).epoch > 1)
                spent.append(time.monotonic() - began)
                assert client.wait(operation.id).state == "succeeded"
            yield row("recover", 5, statistics.median(spent), limit_s, "goal", killed=what)
        for what, word in (("api", "uvicorn"), ("prefect", "flows.prefect_server")):
            spent = []
            for n in range(3):
                os.kill(_process(folder / "home", word), signal.SIGKILL)
                began = time.monotonic()
                asked = {"virtual_datacenter": "demo", "name": f"{what}-{n}", "size_mib": 1}
                operation = _insistently(client, asked)
                _until(lambda o=operation: cloud.operations.read(o).epoch > 0)
                spent.append(time.monotonic() - began)
                assert client.wait(operation).state == "succeeded"
            yield row("recover", 3, statistics.median(spent), 30.0, "goal", killed=what)


def _insistently(client: Any, asked: dict[str, Any]) -> UUID:
    """Ask for a volume until somebody answers."""
    from api.client import Refusal

    while True:
        try:
            operation: UUID = client.start("/v1/volumes", asked).id
            return operation
        except Refusal as refusal:
            if refusal.problem["code"] != "unreachable":
                raise
            time.sleep(0.05)


def _runner(operation: UUID) -> int:
    from adapters.database import models
    from flows.cloud import cloud

    with cloud.database.read() as db:
        query = select(models.Operation.runner_pid).where(models.Operation.id == operation)
        return int(db.scalars(query).one() or 0)


def _process(home: Path, word: str) -> int:
    for process in psutil.process_iter(["cmdline", "environ"]):
        its_home = (process.info["environ"] or {}).get("CLOUDLOOM_HOME")
        if word in (process.info["cmdline"] or []) and its_home == str(home.absolute()):
            return int(process.pid)
    raise LookupError(f"no {word}")


def _until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happens():
        if time.monotonic() > end:
            raise TimeoutError("it does not happen")
        time.sleep(0.005)
