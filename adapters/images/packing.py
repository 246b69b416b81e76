"""Writing packages that other products read: an OVF descriptor, and an OVA around it.

The order is the standard's: descriptor, manifest, disks; the archive is plain ustar, unless a disk
is too large for that. A disk is never in memory whole.
"""

import hashlib
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from adapters.guests import Bus, Firmware
from adapters.images import manifest
from adapters.packages import ANY_BUS, Package, PackagedDisk
from adapters.types import Format

_ENVELOPE = "http://schemas.dmtf.org/ovf/envelope/"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_"
_RASD = f"{_CIM}ResourceAllocationSettingData"
_VSSD = f"{_CIM}VirtualSystemSettingData"
_STORAGE = f"{_CIM}StorageAllocationSettingData"  # OVF 2's words for disks
_ETHERNET = f"{_CIM}EthernetPortAllocationSettingData"  # and for network interfaces
_VMWARE = "http://www.vmware.com/schema/ovf"
_PREFIXES = {
    "rasd": _RASD,
    "vssd": _VSSD,
    "sasd": _STORAGE,
    "epasd": _ETHERNET,
    "vmw": _VMWARE,
}
_FORMATS = {
    Format.VMDK: "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized",
    Format.QCOW2: "http://www.gnome.org/~markmc/qcow-image-format.html",
    Format.VPC: "http://technet.microsoft.com/en-us/virtualserver/bb676673.aspx",
    Format.VHDX: "https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx",
    Format.VDI: "http://www.virtualbox.org/manual/ch05.html#vdi",
    Format.RAW: "http://www.example.org/raw",
}
_CONTROLLERS = {  # resource type and subtype
    Bus.IDE: ("5", "PIIX4"),
    Bus.SATA: ("20", "AHCI"),
    Bus.SCSI: ("6", "lsilogic"),
    Bus.LSISAS: ("6", "lsilogicsas"),
    Bus.PVSCSI: ("6", "VirtualSCSI"),
    Bus.VIRTIO: ("6", "VirtioSCSI"),
    Bus.NVME: ("20", "vmware.nvme.controller"),
}
_MODELS = {"vmxnet3": "VmxNet3", "e1000": "E1000", "e1000e": "E1000e", "pcnet32": "PCNet32"}
_NO_XML = re.compile("[\ufffe\uffff]")  # though they are letters of notes
_SLOTS = {Bus.IDE: 2}  # others take as many as there are
_PIECE_BYTES = 2**20
_USTAR_MAX_BYTES = 2**33 - 1

Written = Callable[[int], None]  # told how many bytes more there are


def describe(package: Package, version: int = 1) -> bytes:
    """The descriptor, in OVF 1 (1.1, as every product reads it) or 2."""
    for prefix, namespace in {"ovf": f"{_ENVELOPE}{version}", **_PREFIXES}.items():
        ET.register_namespace(prefix, namespace)
    return _Descriptor(package, version).written()


def pack(
    package: Package, disks: list[Path], target: Path, written: Written = lambda _: None
) -> None:
    """Write an archive of the package and its disks' images, a new file."""
    stem = package.files[0].name.rpartition("-disk")[0] or "appliance"
    descriptor = describe(package)
    digests = {f"{stem}.ovf": hashlib.sha256(descriptor).hexdigest()}
    for disk, path in zip(package.disks, disks, strict=True):
        digests[disk.file] = _digest(path, written)
    largest = max(path.stat().st_size for path in disks)
    form = tarfile.USTAR_FORMAT if largest <= _USTAR_MAX_BYTES else tarfile.GNU_FORMAT
    with tarfile.open(target, "x", format=form) as archive:
        for name, text in (
            (f"{stem}.ovf", descriptor),
            (f"{stem}.mf", manifest.written(digests)),
        ):
            archive.addfile(_member(name, len(text)), BytesIO(text))
        for disk, path in zip(package.disks, disks, strict=True):
            with path.open("rb") as file:
                archive.addfile(_member(disk.file, path.stat().st_size), file)
            written(path.stat().st_size)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _digest(path: Path, written: Written) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            written(len(piece))
    return digest.hexdigest()


