"""KVM and QEMU through libvirt, agentless: everything goes through the host's libvirtd."""

import socket
import xml.etree.ElementTree as ET
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from uuid import UUID

import libvirt
from pydantic import SecretStr

from adapters.errors import Conflict, InUse, NotFound, Refused, Unsupported
from adapters.guests import Firmware
from adapters.hypervisors import domain_xml
from adapters.hypervisors.base import Capability, Display, differences
from adapters.hypervisors.libvirt_cards import LibvirtCards
from adapters.hypervisors.libvirt_connections import LibvirtConnections, find_device
from adapters.hypervisors.libvirt_disks import LibvirtDisks
from adapters.hypervisors.libvirt_lines import open_display, open_terminal
from adapters.hypervisors.libvirt_news import listening
from adapters.hypervisors.libvirt_power import power_of, switch_off
from adapters.hypervisors.libvirt_seeds import LibvirtSeeds
from adapters.hypervisors.libvirt_session import Session, says, speaking_libvirt
from adapters.hypervisors.libvirt_stills import LibvirtStills
from adapters.stills import Stills
from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Nic, Power, Seed, Vm


class KvmHypervisor:
    """One libvirt host; ours are the domains whose metadata names our installation."""

    capabilities = frozenset(
        {
            Capability.OVERLAY,
            Capability.ISCSI_PER_VM,
            Capability.PAUSE,
            Capability.RESET,
            Capability.HOT_ATTACH,
            Capability.HOT_NIC,
            Capability.TERMINAL,
            Capability.DISPLAY,
            Capability.DISK_FILES,
            Capability.SEED,
            Capability.NEWS,
            Capability.STILLS,
        }
    )

    def __init__(
        self,
        uri: str,
        installation: UUID,
        domain_type: str,
        console_directory: str,
        *,
        release_s: float = 60.0,
    ) -> None:
        self._session = Session(uri)
        self._disks = LibvirtDisks(self._session)
        self._seeds = LibvirtSeeds(self._session)
        self._stills = LibvirtStills(self._session, installation)
        self._connections = LibvirtConnections(self._session, installation, release_s)
        self._cards = LibvirtCards(release_s)
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
            if (
                domain is not None
                and domain.isActive()
                and find_device(domain, disk.id) is not None
            ):
                raise InUse(f"disk {disk.id} is in use", users=(str(disk.vm),))
        self._disks.delete(disk)

    def disks(self, datastore: str) -> dict[UUID, bool]:
        used = self._used_files()
        found = self._disks.of(self._installation, datastore)
        return {disk: path in used for disk, path in found.items()}

    def discard_disk(self, datastore: str, disk: UUID) -> None:
        path = self._disks.of(self._installation, datastore).get(disk)
        if path in self._used_files():
            raise InUse(f"a VM is defined with disk {disk}")
        if path:
            self._disks.discard(path)

    def disk_path(self, disk: Disk) -> str:
        return domain_xml.disk_path(disk)

    def send_disk(self, disk: Disk, target: Path, progress: Callable[[float], None]) -> None:  # noqa: ARG002 - as the port
        raise Unsupported(f"disk {disk.id} is read where it is")

    def is_sending(self, disk: Disk) -> bool:  # noqa: ARG002 - as the port
        return False

    def stop_sending(self, disk: Disk) -> None:
        """Nothing was begun."""

    def ensure_seed(self, seed: Seed, image: bytes) -> None:
        self._seeds.ensure(seed, image)

    def has_seed(self, seed: Seed) -> bool:
        return self._seeds.has(seed)

    def delete_seed(self, seed: Seed) -> None:
        with speaking_libvirt():
            domain = self._find(seed.id)
            if (
                domain is not None
                and domain.isActive()
                and domain_xml.seed_path(seed) in _files_of(domain)
            ):
                raise InUse(f"the seed of VM {seed.id} is in use", users=(str(seed.id),))
        self._seeds.delete(seed)

    def seeds(self, datastore: str) -> dict[UUID, bool]:
        used = self._used_files()
        found = self._seeds.of(self._installation, datastore)
        return {vm: path in used for vm, path in found.items()}

    def discard_seed(self, datastore: str, vm: UUID) -> None:
        path = self._seeds.of(self._installation, datastore).get(vm)
        if path in self._used_files():
            raise InUse(f"VM {vm} is defined with its seed")
        if path:
            self._disks.discard(path)

    def firmwares(self) -> frozenset[Firmware]:
        """BIOS, and what libvirt has found a file for."""
        with speaking_libvirt():
            try:
                text = self._session().getDomainCapabilities(
                    None, "x86_64", "pc", self._domain_type
                )
            except libvirt.libvirtError as error:
                if not says(error, libvirt.VIR_ERR_NO_SUPPORT):
                    raise
                return frozenset({Firmware.BIOS})
        root = ET.fromstring(text)  # noqa: S314 - libvirt's own words
        said = {each.text for each in root.iterfind("os/enum[@name='firmware']/value")}
        return frozenset({Firmware.BIOS} | {each for each in Firmware if each in said})

    def ensure_vm(self, vm: Vm, screen: SecretStr | None = None) -> None:
        if self.has_vm(vm):
            return
        for disk in vm.disks:
            if not self.has_disk(disk):
                raise NotFound(f"VM {vm.id} needs disk {disk.id}")
        if vm.seed and not self.has_seed(vm.seed):
            raise NotFound(f"VM {vm.id} needs its seed")
        if (needs := vm.settings.firmware) is not Firmware.BIOS and needs not in self.firmwares():
            raise Unsupported(f"the host starts no VM by {needs}")
        self._consoles.mkdir(parents=True, exist_ok=True)
        log = str(self._consoles / f"{domain_xml.vm_name(vm.id)}.log")
        with speaking_libvirt():
            self._session().defineXML(domain_xml.domain_xml(vm, self._domain_type, log, screen))

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

    def set_size(self, former: Vm, vm: Vm) -> None:  # noqa: ARG002 - as the port
        """QEMU gives CPUs, and takes none back from a guest that has not set its ACPI up."""
        raise Unsupported(f"VM {vm.id} is given nothing while it is on")

    def set_nics(self, former: Vm, vm: Vm) -> None:
        with speaking_libvirt():
            domain = self._find(vm.id)
            if domain is None:
                raise NotFound(f"no VM {vm.id}")
            owner = _owner(domain)
            if owner is None or owner.get("digest") not in {former.digest, vm.digest}:
                raise Conflict(f"VM {vm.id} is not defined as it was")
            self._cards.change(domain, former, vm)

    def has_nic(self, vm: UUID, nic: Nic, *, whole: bool = False) -> bool:
        with speaking_libvirt():
            domain = self._find(vm)
            return domain is not None and self._cards.has(domain, nic, whole=whole)

    def delete_vm(self, vm: UUID) -> None:
        with speaking_libvirt():
            domain = self._find(vm)
            if domain is not None:
                if domain.isActive():
                    raise InUse(f"VM {vm} is on", users=(str(vm),))
                if log := _log_of(domain):
                    log.unlink(missing_ok=True)
                self._connections.forget_all(domain)
                domain.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                )

    def connect(self, connection: Connection, chap: Chap) -> None:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            if domain is None:
                raise NotFound(f"no VM {connection.vm}")
            self._connections.connect(domain, connection, chap)

    def has_connection(self, connection: Connection) -> bool:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            return domain is not None and self._connections.has(domain, connection)

    def disconnect(self, connection: Connection) -> None:
        with speaking_libvirt():
            domain = self._find(connection.vm)
            if domain is not None:
                self._connections.disconnect(domain, connection)
            self._connections.forget(connection)

    def power(self, vm: UUID) -> Power | None:
        with speaking_libvirt():
            domain = self._find(vm)
            return None if domain is None else power_of(domain)

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:
        with speaking_libvirt():
            domain = self._find(vm)
            if domain is None:
                if power is Power.OFF:
                    return
                raise NotFound(f"no VM {vm}")
            now = power_of(domain)
            if power is now:
                return
            if power is Power.OFF:
                switch_off(domain, timeout_s)
            elif power is Power.PAUSED:
                if now is Power.OFF:
                    raise Refused(f"VM {vm} is off")
                domain.suspend()
            elif now is Power.PAUSED:
                domain.resume()
            else:
                domain.create()

    def reset(self, vm: UUID) -> None:
        with speaking_libvirt():
            domain = self._find(vm)
            if domain is None:
                raise NotFound(f"no VM {vm}")
            now = power_of(domain)
            if now is not Power.ON:
                raise Refused(f"VM {vm} is {now}")
            domain.reset()

    def open_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> Stills:
        with speaking_libvirt():
            return self._stills.open(self._running(vm), vm, disks, datastore)

    def has_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> bool:
        with speaking_libvirt():
            return self._stills.has(self._find(vm), vm, disks, datastore)

    def close_stills(self, vm: UUID, disks: Sequence[UUID], datastore: str) -> None:
        with speaking_libvirt():
            self._stills.close(self._find(vm), vm, disks, datastore)

    def console(self, vm: UUID) -> bytes:
        with speaking_libvirt():
            log = (domain := self._find(vm)) and _log_of(domain)
        try:
            return log.read_bytes() if log else b""
        except FileNotFoundError:
            return b""

    def terminal(self, vm: UUID) -> socket.socket:
        with speaking_libvirt():
            return open_terminal(self._session, self._running(vm))

    def display(self, vm: UUID) -> Display:
        with speaking_libvirt():
            return open_display(self._running(vm))

    def vms(self) -> dict[UUID, Power]:
        found = {}
        with speaking_libvirt():
            for domain in self._session().listAllDomains():
                owner = _owner(domain)
                if owner is not None and owner.get("installation") == str(self._installation):
                    found[UUID(domain.UUIDString())] = power_of(domain)
        return found

    def changes(self, timeout_s: float) -> Generator[dict[UUID, Power | None], None, None]:
        former: dict[UUID, Power] = {}
        with listening(self._session) as wait:
            while True:
                now = self.vms()
                yield differences(former, now)
                former = now
                wait(timeout_s)

    def _used_files(self) -> set[str | None]:
        """The files that VMs are defined with, whosever they are."""
        with speaking_libvirt():
            found = [_files_of(each) for each in self._session().listAllDomains()]
        return set[str | None]().union(*found)

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

    def _running(self, vm: UUID) -> libvirt.virDomain:
        """Answer the domain of a VM that is not off. Raises `NotFound`, `Conflict`."""
        domain = self._find(vm)
        if domain is None:
            raise NotFound(f"no VM {vm}")
        if power_of(domain) is Power.OFF:
            raise Conflict(f"VM {vm} is off", code="vm-off")
        return domain

    def _refuse_a_strangers_name(self, vm: Vm) -> None:
        try:
            self._session().lookupByName(domain_xml.vm_name(vm.id))
        except libvirt.libvirtError as error:
            if not says(error, libvirt.VIR_ERR_NO_DOMAIN):
                raise
        else:
            raise Conflict(f"a domain {domain_xml.vm_name(vm.id)} is there, and is another's")


def _owner(domain: libvirt.virDomain) -> ET.Element | None:
    """Answer what our metadata says; None for a stranger's domain, or one just gone."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.NAMESPACE)
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            raise
        return None
    return ET.fromstring(text)  # noqa: S314 - libvirt's own words


def _files_of(domain: libvirt.virDomain) -> set[str]:
    """The files that a domain is defined with."""
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    sources = ET.fromstring(text).iterfind("devices/disk/source")  # noqa: S314 - libvirt's own words
    return {source.attrib["file"] for source in sources if "file" in source.attrib}


def _log_of(domain: libvirt.virDomain) -> Path | None:
    """Where its console is kept: as whoever has defined it said, maybe from another home."""
    described = ET.fromstring(domain.XMLDesc())  # noqa: S314 - libvirt's own words
    log = described.find("devices/serial/log")
    return None if log is None else Path(log.attrib["file"])
