"""Volumes as network disks of a libvirt host's domains: QEMU itself is the iSCSI initiator.

A running domain has two definitions, of what runs and of its next start. They are asked and
changed one by one, so that what was done to one of them only is found, and made whole. CHAP
passwords are libvirt's private secrets: they outlive a restart of libvirtd, for the VM may be
started long after it was connected, and go with the connection or the VM.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import libvirt

from adapters.errors import Conflict, InUse, Unsupported
from adapters.guests import Bus
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_buses import disk_bus, target_device
from adapters.hypervisors.libvirt_releases import LIVE, NEXT, Releases, described, detach, views
from adapters.hypervisors.libvirt_session import Session, says
from adapters.types import Chap, Connection, Owner


class LibvirtConnections:
    """The connections of one libvirt host's VMs."""

    def __init__(self, session: Session, installation: UUID, release_s: float) -> None:
        self._session = session
        self._installation = installation
        self._releases = Releases(release_s)

    def connect(self, domain: libvirt.virDomain, connection: Connection, chap: Chap) -> None:
        """Give the domain the volume, now if it runs, and at every start.

        Raises `Conflict`, and `Unsupported` where a guest that runs has none on virtio.
        """
        there = {view: _connected(domain, connection, view) for view in views(domain)}
        if LIVE in there and there[LIVE] is None and not _is_asked(connection):
            raise Unsupported(f"VM {connection.vm} is on: its bus takes no volume now")
        for view in there:
            _refuse_a_taken_position(domain, connection, view)
        secret = domain_xml.secret_id(connection.volume, connection.vm)
        owner = Owner(installation=self._installation, id=connection.volume)
        keeper = self._session().secretDefineXML(domain_xml.secret_xml(secret, owner))
        keeper.setValue(chap.password.get_secret_value().encode())
        for view, device in there.items():
            is_old = view == NEXT and device is not None and _user(device) != chap.user
            if is_old and device is not None:
                detach(domain, device)
            if is_old or device is None:
                text = domain_xml.connection_xml(connection, secret, chap.user)
                domain.attachDeviceFlags(text, view)

    def has(self, domain: libvirt.virDomain, connection: Connection) -> bool:
        """Whether the volume is in either definition. Raises `Conflict`."""
        there = [_connected(domain, connection, view) for view in views(domain)]
        return any(device is not None for device in there)

    def disconnect(self, domain: libvirt.virDomain, connection: Connection) -> None:
        """Take the volume away, from a running guest first. Raises `Transient`, then `InUse`."""
        if domain.isActive() and not _is_asked(connection):
            if find_device(domain, connection.volume, LIVE) is not None:
                text = f"VM {connection.vm} is on: it cannot be asked for its volume"
                raise InUse(text, users=(str(connection.vm),))
        elif domain.isActive():
            volume, users = connection.volume, (str(connection.vm),)
            find = partial(find_device, domain, volume, LIVE)
            kept = InUse(f"the guest keeps volume {volume}", users=users)
            self._releases.take(domain, volume, find, kept)
        device = find_device(domain, connection.volume)
        if device is not None:
            detach(domain, device)

    def forget(self, connection: Connection) -> None:
        """Remove the connection's password; gone already is success."""
        self._forget_secret(domain_xml.secret_id(connection.volume, connection.vm))

    def forget_all(self, domain: libvirt.virDomain) -> None:
        """Remove the passwords of a domain that is about to go."""
        for device in _devices(domain, NEXT):
            secret = _at(device, "source/auth/secret", "uuid")
            if secret is not None:
                self._forget_secret(UUID(secret))

    def _forget_secret(self, secret: UUID) -> None:
        try:
            self._session().secretLookupByUUID(secret.bytes).undefine()
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_SECRET):
                raise


def find_device(domain: libvirt.virDomain, thing: UUID, view: int = NEXT) -> ET.Element | None:
    """Answer the domain's disk that is this disk or volume."""
    return next((device for device in _devices(domain, view) if _holds(device, thing)), None)


def _is_asked(connection: Connection) -> bool:
    """Whether a guest that runs is asked to release the volume: other buses only tell it."""
    return disk_bus(connection.bus, connection.position) is Bus.VIRTIO


def _devices(domain: libvirt.virDomain, view: int) -> Iterator[ET.Element]:
    yield from described(domain, view).iterfind("devices/disk")


def _holds(device: ET.Element, thing: UUID) -> bool:
    return device.findtext("serial") == domain_xml.serial(thing)


def _at(device: ET.Element, path: str, attribute: str) -> str | None:
    element = device.find(path)
    return None if element is None else element.get(attribute)


def _user(device: ET.Element) -> str | None:
    return _at(device, "source/auth", "username")


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
