"""A row about a simulated vCenter: `deploy_vsphere`, beside the same calls and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.bench.measuring import Row, in_turn, row, timed

_AS_FAR_AWAY_MS = 20


def bench_deploy_vsphere(folder: Path) -> Iterator[Row]:
    """Deploy one VM in this process, beside bare pyVmomi: child disk, CreateVM, PowerOn.

    Of a server that answers at once, and of one that takes its time over each call.
    """
    for delay_ms in (0, _AS_FAR_AWAY_MS):
        yield _deployed_beside_bare(folder / str(delay_ms), delay_ms)


def _deployed_beside_bare(folder: Path, delay_ms: int) -> Row:
    from deployments.lab.tgtd import Tgtd
    from deployments.lab.vcsim import Vcsim
    from flows.cloud import cloud
    from tests.lab import vsphere_world
    from tests.labs import started

    folder.mkdir()
    with (
        started(Tgtd(folder / "t")) as tgtd,
        started(Vcsim(folder / "v", delay_ms=delay_ms)) as vcsim,
    ):
        world = vsphere_world.build(folder / "h", vcsim, tgtd, power_off_timeout_s=0)
        kept = _only_vm(world.appliance("kept"))
        world.run("deploy_vm", kept)  # the host has its copy of the image
        hypervisor = cloud.hypervisor(world.hosts[0])
        with hypervisor._session.speaking():
            disks = [
                path for path in world.files.glob("*/base-*.vmdk") if "-flat" not in path.name
            ]
            base = f"[LocalDS_0] {disks[0].relative_to(world.files)}"

        def ours() -> float:
            vm = _only_vm(world.appliance("bench"))
            spent = timed(lambda: world.run("deploy_vm", vm))
            world.run("undeploy_vm", vm)
            return spent

        def bare() -> float:
            with hypervisor._session.speaking():
                return _deploy_bare(hypervisor._session, base)

        found = row(
            "deploy_vsphere", 7, *in_turn(7, ours, bare), "pyvmomi", size=f"{delay_ms} ms a call"
        )
        world.run("undeploy_vm", kept)
    return found


def _only_vm(appliance: Any) -> Any:
    from flows.cloud import cloud

    (vm,) = cloud.inventory.vms_of(appliance)
    return vm.id


def _deploy_bare(session: Any, base: str) -> float:
    """What the adapter asks for, with nothing looked for before or after."""
    from pyVmomi import vim

    from adapters.vsphere.datastores import machine

    vms: list[Any] = []
    path = f"[LocalDS_0] bare-{uuid4()}.vmdk"
    kind = vim.vm.device.VirtualDisk.FlatVer2BackingInfo
    folder, pool = session.datacenter.vmFolder, session.host.parent.resourcePool

    def create(name: str, backing: Any, *, new: bool) -> Any:
        spec = machine(name, "LocalDS_0", backing, 2)
        if not new:
            spec.deviceChange[1].fileOperation = None
        return session.wait(folder.CreateVM_Task(spec, pool, session.host))

    def detach(vm: Any) -> None:
        change = vim.vm.device.VirtualDeviceSpec
        devices = session.properties([vm], "config.hardware.device")[vm].values()
        disks = [x for each in devices for x in each if isinstance(x, vim.vm.device.VirtualDisk)]
        removed = [change(operation="remove", device=disk) for disk in disks]
        session.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=removed)))
        session.wait(vm.Destroy_Task())

    def deploy() -> None:
        parent = kind(fileName=base, diskMode="persistent")
        backing = kind(fileName=path, diskMode="persistent", parent=parent)
        detach(create(f"overlay-{uuid4()}", backing, new=True))
        plain = kind(fileName=path, diskMode="persistent")
        vms.append(create(f"bare-{uuid4()}", plain, new=False))
        session.wait(vms[0].PowerOnVM_Task())

    spent = timed(deploy)
    session.wait(vms[0].PowerOffVM_Task())
    detach(vms[0])
    session.wait(
        session.content.virtualDiskManager.DeleteVirtualDisk_Task(path, session.datacenter)
    )
    return spent
