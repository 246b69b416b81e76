"""KVM and QEMU through libvirt, agentless: everything goes through the host's libvirtd.

CHAP passwords are libvirt's private secrets. They outlive a restart of libvirtd, for the VM may
be started long after it was connected, and go with the connection or the VM.
"""

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import libvirt

from adapters.errors import Conflict, InUse, NotFound, Refused
from adapters.hypervisors import domain_xml
from adapters.hypervisors.base import Capability
from adapters.hypervisors.libvirt_disks import LibvirtDisks
from adapters.hypervisors.libvirt_session import Session, says, speaking_libvirt
from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Owner, Power, Vm

_POLL_S = 0.05
_PRESS_AGAIN_S = 3.0  # a guest that is still booting does not hear the power button
_POWER = {
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Power.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.OFF,
    libvirt.VIR_DOMAIN_CRASHED: Power.OFF,
}


class KvmHypervisor:
    """One libvirt host; ours are the domains whose metadata names our installation."""

    capabilities = frozenset({Capability.OVERLAY, Capability.ISCSI_PER_VM, Capability.PAUSE})

    def __init__(
        self, uri: str, installation: UUID, domain_type: str, console_directory: str
    ) -> None:
        self._session = Session(uri)
        self._disks = LibvirtDisks(self._session)
        self._installation = installation
        self._domain_type = domain_type
        self._consoles = Path(console_directory).absolute()

    def describe(self) -> HostFacts:
        with speaking_libvirt():
            _, ram_mib, cpu, *_ = self._session().getInfo()
            number = self._session().getLibVersion()
        version = f"{number // 10**6}.{number // 1000 % 1000}.{number % 1000}"
        return HostFacts(cpu=cpu, ram_mib=ram_mib, version=f"libvirt {version}")

    def datastore(self, directory: str) -> Capacity:
        return self._disks.capacity(directory)

    def initiator(self, vm: UUID) -> str:
        return f"iqn.2026-11.org.cloudloom:{domain_xml.vm_name(vm)}"

    def ensure_disk(self, disk: Disk) -> None:
        self._disks.ensure(disk)

    def has_disk(self, disk: Disk) -> bool:
        return self._disks.has(disk)

    def delete_disk(self, disk: Disk) -> None:
        with speaking_libvirt():
            domain = self._find(disk.vm)
            if domain is not None and domain.isActive() and _device(domain, disk.id) is not None:
                raise InUse(f"disk {disk.id} is in use", users=(str(disk.vm),))
        self._disks.delete(disk)

    def disk_path(self, disk: Disk) -> str:
        return domain_xml.disk_path(disk)

    def ensure_vm(self, vm: Vm) -> None:
        if self.has_vm(vm):
            return
        for disk in vm.disks:
            if not self.has_disk(disk):
                raise NotFound(f"VM {vm.id} needs disk {disk.id}")
        self._consoles.mkdir(parents=True, exist_ok=True)
        log = str(self._console(vm.id))
        with speaking_libvirt():
            self._session().defineXML(domain_xml.domain_xml(vm, self._domain_type, log))

    def has_vm(self, vm: Vm) -> bool:
        with speaking_libvirt():
            domain = self._find(vm.id)
            if domain is None:
                self._refuse_a_strangers_name(vm)
                return False
            owner = _owner(domain)
            if owner is None or owner.get("digest") != vm.digest:
                raise Conflict(f"VM {vm.id} is defined, and otherwise")
        return True

    def delete_vm(self, vm: UUID) -> None:
        with speaking_libvirt():
            domain = self._find(vm)
            if domain is not None:
                if domain.isActive():
                    raise InUse(f"VM {vm} is on", users=(str(vm),))
                for device in _devices(domain):
                    self._forget_secret_of(device)
                domain.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                )
        self._console(vm).unlink(missing_ok=True)

    def connect(self, connection: Connection, chap: Chap) -> None:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            if domain is None:
                raise NotFound(f"no VM {connection.vm}")
            if domain.isActive():
                raise InUse(f"VM {connection.vm} is on", users=(str(connection.vm),))
            there = self._connected(domain, connection)
            self._refuse_a_taken_position(domain, connection)
            secret = domain_xml.secret_id(connection.volume, connection.vm)
            owner = Owner(installation=self._installation, id=connection.volume)
            keeper = self._session().secretDefineXML(domain_xml.secret_xml(secret, owner))
            keeper.setValue(chap.password.get_secret_value().encode())
            if there is not None:
                if _at(there, "source/auth", "username") == chap.user:
                    return
                _detach(domain, there)
            domain.attachDeviceFlags(
                domain_xml.connection_xml(connection, secret, chap.user),
                libvirt.VIR_DOMAIN_AFFECT_CONFIG,
            )

    def has_connection(self, connection: Connection) -> bool:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            return domain is not None and self._connected(domain, connection) is not None

    def disconnect(self, connection: Connection) -> None:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            device = domain and _device(domain, connection.volume)
            if domain is not None and device is not None:
                if domain.isActive():
                    raise InUse(f"VM {connection.vm} is on", users=(str(connection.vm),))
                _detach(domain, device)
            self._forget_secret(domain_xml.secret_id(connection.volume, connection.vm))

    def power(self, vm: UUID) -> Power | None:
        with speaking_libvirt():
            domain = self._find(vm)
            return None if domain is None else _power(domain)

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:
        with speaking_libvirt():
            domain = self._find(vm)
            if domain is None:
                if power is Power.OFF:
                    return
                raise NotFound(f"no VM {vm}")
            now = _power(domain)
            if power is now:
                return
            if power is Power.OFF:
                _switch_off(domain, timeout_s)
            elif power is Power.PAUSED:
                if now is Power.OFF:
                    raise Refused(f"VM {vm} is off")
                domain.suspend()
            elif now is Power.PAUSED:
                domain.resume()
            else:
                domain.create()

    def console(self, vm: UUID) -> bytes:
        try:
            return self._console(vm).read_bytes()
        except FileNotFoundError:
            return b""

    def vms(self) -> dict[UUID, Power]:
        found = {}
        with speaking_libvirt():
            for domain in self._session().listAllDomains():
                owner = _owner(domain)
                if owner is not None and owner.get("installation") == str(self._installation):
                    found[UUID(domain.UUIDString())] = _power(domain)
        return found

    def _console(self, vm: UUID) -> Path:
        return self._consoles / f"{domain_xml.vm_name(vm)}.log"

    def _find(self, vm: UUID) -> libvirt.virDomain | None:
        """Answer the VM's domain. Raises `Conflict` when it is not ours."""
        try:
            domain = self._session().lookupByUUID(vm.bytes)
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_DOMAIN):
                raise
            return None
        owner = _owner(domain)
        if owner is None or owner.get("installation") != str(self._installation):
            raise Conflict(f"domain {vm} is another's")
        return domain

    def _refuse_a_strangers_name(self, vm: Vm) -> None:
        try:
            self._session().lookupByName(domain_xml.vm_name(vm.id))
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_DOMAIN):
                raise
        else:
            raise Conflict(f"a domain {domain_xml.vm_name(vm.id)} is there, and is another's")

    def _refuse_a_taken_position(self, domain: libvirt.virDomain, connection: Connection) -> None:
        place = domain_xml.target_device(connection.position)
        for device in _devices(domain):
            if _at(device, "target", "dev") == place and not _holds(device, connection.volume):
                raise Conflict(f"VM {connection.vm} has another disk at {place}")

    def _connected(self, domain: libvirt.virDomain, connection: Connection) -> ET.Element | None:
        """Answer the connection's device. Raises `Conflict` when it leads elsewhere."""
        device = _device(domain, connection.volume)
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
            domain_xml.target_device(connection.position),
        )
        if found != wanted:
            raise Conflict(f"VM {connection.vm} has volume {connection.volume}, and otherwise")
        return device

    def _forget_secret_of(self, device: ET.Element) -> None:
        secret = _at(device, "source/auth/secret", "uuid")
        if secret is not None:
            self._forget_secret(UUID(secret))

    def _forget_secret(self, secret: UUID) -> None:
        try:
            self._session().secretLookupByUUID(secret.bytes).undefine()
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_SECRET):
                raise


