"""Seeds as files on an ESXi host's datastores, which its guests have as CD-ROMs."""

import re
from uuid import UUID

from pyVmomi import vim

from adapters.errors import NotFound
from adapters.types import Seed
from adapters.vsphere.datastores import Datastores, Place

_OURS = re.compile(r"seed-([0-9a-f-]{36})\.([0-9a-f-]{36})\.iso")


class VsphereSeeds:
    """The seeds of one host; the session has to be speaking."""

    def __init__(self, datastores: Datastores) -> None:
        self._datastores = datastores

    def path(self, seed: Seed) -> str:
        """Where it is; its name tells whose."""
        return str(Place.parse(seed.datastore) / f"seed-{seed.id}.{seed.installation}.iso")

    def ensure(self, seed: Seed, image: bytes) -> None:
        """Write it, over what is there. Raises `NotFound` without its folder."""
        self._datastores.images(seed.datastore, "none")
        self._datastores.write(self.path(seed), image)

    def has(self, seed: Seed) -> bool:
        """Whether anything of it is there."""
        try:
            return bool(self._datastores.images(seed.datastore, Place.parse(self.path(seed)).name))
        except (NotFound, vim.fault.FileNotFound):
            return False

    def delete(self, seed: Seed) -> None:
        """Remove it; absent is success."""
        if self.has(seed):
            self._datastores.delete_file(self.path(seed))

    def of(self, installation: UUID, directory: str) -> dict[UUID, str]:
        """An installation's seeds in a datastore, each with its file. Raises `NotFound`."""
        names = self._datastores.images(directory, f"seed-*.{installation}.iso")
        matches = (found for name in names if (found := _OURS.fullmatch(name)))
        return {UUID(found[1]): str(Place.parse(directory) / found[0]) for found in matches}
