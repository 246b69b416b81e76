"""Disks and files on a host's datastores, named as vSphere names them: `[datastore] folder/name`.

A disk gets its name when it is whole: what takes time is made under another one, and renamed.
"""

import hashlib
import http.client
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

from pyVmomi import vim, vmodl

from adapters.errors import BadImage, NotFound, Refused, Transient
from adapters.types import Capacity
from adapters.vsphere.session import Session

_MIB = 2**20
_PLACE = re.compile(r"\[([^\[\]/]+)\] */?(.*?)/?")
_HEADER = struct.Struct("<4sIIQ")  # of a sparse VMDK: magic, version, flags, capacity in sectors
_COMPRESSED = 1 << 16
_TELL_S = 20.0  # a lease of which nothing is heard for minutes ends
_FLUSH_S = 600.0  # what has come in may take its time to be on a disk
_STALE_S = 6 * 3600.0  # an upload that is older than this is nobody's any more
_CONTROLLER = 1000


@dataclass(frozen=True)
class Place:
    """Something on a datastore; the folder is empty at its top."""

    datastore: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read `[datastore] path`. Raises `NotFound`: there is none of another name."""
        found = _PLACE.fullmatch(text)
        if found is None or ".." in found[2].split("/"):
            raise NotFound(f"{text!r} is no place like [datastore] folder")
        return cls(found[1], found[2])

    def __truediv__(self, name: str) -> "Place":
        """What is in it."""
        return Place(self.datastore, f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        """As vSphere writes it."""
        return f"[{self.datastore}] {self.path}".rstrip()

    @property
    def folder(self) -> "Place":
        """Where it is in."""
        return Place(self.datastore, self.path.rpartition("/")[0])

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.path.rpartition("/")[2]


class Datastores:
    """Those of one host; a session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def capacity(self, directory: str) -> Capacity:
        """Room in the datastore of a directory. Raises `NotFound` without either."""
        place = Place.parse(directory)
        self.disks(directory, "none")
        summary = self._session.datastore(place.datastore).summary
        return Capacity(total_mib=summary.capacity // _MIB, free_mib=summary.freeSpace // _MIB)

    def largest(self) -> str:
        """The datastore with the most room, for what is small and asks for none."""
        stores = self._session.properties(self._session.host.datastore, "summary")
        usable = [each["summary"] for each in stores.values() if each["summary"].accessible]
        if not usable:
            raise NotFound("the host has no datastore")
        return str(Place(max(usable, key=lambda summary: summary.freeSpace).name, ""))

    def disks(self, directory: str, pattern: str) -> dict[str, int]:
        """The disks there by name, with their sizes in MiB. Raises `NotFound`."""
        disk = vim.host.DatastoreBrowser.VmDiskQuery
        found = self._search(directory, pattern, disk(details=disk.Details(capacityKb=True)))
        return {each.path: (each.capacityKb or 0) // 1024 for each in found}

    def images(self, directory: str, pattern: str) -> list[str]:
        """The images of CD-ROMs there, by name. Raises `NotFound`."""
        query = vim.host.DatastoreBrowser.IsoImageQuery()
        return [each.path for each in self._search(directory, pattern, query)]

    def _search(self, directory: str, pattern: str, query: Any) -> list[Any]:
        place = Place.parse(directory)
        kinds = vim.host.DatastoreBrowser
        spec = kinds.SearchSpec(
            query=[query],
            details=kinds.FileInfo.Details(
                fileType=True, fileSize=False, modification=False, fileOwner=False
            ),
            matchPattern=[pattern],
        )
        browser = self._session.browser(place.datastore)
        return list(self._session.wait(browser.SearchDatastore_Task(str(place), spec)).file)

    def has(self, path: str) -> bool:
        """Whether there is a disk of that name."""
        place = Place.parse(path)
        with suppress(vim.fault.FileNotFound):
            return place.name in self.disks(str(place.folder), place.name)
        return False

    def create(self, path: str, size_mib: int) -> None:
        """Make an empty disk, whose room is taken as it is written to."""
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=size_mib * 1024
        )
        self._session.wait(
            self._manager.CreateVirtualDisk_Task(str(Place.parse(path)), self._datacenter, spec)
        )

    def copy(self, source: str, path: str, size_mib: int) -> None:
        """Make a disk of that size of another one's content."""
        place = Place.parse(path)
        target, unfinished = str(place), str(place.folder / f"part-{place.name}")
        self.delete(unfinished)
        datacenter, manager = self._datacenter, self._manager
        source = str(Place.parse(source))
        self._session.wait(
            manager.CopyVirtualDisk_Task(source, datacenter, unfinished, datacenter)
        )
        self._session.wait(
            manager.ExtendVirtualDisk_Task(unfinished, datacenter, size_mib * 1024, False)  # noqa: FBT003 - not zeroed ahead
        )
        self._rename(unfinished, target)

    def overlay(self, base: str, path: str, size_mib: int, name: str) -> None:
        """Make a disk that keeps only what differs from another one, of the same size.

        Only a VM can make such a disk: a machine of that name is there for as long as it takes.
        """
        self._discard_machine(name, keep_disks=True)
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=str(Place.parse(path)),
            diskMode="persistent",
            thinProvisioned=True,
            parent=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
                fileName=str(Place.parse(base)), diskMode="persistent"
            ),
        )
        self._session.create(machine(name, Place.parse(path).datastore, backing, size_mib))
        self._discard_machine(name, keep_disks=True)

    def delete(self, path: str) -> None:
        """Remove a disk; absent is success."""
        with suppress(vim.fault.FileNotFound):
            place = str(Place.parse(path))
            self._session.wait(self._manager.DeleteVirtualDisk_Task(place, self._datacenter))

    def delete_file(self, path: str) -> None:
        """Remove any other file; absent is success."""
        with suppress(vim.fault.FileNotFound):
            place = str(Place.parse(path))
            files = self._session.content.fileManager
            self._session.wait(files.DeleteDatastoreFile_Task(place, self._datacenter))

    def read(self, path: str) -> bytes:
        """A file's content; nothing where there is none."""
        status, content = self._file("GET", path)
        return b"" if status == http.client.NOT_FOUND else content

    def write(self, path: str, content: bytes) -> None:
        """Make a file of that content, or an old one anew."""
        self._file("PUT", path, content)

    def _file(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        place = Place.parse(path)
        asked = urlencode({"dcPath": self._datacenter.name, "dsName": place.datastore})
        connection = self._session.connection()
        try:
            connection.request(
                method,
                f"/folder/{quote(place.path)}?{asked}",
                body=content,
                headers={"Cookie": self._session.cookie()},
            )
            answer = connection.getresponse()
            told = answer.read()
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST and answer.status != http.client.NOT_FOUND:
            raise Transient(f"{place}: {answer.status} {answer.reason}")
        return answer.status, told

    def upload(self, source: str, path: str, digest: str) -> None:
        """Make a disk of a streamOptimized VMDK; who wants the same meanwhile waits for it.

        It comes as the disk of a machine, which is how a host takes such files, and is renamed.
        Where another process was faster, its disk is as good.
        """
        with self._session.turns[path]:
            if self.has(path):
                return
            self._discard_stale_uploads()
            name = f"upload-{int(time.time())}-{uuid4().hex}"
            try:
                self._import(Path(source), name, Place.parse(path), digest)
            finally:
                self._discard_machine(name, keep_disks=False)

    def _import(self, source: Path, name: str, path: Place, digest: str) -> None:
        with _opened(source) as file:
            size_mib = _virtual_mib(file, source)
            backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
                fileName=f"[{path.datastore}]", diskMode="persistent", thinProvisioned=True
            )
            spec = machine(name, path.datastore, backing, size_mib)
            wanted = vim.vm.VmImportSpec(configSpec=spec)
            lease = self._session.pool.ImportVApp(wanted, self._session.folder, self._session.host)
            try:
                self._fill(lease, file, digest)
            except BaseException:
                with suppress(vmodl.MethodFault):
                    lease.HttpNfcLeaseAbort()
                raise
        (uploaded,) = self._drop_disks(self._session.child(name))
        try:
            self._rename(uploaded, str(path))
        except vim.fault.FileAlreadyExists:
            self.delete(uploaded)

    def _fill(self, lease: Any, file: BinaryIO, digest: str) -> None:
        has = self._session.until(
            lease, ("state", "info", "error"), lambda has: has["state"] != "initializing", 120.0
        )
        if has["state"] != "ready":
            raise has.get("error") or Refused("the host takes no upload")
        (url, pin), *_ = [(x.url, x.sslThumbprint) for x in has["info"].deviceUrl if x.disk]
        connection, session = self._session.connection_to(url, pin or "")
        connection.timeout = _FLUSH_S
        content = _Told(file, lease)
        try:
            connection.request(
                "POST",
                urlsplit(url).path,
                body=content,
                headers={
                    **session,
                    "Content-Type": "application/x-vnd.vmware-streamVmdk",
                    "Content-Length": str(content.size),
                },
            )
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise Transient(f"uploading: {answer.status} {answer.reason}")
        if content.digest.hexdigest() != digest:
            raise BadImage("it is another image", code="image-digest-mismatch")
        lease.HttpNfcLeaseComplete()

    def _rename(self, source: str, target: str) -> None:
        datacenter = self._datacenter
        self._session.wait(
            self._manager.MoveVirtualDisk_Task(source, datacenter, target, datacenter)
        )

    def _discard_stale_uploads(self) -> None:
        names = self._session.properties(self._session.folder.childEntity, "name")
        for name in (has["name"] for has in names.values()):
            word, _, rest = name.partition("-")
            began = rest.partition("-")[0]
            if word == "upload" and began.isdigit() and int(began) < time.time() - _STALE_S:
                self._discard_machine(name, keep_disks=False)

    def _discard_machine(self, name: str, *, keep_disks: bool) -> None:
        vm = self._session.child(name)
        if vm is not None:
            disks = self._drop_disks(vm)
            self._session.wait(vm.Destroy_Task())
            for disk in disks if not keep_disks else ():
                self.delete(disk)

    def _drop_disks(self, vm: Any) -> list[str]:
        """Take its disks away from a machine; where they are."""
        disks = disks_of(vm)
        if disks:
            remove = [vim.vm.device.VirtualDeviceSpec(operation="remove", device=x) for x in disks]
            self._session.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=remove)))
        return [disk.backing.fileName for disk in disks]

    @property
    def _datacenter(self) -> Any:
        return self._session.datacenter

    @property
    def _manager(self) -> Any:
        return self._session.content.virtualDiskManager


