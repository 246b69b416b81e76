"""Ten steps that do nothing: a flow of ours under Prefect, the journal alone, TaskFlow."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

HOW_MANY = 10


def run(world: Any, home: Path, runs: int) -> list[float]:
    """Seconds from the first step's beginning to `succeeded`, in a warm process of its own."""
    from adapters.database.operations import Operation
    from adapters.settings import Settings
    from deployments.lab import prefect_database
    from deployments.lab.process import free_port
    from flows import prefect_env

    settings = Settings(home=home, prefect_port=free_port())
    prefect_database.place(home)
    os.environ.update(prefect_env.environment(settings))
    from api import serve
    from flows.cloud import cloud
    from flows.operation import operation
    from flows.prefect_private import kept_warm
    from flows.steps import step

    @step("bench-nothing")
    def nothing(n: int) -> int:
        return n

    @nothing.undo
    def _(n: int) -> None:
        """Nothing is left of it."""

    @nothing.look
    def _(n: int) -> bool:
        return False

    @operation("vm")
    def bench_steps(request: Operation) -> None:
        """Do nothing, ten times."""
        for n in range(HOW_MANY):
            nothing(n)

    [server] = [each for each in serve.services(settings) if each.name == "prefect"]
    server.start()
    try:
        server.wait_ready(Event())
        spent = []
        with kept_warm():
            for _ in range(runs + 3):
                asked = world.accept("bench_steps", uuid4())
                bench_steps.flow(asked.id, return_state=True)
                ended = cloud.operations.read(asked.id)
                assert ended.ended_at is not None
                assert ended.started_at is not None
                spent.append((ended.ended_at - ended.started_at).total_seconds())
        return spent[3:]
    finally:
        server.end()


def journal(world: Any, steps: int) -> float:
    """Seconds a step, intent and outcome, in the journal alone."""
    from adapters.database.journal import Line
    from adapters.database.runners import this_runner
    from adapters.types import StepState
    from flows.cloud import cloud

    lease = cloud.operations.claim(world.accept("deploy_vm", uuid4()).id, this_runner())
    writer = cloud.journal.writer(lease)
    began = time.perf_counter()
    for n in range(steps):
        line = Line(
            key=f"step[{n}]",
            name="step",
            lane="",
            layer=0,
            position=n,
            arguments={"n": n},
            found=False,
            state=StepState.RUNNING,
            attempts=1,
        )
        writer.intend(line)
        writer.settle(line.key, StepState.DONE, result=n)
    writer.flush()
    spent = time.perf_counter() - began
    writer.close()
    return spent / steps


def taskflow(database: Path) -> Callable[[], object]:
    """OpenStack's engine with the same ten tasks, keeping its book in SQLite."""
    import taskflow.engines
    from taskflow import task
    from taskflow.patterns import linear_flow
    from taskflow.persistence import backends

    class Nothing(task.Task):
        def execute(self) -> int:
            return 0

        def revert(self, **_kwargs: Any) -> None:
            """Nothing is left of it."""

    backend = backends.fetch({"connection": f"sqlite:///{database}"})
    with closing(backend.get_connection()) as connection:
        connection.upgrade()
    flow = linear_flow.Flow("ten").add(*[Nothing(f"nothing-{n}") for n in range(HOW_MANY)])
    return lambda: taskflow.engines.run(flow, engine="serial", backend=backend)
