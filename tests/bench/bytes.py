"""Rows about volumes and images: `export`, `convert`."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from tests.bench.measuring import Row, in_turn, row, timed


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
