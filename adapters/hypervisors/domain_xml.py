"""What libvirt is told: XML of VMs, connections, disks and secrets, as pure functions of values.

Documents are built as trees, never from pieces of text: a name cannot escape its element.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import PurePosixPath
from uuid import UUID, uuid5

from pydantic import SecretStr

from adapters.guests import Boot, Bus, Firmware
from adapters.hypervisors.libvirt_buses import add_controllers, hang, pci_slot, seed_device
from adapters.hypervisors.libvirt_nics import add_nics, interface
from adapters.types import Connection, Disk, Nic, Owner, Seed, Vm

_UUID = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_DISK = re.compile(rf"disk-{_UUID}\.{_UUID}\.qcow2")
_SEED = re.compile(rf"seed-{_UUID}\.{_UUID}\.iso")
NAMESPACE = "urn:cloudloom:owner:1"
FROZEN = "urn:cloudloom:frozen:1"  # marks a domain whose guest may hold still
_SCREEN_SLOT = 2  # on the PCI bus, whose first two the chipset has
_AGENT_SLOT = 0x17  # below those of eight NICs

_BOOT = {
    Boot.DISK: "hd",  # vda, be it a disk or a volume that is connected later
    Boot.NETWORK: "network",
}

ET.register_namespace("cloudloom", NAMESPACE)


def vm_name(vm: UUID) -> str:
    """The domain's name."""
    return f"vm-{vm}"


def disk_name(disk: Disk) -> str:
    """The disk's file, and its volume's name in the datastore's pool."""
    return f"disk-{disk.id}.{disk.installation}.qcow2"


def disk_called(name: str) -> tuple[UUID, UUID] | None:
    """Of a file that is called as our disks are: the disk, and its installation."""
    found = _DISK.fullmatch(name)
    return (UUID(found[1]), UUID(found[2])) if found else None


def disk_path(disk: Disk) -> str:
    """Where the host finds the disk."""
    return str(PurePosixPath(disk.datastore, disk_name(disk)))


def seed_name(seed: Seed) -> str:
    """The seed's file, and its volume's name in the datastore's pool."""
    return f"seed-{seed.id}.{seed.installation}.iso"


def seed_called(name: str) -> tuple[UUID, UUID] | None:
    """Of a file that is called as our seeds are: its VM, and the installation."""
    found = _SEED.fullmatch(name)
    return (UUID(found[1]), UUID(found[2])) if found else None


def seed_path(seed: Seed) -> str:
    """Where the host finds the seed."""
    return str(PurePosixPath(seed.datastore, seed_name(seed)))


def serial(thing: UUID) -> str:
    """What the guest reads as the disk's serial: as much of the id as virtio holds."""
    return thing.hex[:20]


def secret_id(volume: UUID, vm: UUID) -> UUID:
    """The libvirt secret that a VM's connection to a volume logs in with."""
    return uuid5(volume, f"chap of {vm}")


def domain_xml(vm: Vm, domain_type: str, console: str, screen: SecretStr | None = None) -> str:
    """Describe the VM, off, without its connections; `console` is the serial port's log file.

    With its screen's password, what is answered is a secret itself.
    """
    domain = ET.Element("domain", type=domain_type)
    _text(domain, "name", vm_name(vm.id))
    _text(domain, "uuid", str(vm.id))
    _text(domain, "title", _printable(vm.name))
    whose = ET.SubElement(domain, "metadata")
    ET.SubElement(whose, f"{{{NAMESPACE}}}owner", _whose(vm))
    _text(domain, "memory", str(vm.ram_mib), unit="MiB")
    _text(domain, "vcpu", str(vm.cpu))
    if domain_type == "kvm":
        ET.SubElement(domain, "cpu", mode="host-passthrough")
    system = _system(domain, vm.settings.firmware)
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    for device in vm.settings.boot:
        ET.SubElement(system, "boot", dev=_BOOT[device])
    features = ET.SubElement(domain, "features")
    for name in ("acpi", "apic"):
        ET.SubElement(features, name)
    clock = ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(domain, f"on_{event}", action)
    sleeps = ET.SubElement(
        domain, "pm"
    )  # a guest that sleeps looks paused, and none could wake it
    for kind in ("suspend-to-mem", "suspend-to-disk"):
        ET.SubElement(sleeps, kind, enabled="no")
    devices = ET.SubElement(domain, "devices")
    for disk in sorted(vm.disks, key=lambda each: each.position):
        _disk(devices, disk, vm.settings.bus)
    add_controllers(devices, vm.settings.bus)
    if vm.seed:
        _disc(devices, vm.seed, vm.settings.bus)
    port = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(port, "log", file=console, append="off")
    _agent(devices)
    _screen(devices, screen)
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    add_nics(domain, devices, vm.nics)
    return _document(domain)


def mark_xml(vm: Vm) -> str:
    """Describe whose a domain is, and as what it is defined: what `NAMESPACE` stands for."""
    return _document(ET.Element("owner", _whose(vm)))


def card_xml(nic: Nic, slot: int) -> str:
    """Describe a card that comes to a domain. Raises `Unsupported`."""
    return _document(interface(nic, slot))


