"""A pretended pool: the reference twin of every block storage adapter.

Its world holds two kinds of things. `volume` (pool, size_mib, installation, state, written,
content): the memory hypervisor sets `written` as a guest that writes would, the memory image
tool `content`; `reach_mib` may say how far a guest has written. `export` (volume, initiator,
iqn, installation).
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound, OutOfSpace, Refused
from adapters.types import Capacity, Chap, Export, Target, Volume
from adapters.world import World

_HOST, _PORT = "127.0.0.1", 3260


class MemoryStorage:
    """One pool among those of its world."""

    def __init__(self, world: World, pool: UUID, total_mib: int) -> None:
        self.world = world
        self.pool = pool
        self.total_mib = total_mib

    def capacity(self) -> Capacity:
        full = Capacity(total_mib=self.total_mib, free_mib=0)
        return self.world.call("storage.capacity", self.pool, self._capacity, full)

    def volumes(self, installation: UUID) -> dict[UUID, Volume]:
        def effect() -> dict[UUID, Volume]:
            wanted = {"pool": str(self.pool), "installation": str(installation)}
            return {
                UUID(key): Volume(
                    id=UUID(key), size_mib=found["size_mib"], installation=installation
                )
                for key, found in self.world.all("volume").items()
                if wanted.items() <= found.items()
            }

        return self.world.call("storage.volumes", self.pool, effect, {})

    def exports(self, installation: UUID) -> dict[UUID, tuple[Export, bool]]:
        def effect() -> dict[UUID, tuple[Export, bool]]:
            mine = {k for k, v in self.world.all("volume").items() if v["pool"] == str(self.pool)}
            return {
                UUID(key): (
                    Export(
                        id=UUID(key),
                        volume=UUID(found["volume"]),
                        initiator=found["initiator"],
                        installation=installation,
                    ),
                    self._is_used(found),
                )
                for key, found in self.world.all("export").items()
                if found["installation"] == str(installation) and found["volume"] in mine
            }

        return self.world.call("storage.exports", self.pool, effect, {})

    def ensure_volume(self, volume: Volume) -> None:
        def effect() -> None:
            if self._volume(volume):
                return
            if (free_mib := self._capacity().free_mib) < volume.size_mib:
                raise OutOfSpace(f"{volume.size_mib} MiB wanted, {free_mib} MiB free")
            properties = {
                "pool": str(self.pool),
                "size_mib": volume.size_mib,
                "installation": str(volume.installation),
                "state": "carved",
                "written": False,
                "content": None,
            }
            self.world.put("volume", volume.id, properties)

        self.world.call("storage.ensure_volume", volume.id, effect, None)

    def has_volume(self, volume: Volume) -> bool:
        def effect() -> bool:
            return self._volume(volume) is not None

        return self.world.call("storage.has_volume", volume.id, effect, lie=False)

    def resize_volume(self, volume: Volume, size_mib: int) -> None:
        other = volume.model_copy(update={"size_mib": size_mib})

        def effect() -> None:
            now = self.world.find("volume", volume.id) or {}
            found = self._require(other if now.get("size_mib") == size_mib else volume)
            if found["size_mib"] + self._capacity().free_mib < size_mib:
                raise OutOfSpace(f"{size_mib} MiB wanted, {self._capacity().free_mib} MiB free")
            if found.get("reach_mib", 0) > size_mib:
                raise InUse(f"a guest has written beyond {size_mib} MiB of volume {volume.id}")
            self.world.put("volume", volume.id, {**found, "size_mib": size_mib})

        self.world.call("storage.resize_volume", volume.id, effect, None)

    def delete_volume(self, volume: Volume) -> None:
        self.world.call("storage.delete_volume", volume.id, lambda: self._delete(volume), None)

    def discard_volume(self, volume: Volume) -> None:
        def effect() -> None:
            self._refuse_written(self._volume(volume), volume)
            self._delete(volume)

        self.world.call("storage.discard_volume", volume.id, effect, None)

    def open_for_filling(self, volume: Volume) -> None:
        def effect() -> None:
            found = self._require(volume)
            self._refuse_written(found, volume)
            self.world.put("volume", volume.id, {**found, "state": "filling"})

        self.world.call("storage.open_for_filling", volume.id, effect, None)

    def seal(self, volume: Volume) -> None:
        def effect() -> None:
            found = self._require(volume)
            if found["state"] == "filling":
                sealed = {**found, "state": "sealed", "written": False}
                self.world.put("volume", volume.id, sealed)

        self.world.call("storage.seal", volume.id, effect, None)

    def written(self, volume: Volume) -> bool:
        def effect() -> bool:
            return _is_written(self._volume(volume))

        return self.world.call("storage.written", volume.id, effect, lie=False)

    def ensure_export(self, export: Export, chap: Chap) -> Target:
        target = Target(host=_HOST, port=_PORT, iqn=export.iqn)

        def effect() -> Target:
            self._complete(export, chap)
            return target

        return self.world.call("storage.ensure_export", export.id, effect, target)

    def has_export(self, export: Export) -> bool:
        def effect() -> bool:
            return self._export(export)

        return self.world.call("storage.has_export", export.id, effect, lie=False)

    def delete_export(self, export: Export) -> None:
        def effect() -> None:
            found = self.world.find("export", export.id)
            if found and found["installation"] != str(export.installation):
                raise Conflict(f"target {export.iqn} is another's")
            self.world.remove("export", export.id)

        self.world.call("storage.delete_export", export.id, effect, None)

    def restore(self, exports: Iterable[tuple[Export, Chap]]) -> tuple[UUID, ...]:
        def effect() -> tuple[UUID, ...]:
            made: list[UUID] = []
            failures: list[Refused] = []
            for export, chap in exports:
                try:
                    if self._complete(export, chap):
                        made.append(export.id)
                except Refused as error:
                    failures.append(error)
            if failures:
                raise failures[0]
            return tuple(made)

        return self.world.call("storage.restore", self.pool, effect, ())

    def _complete(self, export: Export, chap: Chap) -> bool:
        """Make the export if it is missing; answer whether it was."""
        volume = self.world.find("volume", export.volume)
        if volume is None or volume["pool"] != str(self.pool):
            raise NotFound(f"there is no volume {export.volume}")
        if volume["installation"] != str(export.installation):
            raise Conflict(f"volume {export.volume} is another installation's")
        if chap.user != export.account:
            raise Refused(f"the account of export {export.id} must be {export.account}")
        if self._export(export):
            return False
        self.world.put("export", export.id, _properties(export))
        return True

    def _is_used(self, export: dict[str, Any]) -> bool:
        """Whether a VM that is on has logged in by this export."""
        wanted = {key: export[key] for key in ("volume", "initiator")}
        vms = [
            x["vm"] for x in self.world.all("connection").values() if wanted.items() <= x.items()
        ]
        return any((self.world.find("vm", vm) or {}).get("power", "off") != "off" for vm in vms)

    def _capacity(self) -> Capacity:
        mine = [v for v in self.world.all("volume").values() if v["pool"] == str(self.pool)]
        promised_mib = sum(volume["size_mib"] for volume in mine)
        free_mib = max(0, self.total_mib - promised_mib)
        return Capacity(total_mib=self.total_mib, free_mib=free_mib)

    def _volume(self, volume: Volume) -> dict[str, Any] | None:
        """Answer the volume's properties, or None. Raises `Conflict`."""
        found = self.world.find("volume", volume.id)
        wanted = {
            "pool": str(self.pool),
            "size_mib": volume.size_mib,
            "installation": str(volume.installation),
        }
        if found and any(found[key] != value for key, value in wanted.items()):
            raise Conflict(f"volume {volume.id} is another's, or has another size")
        return found

    def _require(self, volume: Volume) -> dict[str, Any]:
        found = self._volume(volume)
        if found is None:
            raise NotFound(f"there is no volume {volume.id}")
        return found

    def _refuse_written(self, found: dict[str, Any] | None, volume: Volume) -> None:
        if _is_written(found):
            raise InUse(f"a guest has written to volume {volume.id}")

    def _delete(self, volume: Volume) -> None:
        if self._volume(volume) is None:
            return
        exports = self.world.all("export").values()
        if users := [e["iqn"] for e in exports if e["volume"] == str(volume.id)]:
            raise InUse(f"volume {volume.id} is exported", users=users)
        self.world.remove("volume", volume.id)

    def _export(self, export: Export) -> bool:
        """Answer whether the export is there. Raises `Conflict`."""
        found = self.world.find("export", export.id)
        if found and found != _properties(export):
            raise Conflict(f"target {export.iqn} exports something else")
        return found is not None


def _is_written(volume: dict[str, Any] | None) -> bool:
    return volume is not None and volume["state"] != "filling" and bool(volume["written"])


def _properties(export: Export) -> dict[str, Any]:
    return {
        "volume": str(export.volume),
        "initiator": export.initiator,
        "iqn": export.iqn,
        "installation": str(export.installation),
    }
