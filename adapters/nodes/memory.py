"""A pretended host's files: the reference twin of every node adapter.

Its world holds `copy` (path, format, digest) under `<host>:<path>`. A `sees` thing under the
host's id may set `sees`; a `datastore` under its directory `total_mib`, 0: there is none.
Images and repositories are real files, also here.
"""

import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import BadImage, NotFound, Refused
from adapters.nodes.base import MARKER
from adapters.types import Base, Capacity
from adapters.world import World

_DATASTORE_MIB = 2**20


class MemoryNode:
    """One host's files among those of its world."""

    def __init__(self, world: World, host: UUID) -> None:
        self.world = world
        self.host = host

    def sees(self, repository: str, marker: UUID) -> bool:
        def effect() -> bool:
            told = self.world.find("sees", self.host) or {}
            place = Path(repository, MARKER)
            there = place.is_file() and place.read_text().strip() == str(marker)
            return bool(told.get("sees", there))

        return self.world.call("nodes.sees", repository, effect, lie=False)

    def capacity(self, directory: str) -> Capacity:
        def effect() -> Capacity:
            told = self.world.find("datastore", directory) or {}
            total_mib = told.get("total_mib", _DATASTORE_MIB)
            if not total_mib:
                raise NotFound(f"no datastore {directory}")
            return Capacity(total_mib=total_mib, free_mib=total_mib)

        return self.world.call(
            "nodes.capacity", directory, effect, Capacity(total_mib=0, free_mib=0)
        )

    def ensure_copy(self, source: str, copy: Base) -> None:
        def effect() -> None:
            _require_copy(copy)
            if self._copy(copy):
                return
            try:
                digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
            except FileNotFoundError as error:
                raise NotFound(f"no image {source}") from error
            if digest != copy.digest:
                raise BadImage(f"{source} is another image", code="image-digest-mismatch")
            self.world.put("copy", self._key(copy), copy.model_dump(mode="json"))

        self.world.call("nodes.ensure_copy", copy.path, effect, None)

    def has_copy(self, copy: Base) -> bool:
        def effect() -> bool:
            return self._copy(copy) is not None

        return self.world.call("nodes.has_copy", copy.path, effect, lie=False)

    def copies(self, directory: str, installation: UUID) -> list[Base]:
        def effect() -> list[Base]:
            if (self.world.find("datastore", directory) or {}).get("total_mib", 1) == 0:
                raise NotFound(f"no datastore {directory}")
            here = self._key_in(directory)
            paths = (key for key in self.world.all("copy") if key.startswith(here))
            every = [Base.of_copy(each.partition(":")[2], installation) for each in sorted(paths)]
            return [copy for copy in every if copy]

        return self.world.call("nodes.copies", directory, effect, [])

    def delete_copy(self, copy: Base) -> None:
        def effect() -> None:
            _require_copy(copy)
            self.world.remove("copy", self._key(copy))

        self.world.call("nodes.delete_copy", copy.path, effect, None)

    def _key_in(self, directory: str) -> str:
        return f"{self.host}:{directory}/"

    def _key(self, copy: Base) -> str:
        return f"{self.host}:{copy.path}"

    def _copy(self, copy: Base) -> dict[str, Any] | None:
        return self.world.find("copy", self._key(copy))


def _require_copy(copy: Base) -> None:
    if not copy.is_copy:
        raise Refused(f"{copy.path} is no copy of ours")
