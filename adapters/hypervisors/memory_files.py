"""What a pretended host starts VMs by, and its files: disks' bytes, and seeds (`seed`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound
from adapters.guests import Firmware
from adapters.types import Disk, Power, Seed, Vm
from adapters.world import World

_DATASTORE_MIB = 2**20


class MemoryFiles:
    """What the hypervisor twin knows of firmware and files."""

    world: World
    host: UUID
    installation: UUID

    def firmwares(self) -> frozenset[Firmware]:
        every = frozenset(Firmware)
        return self.world.call("hypervisors.firmwares", self.host, lambda: every, every)

    def disk_path(self, disk: Disk) -> str:
        return f"{disk.datastore}/disk-{disk.id}.{disk.installation}.qcow2"

    def send_disk(self, disk: Disk, target: Path, progress: Callable[[float], None]) -> None:
        def effect() -> None:
            if self._disk(disk) is None:
                raise NotFound(f"no disk {disk.id}")
            still, vm = self.world.find("still", disk.id), self.world.find("vm", disk.vm)
            used = vm and vm["power"] != Power.OFF and str(disk.id) in vm["disks"]
            if used and still is None:
                raise InUse(f"disk {disk.id} is in use", users=(str(disk.vm),))
            self.world.put("sending", disk.id, {"host": str(self.host)})
            progress(0.0)
            path = Path(self.disk_path(disk))
            image = json.loads(path.read_text()) if path.is_file() else _image(disk, "")
            if still is not None:
                image["content"] = still["content"]
            target.write_text(json.dumps({**image, "format": "vmdk"}))
            progress(100.0)
            self.world.remove("sending", disk.id)

        self.world.call("hypervisors.send_disk", disk.id, effect, None)

    def is_sending(self, disk: Disk) -> bool:
        def effect() -> bool:
            return self.world.find("sending", disk.id) is not None

        return self.world.call("hypervisors.is_sending", disk.id, effect, lie=False)

    def stop_sending(self, disk: Disk) -> None:
        def effect() -> None:
            self.world.remove("sending", disk.id)

        self.world.call("hypervisors.stop_sending", disk.id, effect, None)

    def ensure_seed(self, seed: Seed, image: bytes) -> None:
        def effect() -> None:
            self._total_mib(seed.datastore)
            if Path(seed.datastore).is_dir():
                path = Path(_path(seed.datastore, seed.id, seed.installation))
                path.touch(mode=0o600)
                path.write_bytes(image)
            self.world.put("seed", seed.id, self._of_seed(seed))

        self.world.call("hypervisors.ensure_seed", seed.id, effect, None)

    def has_seed(self, seed: Seed) -> bool:
        def effect() -> bool:
            return self._seed(seed)

        return self.world.call("hypervisors.has_seed", seed.id, effect, lie=False)

    def delete_seed(self, seed: Seed) -> None:
        def effect() -> None:
            vm = self.world.find("vm", seed.id)
            if vm and vm["power"] != Power.OFF and vm.get("seed"):
                raise InUse(f"the seed of VM {seed.id} is in use", users=(str(seed.id),))
            if self._seed(seed):
                self._discard(seed.datastore, seed.id)

        self.world.call("hypervisors.delete_seed", seed.id, effect, None)

    def seeds(self, datastore: str) -> dict[UUID, bool]:
        return self.world.call(
            "hypervisors.seeds", datastore, lambda: self._seeds_in(datastore), {}
        )

    def discard_seed(self, datastore: str, vm: UUID) -> None:
        def effect() -> None:
            found = self._seeds_in(datastore)
            if found.get(vm):
                raise InUse(f"VM {vm} is defined with its seed")
            if vm in found:
                self._discard(datastore, vm)

        self.world.call("hypervisors.discard_seed", vm, effect, None)

    def _require_seed(self, vm: Vm) -> None:
        if vm.seed and not self._seed(vm.seed):
            raise NotFound(f"VM {vm.id} needs its seed")

    def _seed(self, seed: Seed) -> bool:
        return self.world.find("seed", seed.id) == self._of_seed(seed)

    def _discard(self, datastore: str, vm: UUID) -> None:
        Path(_path(datastore, vm, self.installation)).unlink(missing_ok=True)
        self.world.remove("seed", vm)

    def _seeds_in(self, datastore: str) -> dict[UUID, bool]:
        self._total_mib(datastore)
        mine = {
            "host": str(self.host),
            "installation": str(self.installation),
            "datastore": datastore,
        }
        used = {key for key, vm in self.world.all("vm").items() if vm.get("seed")}
        every = self.world.all("seed").items()
        return {UUID(key): key in used for key, found in every if found == mine}

    def _of_seed(self, seed: Seed) -> dict[str, Any]:
        return {
            "host": str(self.host),
            "installation": str(seed.installation),
            "datastore": seed.datastore,
        }

    def _total_mib(self, directory: str) -> int:
        told = self.world.find("datastore", directory) or {}
        total_mib: int = told.get("total_mib", _DATASTORE_MIB)
        if not total_mib:
            raise NotFound(f"no datastore {directory}")
        return total_mib

    def _disk(self, disk: Disk) -> dict[str, Any] | None:
        """Answer the disk's properties, or None. Raises `Conflict`."""
        found = self.world.find("disk", disk.id)
        if found and found != self._of_disk(disk):
            raise Conflict(f"disk {disk.id} is there, and is another disk")
        return found

    def _of_disk(self, disk: Disk) -> dict[str, Any]:
        return {
            "host": str(self.host),
            "vm": str(disk.vm),
            "installation": str(disk.installation),
            "size_mib": disk.size_mib,
            "datastore": disk.datastore,
            "base": disk.base and disk.base.model_dump(mode="json"),
        }

    def _write(self, disk: Disk) -> None:
        """Where datastore and base are real, give the disk bytes that the image twin reads."""
        base = Path(disk.base.path) if disk.base else None
        if Path(disk.datastore).is_dir():
            content = json.loads(base.read_text())["content"] if base and base.is_file() else ""
            Path(self.disk_path(disk)).write_text(json.dumps(_image(disk, content)))

    def _has_file(self, path: str) -> bool:
        """Whether the host has the file: a real one, or a copy that the node twin pretends."""
        return Path(path).exists() or self.world.find("copy", f"{self.host}:{path}") is not None


def _image(disk: Disk, content: str) -> dict[str, Any]:
    size_bytes = disk.size_mib * 2**20
    return {"format": "qcow2", "virtual_size_bytes": size_bytes, "content": content}


def _path(datastore: str, vm: UUID, installation: UUID) -> str:
    return f"{datastore}/seed-{vm}.{installation}.iso"
