"""Volumes as network disks of a libvirt host's domains: QEMU itself is the iSCSI initiator.

A running domain has two definitions, of what runs and of its next start. They are asked and
changed one by one, so that what was done to one of them only is found, and made whole. CHAP
passwords are libvirt's private secrets: they outlive a restart of libvirtd, for the VM may be
started long after it was connected, and go with the connection or the VM.
"""

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from uuid import UUID

import libvirt

from adapters.errors import Conflict, InUse, Transient, Unsupported
from adapters.guests import Bus
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_buses import disk_bus, target_device
from adapters.hypervisors.libvirt_session import Session, says
from adapters.types import Chap, Connection, Owner

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_NEXT = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_SHOWS = {LIVE: 0, _NEXT: libvirt.VIR_DOMAIN_XML_INACTIVE}
_POLL_S = 0.05
_ATTEMPTS = 4  # a guest is waited for in so many parts, between which its operation may stop
_ASKED_ALREADY = "in the process of unplug"  # QEMU's words; libvirt has no code for it


class LibvirtConnections:
    """The connections of one libvirt host's VMs."""

    def __init__(self, session: Session, installation: UUID, release_s: float) -> None:
        self._session = session
        self._installation = installation
        self._release_s = release_s
        self._asked: dict[tuple[UUID, UUID], float] = {}  # since when guests were to release

    def connect(self, domain: libvirt.virDomain, connection: Connection, chap: Chap) -> None:
        """Give the domain the volume, now if it runs, and at every start.

        Raises `Conflict`, and `Unsupported` where a guest that runs has none on virtio.
        """
        views = _views(domain)
        there = {view: _connected(domain, connection, view) for view in views}
        if LIVE in views and there[LIVE] is None and not _is_asked(connection):
            raise Unsupported(f"VM {connection.vm} is on: its bus takes no volume now")
        for view in views:
            _refuse_a_taken_position(domain, connection, view)
        secret = domain_xml.secret_id(connection.volume, connection.vm)
        owner = Owner(installation=self._installation, id=connection.volume)
        keeper = self._session().secretDefineXML(domain_xml.secret_xml(secret, owner))
        keeper.setValue(chap.password.get_secret_value().encode())
        for view in views:
            device = there[view]
            if view == _NEXT and device is not None and _user(device) != chap.user:
                _detach(domain, device)
                device = None
            if device is None:
                text = domain_xml.connection_xml(connection, secret, chap.user)
                domain.attachDeviceFlags(text, view)

    def has(self, domain: libvirt.virDomain, connection: Connection) -> bool:
        """Whether the volume is in either definition. Raises `Conflict`."""
        there = [_connected(domain, connection, view) for view in _views(domain)]
        return any(device is not None for device in there)

    def disconnect(self, domain: libvirt.virDomain, connection: Connection) -> None:
        """Take the volume away, from a running guest first. Raises `Transient`, then `InUse`."""
        if domain.isActive() and not _is_asked(connection):
            if find_device(domain, connection.volume, LIVE) is not None:
                text = f"VM {connection.vm} is on: it cannot be asked for its volume"
                raise InUse(text, users=(str(connection.vm),))
        elif domain.isActive():
            self._unplug(domain, connection)
        device = find_device(domain, connection.volume)
        if device is not None:
            _detach(domain, device)

    def forget(self, connection: Connection) -> None:
        """Remove the connection's password; gone already is success."""
        self._forget_secret(domain_xml.secret_id(connection.volume, connection.vm))

    def forget_all(self, domain: libvirt.virDomain) -> None:
        """Remove the passwords of a domain that is about to go."""
        for device in _devices(domain, _NEXT):
            secret = _at(device, "source/auth/secret", "uuid")
            if secret is not None:
                self._forget_secret(UUID(secret))

    def _unplug(self, domain: libvirt.virDomain, connection: Connection) -> None:
        """Ask the guest to release the disk, and wait until it has."""
        key = (connection.vm, connection.volume)
        device = find_device(domain, connection.volume, LIVE)
        if device is not None:
            first = self._asked.setdefault(key, time.monotonic())
            try:
                domain.detachDeviceAlias(_at(device, "alias", "name"), LIVE)
            except libvirt.libvirtError as error:
                if _ASKED_ALREADY not in str(error):
                    raise
            end = time.monotonic() + self._release_s / _ATTEMPTS
            while domain.isActive() and find_device(domain, connection.volume, LIVE) is not None:
                now = time.monotonic()
                if now > first + self._release_s:
                    self._asked.pop(key, None)  # who asks once more begins anew
                    what = f"the guest keeps volume {connection.volume}"
                    raise InUse(what, users=(str(connection.vm),))
                if now > end:
                    raise Transient(f"VM {connection.vm} has not released {connection.volume} yet")
                time.sleep(_POLL_S)
        self._asked.pop(key, None)

    def _forget_secret(self, secret: UUID) -> None:
        try:
            self._session().secretLookupByUUID(secret.bytes).undefine()
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_SECRET):
                raise


def find_device(domain: libvirt.virDomain, thing: UUID, view: int = _NEXT) -> ET.Element | None:
    """Answer the domain's disk that is this disk or volume."""
    return next((device for device in _devices(domain, view) if _holds(device, thing)), None)


def _is_asked(connection: Connection) -> bool:
    """Whether a guest that runs is asked to release the volume: other buses only tell it."""
    return disk_bus(connection.bus, connection.position) is Bus.VIRTIO


def _views(domain: libvirt.virDomain) -> tuple[int, ...]:
    return (LIVE, _NEXT) if domain.isActive() else (_NEXT,)


def _devices(domain: libvirt.virDomain, view: int) -> Iterator[ET.Element]:
    text = domain.XMLDesc(_SHOWS[view])
    yield from ET.fromstring(text).iterfind("devices/disk")  # noqa: S314 - libvirt's own words


def _holds(device: ET.Element, thing: UUID) -> bool:
    return device.findtext("serial") == domain_xml.serial(thing)


def _at(device: ET.Element, path: str, attribute: str) -> str | None:
    element = device.find(path)
    return None if element is None else element.get(attribute)


def _user(device: ET.Element) -> str | None:
    return _at(device, "source/auth", "username")


def _detach(domain: libvirt.virDomain, device: ET.Element) -> None:
    domain.detachDeviceFlags(ET.tostring(device, encoding="unicode"), _NEXT)


def _refuse_a_taken_position(domain: libvirt.virDomain, connection: Connection, view: int) -> None:
    place = target_device(connection.bus, connection.position)
    for device in _devices(domain, view):
        if _at(device, "target", "dev") == place and not _holds(device, connection.volume):
            raise Conflict(f"VM {connection.vm} has another disk at {place}")


def _connected(domain: libvirt.virDomain, connection: Connection, view: int) -> ET.Element | None:
    """Answer the connection's device. Raises `Conflict` when it leads elsewhere."""
    device = find_device(domain, connection.volume, view)
    if device is None:
        return None
    target = connection.target
    found = (
        _at(device, "source", "name"),
        _at(device, "source/host", "name"),
        _at(device, "source/host", "port"),
        _at(device, "source/initiator/iqn", "name"),
        _at(device, "target", "dev"),
    )
    wanted = (
        f"{target.iqn}/{target.lun}",
        target.host,
        str(target.port),
        connection.initiator,
        target_device(connection.bus, connection.position),
    )
    if found != wanted:
        raise Conflict(f"VM {connection.vm} has volume {connection.volume}, and otherwise")
    return device
