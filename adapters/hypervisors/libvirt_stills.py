"""Stills: disks of a running domain as they were at one moment, by a backup job in pull mode.

QEMU serves them over NBD, and keeps what the guest overwrites meanwhile in scratch files. The
domain's disks stay what they are: there is no snapshot that would have to be merged again.
libvirtd takes the job up again when it restarts; with the guest's process, job and scratch files
end.

Where an agent in the guest answers, the guest is frozen while the job begins, for a moment. Its
domain is marked for as long as it may be, so that whoever comes after a dead runner thaws it.
"""

import json
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import UUID

import libvirt
import libvirt_qemu

from adapters.errors import Conflict, NotFound, OutOfSpace, Transient
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_connections import find_device
from adapters.hypervisors.libvirt_disks import look_again, pool_at, seen
from adapters.hypervisors.libvirt_releases import LIVE
from adapters.hypervisors.libvirt_session import Session, says
from adapters.stills import Stills

_ASK_S = 5  # an agent that says nothing for so long is none
_FREEZE_S = 30  # it writes everything first
_END_S = 10.0
_POLL_S = 0.05


class LibvirtStills:
    """The stills of one libvirt host's VMs: of each, one moment at a time."""

    def __init__(self, session: Session, installation: UUID) -> None:
        self._session = session
        self._installation = installation

    def open(
        self, domain: libvirt.virDomain, vm: UUID, disks: Sequence[UUID], datastore: str
    ) -> Stills:
        """Begin the job, with the guest's agent's help where there is one."""
        self.close(domain, vm, disks, datastore)
        if _job(domain) is not None:
            raise Conflict(f"VM {vm} is being backed up by another", code="vm-busy")
        devices = {disk: _device(domain, disk) for disk in disks}
        self._require_room(domain, devices.values(), datastore)
        scratch = {
            device: (disk, self._scratch(disk, datastore)) for disk, device in devices.items()
        }
        quiet = _freeze(domain)
        try:
            domain.backupBegin(domain_xml.backup_xml(str(_socket(vm)), scratch), None)
        finally:
            _thaw(domain)
        return Stills(socket=str(_socket(vm)), quiet=quiet)

    def has(
        self, domain: libvirt.virDomain | None, vm: UUID, disks: Sequence[UUID], datastore: str
    ) -> bool:
        """Whether there is a job, a scratch file, its socket, or a guest that may be frozen."""
        if domain is not None and (_is_marked(domain) or self._is_ours(domain, disks, datastore)):
            return True
        return _socket(vm).exists() or bool(self._left(disks, datastore))

    def close(
        self, domain: libvirt.virDomain | None, vm: UUID, disks: Sequence[UUID], datastore: str
    ) -> None:
        """Let the guest go on, end the job, and remove what it may have left."""
        if domain is not None:
            _thaw(domain)
            if self._is_ours(domain, disks, datastore):
                _end(domain)
        for volume in self._left(disks, datastore):
            volume.delete()
        _socket(vm).unlink(missing_ok=True)

    def _scratch(self, disk: UUID, datastore: str) -> str:
        return str(Path(datastore, f"still-{disk}.{self._installation}.qcow2"))

    def _left(self, disks: Sequence[UUID], datastore: str) -> list[libvirt.virStorageVol]:
        try:
            pool = pool_at(self._session(), datastore)
        except NotFound:
            return []
        look_again(pool)
        names = [Path(self._scratch(disk, datastore)).name for disk in disks]
        return [volume for name in names if (volume := seen(pool, name)) is not None]

    def _is_ours(self, domain: libvirt.virDomain, disks: Sequence[UUID], datastore: str) -> bool:
        job = _job(domain)
        if job is None:
            return False
        files = {each.get("file") for each in job.iterfind("disks/disk/scratch")}
        return not files.isdisjoint(self._scratch(disk, datastore) for disk in disks)

    def _require_room(
        self, domain: libvirt.virDomain, devices: Collection[str], datastore: str
    ) -> None:
        """A guest could overwrite all of it; it must not be the one that finds no room."""
        needed = sum(domain.blockInfo(device)[0] for device in devices)
        pool = pool_at(self._session(), datastore)
        look_again(pool)
        if pool.info()[3] < needed:
            raise OutOfSpace(f"{datastore} has no room for {needed} bytes overwritten meanwhile")


def _device(domain: libvirt.virDomain, disk: UUID) -> str:
    device = find_device(domain, disk, LIVE)
    target = None if device is None else device.find("target")
    if target is None:
        raise NotFound(f"VM {domain.UUIDString()} has no disk {disk}")
    return target.attrib["dev"]


def _socket(vm: UUID) -> Path:
    """A short path: sockets' are."""
    return Path(tempfile.gettempdir(), f"cloudloom-{vm}.sock")


def _job(domain: libvirt.virDomain) -> ET.Element | None:
    """The domain's backup, whosever it is."""
    try:
        return ET.fromstring(domain.backupGetXMLDesc())  # noqa: S314 - libvirt's own words
    except libvirt.libvirtError as error:
        if says(error, libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        if says(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT):
            return None  # it is off; this driver knows none
        raise


def _end(domain: libvirt.virDomain) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_OPERATION_INVALID):  # it has just ended
            raise
    end = time.monotonic() + _END_S
    while _job(domain) is not None:
        if time.monotonic() > end:
            raise Transient(f"the backup of VM {domain.UUIDString()} does not end")
        time.sleep(_POLL_S)


def _freeze(domain: libvirt.virDomain) -> bool:
    """Ask the guest to write everything and hold still; answers whether it does.

    An agent that has just answered is asked: else what it does late would find nobody.
    """
    if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING or not _agent_answers(domain):
        return False
    _mark(domain, "<frozen/>")
    try:
        domain.agentSetResponseTimeout(_FREEZE_S)
        return bool(domain.fsFreeze() > 0)
    except libvirt.libvirtError:
        return False


def _agent_answers(domain: libvirt.virDomain) -> bool:
    try:
        libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": "guest-ping"}), _ASK_S, 0)
    except libvirt.libvirtError:
        return False
    return True


def _thaw(domain: libvirt.virDomain) -> None:
    """Let a guest go on that was, or may have been, frozen by us."""
    if not _is_marked(domain):
        return
    try:
        domain.fsThaw()
    except libvirt.libvirtError:
        if domain.isActive():
            raise
        return
    _mark(domain, None)


def _mark(domain: libvirt.virDomain, text: str | None) -> None:
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "cloudloom-still",
        domain_xml.FROZEN, libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )  # fmt: skip


def _is_marked(domain: libvirt.virDomain) -> bool:
    try:
        domain.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.FROZEN, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
    except libvirt.libvirtError as error:
        unmarked = (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN)
        if not says(error, *unmarked, libvirt.VIR_ERR_OPERATION_INVALID):
            raise
        return False
    return True
