"""Disks of VMs on an ESXi host's datastores, and what they are sent from."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from pyVmomi import vim

from adapters.errors import Conflict, NotFound, OutOfSpace
from adapters.hypervisors import vsphere_spec as spec
from adapters.types import Disk
from adapters.vsphere.datastores import Datastores, Place
from adapters.vsphere.session import Session
from adapters.vsphere.transfers import Transfers

_OF_SNAPSHOT = re.compile(r"-\d{6}\.vmdk$")  # what is written while there is one
_OURS = re.compile(r"disk-([0-9a-f-]{36})\.([0-9a-f-]{36})\.[0-9a-z]+\.vmdk")


class VsphereDisks:
    """The disks of one host; the session has to be speaking."""

    def __init__(self, session: Session, datastores: Datastores) -> None:
        self._session = session
        self._datastores = datastores
        self._transfers = Transfers(session, datastores)

    def path(self, disk: Disk) -> str:
        """Where it is; its name tells whose."""
        return str(Place.parse(disk.datastore) / spec.disk_name(disk))

    def ensure(self, disk: Disk) -> None:
        """Make it. Raises `OutOfSpace`, `NotFound` without its base, `Conflict`."""
        base = Place.parse(disk.base.path) if disk.base else None
        beside = base is not None and base.folder == Place.parse(disk.datastore)
        patterns = [f"{_any_of(disk)}*", *([base.name] if base and beside else [])]
        there = self._datastores.disks(disk.datastore, *patterns)
        if _is_among(there, disk):
            return
        path = self.path(disk)
        if disk.size_mib > self._datastores.total_mib(Place.parse(path).datastore):
            raise OutOfSpace(f"{disk.datastore} is smaller than disk {disk.id}")
        if base is None:
            self._datastores.create(path, disk.size_mib)
            return
        if not beside:
            there = self._datastores.disks(str(base.folder), base.name)
        has_mib = there.get(base.name)
        if has_mib is None:
            raise NotFound(f"no base {base}")
        if has_mib == disk.size_mib:
            self._datastores.overlay(str(base), path, disk.size_mib, _maker(disk))
        else:  # an overlay is as large as what it lies over
            self._datastores.copy(str(base), path, disk.size_mib)

    def has(self, disk: Disk) -> bool:
        """Whether this very disk is there. Raises `Conflict`."""
        return not self.missing([disk])

    def missing(self, disks: Sequence[Disk]) -> list[Disk]:
        """Those that are not there. Raises `Conflict`."""
        there: dict[str, int] = {}
        for datastore in {disk.datastore for disk in disks}:
            patterns = [f"{_any_of(disk)}*" for disk in disks if disk.datastore == datastore]
            with suppress(NotFound, vim.fault.FileNotFound):
                there |= self._datastores.disks(datastore, *patterns)
        return [disk for disk in disks if not _is_among(there, disk)]

    def delete(self, disk: Disk) -> None:
        """Remove it, with what was to become it, or to make it; absent is success."""
        self._datastores.discard_machine(_maker(disk), keep_disks=True)
        if disk.base:
            self._datastores.delete_unfinished(self.path(disk))
        if self.has(disk):
            self._datastores.delete(self.path(disk))

    def of(self, installation: UUID, datastore: str) -> dict[UUID, str]:
        """An installation's disks there, each with its file. Raises `NotFound`."""
        names = self._datastores.disks(datastore, f"disk-*.{installation}.*")
        matches = (found for name in names if (found := _OURS.fullmatch(name)))
        return {UUID(found[1]): str(Place.parse(datastore) / found[0]) for found in matches}

    def send(self, disk: Disk, target: Path, tell: Callable[[float], None]) -> None:
        """Write its content to a new file here. Raises `NotFound`."""
        if not self.has(disk):
            raise NotFound(f"no disk {disk.id}")
        self._transfers.download(self.path(disk), disk.size_mib, _sender(disk), target, tell)

    def is_sending(self, disk: Disk) -> bool:
        """Whether the machine is there that it is sent as."""
        return self._session.child(_sender(disk)) is not None

    def stop_sending(self, disk: Disk) -> None:
        """Remove that machine; absent is success."""
        self._datastores.discard_machine(_sender(disk), keep_disks=True)


def _any_of(disk: Disk) -> str:
    """How the name of any disk of that id begins."""
    return f"disk-{disk.id}."


def _is_among(there: Mapping[str, int], disk: Disk) -> bool:
    ours = (name for name in there if name.startswith(_any_of(disk)))
    found = {name: there[name] for name in ours if not _OF_SNAPSHOT.search(name)}
    if found and found != {spec.disk_name(disk): disk.size_mib}:
        raise Conflict(f"disk {disk.id} is there, and is another disk")
    return bool(found)


def _maker(disk: Disk) -> str:
    return f"overlay-{disk.id}"


def _sender(disk: Disk) -> str:
    return f"export-{disk.id}"
