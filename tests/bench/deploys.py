"""Rows about real VMs, beside bare libvirt: `deploy_1`, `deploy_20`."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4

from tests.bench.measuring import Row, in_turn, row


def bench_deploy_1(folder: Path) -> Iterator[Row]:
    """Deploy one VM through the worker, beside bare libvirt: overlay, define, start."""
    until_shown: list[float] = []
    with lab(folder) as (world, bare):

        def ours() -> float:
            vm_id = _vms_of(world.appliance("bench"))[0]
            deployed = _through_the_worker(world.accept("deploy_vm", vm_id))
            until_shown.append(_until_shown(deployed))
            _through_the_worker(world.accept("undeploy_vm", vm_id))
            return _spent(deployed)

        yield row("deploy_1", 7, *in_turn(7, ours, bare), "libvirt")
    yield row("shown", 7, statistics.median(until_shown), 0.1, "goal")


def bench_deploy_20(folder: Path) -> Iterator[Row]:
    """Deploy an appliance of twenty VMs, beside twenty of bare libvirt, as many at a time."""
    with lab(folder) as (world, bare):

        def ours() -> float:
            appliance = world.appliance(*[f"vm-{n}" for n in range(20)])
            vms = [str(vm) for vm in _vms_of(appliance)]
            asked = world.accept("deploy_appliance", appliance, vms=vms)
            spent = _spent(_through_the_worker(asked))
            _through_the_worker(world.accept("undeploy_appliance", appliance, vms=vms))
            return spent

        def floor() -> float:
            return bare(20)

        yield row("deploy_20", 3, *in_turn(3, ours, floor), "libvirt", size=20)


@contextmanager
def lab(folder: Path) -> Iterator[tuple[Any, Callable[..., float]]]:
    """A real host and iSCSI server with Prefect and a worker; and VMs without any of ours."""
    import libvirt

    from adapters.settings import Settings
    from deployments.lab.kvm_host import KvmHost
    from deployments.lab.process import free_port
    from deployments.lab.tgtd import Tgtd
    from flows import prefect_env

    home = folder / "h"
    ports = {"CLOUDLOOM_PREFECT_PORT": str(free_port()), "CLOUDLOOM_PORT": str(free_port())}
    os.environ.update(CLOUDLOOM_HOME=str(home), CLOUDLOOM_POWER_OFF_TIMEOUT_S="0", **ports)
    os.environ.update(prefect_env.environment(Settings()))
    shutil.move(home, folder / "kept")  # the world is built into a fresh home
    from adapters.types import Format
    from flows.cloud import cloud
    from tests.lab import real_world

    tgtd = Tgtd(folder / "t")
    tgtd.start()
    with KvmHost(folder / "k") as host:
        world = real_world.build(home, host, tgtd, power_off_timeout_s=0, slots=2)
        shutil.move(folder / "kept" / "prefect", home / "prefect")
        template = world.image("two GiB", Format.QCOW2)
        connection = libvirt.open(host.uri)
        base = _path_of(template)

        def bare(vms: int = 1) -> float:
            made = [(uuid4(), folder / f"bare-{n}.qcow2") for n in range(vms)]
            at_once = cloud.settings.sessions_per_host
            with ThreadPoolExecutor(at_once) as pool:
                began = time.perf_counter()
                list(pool.map(lambda each: _deploy_bare(connection, base, *each), made))
                spent = time.perf_counter() - began
            for vm, overlay in made:
                domain = connection.lookupByUUIDString(str(vm))
                domain.destroy()
                domain.undefine()
                overlay.unlink()
            return spent

        with served(Settings()):
            yield world, bare
        connection.close()
        real_world.clear(world)
    tgtd.stop()


def _deploy_bare(connection: Any, base: Path, vm: UUID, overlay: Path) -> None:
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay]
    subprocess.run(made, check=True)
    connection.defineXML(connection_free_xml(vm, overlay)).create()


def _spent(ended: Any) -> float:
    """Seconds from its beginning to its end. Raises `AssertionError` unless it succeeded."""
    assert ended.state == "succeeded", ended.error
    return float((ended.ended_at - ended.started_at).total_seconds())


def _until_shown(ended: Any) -> float:
    """Seconds from its end to when Prefect shows its run as completed."""
    from flows import dispatch

    while not (run := dispatch.client().read_flow_run(ended.flow_run_id)).state.is_completed():
        time.sleep(0.02)
    return float((run.state.timestamp - ended.ended_at).total_seconds())


def connection_free_xml(vm: UUID, overlay: Path) -> str:
    """The same VM as ours, without anything of ours."""
    return f"""<domain type='qemu'><name>bare-{vm}</name><uuid>{vm}</uuid>
    <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
    <features><acpi/></features><devices><disk type='file' device='disk'>
    <driver name='qemu' type='qcow2'/><source file='{overlay}'/><target dev='vda' bus='virtio'/>
    </disk><interface type='user'><model type='virtio'/></interface>
    <memballoon model='none'/></devices></domain>"""


def _path_of(template: UUID) -> Path:
    from flows.cloud import cloud

    image = cloud.library.images(template)[0]
    [datacenter] = [load for load in [cloud.inventory.datacenter_called("main")] if load]
    return cloud.repository(datacenter).path(image.path)


def _vms_of(appliance: UUID) -> list[UUID]:
    from flows.cloud import cloud

    return [vm.id for vm in cloud.inventory.vms_of(appliance)]


def _through_the_worker(operation: Any) -> Any:
    from flows import dispatch
    from flows.cloud import cloud

    dispatch.send(operation)
    while not cloud.operations.read(operation.id).ended:
        time.sleep(0.01)
    while cloud.operations.locked_by(operation.id):  # until its receipt is written
        time.sleep(0.01)
    return cloud.operations.read(operation.id)


@contextmanager
def served(settings: Any) -> Iterator[None]:
    """Prefect and a worker, without the API."""
    from api import serve

    running = [each for each in serve.services(settings) if each.name != "api"]
    try:
        for each in running:
            each.start()
            each.wait_ready(Event())
        yield
    finally:
        for each in reversed(running):
            each.end()
