"""Disks as qcow2 volumes of a libvirt host's directory pools.

A pool is made when a datastore is first used and is transient: a view of a directory, of which
nothing is kept. It remembers what it saw, so before "not there" is believed it looks again.
"""

import time
import xml.etree.ElementTree as ET
from uuid import NAMESPACE_URL, UUID, uuid5

import libvirt

from adapters.errors import Conflict, NotFound, OutOfSpace
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_session import Session, says, speaking_libvirt
from adapters.types import Base, Capacity, Disk

_MIB = 2**20
_BUSY_S = 10.0  # a pool cannot look again while a volume is being made in it
_POLL_S = 0.01
_ANOTHER_WAS_FIRST = (libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_ERR_OPERATION_INVALID)


class LibvirtDisks:
    """The disks of one libvirt host."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._base_bytes: dict[Base, int] = {}  # its digest is part of a base: never outdated

    def capacity(self, directory: str) -> Capacity:
        """Answer the room in a datastore. Raises `NotFound`."""
        with speaking_libvirt():
            pool = pool_at(self._session(), directory)
            look_again(pool)
            _, total, _, free = pool.info()
        return Capacity(total_mib=total // _MIB, free_mib=free // _MIB)

    def ensure(self, disk: Disk) -> None:
        """Make the disk, at least as large as its base. Raises `OutOfSpace`, `NotFound`.

        libvirt refuses to make what is there, also what its pool has not seen: asking before
        would make the pool look again, and wait for what others are making in it.
        """
        with speaking_libvirt():
            try:
                self._make(disk)
            except (NotFound, OutOfSpace):
                if not self.has(disk):
                    raise
            except libvirt.libvirtError as error:
                if not says(error, *_ANOTHER_WAS_FIRST) or not self.has(disk):
                    raise

    def _make(self, disk: Disk) -> None:
        pool = pool_at(self._session(), disk.datastore)
        wanted = self._wanted_bytes(pool, disk)
        if wanted > pool.info()[1]:
            raise OutOfSpace(f"{disk.datastore} is smaller than disk {disk.id}")
        pool.createXML(domain_xml.volume_xml(domain_xml.disk_name(disk), disk, wanted))

    def has(self, disk: Disk) -> bool:
        """Whether this very disk is there. Raises `Conflict`."""
        with speaking_libvirt():
            volume = self._find(disk, domain_xml.disk_name(disk))
            if volume is None:
                return False
            found = ET.fromstring(volume.XMLDesc())  # noqa: S314 - libvirt's own words
            if not self._is(disk, found):
                raise Conflict(f"{domain_xml.disk_path(disk)} is there, and is another disk")
        return True

    def delete(self, disk: Disk) -> None:
        """Remove the disk. Raises `Conflict` when it is another one."""
        there = self.has(disk)
        with speaking_libvirt():
            for name in (domain_xml.disk_name(disk), _probe_name(disk)):
                volume = self._find(disk, name)
                if volume is not None and (there or name == _probe_name(disk)):
                    volume.delete()

    def of(self, installation: UUID, directory: str) -> dict[UUID, str]:
        """An installation's disks in a datastore, each with its file. Raises `NotFound`."""
        with speaking_libvirt():
            pool = pool_at(self._session(), directory)
            look_again(pool)
            volumes = [(each.name(), each.path()) for each in pool.listAllVolumes()]
        named = ((domain_xml.disk_called(name), path) for name, path in volumes)
        return {x[0]: path for x, path in named if x and x[1] == installation}

    def discard(self, path: str) -> None:
        """Remove a disk by its file."""
        with speaking_libvirt():
            self._session().storageVolLookupByPath(path).delete()

    def _is(self, disk: Disk, found: ET.Element) -> bool:
        def kind(path: str) -> str | None:
            element = found.find(path)
            return None if element is None else element.get("type")

        if kind("target/format") != "qcow2":
            return False
        base = disk.base
        if found.findtext("backingStore/path") != (base.path if base else None):
            return False
        if base and kind("backingStore/format") != base.format.value:
            return False
        found_bytes = int(found.findtext("capacity", "0"))
        if found_bytes == disk.size_mib * _MIB or base is None:
            return found_bytes == disk.size_mib * _MIB
        try:
            pool = pool_at(self._session(), disk.datastore)
            return found_bytes == self._wanted_bytes(pool, disk)
        except NotFound:  # nobody can tell any more how large the base was
            return found_bytes > disk.size_mib * _MIB

    def _wanted_bytes(self, pool: libvirt.virStoragePool, disk: Disk) -> int:
        asked = disk.size_mib * _MIB
        if disk.base is None:
            return asked
        if disk.base not in self._base_bytes:
            self._base_bytes[disk.base] = self._measure(pool, disk)
        return max(asked, self._base_bytes[disk.base])

    def _measure(self, pool: libvirt.virStoragePool, disk: Disk) -> int:
        """Answer the base's virtual size: that of an overlay made without asking for a size."""
        name = _probe_name(disk)
        with speaking_libvirt():
            left_over = seen(pool, name)
            if left_over is not None:
                left_over.delete()
            probe = pool.createXML(domain_xml.volume_xml(name, disk, None))
            try:
                return int(probe.info()[1])
            finally:
                probe.delete()

    def _find(self, disk: Disk, name: str) -> libvirt.virStorageVol | None:
        """Answer a volume in the disk's datastore, its file having been there just now."""
        try:
            pool = pool_at(self._session(), disk.datastore)
        except NotFound:  # without a datastore there is no disk either
            return None
        found = seen(pool, name)
        if found is None:
            look_again(pool)
            found = seen(pool, name)
        return found


def _probe_name(disk: Disk) -> str:
    return f"size-{disk.id}.qcow2"


def pool_at(connection: libvirt.virConnect, directory: str) -> libvirt.virStoragePool:
    """Answer the directory's pool, whoever made it. Raises `NotFound` without directory."""
    with speaking_libvirt():
        try:
            return connection.storagePoolLookupByTargetPath(directory)
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_STORAGE_POOL):
                raise
        name = f"cloudloom-{uuid5(NAMESPACE_URL, directory)}"
        try:
            return connection.storagePoolCreateXML(domain_xml.pool_xml(name, directory))
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_OPERATION_FAILED):
                raise
        return connection.storagePoolLookupByTargetPath(directory)  # another was first


def seen(pool: libvirt.virStoragePool, name: str) -> libvirt.virStorageVol | None:
    """Answer a volume that the pool knows, its file having been there just now."""
    try:
        volume = pool.storageVolLookupByName(name)
        volume.info()  # looks at the file
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
            raise
        return None
    return volume


def look_again(pool: libvirt.virStoragePool) -> None:
    """Let the pool see what is in its directory by now."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            pool.refresh()
        except libvirt.libvirtError as error:
            if "asynchronous jobs" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(_POLL_S)
        else:
            return
