"""Disks on their way to a host and from it: streamOptimized VMDKs, through leases of machines.

A host takes and gives a disk's content as a machine's only: one is there for a moment, never
runs, and is found by its name when whoever made it has died.
"""

import errno
import hashlib
import http.client
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from uuid import uuid4

from pyVmomi import vim, vmodl

from adapters.errors import BadImage, NotFound, OutOfSpace, Refused, Transient
from adapters.vsphere.datastores import Datastores, Place, machine
from adapters.vsphere.session import Session

_MIB = 2**20
_HEADER = struct.Struct("<4sIIQ")  # of a sparse VMDK: magic, version, flags, capacity in sectors
_COMPRESSED = 1 << 16
_READY_S = 120.0
_TELL_S = 20.0  # a lease of which nothing is heard for minutes ends
_FLUSH_S = 600.0  # what has come in may take its time to be on a disk
_STALE_S = 6 * 3600.0  # an upload that is older than this is nobody's any more


class Transfers:
    """Those of one host; its session has to be speaking."""

    def __init__(self, session: Session, datastores: Datastores) -> None:
        self._session = session
        self._datastores = datastores

    def upload(self, source: str, path: str, digest: str) -> None:
        """Make a disk of a streamOptimized VMDK; who wants the same meanwhile waits for it.

        It comes as the disk of a machine, which is how a host takes such files, and is renamed.
        Where another process was faster, its disk is as good.
        """
        with self._session.turns[path]:
            if self._datastores.has(path):
                return
            self._discard_stale_uploads()
            name = f"upload-{int(time.time())}-{uuid4().hex}"
            try:
                self._import(Path(source), name, Place.parse(path), digest)
            finally:
                self._datastores.discard_machine(name, keep_disks=False)

    def download(
        self, path: str, size_mib: int, name: str, target: Path, tell: Callable[[float], None]
    ) -> None:
        """Write a disk's content to a new file here, while a machine of that name has the disk."""
        self._datastores.discard_machine(name, keep_disks=True)
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=path, diskMode="persistent", thinProvisioned=True
        )
        datastore = Place.parse(path).datastore
        self._session.create(machine(name, datastore, backing, size_mib, is_new=False))
        try:
            with _held(self._session.child(name).ExportVm()) as lease:
                connection, where, headers = self._ready(lease)
                with closing(connection):
                    connection.request("GET", where, headers=headers)
                    with connection.getresponse() as answer:
                        _require_good(answer)
                        _write(answer, target, size_mib, _Teller(lease, tell))
        finally:
            self._datastores.discard_machine(name, keep_disks=True)

    def _import(self, source: Path, name: str, path: Place, digest: str) -> None:
        with _opened(source) as file:
            size_mib = _virtual_mib(file, source)
            backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
                fileName=f"[{path.datastore}]", diskMode="persistent", thinProvisioned=True
            )
            spec = machine(name, path.datastore, backing, size_mib)
            wanted = vim.vm.VmImportSpec(configSpec=spec)
            pool, folder = self._session.pool, self._session.folder
            with _held(pool.ImportVApp(wanted, folder, self._session.host)) as lease:
                self._fill(lease, file, digest)
        (uploaded,) = self._datastores.drop_disks(self._session.child(name))
        try:
            self._datastores.rename(uploaded, str(path))
        except vim.fault.FileAlreadyExists:
            self._datastores.delete(uploaded)

    def _fill(self, lease: Any, file: BinaryIO, digest: str) -> None:
        connection, where, headers = self._ready(lease)
        connection.timeout = _FLUSH_S
        content = _Told(file, _Teller(lease))
        kind = {
            "Content-Type": "application/x-vnd.vmware-streamVmdk",
            "Content-Length": str(content.size),
        }
        with closing(connection):
            connection.request("POST", where, body=content, headers={**headers, **kind})
            answer = connection.getresponse()
            answer.read()
        _require_good(answer)
        if content.digest.hexdigest() != digest:
            raise BadImage("it is another image", code="image-digest-mismatch")

    def _ready(self, lease: Any) -> tuple[http.client.HTTPSConnection, str, dict[str, str]]:
        """Where the content of a lease's one disk goes, or is: a connection, a path, headers."""
        wanted = ("state", "info", "error")
        has = self._session.until(
            lease, wanted, lambda has: has["state"] != "initializing", _READY_S
        )
        if has["state"] != "ready":
            raise has.get("error") or Refused("the host makes no transfer")
        (url, pin), *_ = [(x.url, x.sslThumbprint) for x in has["info"].deviceUrl if x.disk]
        connection, headers = self._session.connection_to(url, pin or "")
        return connection, urlsplit(url).path, headers

    def _discard_stale_uploads(self) -> None:
        folders_and_vms = self._session.folder.childEntity
        vms = [each for each in folders_and_vms if isinstance(each, vim.VirtualMachine)]
        names = self._session.properties(vms, "name")
        for name in (has["name"] for has in names.values()):
            word, _, rest = name.partition("-")
            began = rest.partition("-")[0]
            if word == "upload" and began.isdigit() and int(began) < time.time() - _STALE_S:
                self._datastores.discard_machine(name, keep_disks=False)


@contextmanager
def _held(lease: Any) -> Iterator[Any]:
    """Complete a lease, or break it off."""
    try:
        yield lease
        lease.HttpNfcLeaseComplete()
    except BaseException:
        with suppress(vmodl.MethodFault):
            lease.HttpNfcLeaseAbort()
        raise


class _Teller:
    """Tells a lease, and whoever else asks, now and then how far it is."""

    def __init__(self, lease: Any, tell: Callable[[float], None] = lambda _percent: None) -> None:
        self._lease = lease
        self._tell = tell
        self._told_at = time.monotonic()

    def __call__(self, done: int, size: int) -> None:
        percent = min(done * 100 / max(size, 1), 100.0)
        self._tell(percent)
        if time.monotonic() - self._told_at > _TELL_S:
            self._told_at = time.monotonic()
            self._lease.HttpNfcLeaseProgress(int(percent))


class _Told:
    """A file that is read once, to be sent."""

    def __init__(self, file: BinaryIO, tell: _Teller) -> None:
        self._file = file
        self._tell = tell
        self.size = file.seek(0, 2)
        self.digest = hashlib.sha256()
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """The next piece, as `http.client` asks for it."""
        piece = self._file.read(max(size, _MIB))
        self.digest.update(piece)
        self._tell(self._file.tell(), self.size)
        return piece


def _write(answer: http.client.HTTPResponse, target: Path, size_mib: int, tell: _Teller) -> None:
    """What comes in, piece by piece; nobody knows how much, but it is hardly more than this."""
    try:
        with target.open("xb") as file:
            while piece := answer.read(_MIB):
                file.write(piece)
                tell(file.tell(), size_mib * _MIB)
        if answer.length:  # `read` says nothing of a connection that ended early
            raise Transient(f"a transfer ended {answer.length} bytes early")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpace(f"no room for {target.name}") from error
        raise


def _require_good(answer: http.client.HTTPResponse) -> None:
    if answer.status >= http.client.BAD_REQUEST:
        raise Transient(f"a transfer: {answer.status} {answer.reason}")


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
