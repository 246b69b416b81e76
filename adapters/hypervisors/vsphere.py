"""VMware ESXi, alone or in a vCenter, through the vSphere API by pyVmomi; agentless."""

import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from pyVmomi import vim

from adapters.errors import Conflict, InUse, NotFound, Refused, Transient, Unsupported
from adapters.guests import Firmware
from adapters.hypervisors import vsphere_spec as spec
from adapters.hypervisors.base import Capability, Display, differences
from adapters.hypervisors.vsphere_cards import VsphereCards
from adapters.hypervisors.vsphere_disks import VsphereDisks
from adapters.hypervisors.vsphere_seeds import VsphereSeeds
from adapters.hypervisors.vsphere_spec import Found
from adapters.hypervisors.vsphere_stills import VsphereStills
from adapters.hypervisors.vsphere_volumes import VsphereVolumes
from adapters.stills import Stills
from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Nic, Power, Seed, Vm
from adapters.vsphere.datastores import Datastores, Place
from adapters.vsphere.session import Session, vms_of

_POLL_S = 0.2
_MIB = 2**20
_POWER = {"poweredOn": Power.ON, "poweredOff": Power.OFF, "suspended": Power.PAUSED}
_LOOKED_AT = {"config.extraConfig", "config.hardware.device", "runtime.powerState"}


