"""An ESXi host's files, on its datastores: it sees no repository, and is sent what it needs."""

from contextlib import suppress
from uuid import UUID

from pyVmomi import vim

from adapters.errors import NotFound, Refused
from adapters.types import Base, Capacity
from adapters.vsphere.datastores import Datastores, Place
from adapters.vsphere.session import Session
from adapters.vsphere.transfers import Transfers


class VsphereNode:
    """One ESXi host's datastores. Copies are disks, made of streamOptimized VMDKs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._datastores = Datastores(self._session)

    def sees(self, repository: str, marker: UUID) -> bool:  # noqa: ARG002 - as the port
        """Never: what a host mounts as a datastore, it does not look into."""
        return False

    def capacity(self, directory: str) -> Capacity:
        with self._session.speaking():
            return self._datastores.capacity(directory)

    def ensure_copy(self, source: str, copy: Base) -> None:
        with self._session.speaking():
            Transfers(self._session, self._datastores).upload(source, _path(copy), copy.digest)

    def has_copy(self, copy: Base) -> bool:
        with self._session.speaking():
            return self._datastores.has(_path(copy))

    def copies(self, directory: str, installation: UUID) -> list[Base]:
        with self._session.speaking():
            names = sorted(self._datastores.disks(directory, f"base-*.{installation}.vmdk"))
        return [
            copy for name in names if (copy := Base.of_copy(f"{directory}/{name}", installation))
        ]

    def delete_copy(self, copy: Base) -> None:
        with self._session.speaking(), suppress(NotFound, vim.fault.FileNotFound):
            self._datastores.delete(_path(copy))


def _path(copy: Base) -> str:
    if not copy.is_copy:
        raise Refused(f"{copy.path} is no copy of ours")
    return str(Place.parse(copy.path))