class _Descriptor:
    """A descriptor as it grows."""

    def __init__(self, package: Package, version: int) -> None:
        self._package = package
        self._version = version
        self._space = f"{_ENVELOPE}{version}"
        self._instances = 0
        self._root = self._element("Envelope")

    def written(self) -> bytes:
        package = self._package
        self._files()
        self._networks()
        system = self._element("VirtualSystem", self._root, id=package.name)
        self._info(system, "A virtual machine")
        self._element("Name", system).text = package.name
        if package.about.licence:
            self._section(system, "EulaSection", "The licence", License=package.about.licence)
        about = package.about.model_dump(include={"product", "vendor", "version"})
        if said := {name.capitalize(): value for name, value in about.items() if value}:
            self._section(system, "ProductSection", "What it is", **said)
        if note := package.about.description:
            self._section(system, "AnnotationSection", "What is said of it", Annotation=note)
        system_kind = self._element("OperatingSystemSection", system, id="1")  # "other"
        self._info(system_kind, "The guest's system")
        if package.hardware.system:
            system_kind.set(f"{{{_VMWARE}}}osType", package.hardware.system)
        self._hardware(system)
        text = ET.tostring(self._root, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()

    def _files(self) -> None:
        references = self._element("References", self._root)
        for n, file in enumerate(self._package.files):
            told = {"id": f"file{n}", "href": file.name}
            self._element("File", references, **told, size=str(file.size_bytes))
        section = self._element("DiskSection", self._root)
        self._info(section, "The disks")
        places = {file.name: n for n, file in enumerate(self._package.files)}
        for n, disk in enumerate(self._package.disks):
            self._element(
                "Disk",
                section,
                diskId=f"disk{n}",
                fileRef=f"file{places[disk.file]}",
                capacity=str(disk.capacity_bytes),
                capacityAllocationUnits="byte",
                format=_FORMATS[disk.format],
            )

    def _networks(self) -> None:
        names = dict.fromkeys(nic.network for nic in self._package.hardware.nics)
        if not names:
            return
        section = self._element("NetworkSection", self._root)
        self._info(section, "The networks")
        for name in names:
            network = self._element("Network", section, name=name)
            self._element("Description", network).text = name

    def _hardware(self, system: ET.Element) -> None:
        section = self._element("VirtualHardwareSection", system)
        self._info(section, "The hardware")
        about = self._element("System", section)
        for name, text in (
            ("ElementName", "Virtual Hardware Family"),
            ("InstanceID", "0"),
            ("VirtualSystemIdentifier", self._package.name),
            ("VirtualSystemType", "vmx-10"),
        ):
            ET.SubElement(about, f"{{{_VSSD}}}{name}").text = text
        cpu, ram = str(self._package.cpu or 1), str(self._package.ram_mib or 128)
        self._item(section, "3", "CPUs", AllocationUnits="hertz * 10^6", VirtualQuantity=cpu)
        self._item(section, "4", "Memory", AllocationUnits="byte * 2^20", VirtualQuantity=ram)
        self._disks(section)
        self._nics(section)
        if self._package.hardware.firmware is not Firmware.BIOS:
            config = ET.SubElement(section, f"{{{_VMWARE}}}Config")
            config.set(f"{{{self._space}}}required", "false")
            config.set(f"{{{_VMWARE}}}key", "firmware")
            config.set(f"{{{_VMWARE}}}value", self._package.hardware.firmware)

    def _disks(self, section: ET.Element) -> None:
        """Each controller stands before its disks: readers take their order from it."""
        former, controller, slot, count = None, "", 0, 0
        for n, _ in enumerate(self._package.disks):
            bus = self._bus(n)
            if bus is not former or slot == _SLOTS.get(bus, 15):
                kind, subtype = _CONTROLLERS[bus]
                any_bus = {} if self._package.hardware.buses else {"Description": ANY_BUS}
                count = count + 1 if bus is former else 0
                controller = self._item(
                    section,
                    kind,
                    f"{bus.upper()} controller {count}",
                    Address=str(count),
                    ResourceSubType=subtype,
                    **any_bus,
                )
                former, slot = bus, 0
            self._item(
                section,
                "17",
                f"Disk {n}",
                _STORAGE,
                AddressOnParent=str(slot),
                HostResource=f"ovf:/disk/disk{n}",
                Parent=controller,
            )
            slot += 1

    def _nics(self, section: ET.Element) -> None:
        for n, nic in enumerate(self._package.hardware.nics):
            self._item(
                section,
                "10",
                f"Network interface {n}",
                _ETHERNET,
                AddressOnParent=str(n),
                AutomaticAllocation="true",
                Connection=nic.network,
                ResourceSubType=_MODELS.get(nic.model, nic.model or "E1000"),
            )

    def _bus(self, position: int) -> Bus:
        buses = self._package.hardware.buses
        return buses[position] if position < len(buses) else Bus.SCSI

    def _item(
        self, section: ET.Element, kind: str, name: str, newer: str = _RASD, **said: str
    ) -> str:
        """Add a piece of hardware, its properties in the schema's order; answers its instance."""
        self._instances += 1
        space, tag = _RASD, "Item"
        if self._version > 1 and newer != _RASD:
            space = newer
            tag = "StorageItem" if newer == _STORAGE else "EthernetPortItem"
        item = self._element(tag, section)
        said |= {"ElementName": name, "InstanceID": str(self._instances), "ResourceType": kind}
        for key in sorted(said):
            ET.SubElement(item, f"{{{space}}}{key}").text = said[key]
        return str(self._instances)

    def _section(self, system: ET.Element, tag: str, info: str, **said: str) -> None:
        section = self._element(tag, system)
        self._info(section, info)
        for name, text in said.items():
            self._element(name, section).text = _NO_XML.sub("\ufffd", text)

    def _info(self, section: ET.Element, text: str) -> None:
        self._element("Info", section).text = text

    def _element(
        self, tag: str, parent: ET.Element | None = None, **attributes: str
    ) -> ET.Element:
        name = f"{{{self._space}}}{tag}"
        told = {f"{{{self._space}}}{key}": value for key, value in attributes.items()}
        return ET.Element(name, told) if parent is None else ET.SubElement(parent, name, told)


def package_of(name: str, disks: list[tuple[Path, int]], **said: object) -> Package:
    """A package of these streamOptimized images with their capacities, in bytes."""
    stem = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)
    packaged = [
        (f"{stem[:60]}-disk{n}.vmdk", path.stat().st_size, capacity)
        for n, (path, capacity) in enumerate(disks, start=1)
    ]
    return Package.model_validate(
        {
            "name": name,
            "disks": [
                PackagedDisk(file=file, format=Format.VMDK, capacity_bytes=capacity)
                for file, _, capacity in packaged
            ],
            "files": [{"name": file, "size_bytes": size} for file, size, _ in packaged],
            **said,
        }
    )


def bundle(files: Mapping[str, Path], path: Path) -> None:
    """Make an archive of what somebody else's package consists of, by the names it has there."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, file in files.items():
            with file.open("rb") as opened:
                header = tarfile.TarInfo(name)
                header.size = file.stat().st_size
                archive.addfile(header, opened)