def _owner(domain: libvirt.virDomain) -> ET.Element | None:
    """Answer what our metadata says; None for a stranger's domain, or one just gone."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.NAMESPACE)
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            raise
        return None
    return ET.fromstring(text)  # noqa: S314 - libvirt's own words


def _devices(domain: libvirt.virDomain) -> Iterator[ET.Element]:
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    yield from ET.fromstring(text).iterfind("devices/disk")  # noqa: S314 - libvirt's own words


def _device(domain: libvirt.virDomain, thing: UUID) -> ET.Element | None:
    return next((device for device in _devices(domain) if _holds(device, thing)), None)


def _holds(device: ET.Element, thing: UUID) -> bool:
    return device.findtext("serial") == domain_xml.serial(thing)


def _at(device: ET.Element, path: str, attribute: str) -> str | None:
    element = device.find(path)
    return None if element is None else element.get(attribute)


def _detach(domain: libvirt.virDomain, device: ET.Element) -> None:
    text = ET.tostring(device, encoding="unicode")
    domain.detachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _power(domain: libvirt.virDomain) -> Power:
    return _POWER.get(domain.state()[0], Power.ON)


def _switch_off(domain: libvirt.virDomain, timeout_s: float) -> None:
    """Press the power button, again for a guest that boots; pull the plug in the end."""
    press = time.monotonic()
    end = press + timeout_s
    try:
        while domain.isActive() and time.monotonic() < end:
            if time.monotonic() >= press:
                if _power(domain) is Power.PAUSED:
                    domain.resume()  # a paused guest hears nothing
                domain.shutdown()
                press += _PRESS_AGAIN_S
            time.sleep(_POLL_S)
        domain.destroy()
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_OPERATION_INVALID) or domain.isActive():
            raise
