"""`make bench [ROWS="convert export"]`: ours beside its floor, in one run, as a ratio.

Prints a table and writes `build/bench.json`: a list of {"row", "unit", "runs", "ours", "peer",
"peer_name", "ratio"} with medians; `size` where cost might grow with it. Nothing here asserts.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4

from rich.console import Console
from rich.table import Table

from deployments.lab.scratch import scratch

OUT = Path("build/bench.json")
Row = dict[str, Any]


def timed(fn: Callable[[], object]) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def in_turn(runs: int, ours: Callable[[], float], *peers: Callable[[], float]) -> list[float]:
    """Medians of ours and of each peer; one run of each after the other, so drift hits all."""
    for each in (ours, *peers):
        each()
    samples = [[each() for each in (ours, *peers)] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def row(name: str, runs: int, ours: float, peer: float, peer_name: str, **more: Any) -> Row:
    return {
        "row": name,
        "unit": "s",
        "runs": runs,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 2),
        **more,
    }


def bench_export(folder: Path) -> Iterator[Row]:
    """Carve and export a volume, beside three bare tgtadm calls."""
    from adapters.storage.directory import DirectoryStorage
    from adapters.storage.tgt import Tgt
    from adapters.types import Chap, Export, Volume
    from deployments.lab.tgtd import Tgtd

    server = Tgtd(folder / "tgtd")
    server.start()
    pool = folder / "pool"
    pool.mkdir()
    storage = DirectoryStorage(pool, Tgt(server.control, "127.0.0.1", server.port))
    installation = uuid4()
    tids = iter(range(1000, 2000))

    def ours() -> float:
        volume = Volume(id=uuid4(), size_mib=1024, installation=installation)
        export = Export(
            id=uuid4(),
            volume=volume.id,
            initiator="iqn.2026-11.org.b:x",
            installation=installation,
        )
        chap = Chap(user=export.account, password="a" * 16)
        spent = timed(lambda: (storage.ensure_volume(volume), storage.ensure_export(export, chap)))
        storage.delete_export(export)
        storage.delete_volume(volume)
        return spent

    def floor() -> float:
        tid, image = str(next(tids)), folder / "floor.img"
        with image.open("wb") as file:
            file.truncate(2**30)
        admin = ["tgtadm", "-C", str(server.control), "--lld", "iscsi"]
        target = [
            *admin,
            "--op",
            "new",
            "--mode",
            "target",
            "--tid",
            tid,
            "-T",
            f"iqn.2026.b:{tid}",
        ]
        lun = [*admin, "--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1"]
        bind = [*admin, "--op", "bind", "--mode", "target", "--tid", tid, "-I", "127.0.0.1"]
        calls = (target, [*lun, "-b", str(image)], bind)
        spent = timed(lambda: [subprocess.run(call, check=True) for call in calls])
        gone = [*admin, "--op", "delete", "--force", "--mode", "target", "--tid", tid]
        subprocess.run(gone, check=True)
        return spent

    try:
        yield row("export", 15, *in_turn(15, ours, floor), "tgtadm")
    finally:
        server.stop()


def bench_convert(folder: Path) -> Iterator[Row]:
    """Inspect and convert a streamOptimized VMDK, beside the best bare qemu-img; then a clone."""
    from adapters.images.qemu_img import QemuImg
    from adapters.types import Format

    raw, source = folder / "data.raw", folder / "source.vmdk"
    with raw.open("wb") as file:
        file.truncate(2**30)
        for megabyte in range(0, 640, 2):
            file.seek(megabyte * 2**20)
            file.write(os.urandom(2**20))
    optimized = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run([*optimized, raw, source], check=True)
    tool, target = QemuImg(), folder / "target.qcow2"

    def ours() -> float:
        def convert() -> None:
            tool.inspect(source, Format.VMDK, max_virtual_mib=2**20)
            tool.convert(source, Format.VMDK, target, Format.QCOW2, lambda _percent: None)

        target.unlink(missing_ok=True)
        return timed(convert)

    def bare(*flags: str) -> Callable[[], float]:
        command = ["qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", *flags, source, target]

        def run() -> float:
            target.unlink(missing_ok=True)
            return timed(lambda: subprocess.run(command, check=True))

        return run

    mine, plain, parallel = in_turn(5, ours, bare(), bare("-m", "16", "-W"))
    yield row("convert", 5, mine, min(plain, parallel), "qemu-img")


def bench_deploy_1(folder: Path) -> Iterator[Row]:
    """Deploy one VM through the worker, beside bare libvirt: overlay, define, start."""
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
    from tests.lab import real_world

    tgtd = Tgtd(folder / "t")
    tgtd.start()
    with KvmHost(folder / "k") as host:
        world = real_world.build(home, host, tgtd, power_off_timeout_s=0, slots=2)
        shutil.move(folder / "kept" / "prefect", home / "prefect")
        template = world.image("two GiB", Format.QCOW2)
        connection = libvirt.open(host.uri)
        base = _path_of(template)

        def bare(overlay: Path = folder / "bare.qcow2") -> float:
            vm = uuid4()
            xml = connection_free_xml(vm, overlay)

            def deploy() -> None:
                made = [
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    "qcow2",
                    "-b",
                    base,
                    overlay,
                ]
                subprocess.run(made, check=True)
                connection.defineXML(xml).create()

            spent = timed(deploy)
            domain = connection.lookupByUUIDString(str(vm))
            domain.destroy()
            domain.undefine()
            overlay.unlink()
            return spent

        with served(Settings()):

            def ours() -> float:
                vm = world.appliance("bench")
                vm_id = _first_vm(vm)
                ended = _through_the_worker(world.accept("deploy_vm", vm_id))
                assert ended.state == "succeeded", ended.error
                _through_the_worker(world.accept("undeploy_vm", vm_id))
                assert ended.started_at
                assert ended.ended_at
                return (ended.ended_at - ended.started_at).total_seconds()

            yield row("deploy_1", 7, *in_turn(7, ours, bare), "libvirt")
        connection.close()
        real_world.clear(world)
    tgtd.stop()


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


def _first_vm(appliance: UUID) -> UUID:
    from flows.cloud import cloud

    return cloud.inventory.vms_of(appliance)[0].id


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


ROWS = {"export": bench_export, "convert": bench_convert, "deploy_1": bench_deploy_1}


def main() -> None:
    """Measure the rows that ROWS names, or all."""
    wanted = os.environ.get("ROWS", "").split() or list(ROWS)
    if unknown := set(wanted) - ROWS.keys():
        sys.exit(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    results: list[Row] = []
    for name in wanted:
        with scratch("clbench") as folder:
            results.extend(ROWS[name](folder))
    table = Table("row", "runs", "ours s", "peer s", "peer", "ratio")
    for each in results:
        table.add_row(
            each["row"],
            *(str(each[key]) for key in ("runs", "ours", "peer", "peer_name", "ratio")),
        )
    Console().print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
