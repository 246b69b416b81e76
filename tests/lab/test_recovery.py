"""Kill -9 in the middle of a real deploy, through the real engine: it ends by itself."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from threading import Event
from uuid import uuid4

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from adapters.database.operations import Operation
from adapters.settings import Settings
from adapters.types import Format, OperationState, StepState
from api import serve
from deployments.lab import prefect_database
from deployments.lab.process import free_port, wait_for
from deployments.lab.tgtd import Tgtd
from flows import dispatch, prefect_env
from flows.cloud import cloud
from tests.flows.scenarios import Scenario
from tests.lab import real_world

pytestmark = [pytest.mark.lab, pytest.mark.engine]

ENDS_S = 90


@pytest.fixture(scope="module")
def served(tmp_path_factory, kvm_host) -> Iterator[tuple[real_world.RealWorld, serve.Service]]:
    """A real world, with Prefect and a worker at work on it."""
    folder = tmp_path_factory.mktemp("r")
    home, tgtd, patch = folder / "home", Tgtd(folder / "tgtd"), pytest.MonkeyPatch()
    for name, value in {
        "HOME": home,
        "PORT": free_port(),
        "PREFECT_PORT": free_port(),
        "LEASE_S": 5,
        "BACKEND_TIMEOUT_S": 1,
        "POWER_OFF_TIMEOUT_S": 0,
        "RETRY_DELAY_S": 0.1,
    }.items():
        patch.setenv(f"CLOUDLOOM_{name}", str(value))
    running: list[serve.Service] = []
    try:
        tgtd.start()
        world = real_world.build(home, kvm_host, tgtd)
        prefect_database.place(home)
        cloud.become(Settings(image_tool="qemu-img"))
        env = prefect_env.environment(Settings())
        dispatch.client.cache_clear()
        dispatch._deployment.cache_clear()
        dispatch._pool.cache_clear()
        running = [each for each in serve.services(Settings()) if each.name != "api"]
        ours = {
            PREFECT_API_URL: env["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: env["PREFECT_API_AUTH_STRING"],
        }
        for each in running:
            each.start()
        for each in running:
            each.wait_ready(Event())
        with temporary_settings(ours):
            yield world, next(each for each in running if each.name == "worker")
            dispatch.client().__exit__(None, None, None)
        real_world.clear(world)
    finally:
        for each in reversed(running):
            each.end()
        tgtd.stop()
        patch.undo()
        cloud.database.engine.dispose()


def deploy(world: real_world.RealWorld) -> tuple[Operation, Scenario, dict]:
    foreign = world.image(f"foreign {uuid4()}", Format.VMDK)
    appliance = world.appliance("db", "web", template=foreign, web=["db"])
    vms = cloud.inventory.vms_of(appliance)
    world.volume(f"data {uuid4()}", vms[0].id)
    scenario = Scenario("deploy_appliance", lambda _world: (appliance, {}), ("conversions",))
    before = world.photograph(scenario)
    asked = {"vms": [str(vm.id) for vm in vms]}
    locks = [("appliance", appliance), *(("vm", vm.id) for vm in vms)]
    operation = world.accept("deploy_appliance", appliance, *locks, **asked)
    dispatch.send(operation)
    return operation, scenario, before


def runner_of(operation: Operation) -> psutil.Process:
    from adapters.database import models

    with cloud.database.read() as db:
        row = db.get(models.Operation, operation.id)
        assert row is not None
        return psutil.Process(row.runner_pid)


def reached(operation: Operation, step: str, state: StepState) -> bool:
    lines = cloud.journal.lines(operation.id)
    return any(line.name == step and line.state is state for line in lines)


def kill(which: str, operation: Operation, worker: serve.Service) -> None:
    child = runner_of(operation)
    assert worker.process is not None
    if which in {"runner", "both"}:
        child.kill()
    if which in {"worker", "both"}:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        if which == "worker":  # its children end with it, and only then somebody else may act
            child.wait(90)
        worker.start()
        worker.wait_ready(Event())


def programs_of(vms: list[str], world: real_world.RealWorld) -> Counter[str]:
    """The processes that run for these VMs, by VM; and image tools at work in this world."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "qemu-img" in words and str(world.home) in words:
            found["qemu-img"] += 1
        found.update(vm for vm in vms if f"guest=vm-{vm}," in words)
    return found


@pytest.mark.parametrize("then", ["resumed", "unwound"])
@pytest.mark.parametrize("which", ["runner", "worker", "both"])
def test_killed_in_the_middle_of_a_deploy(which, then, served):
    world, worker = served
    targets = world.tgt.targets()
    operation, scenario, before = deploy(world)
    vms = operation.arguments["vms"]
    wait_for(lambda: reached(operation, "define-vm", StepState.DONE), 60, "the first VM")
    if then == "unwound":
        cloud.operations.want(operation.id, "unwind")
    kill(which, operation, worker)
    wait_for(lambda: cloud.operations.read(operation.id).ended, ENDS_S, "the operation's end")
    wait_for(lambda: not cloud.operations.locked_by(operation.id), 30, "its receipt")
    ended = cloud.operations.read(operation.id)
    assert not ended.left_behind
    if then == "resumed":
        assert ended.state is OperationState.SUCCEEDED, ended.error
        assert ended.epoch == 2
        assert programs_of(vms, world) == dict.fromkeys(vms, 1)
        assert len(world.tgt.targets()) == len(targets) + 1
    else:
        assert ended.state is OperationState.CANCELLED
        assert world.photograph(scenario) == before
        assert not programs_of(vms, world)
        time.sleep(1.2)
        wait_for(
            lambda: not cloud.operations.read(operation.id).provisional, 30, "the second look"
        )
        assert not cloud.operations.read(operation.id).left_behind