def connection_xml(connection: Connection, secret: UUID, user: str) -> str:
    """Describe a volume as a network disk; QEMU logs in as the VM, with the secret's password."""
    target = connection.target
    disk = ET.Element("disk", type="network", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="raw", cache="none", discard="unmap")
    source = ET.SubElement(disk, "source", protocol="iscsi", name=f"{target.iqn}/{target.lun}")
    ET.SubElement(source, "host", name=target.host, port=str(target.port))
    auth = ET.SubElement(source, "auth", username=user)
    ET.SubElement(auth, "secret", type="iscsi", uuid=str(secret))
    initiator = ET.SubElement(source, "initiator")
    ET.SubElement(initiator, "iqn", name=connection.initiator)
    hang(disk, connection.bus, connection.position, serial(connection.volume))
    return _document(disk)


def volume_xml(name: str, disk: Disk, capacity_bytes: int | None) -> str:
    """Describe a qcow2 file, of its base's size when no capacity is given."""
    volume = ET.Element("volume")
    _text(volume, "name", name)
    if capacity_bytes is not None:
        _text(volume, "capacity", str(capacity_bytes), unit="bytes")
    ET.SubElement(ET.SubElement(volume, "target"), "format", type="qcow2")
    if disk.base is not None:
        backing = ET.SubElement(volume, "backingStore")
        _text(backing, "path", disk.base.path)
        ET.SubElement(backing, "format", type=disk.base.format.value)
    return _document(volume)


def seed_xml(seed: Seed, size_bytes: int) -> str:
    """Describe a raw file that its owner alone reads; libvirt hands it to QEMU."""
    volume = ET.Element("volume")
    _text(volume, "name", seed_name(seed))
    _text(volume, "capacity", str(size_bytes), unit="bytes")
    target = ET.SubElement(volume, "target")
    ET.SubElement(target, "format", type="raw")
    _text(ET.SubElement(target, "permissions"), "mode", "0600")
    return _document(volume)


def pool_xml(name: str, directory: str) -> str:
    """Describe a directory of disks."""
    pool = ET.Element("pool", type="dir")
    _text(pool, "name", name)
    _text(ET.SubElement(pool, "target"), "path", directory)
    return _document(pool)


def secret_xml(secret: UUID, owner: Owner) -> str:
    """Describe a password that libvirt keeps, and shows to nobody but QEMU."""
    element = ET.Element("secret", ephemeral="no", private="yes")
    _text(element, "uuid", str(secret))
    _text(element, "description", f"installation {owner.installation}, volume {owner.id}")
    _text(ET.SubElement(element, "usage", type="iscsi"), "target", f"cloudloom-{secret}")
    return _document(element)


def backup_xml(socket: str, disks: Mapping[str, tuple[UUID, str]]) -> str:
    """Describe a job that serves disks under their ids, each with a file for what changes."""
    backup = ET.Element("domainbackup", mode="pull")
    ET.SubElement(backup, "server", transport="unix", socket=socket)
    every = ET.SubElement(backup, "disks")
    for device, (thing, scratch) in disks.items():
        disk = ET.SubElement(every, "disk", name=device, type="file", exportname=str(thing))
        ET.SubElement(disk, "driver", type="qcow2")
        ET.SubElement(disk, "scratch", file=scratch)
    return _document(backup)


def _system(domain: ET.Element, firmware: Firmware) -> ET.Element:
    """Say what starts the guest; libvirt finds a file for EFI, and keeps the VM's variables."""
    if firmware is Firmware.BIOS:
        return ET.SubElement(domain, "os")
    system = ET.SubElement(domain, "os", firmware=firmware.value)
    ET.SubElement(ET.SubElement(system, "firmware"), "feature", enabled="no", name="secure-boot")
    return system


def _disk(devices: ET.Element, disk: Disk, bus: Bus | None) -> None:
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(element, "driver", name="qemu", type="qcow2", discard="unmap")
    ET.SubElement(element, "source", file=disk_path(disk))
    hang(element, bus, disk.position, serial(disk.id))


def _disc(devices: ET.Element, seed: Seed, bus: Bus | None) -> None:
    """Add a seed: as a CD, which takes none of the slots that disks and NICs have."""
    element = ET.SubElement(devices, "disk", type="file", device="cdrom")
    ET.SubElement(element, "driver", name="qemu", type="raw")
    ET.SubElement(element, "source", file=seed_path(seed))
    ET.SubElement(element, "target", dev=seed_device(bus), bus="ide")
    ET.SubElement(element, "readonly")


def _agent(devices: ET.Element) -> None:
    """Add the line on which QEMU's guest agent, where a guest has one, is spoken to."""
    line = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(line, "target", type="virtio", name="org.qemu.guest_agent.0")
    controller = ET.SubElement(devices, "controller", type="virtio-serial", index="0")
    controller.append(pci_slot(_AGENT_SLOT))


def _screen(devices: ET.Element, password: SecretStr | None) -> None:
    """Add a VNC server that listens nowhere: libvirtd hands out its lines."""
    graphics = ET.SubElement(devices, "graphics", type="vnc")
    if password:
        graphics.set("passwd", password.get_secret_value())
    ET.SubElement(graphics, "listen", type="none")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga", vram="16384", heads="1", primary="yes")
    video.append(pci_slot(_SCREEN_SLOT))


def _whose(vm: Vm) -> dict[str, str]:
    return {"installation": str(vm.installation), "id": str(vm.id), "digest": vm.digest}


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in name)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _document(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