def disks_of(vm: Any) -> list[Any]:
    """The disk devices of a VM."""
    devices = vm.config.hardware.device
    return [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]


def machine(name: str, datastore: str, backing: Any, size_mib: int) -> Any:
    """A machine that never runs, with one disk that comes into being with it."""
    device = vim.vm.device
    return vim.vm.ConfigSpec(
        name=name,
        numCPUs=1,
        memoryMB=32,
        guestId="otherGuest64",
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        deviceChange=[
            device.VirtualDeviceSpec(
                operation="add",
                device=device.ParaVirtualSCSIController(
                    key=_CONTROLLER, busNumber=0, sharedBus="noSharing"
                ),
            ),
            device.VirtualDeviceSpec(
                operation="add",
                fileOperation="create",
                device=device.VirtualDisk(
                    key=-1,
                    controllerKey=_CONTROLLER,
                    unitNumber=0,
                    capacityInKB=size_mib * 1024,
                    backing=backing,
                ),
            ),
        ],
    )


class _Told:
    """A file that is read once, to be sent; the lease hears of it now and then."""

    def __init__(self, file: BinaryIO, lease: Any) -> None:
        self._file = file
        self._lease = lease
        self._told_at = time.monotonic()
        self.size = file.seek(0, 2)
        self.digest = hashlib.sha256()
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """The next piece, as `http.client` asks for it."""
        piece = self._file.read(max(size, _MIB))
        self.digest.update(piece)
        if time.monotonic() - self._told_at > _TELL_S:
            self._told_at = time.monotonic()
            self._lease.HttpNfcLeaseProgress(int(self._file.tell() * 100 / max(self.size, 1)))
        return piece


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    try:
        with source.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise NotFound(f"no image {source}") from error


def _virtual_mib(file: BinaryIO, source: Path) -> int:
    header = file.read(_HEADER.size).ljust(_HEADER.size, b"\0")
    magic, _, flags, sectors = _HEADER.unpack(header)
    if magic != b"KDMV" or not flags & _COMPRESSED:
        raise Refused(f"{source} is no streamOptimized VMDK, which is what a host takes")
    return int(-(-sectors // 2048))
