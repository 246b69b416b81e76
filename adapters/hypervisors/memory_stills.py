"""Stills of a pretended host: `still` in its world, under the disk's id, with its content.

A `vm` there may have an `agent`, in which case it holds still.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import Conflict, NotFound
from adapters.stills import Stills
from adapters.types import Power
from adapters.world import World


class MemoryStills:
    """What the hypervisor twin knows of disks at one moment."""

    world: World
    host: UUID

    def open_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> Stills:
        def effect() -> Stills:
            found = self.world.find("vm", vm)
            if found is None or found["host"] != str(self.host):
                raise NotFound(f"no VM {vm}")
            if found["power"] == Power.OFF:
                raise Conflict(f"VM {vm} is off", code="vm-off")
            for disk in disks:
                self.world.put("still", disk, {"vm": str(vm), **self._now(vm, disk, datastore)})
            return Stills(socket="memory", quiet=found["power"] == Power.ON and "agent" in found)

        lie = Stills(socket="memory", quiet=False)
        return self.world.call("hypervisors.open_stills", vm, effect, lie)

    def has_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> bool:  # noqa: ARG002 - as the port
        def effect() -> bool:
            return any(self.world.find("still", disk) for disk in disks)

        return self.world.call("hypervisors.has_stills", vm, effect, lie=False)

    def close_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> None:  # noqa: ARG002 - as the port
        def effect() -> None:
            for disk in disks:
                self.world.remove("still", disk)

        self.world.call("hypervisors.close_stills", vm, effect, None)

    def guest_has_agent(self, vm: UUID) -> None:
        """Let the guest hold still when it is asked to."""
        self.world.put("vm", vm, {**(self.world.find("vm", vm) or {}), "agent": True})

    def _now(self, vm: UUID, disk: UUID, datastore: str) -> dict[str, Any]:
        """What a disk or volume of the VM holds now. Raises `NotFound`."""
        if self.world.find("connection", f"{vm}.{disk}"):
            volume = self.world.find("volume", disk) or {"size_mib": 0, "content": ""}
            size_bytes = volume["size_mib"] * 2**20
            return {"content": volume["content"] or "", "virtual_size_bytes": size_bytes}
        found = self.world.find("disk", disk)
        if found is None or found["vm"] != str(vm):
            raise NotFound(f"VM {vm} has no disk {disk}")
        path = Path(datastore, f"disk-{disk}.{found['installation']}.qcow2")
        content = json.loads(path.read_text())["content"] if path.is_file() else ""
        return {"content": content, "virtual_size_bytes": found["size_mib"] * 2**20}
