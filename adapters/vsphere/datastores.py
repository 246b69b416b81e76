"""Disks and files on a host's datastores, named as vSphere names them: `[datastore] folder/name`.

A disk gets its name when it is whole: what takes time is made under another one, and renamed.
"""

import http.client
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from pyVmomi import vim

from adapters.errors import NotFound, Transient
from adapters.types import Capacity
from adapters.vsphere.session import Session

_MIB = 2**20
_PLACE = re.compile(r"\[([^\[\]/]+)\] */?(.*?)/?")
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
        self.disks(directory, "none")
        store = self._session.datastore(Place.parse(directory).datastore)
        summary = self._session.properties([store], "summary")[store]["summary"]
        return Capacity(total_mib=summary.capacity // _MIB, free_mib=summary.freeSpace // _MIB)

    def total_mib(self, name: str) -> int:
        """The size of a datastore. Raises `NotFound`."""
        store, path = self._session.datastore(name), "summary.capacity"
        return int(self._session.properties([store], path)[store][path]) // _MIB

    def largest(self) -> str:
        """The datastore with the most room, for what is small and asks for none."""
        stores = self._session.properties(self._session.host.datastore, "summary")
        usable = [each["summary"] for each in stores.values() if each["summary"].accessible]
        if not usable:
            raise NotFound("the host has no datastore")
        return str(Place(max(usable, key=lambda summary: summary.freeSpace).name, ""))

    def disks(self, directory: str, *patterns: str) -> dict[str, int]:
        """The disks there by name, with their sizes in MiB. Raises `NotFound`."""
        disk = vim.host.DatastoreBrowser.VmDiskQuery
        found = self._search(directory, patterns, disk(details=disk.Details(capacityKb=True)))
        return {each.path: (each.capacityKb or 0) // 1024 for each in found}

    def images(self, directory: str, pattern: str) -> list[str]:
        """The images of CD-ROMs there, by name. Raises `NotFound`."""
        query = vim.host.DatastoreBrowser.IsoImageQuery()
        return [each.path for each in self._search(directory, (pattern,), query)]

    def _search(self, directory: str, patterns: tuple[str, ...], query: Any) -> list[Any]:
        place = Place.parse(directory)
        kinds = vim.host.DatastoreBrowser
        spec = kinds.SearchSpec(
            query=[query],
            details=kinds.FileInfo.Details(
                fileType=True, fileSize=False, modification=False, fileOwner=False
            ),
            matchPattern=list(patterns),
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
        target, unfinished = str(Place.parse(path)), _unfinished(path)
        self.delete(unfinished)
        datacenter, manager = self._datacenter, self._manager
        source = str(Place.parse(source))
        self._session.wait(
            manager.CopyVirtualDisk_Task(source, datacenter, unfinished, datacenter)
        )
        self._session.wait(
            manager.ExtendVirtualDisk_Task(unfinished, datacenter, size_mib * 1024, False)  # noqa: FBT003 - not zeroed ahead
        )
        self.rename(unfinished, target)

    def overlay(self, base: str, path: str, size_mib: int, name: str) -> None:
        """Make a disk that keeps only what differs from another one, of the same size.

        Only a VM can make such a disk: a machine of that name is there for as long as it takes.
        """
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=str(Place.parse(path)),
            diskMode="persistent",
            thinProvisioned=True,
            parent=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
                fileName=str(Place.parse(base)), diskMode="persistent"
            ),
        )
        spec = machine(name, Place.parse(path).datastore, backing, size_mib)
        try:
            made = self._session.create(spec)
        except vim.fault.DuplicateName:  # somebody died who had one
            self.discard_machine(name, keep_disks=True)
            made = self._session.create(spec)
        self._discard(made)

    def delete_unfinished(self, path: str) -> None:
        """Remove what a `copy` has left that was broken off; absent is success."""
        self.delete(_unfinished(path))

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
        """Make a file of that content, or an old one anew. Raises `NotFound`."""
        status, _ = self._file("PUT", path, content)
        if status == http.client.NOT_FOUND:
            raise NotFound(f"there is no folder for {path}")

    def _file(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        place = Place.parse(path)
        asked = urlencode({"dcPath": self._session.datacenter_path, "dsName": place.datastore})
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

    def rename(self, source: str, target: str) -> None:
        """Give a disk another name. Raises `FileAlreadyExists`."""
        datacenter = self._datacenter
        self._session.wait(
            self._manager.MoveVirtualDisk_Task(source, datacenter, target, datacenter)
        )

    def discard_machine(self, name: str, *, keep_disks: bool) -> None:
        """Remove a machine that was there for a moment; absent is success."""
        vm = self._session.child(name)
        if vm is not None:
            disks = self._discard(vm)
            for disk in disks if not keep_disks else ():
                self.delete(disk)

    def _discard(self, machine: Any) -> list[str]:
        disks = self.drop_disks(machine)
        self._session.wait(machine.Destroy_Task())
        return disks

    def drop_disks(self, vm: Any) -> list[str]:
        """Take its disks away from a machine; where they are."""
        path = "config.hardware.device"
        devices = self._session.properties([vm], path)[vm].get(path, [])
        disks = [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]
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


def _unfinished(path: str) -> str:
    """How a copy is called until it is whole."""
    place = Place.parse(path)
    return str(place.folder / f"part-{place.name}")


def machine(name: str, datastore: str, backing: Any, size_mib: int, *, is_new: bool = True) -> Any:
    """A machine that never runs, with one disk, which may come into being with it."""
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
                fileOperation="create" if is_new else None,
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