class VsphereHypervisor:
    """One ESXi host; ours are the VMs whose extra configuration names our installation.

    A VM has its UUID as `instanceUuid` and is found by it wherever the server has moved it. A
    guest cannot be asked to release a disk: volumes come and go while it is off. An initiator is
    the host, not the VM.
    """

    capabilities = frozenset(Capability) - {
        *(Capability.ISCSI_PER_VM, Capability.HOT_ATTACH, Capability.DISK_FILES),
        *(Capability.TERMINAL, Capability.DISPLAY),
    }

    def __init__(self, session: Session, installation: UUID) -> None:
        self._session = session
        self._datastores = Datastores(self._session)
        self._disks = VsphereDisks(self._session, self._datastores)
        self._seeds = VsphereSeeds(self._datastores)
        self._stills = VsphereStills(self._session)
        self._volumes = VsphereVolumes(self._session)
        self._cards = VsphereCards(self._session)
        self._installation = installation

    def describe(self) -> HostFacts:
        with self._session.speaking():
            hardware = self._session.host.summary.hardware
            product = self._session.host.summary.config.product
            return HostFacts(
                cpu=hardware.numCpuThreads,
                ram_mib=hardware.memorySize // _MIB,
                version=product.fullName,
            )

    def datastore(self, directory: str) -> Capacity:
        with self._session.speaking():
            return self._datastores.capacity(directory)

    def initiator(self, vm: UUID) -> str:  # noqa: ARG002 - as the port
        with self._session.speaking():
            return self._volumes.initiator()

    def ensure_disk(self, disk: Disk) -> None:
        with self._session.speaking():
            self._disks.ensure(disk)

    def has_disk(self, disk: Disk) -> bool:
        with self._session.speaking():
            return self._disks.has(disk)

    def delete_disk(self, disk: Disk) -> None:
        with self._session.speaking():
            self._require_unused(disk)
            self._disks.delete(disk)

    def disks(self, datastore: str) -> dict[UUID, bool]:
        with self._session.speaking():
            used = self._used_files()
            found = self._disks.of(self._installation, datastore)
            return {disk: path in used for disk, path in found.items()}

    def discard_disk(self, datastore: str, disk: UUID) -> None:
        with self._session.speaking():
            path = self._disks.of(self._installation, datastore).get(disk)
            if path in self._used_files():
                raise InUse(f"a VM is defined with disk {disk}")
            if path:
                self._datastores.delete(path)

    def disk_path(self, disk: Disk) -> str:
        return self._disks.path(disk)

    def send_disk(self, disk: Disk, target: Path, progress: Callable[[float], None]) -> None:
        with self._session.speaking():
            found = self._find(disk.vm)
            if not found or not self._stills.are_there(disk.vm, found.vm):
                self._require_unused(disk)
            self._disks.send(disk, target, progress)

    def open_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> Stills:  # noqa: ARG002 - as the port
        with self._session.speaking():
            found = self._require(self._running(vm))
            if found.connections:
                raise Unsupported(f"VM {vm} has volumes: ESXi takes no snapshot of such")
            return self._stills.open(vm, found.vm)

    def has_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> bool:  # noqa: ARG002 - as the port
        with self._session.speaking():
            found = self._find(vm)
            return found is not None and self._stills.are_there(vm, found.vm)

    def close_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> None:  # noqa: ARG002 - as the port
        with self._session.speaking():
            if found := self._find(vm):
                self._stills.close(vm, found.vm)

    def is_sending(self, disk: Disk) -> bool:
        with self._session.speaking():
            return self._disks.is_sending(disk)

    def stop_sending(self, disk: Disk) -> None:
        with self._session.speaking():
            self._disks.stop_sending(disk)

    def ensure_seed(self, seed: Seed, image: bytes) -> None:
        with self._session.speaking():
            self._seeds.ensure(seed, image)

    def has_seed(self, seed: Seed) -> bool:
        with self._session.speaking():
            return self._seeds.has(seed)

    def delete_seed(self, seed: Seed) -> None:
        with self._session.speaking():
            found = self._find(seed.id)
            if found and found.power is not Power.OFF and self._seeds.path(seed) in found.files:
                raise InUse(f"the seed of VM {seed.id} is in use", users=(str(seed.id),))
            self._seeds.delete(seed)

    def seeds(self, datastore: str) -> dict[UUID, bool]:
        with self._session.speaking():
            used = self._used_files()
            found = self._seeds.of(self._installation, datastore)
            return {vm: path in used for vm, path in found.items()}

    def discard_seed(self, datastore: str, vm: UUID) -> None:
        with self._session.speaking():
            path = self._seeds.of(self._installation, datastore).get(vm)
            if path in self._used_files():
                raise InUse(f"VM {vm} is defined with its seed")
            if path:
                self._datastores.delete_file(path)

    def firmwares(self) -> frozenset[Firmware]:
        return frozenset(Firmware)

    def ensure_vm(self, vm: Vm, screen: SecretStr | None = None) -> None:  # noqa: ARG002 - no line
        with self._session.speaking():
            if self._has(vm):
                return
            for disk in self._disks.missing(vm.disks):
                raise NotFound(f"VM {vm.id} needs disk {disk.id}")
            if vm.seed and not self._seeds.has(vm.seed):
                raise NotFound(f"VM {vm.id} needs its seed")
            directory = vm.disks[0].datastore if vm.disks else self._datastores.largest()
            place = Place.parse(directory)
            paths = {disk.id: self.disk_path(disk) for disk in vm.disks}
            console = str(place / f"console-{vm.id}.log")
            cards = [self._cards.made(place, nic) for place, nic in enumerate(vm.nics)]
            seed = self._seeds.path(vm.seed) if vm.seed else ""
            wanted = spec.vm_spec(vm, paths, place.datastore, console, cards, seed)
            try:
                self._session.know(vm.id, self._session.create(wanted))
            except vim.fault.DuplicateName as error:
                text = f"a VM {spec.vm_name(vm.id)} is there, and is another's"
                raise Conflict(text) from error

    def has_vm(self, vm: Vm) -> bool:
        with self._session.speaking():
            return self._has(vm)

    def set_size(self, former: Vm, vm: Vm) -> None:
        with self._session.speaking():
            found = self._require(vm.id)
            if found.marks.get(spec.DIGEST) not in {former.digest, vm.digest}:
                raise Conflict(f"VM {vm.id} is not defined as it was")
            self._session.wait(found.vm.ReconfigVM_Task(spec.resized(vm)))

    def set_nics(self, former: Vm, vm: Vm) -> None:
        with self._session.speaking():
            self._cards.change(self._require(vm.id), former, vm)

    def has_nic(self, vm: UUID, nic: Nic, *, whole: bool = False) -> bool:  # noqa: ARG002 - never half
        with self._session.speaking():
            found = self._find(vm)
            return found is not None and self._cards.of(found, nic) is not None

    def delete_vm(self, vm: UUID) -> None:
        """Its disks are taken away first: what destroys a VM destroys what it has."""
        with self._session.speaking():
            found = self._find(vm)
            if found is None:
                return
            if found.power is not Power.OFF:
                raise InUse(f"VM {vm} is on", users=(str(vm),))
            self._stills.close(vm, found.vm)
            self._session.wait(found.vm.ReconfigVM_Task(spec.stripped(found.devices)))
            self._volumes.log_out(found.connections)
            if console := spec.console_of(found.devices):
                self._datastores.delete_file(console)
            self._session.wait(found.vm.Destroy_Task())

    def connect(self, connection: Connection, chap: Chap) -> None:
        with self._session.speaking():
            found = self._require(connection.vm)
            if found.has(connection):
                return
            if spec.disks_at(found.devices, connection):
                raise Conflict(f"VM {connection.vm} has another disk there")
            if found.power is not Power.OFF:
                raise Unsupported(f"VM {connection.vm} is on: it cannot be given a volume")
            device = self._volumes.log_in(connection, chap)
            self._session.wait(found.vm.ReconfigVM_Task(spec.connected(connection, device)))

    def has_connection(self, connection: Connection) -> bool:
        with self._session.speaking():
            found = self._find(connection.vm)
            return found is not None and found.has(connection)

    def disconnect(self, connection: Connection) -> None:
        with self._session.speaking():
            found = self._find(connection.vm)
            if found and found.noted(connection):
                if found.power is not Power.OFF:
                    text = f"VM {connection.vm} is on: it cannot be asked for its volume"
                    raise InUse(text, users=(str(connection.vm),))
                change = spec.disconnected(found.devices, connection)
                self._session.wait(found.vm.ReconfigVM_Task(change))
            self._volumes.log_out([connection])

    def power(self, vm: UUID) -> Power | None:
        with self._session.speaking():
            found = self._find(vm)
            return found.power if found else None

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:
        with self._session.speaking(), _unless_so_already(lambda: self.power(vm) is power):
            found = self._find(vm)
            if found is None:
                if power is Power.OFF:
                    return
                raise NotFound(f"no VM {vm}")
            now = found.power
            if power is now:
                return
            if power is Power.ON:
                self._switch_on(found)
            elif power is Power.PAUSED:
                if now is Power.OFF:
                    raise Refused(f"VM {vm} is off")
                self._session.wait(found.vm.SuspendVM_Task())
            else:
                if now is Power.PAUSED:
                    self._switch_on(found)  # a paused guest hears nothing
                self._switch_off(found.vm, timeout_s)

    def reset(self, vm: UUID) -> None:
        with self._session.speaking():
            found = self._require(vm)
            if found.power is not Power.ON:
                raise Refused(f"VM {vm} is {found.power}")
            self._session.wait(found.vm.ResetVM_Task())

    def console(self, vm: UUID) -> bytes:
        with self._session.speaking():
            found = self._find(vm)
            path = spec.console_of(found.devices) if found else ""
            return self._datastores.read(path) if path else b""

    def terminal(self, vm: UUID) -> socket.socket:
        raise Unsupported(f"VM {self._running(vm)} has no terminal on vSphere")

    def display(self, vm: UUID) -> Display:
        raise Unsupported(f"VM {self._running(vm)} has no screen that can be passed on")

    def vms(self) -> dict[UUID, Power]:
        paths = ("config.instanceUuid", "config.extraConfig", "runtime.powerState")
        with self._session.speaking():
            every = self._session.vms(*paths)
        return {
            UUID(has["config.instanceUuid"]): _POWER[has["runtime.powerState"]]
            for has in every.values()
            if has.keys() == set(paths) and self._is_ours(has["config.extraConfig"])
        }

    def changes(self, timeout_s: float) -> Generator[dict[UUID, Power | None], None, None]:
        """VMs are heard of wherever they were when this began, and where they are made."""
        former: dict[UUID, Power] = {}
        with self._session.speaking():
            wanted = vms_of(self._session.host, "runtime.powerState")
            with self._session.news(*wanted) as heard:
                heard(0)
                while True:
                    now = self.vms()
                    yield differences(former, now)
                    former = now
                    heard(timeout_s)

    def _switch_on(self, found: Found) -> None:
        """Start it, once it can have all that it needs: a host may start it without."""
        self._volumes.require(found.connections)
        self._session.wait(found.vm.PowerOnVM_Task())

    def _switch_off(self, vm: Any, timeout_s: float) -> None:
        """Ask a guest that has VMware's tools; pull the plug in the end."""
        end = time.monotonic() + timeout_s
        if timeout_s > 0:
            with suppress(vim.fault.ToolsUnavailable):
                vm.ShutdownGuest()
                while time.monotonic() < end and _power(vm) is not Power.OFF:
                    time.sleep(_POLL_S)
        if _power(vm) is not Power.OFF:
            self._session.wait(vm.PowerOffVM_Task())

    def _require_unused(self, disk: Disk) -> None:
        vm = self._find(disk.vm)
        if vm and vm.power is not Power.OFF and self.disk_path(disk) in vm.files:
            raise InUse(f"disk {disk.id} is in use", users=(str(disk.vm),))

    def _used_files(self) -> set[str]:
        """The files that VMs are defined with, whosever they are."""
        every = self._session.vms("config.hardware.device")
        devices = [has.get("config.hardware.device", []) for has in every.values()]
        return set().union(*map(spec.files_of, devices))

    def _find(self, vm: UUID) -> Found | None:
        """Answer the VM as it is, or None. Raises `Conflict` when it is not ours."""
        if (looked := self._session.look_at(vm, *sorted(_LOOKED_AT))) is None:
            return None
        there, has = looked
        if _LOOKED_AT - has.keys():
            raise Transient(f"VM {vm} cannot be looked at now")
        extra, devices, power = (has[name] for name in sorted(_LOOKED_AT))
        if not self._is_ours(extra):
            raise Conflict(f"VM {vm} is another's")
        return Found(there, spec.marks(extra), list(devices), _POWER[power])

    def _has(self, vm: Vm) -> bool:
        found = self._find(vm.id)
        if found and found.marks.get(spec.DIGEST) != vm.digest:
            raise Conflict(f"VM {vm.id} is defined, and otherwise")
        return found is not None

    def _require(self, vm: UUID) -> Found:
        found = self._find(vm)
        if found is None:
            raise NotFound(f"no VM {vm}")
        return found

    def _running(self, vm: UUID) -> UUID:
        """Answer the VM's id when it is not off. Raises `NotFound`, `Conflict`."""
        with self._session.speaking():
            if self._require(vm).power is Power.OFF:
                raise Conflict(f"VM {vm} is off", code="vm-off")
        return vm

    def _is_ours(self, extra_config: list[Any]) -> bool:
        return spec.marks(extra_config).get(spec.INSTALLATION) == str(self._installation)


def _power(vm: Any) -> Power:
    return _POWER[vm.runtime.powerState]


@contextmanager
def _unless_so_already(so: Callable[[], bool]) -> Iterator[None]:
    """Pass over that a VM was switched by somebody else in between."""
    try:
        yield
    except vim.fault.InvalidPowerState:
        if not so():
            raise
