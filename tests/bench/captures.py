"""The row about captures: `capture`."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

from tests.bench.measuring import Row, in_turn, row, timed

_RUNS = 5


def bench_capture(folder: Path) -> Iterator[Row]:
    """Read the disk of a VM, on and off, and look at the image, beside a bare qemu-img of it."""
    from adapters.forms import Form
    from adapters.hypervisors.kvm import KvmHypervisor
    from adapters.images.qemu_img import QemuImg
    from adapters.types import Base, Disk, Format, Power, Vm
    from deployments.lab.kvm_host import KvmHost

    raw, image, store, tool = folder / "data.raw", folder / "out", folder / "disks", QemuImg()
    store.mkdir()
    with raw.open("wb") as file:
        file.truncate(2**30)
        for megabyte in range(0, 640, 2):
            file.seek(megabyte * 2**20)
            file.write(os.urandom(2**20))
    installation, where = uuid4(), str(store)
    base = Base(path=str(raw), format=Format.RAW, digest="0" * 64)
    disk = Disk(
        id=uuid4(), vm=uuid4(), size_mib=1024, datastore=where, base=base,
        installation=installation,
    )  # fmt: skip
    vm = Vm(id=disk.vm, name="b", cpu=1, ram_mib=32, disks=(disk,), installation=installation)
    with KvmHost(folder / "kvm") as host:
        hypervisor = KvmHypervisor(host.uri, installation, "qemu", str(folder / "consoles"))
        hypervisor.ensure_disk(disk)
        hypervisor.ensure_vm(vm)
        source = Path(hypervisor.disk_path(disk))

        def capture(*, on: bool) -> None:
            if on:
                stills = hypervisor.open_stills(vm.id, [disk.id], where)
                tool.convert_still(stills, disk.id, image, Form.QCOW2, lambda _percent: None)
                hypervisor.close_stills(vm.id, [disk.id], where)
            else:
                tool.convert(source, Format.QCOW2, image, Form.QCOW2, lambda _percent: None)
            tool.inspect(image, Format.QCOW2, max_virtual_mib=2048)

        def bare() -> None:
            command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", source, image]
            subprocess.run(command, check=True)

        for power in (Power.OFF, Power.ON):
            hypervisor.set_power(vm.id, power, timeout_s=0)
            ours = partial(timed, partial(capture, on=power is Power.ON))
            spent = in_turn(_RUNS, ours, partial(timed, bare))
            yield row("capture", _RUNS, *spent, "qemu-img", filter=f"VM that is {power}")
