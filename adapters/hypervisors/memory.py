"""A pretended host: the reference twin of every hypervisor adapter.

Its world holds `disk` (host, vm, installation, size_mib, datastore, base), `vm` (host,
installation, digest, power, console, whether its screen `asks` for a password, and `keeps` where
the guest releases nothing) and `connection` (host, vm, volume, initiator, target, position),
the last under `<vm>.<volume>`. A `datastore` under its directory may set `total_mib`; 0 means that
there is none. A guest's writes set `written` of the storage twin's `volume`.
"""

import socket
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from adapters.errors import Conflict, InUse, NotFound, OutOfSpace, Refused, Transient, Unsupported
from adapters.guests import Bus
from adapters.hypervisors.base import Capability, Display, DisplayKind, differences
from adapters.hypervisors.memory_cards import MemoryCards, macs_of
from adapters.hypervisors.memory_files import MemoryFiles
from adapters.hypervisors.memory_lines import VNC, open_line, security
from adapters.hypervisors.memory_stills import MemoryStills
from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Power, Vm
from adapters.world import World

_CONSOLE = "APPLIANCE-UP 0.00\nAPPLIANCE-READY 0.00\n"
_POLL_S = 0.5

Properties = dict[str, Any]


class MemoryHypervisor(MemoryCards, MemoryStills, MemoryFiles):
    """One host among those of its world."""

    capabilities = frozenset(Capability)

    def __init__(
        self, world: World, host: UUID, installation: UUID, facts: HostFacts, address: str = ""
    ) -> None:
        """Pretend to be at an address, such as `memory?without=disk-files,pause`."""
        if lacks := address.partition("?without=")[2]:
            self.capabilities = self.capabilities - {*lacks.split(",")}
        self.world = world
        self.host = host
        self.installation = installation
        self.facts = facts
        self._typed_at: set[UUID] = set()  # VMs whose terminal somebody has
        self._asked: set[str] = set()  # what guests were asked to release

    def describe(self) -> HostFacts:
        return self.world.call("hypervisors.describe", self.host, lambda: self.facts, self.facts)

    def datastore(self, directory: str) -> Capacity:
        empty = Capacity(total_mib=0, free_mib=0)
        return self.world.call(
            "hypervisors.datastore", directory, lambda: self._capacity(directory), empty
        )

    def initiator(self, vm: UUID) -> str:
        return f"iqn.2026-11.org.cloudloom:vm-{vm}"

    def ensure_disk(self, disk: Disk) -> None:
        def effect() -> None:
            if self._disk(disk):
                return
            if disk.size_mib > self._total_mib(disk.datastore):
                raise OutOfSpace(f"{disk.datastore} is smaller than disk {disk.id}")
            if disk.base is not None and not self._has_file(disk.base.path):
                raise NotFound(f"no base {disk.base.path}")
            self._write(disk)
            self.world.put("disk", disk.id, self._of_disk(disk))

        self.world.call("hypervisors.ensure_disk", disk.id, effect, None)

    def has_disk(self, disk: Disk) -> bool:
        def effect() -> bool:
            return self._disk(disk) is not None

        return self.world.call("hypervisors.has_disk", disk.id, effect, lie=False)

    def delete_disk(self, disk: Disk) -> None:
        def effect() -> None:
            vm = self._vm(disk.vm)
            if vm and vm["power"] != Power.OFF and str(disk.id) in vm["disks"]:
                raise InUse(f"disk {disk.id} is in use", users=(str(disk.vm),))
            if self._disk(disk):
                Path(self.disk_path(disk)).unlink(missing_ok=True)
                self.world.remove("disk", disk.id)

        self.world.call("hypervisors.delete_disk", disk.id, effect, None)

    def disks(self, datastore: str) -> dict[UUID, bool]:
        return self.world.call(
            "hypervisors.disks", datastore, lambda: self._disks_in(datastore), {}
        )

    def discard_disk(self, datastore: str, disk: UUID) -> None:
        def effect() -> None:
            found = self._disks_in(datastore)
            if found.get(disk):
                raise InUse(f"a VM is defined with disk {disk}")
            if disk in found:
                Path(datastore, f"disk-{disk}.{self.installation}.qcow2").unlink(missing_ok=True)
                self.world.remove("disk", disk)

        self.world.call("hypervisors.discard_disk", disk, effect, None)

    def ensure_vm(self, vm: Vm, screen: SecretStr | None = None) -> None:
        def effect() -> None:
            if self._defined(vm):
                return
            for disk in vm.disks:
                if not self._disk(disk):
                    raise NotFound(f"VM {vm.id} needs disk {disk.id}")
            self._require_seed(vm)
            properties = {
                "host": str(self.host),
                "installation": str(vm.installation),
                "name": vm.name,
                "digest": vm.digest,
                "disks": {str(disk.id): disk.position for disk in vm.disks},
                "power": Power.OFF,
                "console": "",
                "asks": screen is not None,
                "seed": vm.seed is not None,
                "macs": macs_of(vm),
            }
            self.world.put("vm", vm.id, properties)

        self.world.call("hypervisors.ensure_vm", vm.id, effect, None)

    def has_vm(self, vm: Vm) -> bool:
        def effect() -> bool:
            return self._defined(vm)

        return self.world.call("hypervisors.has_vm", vm.id, effect, lie=False)

    def set_size(self, former: Vm, vm: Vm) -> None:
        def effect() -> None:
            found = self._vm(vm.id)
            if found is None or found["digest"] not in {former.digest, vm.digest}:
                raise Conflict(f"VM {vm.id} is not defined as it was")
            self.world.put("vm", vm.id, {**found, "digest": vm.digest})

        self.world.call("hypervisors.set_size", vm.id, effect, None)

    def delete_vm(self, vm: UUID) -> None:
        def effect() -> None:
            self._require_off(vm)
            for key in self._connections(vm):
                self.world.remove("connection", key)
            if self._vm(vm):
                self.world.remove("vm", vm)

        self.world.call("hypervisors.delete_vm", vm, effect, None)

    def connect(self, connection: Connection, chap: Chap) -> None:  # noqa: ARG002 - as the port
        def effect() -> None:
            vm = self._vm(connection.vm)
            if vm is None:
                raise NotFound(f"no VM {connection.vm}")
            if self._connection(connection):
                return
            if connection.position in self._taken(connection.vm):
                raise Conflict(f"VM {connection.vm} has another disk there")
            if vm["power"] != Power.OFF:
                if connection.bus not in {None, Bus.VIRTIO}:
                    raise Unsupported(f"VM {connection.vm} is on")
                self._require_let_in(self._of_connection(connection))
            self.world.put("connection", _key(connection), self._of_connection(connection))

        self.world.call("hypervisors.connect", connection.volume, effect, None)

    def has_connection(self, connection: Connection) -> bool:
        def effect() -> bool:
            self._vm(connection.vm)
            return self._connection(connection) is not None

        return self.world.call("hypervisors.has_connection", connection.volume, effect, lie=False)

    def disconnect(self, connection: Connection) -> None:
        def effect() -> None:
            if self.world.find("connection", _key(connection)):
                self._require_released(connection.vm, "volume", connection.volume)
                self.world.remove("connection", _key(connection))

        self.world.call("hypervisors.disconnect", connection.volume, effect, None)

    def power(self, vm: UUID) -> Power | None:
        def effect() -> Power | None:
            found = self._vm(vm)
            return Power(found["power"]) if found else None

        return self.world.call("hypervisors.power", vm, effect, None)

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:  # noqa: ARG002 - as the port
        def effect() -> None:
            found = self._vm(vm)
            if found is None:
                if power is not Power.OFF:
                    raise NotFound(f"no VM {vm}")
                return
            if found["power"] == Power.OFF and power is Power.PAUSED:
                raise Refused(f"VM {vm} is off")
            if found["power"] == Power.OFF and power is Power.ON:
                self._boot(vm, found)
            self.world.put("vm", vm, {**found, "power": power})

        self.world.call("hypervisors.set_power", vm, effect, None)

    def reset(self, vm: UUID) -> None:
        def effect() -> None:
            found = self._vm(vm)
            if found is None:
                raise NotFound(f"no VM {vm}")
            if found["power"] != Power.ON:
                raise Refused(f"VM {vm} is {found['power']}")
            self.world.put("vm", vm, {**found, "console": found["console"] + _CONSOLE})

        self.world.call("hypervisors.reset", vm, effect, None)

    def console(self, vm: UUID) -> bytes:
        def effect() -> bytes:
            found = self._vm(vm)
            return found["console"].encode() if found else b""

        return self.world.call("hypervisors.console", vm, effect, b"")

    def terminal(self, vm: UUID) -> socket.socket:
        def effect() -> None:
            self._require_running(vm)
            if vm in self._typed_at:
                raise InUse(f"somebody has the terminal of VM {vm}")

        def echo(typed: bytes) -> bytes:
            found = self._vm(vm)
            if found is not None:
                printed = found["console"] + typed.decode(errors="replace")
                self.world.put("vm", vm, {**found, "console": printed})
            return typed

        self.world.call("hypervisors.terminal", vm, effect, None)
        self._typed_at.add(vm)
        return open_line(b"", echo, lambda: self._is_on(vm), lambda: self._typed_at.discard(vm))

    def display(self, vm: UUID) -> Display:
        def effect() -> None:
            self._require_running(vm)

        self.world.call("hypervisors.display", vm, effect, None)
        asks = (self._vm(vm) or {}).get("asks", False)
        line = open_line(VNC, partial(security, asks), lambda: self._is_on(vm), lambda: None)
        return Display(kind=DisplayKind.VNC, line=line)

    def vms(self) -> dict[UUID, Power]:
        return self.world.call("hypervisors.vms", self.host, self._vms, {})

    def changes(self, timeout_s: float) -> Generator[dict[UUID, Power | None], None, None]:
        former: dict[UUID, Power] = {}
        while True:
            now = self._vms()
            yield differences(former, now)
            former, until = now, time.monotonic() + timeout_s
            while self._vms() == former and time.monotonic() < until:
                time.sleep(min(_POLL_S, timeout_s))

    def _vms(self) -> dict[UUID, Power]:
        every = self.world.all("vm").items()
        return {UUID(vm): Power(found["power"]) for vm, found in every if self._is_ours(found)}

    def guest_writes(self, vm: UUID) -> None:
        """Let the guest write to every volume that it is connected to and that lets it in."""
        for connection in self._connections(vm).values():
            volume = self.world.find("volume", connection["volume"])
            if volume is not None and self._is_exported(connection):
                self.world.put("volume", connection["volume"], {**volume, "written": True})

    def guest_keeps(self, vm: UUID) -> None:
        """Let the guest release nothing, as one that hangs."""
        self.world.put("vm", vm, {**(self._vm(vm) or {}), "keeps": True})

    def _disks_in(self, datastore: str) -> dict[UUID, bool]:
        self._capacity(datastore)
        used = {disk for vm in self.world.all("vm").values() for disk in vm["disks"]}
        every = self.world.all("disk").items()
        ours = (key for key, x in every if self._is_ours(x) and x["datastore"] == datastore)
        return {UUID(key): key in used for key in ours}

    def _capacity(self, directory: str) -> Capacity:
        total_mib = self._total_mib(directory)
        mine = {"host": str(self.host), "datastore": directory}
        disks = (each for each in self.world.all("disk").values() if mine.items() <= each.items())
        used_mib = sum(disk["size_mib"] for disk in disks)
        return Capacity(total_mib=total_mib, free_mib=max(total_mib - used_mib, 0))

    def _is_ours(self, found: Properties) -> bool:
        return (found["host"], found["installation"]) == (str(self.host), str(self.installation))

    def _vm(self, vm: UUID) -> Properties | None:
        """Answer the VM's properties, or None when it is not here. Raises `Conflict`."""
        found = self.world.find("vm", vm)
        if found is None or found["host"] != str(self.host):
            return None
        if not self._is_ours(found):
            raise Conflict(f"VM {vm} is another's")
        return found

    def _defined(self, vm: Vm) -> bool:
        found = self._vm(vm.id)
        if found and found["digest"] != vm.digest:
            raise Conflict(f"VM {vm.id} is defined, and otherwise")
        return found is not None

    def _is_on(self, vm: UUID) -> bool:
        found = self._vm(vm)
        return found is not None and found["power"] != Power.OFF

    def _require_running(self, vm: UUID) -> None:
        if self._vm(vm) is None:
            raise NotFound(f"no VM {vm}")
        if not self._is_on(vm):
            raise Conflict(f"VM {vm} is off", code="vm-off")

    def _require_off(self, vm: UUID) -> None:
        found = self._vm(vm)
        if found and found["power"] != Power.OFF:
            raise InUse(f"VM {vm} is on", users=(str(vm),))

    def _require_released(self, vm: UUID, what: str, thing: UUID, code: str | None = None) -> None:
        """Ask the guest, which keeps the thing if it was told to or is paused; ask twice."""
        found = self._vm(vm) or {"power": Power.OFF}
        if found["power"] == Power.OFF or (found["power"] == Power.ON and "keeps" not in found):
            return
        key = f"{vm}.{thing}"
        if key not in self._asked:
            self._asked.add(key)
            raise Transient(f"VM {vm} has not released {what} {thing} yet")
        self._asked.remove(key)
        raise InUse(f"the guest keeps {what} {thing}", users=(str(vm),), code=code)

    def _require_let_in(self, connection: Properties) -> None:
        volume = self.world.find("volume", connection["volume"])
        if volume is not None and not self._is_exported(connection):
            raise Transient(f"volume {connection['volume']} lets VM {connection['vm']} not in")

    def _boot(self, vm: UUID, found: Properties) -> None:
        for disk in found["disks"]:
            if self.world.find("disk", disk) is None:
                raise NotFound(f"VM {vm} lacks disk {disk}")
        for connection in self._connections(vm).values():
            self._require_let_in(connection)
        found["console"] = _CONSOLE

    def _is_exported(self, connection: Properties) -> bool:
        wanted = {key: connection[key] for key in ("volume", "initiator")}
        return any(wanted.items() <= found.items() for found in self.world.all("export").values())

    def _connections(self, vm: UUID) -> dict[str, Properties]:
        wanted = {"host": str(self.host), "vm": str(vm)}
        every = self.world.all("connection").items()
        return {key: found for key, found in every if wanted.items() <= found.items()}

    def _taken(self, vm: UUID) -> set[int]:
        disks = (self._vm(vm) or {"disks": {}})["disks"].values()
        return {*disks, *(found["position"] for found in self._connections(vm).values())}

    def _connection(self, connection: Connection) -> Properties | None:
        """Answer the connection's properties, or None. Raises `Conflict`."""
        found = self.world.find("connection", _key(connection))
        if found and found != self._of_connection(connection):
            raise Conflict(f"VM {connection.vm} has volume {connection.volume}, and otherwise")
        return found

    def _of_connection(self, connection: Connection) -> Properties:
        return {"host": str(self.host), **connection.model_dump(mode="json")}


def _key(connection: Connection) -> str:
    return f"{connection.vm}.{connection.volume}"
