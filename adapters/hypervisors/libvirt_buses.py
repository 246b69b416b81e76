"""Where a domain's disks hang: their names, addresses and controllers, as pure functions.

Guests name disks in the bus's order, which must not be that of their coming: every place is said.
"""

import xml.etree.ElementTree as ET

from adapters.errors import Unsupported
from adapters.guests import Bus, bus_at
from adapters.types import MOST_DISKS

FIRST_SLOT = 3  # on the PCI bus; any slot of this machine type can be plugged into
_PREFIXES = {
    Bus.VIRTIO: "vd",
    Bus.IDE: "hd",
    Bus.SATA: "sd",
    Bus.LSISAS: "sd",
    Bus.PVSCSI: "sd",
}
_SCSI = {Bus.LSISAS: "lsisas1068", Bus.PVSCSI: "vmpvscsi"}
_PORTS = {Bus.SATA: 6, Bus.LSISAS: 7, Bus.PVSCSI: 7}  # the eighth of SCSI is the controller's own


def disk_bus(bus: Bus | None, position: int) -> Bus:
    """The bus of the disk there. Raises `Unsupported`."""
    found = bus_at(bus or Bus.VIRTIO, position)
    if found not in _PREFIXES:
        raise Unsupported(f"QEMU has no bus {found} here")
    return found


def target_device(bus: Bus | None, position: int) -> str:
    """The n-th disk's name in the domain."""
    return f"{_PREFIXES[disk_bus(bus, position)]}{chr(ord('a') + position)}"


def hang(disk: ET.Element, bus: Bus | None, position: int, serial: str) -> None:
    """Say where a disk hangs, and what the guest reads as its serial."""
    on = disk_bus(bus, position)
    kind = "scsi" if on in _SCSI else on.value
    ET.SubElement(disk, "target", dev=target_device(bus, position), bus=kind)
    ET.SubElement(disk, "serial").text = serial
    if on is Bus.VIRTIO:
        disk.append(pci_slot(FIRST_SLOT + position))
        return
    controller, unit = divmod(position, 2) if on is Bus.IDE else divmod(position, _PORTS[on])
    place = {"controller": controller, "bus": 0, "target": 0, "unit": unit}
    if on is Bus.IDE:
        place |= {"controller": 0, "bus": controller}
    elif on in _SCSI:
        place |= {"target": unit, "unit": 0}
    ET.SubElement(disk, "address", {"type": "drive", **{k: str(n) for k, n in place.items()}})


def add_controllers(devices: ET.Element, bus: Bus | None) -> None:
    """Add what all disks that a VM may have could hang on; IDE is in the chipset."""
    beside = disk_bus(bus, MOST_DISKS)
    if beside is Bus.VIRTIO:
        return
    for index in range(-(-MOST_DISKS // _PORTS[beside])):
        kind, model = ("scsi", {"model": _SCSI[beside]}) if beside in _SCSI else ("sata", {})
        told = {"type": kind, "index": str(index), **model}
        controller = ET.SubElement(devices, "controller", told)
        controller.append(pci_slot(FIRST_SLOT + index))


def pci_slot(slot: int) -> ET.Element:
    """A place on the PCI bus."""
    place = {"domain": "0x0000", "bus": "0x00", "slot": f"{slot:#04x}"}
    return ET.Element("address", {"type": "pci", **place})


def seed_device(bus: Bus | None) -> str:
    """The seed's place on IDE: the first, unless disks are there."""
    return "hdd" if bus is Bus.IDE else "hda"
