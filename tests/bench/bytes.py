"""Rows about volumes and images: `export`, `convert`, `clone`."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.bench.measuring import Row, in_turn, row, timed

if TYPE_CHECKING:
    from adapters.forms import Form


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
    """Inspect and convert, in the way that was measured there, beside the best bare qemu-img.

    Of two sizes, in MiB of data: what is paid once is told from what is paid for each byte. It
    has ended when it is on the disk, as a conversion is not published before. The quickest run of
    each counts: what a disk does for others only ever adds to it.
    """
    from adapters.forms import Form
    from adapters.images.qemu_img import QemuImg

    raw, tool = folder / "data.raw", QemuImg()
    pairs = [
        (Form.VMDK_STREAM, Form.QCOW2),
        (Form.QCOW2, Form.VHDX),
        (Form.VHD_DYNAMIC, Form.QCOW2),
        (Form.QCOW2, Form.VMDK_SPARSE),
    ]
    for size_mib, runs, fill in _CONVERTED:
        fill(raw, size_mib)
        for has, form in pairs:
            source, target = folder / f"source.{has.name}", folder / f"target.{form.name}"
            tool.convert(raw, Form.RAW.format, source, has, lambda _percent: None)
            way = tool.fastest(folder, has, form)
            told = f"{has.value} to {form.value}"
            mine, *bare = in_turn(
                runs,
                partial(_ours, source, has, target, form, way),
                *(
                    partial(_bare, source, has, target, form, flags)
                    for flags in ([], ["-m", "16", "-W"])
                ),
                of=min,
            )
            yield row("convert", runs, mine, min(bare), "qemu-img", filter=told, size=size_mib)
            source.unlink()
            target.unlink()
        raw.unlink()


def _scatter(raw: Path, size_mib: int) -> None:
    """A disk of 1 GiB, with so much of it noise, a MiB here and there."""
    with raw.open("wb") as file:
        file.truncate(2**30)
        for megabyte in range(0, 2 * size_mib, 2):
            file.seek(megabyte * 2**20)
            file.write(os.urandom(2**20))


def _settle(raw: Path, size_mib: int) -> None:
    """A disk that is half full of what this machine's own disk has: programs, texts, pictures."""
    found = (each for each in cycle(sorted(Path("/usr").rglob("*"))) if not each.is_symlink())
    with raw.open("wb") as file:
        for each in found:
            if each.is_file():
                file.write(each.read_bytes()[: size_mib * 2**20 - file.tell()])
            if file.tell() == size_mib * 2**20:
                break
        file.truncate(2 * size_mib * 2**20)


def _ours(source: Path, has: "Form", target: Path, form: "Form", way: str) -> float:
    from adapters.images.qemu_img import QemuImg

    def convert() -> None:
        tool = QemuImg()
        tool.inspect(source, has.format, max_virtual_mib=2**20)
        tool.convert(source, has.format, target, form, lambda _percent: None, way)
        _settled(target)

    _clear(target)
    return timed(convert)


def _bare(source: Path, has: "Form", target: Path, form: "Form", flags: list[str]) -> float:
    command = ["qemu-img", "convert", *flags, "-f", has.format, "-O", form.format, source, target]
    _clear(target)
    return timed(lambda: (subprocess.run(command, check=True), _settled(target)))


def _settled(target: Path) -> None:
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _clear(target: Path) -> None:
    """Begin with nothing left to be written: else each pays for what the one before has left."""
    target.unlink(missing_ok=True)
    os.sync()


_CONVERTED = ((320, 12, _scatter), (2048, 6, _settle))  # in MiB of data, how often, of what


def bench_clone(folder: Path) -> Iterator[Row]:
    """Make a VM's disk of a template that fits: as fast of 2 GiB as of 16 MiB."""
    from adapters.hypervisors.kvm import KvmHypervisor
    from adapters.types import Base, Disk, Format
    from deployments.lab.kvm_host import KvmHost

    store, installation = folder / "disks", uuid4()
    store.mkdir()
    with KvmHost(folder / "kvm") as host:
        hypervisor = KvmHypervisor(host.uri, installation, "qemu", str(folder / "consoles"))

        def clone(size_mib: int) -> float:
            base = Base(path=str(folder / f"{size_mib}.raw"), format=Format.RAW, digest="0" * 64)
            disk = Disk(
                id=uuid4(),
                vm=uuid4(),
                size_mib=size_mib,
                datastore=str(store),
                base=base,
                installation=installation,
            )
            spent = timed(lambda: hypervisor.ensure_disk(disk))
            hypervisor.delete_disk(disk)
            return spent

        for size_mib in (16, 2048):
            with (folder / f"{size_mib}.raw").open("wb") as file:
                for _ in range(size_mib):
                    file.write(os.urandom(2**20))
        large, small = in_turn(15, partial(clone, 2048), partial(clone, 16))
    yield row("clone", 15, large, small, "of 16 MiB", size=2048)
