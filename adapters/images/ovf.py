"""Reading an OVF descriptor, version 1 or 2, that somebody else wrote.

Elements and attributes go by their local names: products disagree about prefixes. What is not
understood and may be left out (sound, screens, properties) is; what would change the disks is
refused.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from adapters.guests import Bus, Firmware
from adapters.packages import (
    ANY_BUS,
    MAX_CPU,
    MAX_RAM_MIB,
    About,
    BadPackage,
    Hardware,
    Package,
    PackagedDisk,
    PackagedFile,
    WishedNic,
)
from adapters.types import Format

DESCRIPTOR_MAX_BYTES = 2**20
MAX_DISKS = 24  # a VM's PCI slots hold no more
MAX_FILES = 200
_MAX_NICS = 24
_NAMESPACES = tuple(f"http://schemas.dmtf.org/ovf/envelope/{version}" for version in (1, 2))
_CPU, _MEMORY, _IDE, _SCSI, _NIC, _DISK, _OTHER_STORAGE = "3", "4", "5", "6", "10", "17", "20"
_CONTROLLERS = {_IDE, _SCSI, _OTHER_STORAGE}
_SUBTYPES = (  # a controller's bus, by a word in its subtype
    ("virtio", Bus.VIRTIO),
    ("ahci", Bus.SATA),
    ("sata", Bus.SATA),
    ("nvme", Bus.NVME),
    ("virtualscsi", Bus.PVSCSI),  # VMware's name of its own
    ("pvscsi", Bus.PVSCSI),
    ("sas", Bus.LSISAS),
)
_SYSTEM = re.compile(r"[A-Za-z0-9_-]{1,60}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_UNIT = re.compile(
    r"(?P<base>kilo|mega|giga|tera|[kmgt])?(bytes?|b)"
    r"(?:\*(?P<factor>[0-9]{1,9})(?:\^(?P<power>[0-9]{1,2}))?)?"
)
_PREFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_FORMATS = (  # words of a disk's format, or its file's ending
    ("vmdk", Format.VMDK),
    ("qcow", Format.QCOW2),
    ("vdi", Format.VDI),
    ("vhdx", Format.VHDX),
    ("vhdx", Format.VHDX),
    ("vhd", Format.VPC),
    ("bb676673", Format.VPC),  # Microsoft's address of its specification
    ("137171", Format.VPC),
    ("raw", Format.RAW),
    ("img", Format.RAW),
)
_NAME_MAX, _NOTE_MAX = 200, 16_000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")
_UNFIT = re.compile(r"[\x00-\x1f\x7f/\\]|\A[.]|\A\s|\s\Z")


class Item(NamedTuple):
    """A piece of hardware, by the local names of what is said of it."""

    said: dict[str, str]

    @property
    def kind(self) -> str:
        return self.said.get("ResourceType", "")

    @property
    def instance(self) -> str:
        return self.said.get("InstanceID") or self.said.get("InstanceId", "")

    @property
    def subtype(self) -> str:
        return self.said.get("ResourceSubType", "").split(" ")[0].lower()


def read(text: bytes) -> Package:
    """Read a descriptor. Raises `BadPackage`."""
    root = _parse(text)
    files = _files(root)
    system = _system(root)
    items = list(_items(root, system))
    disks = _disks(root, files, items)
    name = _text(system, "Name") or _attribute(system, "id") or "appliance"
    return Package(
        name=_line(name),
        cpu=_cpu(items),
        ram_mib=_ram_mib(items),
        disks=tuple(disk for disk, _ in disks),
        files=tuple(files.values()),
        hardware=Hardware(
            firmware=_firmware(system),
            buses=tuple(bus for _, bus in disks if bus),
            nics=_nics(items),
            system=_guest_system(system),
        ),
        about=_about(system),
    )


def fit_name(name: str) -> str:
    """The name, if a file in a package may be called so. Raises `BadPackage`."""
    if not name or len(name.encode("utf-8", "replace")) > _NAME_MAX or _UNFIT.search(name):
        text = f"{name[:80]!r} is no name of a file in a package"
        raise BadPackage(text, code="package-foreign-path")
    return name


def _parse(text: bytes) -> Element:
    if len(text) > DESCRIPTOR_MAX_BYTES:
        raise BadPackage("the descriptor is too long", code="package-too-large")
    try:
        root = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        message = "the descriptor has entities or a document type of its own"
        raise BadPackage(message, code="package-entities") from error
    except (ParseError, ValueError, LookupError) as error:
        raise BadPackage(f"the descriptor is no XML: {error}") from error
    namespace, _, name = root.tag.removeprefix("{").rpartition("}")
    if name != "Envelope":
        raise BadPackage("the descriptor has no envelope")
    if namespace not in _NAMESPACES:
        raise _unsupported(f"OVF of {namespace[:80]!r}")
    return root


def _files(root: Element) -> dict[str, PackagedFile]:
    """The files that the descriptor names, by their ids there."""
    files: dict[str, PackagedFile] = {}
    for each in _within(root, "References", "File"):
        if _attribute(each, "compression") not in {"", "identity"}:
            raise _unsupported("a compressed file in a package")
        if _attribute(each, "chunkSize"):
            raise _unsupported("a file in pieces")
        key, size = _attribute(each, "id"), _attribute(each, "size")
        if not key or key in files:
            raise BadPackage("a file has no id, or another's")
        name = fit_name(unquote(_attribute(each, "href")))
        files[key] = PackagedFile(name=name, size_bytes=_number(size) if size else None)
        if len(files) > MAX_FILES:
            message = f"the package has more than {MAX_FILES} files"
            raise BadPackage(message, code="package-too-large")
    names = [each.name.casefold() for each in files.values()]
    if len(set(names)) != len(names):
        raise BadPackage("the descriptor names a file twice", code="package-duplicate-file")
    return files


def _system(root: Element) -> Element:
    """The one VM that is described."""
    systems = [each for each in root.iter() if _local(each) == "VirtualSystem"]
    if len(systems) > 1:
        raise _unsupported("a package of several VMs")
    if not systems:
        raise BadPackage("the descriptor describes no VM")
    return systems[0]


def _items(root: Element, system: Element) -> Iterator[Item]:
    """The hardware, as it is when nobody chooses another configuration."""
    sections = _children(system, "VirtualHardwareSection")
    if not sections:
        raise BadPackage("the descriptor describes no hardware")
    options = list(_within(root, "DeploymentOptionSection", "Configuration"))
    marked = [each for each in options if _attribute(each, "default") in {"true", "1"}]
    chosen = _attribute((marked or options)[0], "id") if options else ""
    for each in sections[0]:
        if not _local(each).endswith("Item") or _attribute(each, "bound"):
            continue  # bounds say how far another may go
        configurations = _attribute(each, "configuration").split()
        if not configurations or chosen in configurations:
            yield Item({_local(said): (said.text or "").strip() for said in each})


def _disks(
    root: Element, files: dict[str, PackagedFile], items: list[Item]
) -> list[tuple[PackagedDisk, Bus | None]]:
    """The disks of the VM in the order in which its guest finds them."""
    described = {_attribute(each, "diskId"): each for each in _within(root, "DiskSection", "Disk")}
    controllers = {
        each.instance: (position, each)
        for position, each in enumerate(items)
        if each.kind in _CONTROLLERS
    }
    found: list[tuple[int, int, PackagedDisk, Bus | None]] = []
    used: set[str] = set()
    for item in items:
        resource = item.said.get("HostResource", "").removeprefix("ovf:")
        if item.kind == _DISK and resource.startswith("/file/"):
            raise _unsupported("a disk of a file that no disk is described by")
        if not resource.startswith("/disk/"):
            continue
        key = resource.removeprefix("/disk/")
        if key not in described or key in used:
            raise BadPackage(f"the VM has a disk {key[:80]!r} that is not described, or twice")
        used.add(key)
        disk = _disk(described[key], files)
        place, controller = controllers.get(item.said.get("Parent", ""), (len(items), None))
        address = _NUMBER.fullmatch(item.said.get("AddressOnParent", ""))
        order = int(address[0]) if address else 0
        found.append((place, order, disk, _bus(controller or item)))
        if len(found) > MAX_DISKS:
            message = f"the VM has more than {MAX_DISKS} disks"
            raise BadPackage(message, code="package-too-large")
    if not found:
        raise BadPackage("the VM has no disk")
    names = {disk.file for _, _, disk, _ in found}
    if len(names) != len(found):
        raise BadPackage("two disks have one file", code="package-duplicate-file")
    return [(disk, bus) for _, _, disk, bus in sorted(found, key=lambda each: each[:2])]


def _disk(element: Element, files: dict[str, PackagedFile]) -> PackagedDisk:
    if _attribute(element, "parentRef"):
        raise BadPackage("a disk is a difference to another", code="image-backing-file")
    reference = _attribute(element, "fileRef")
    if not reference:
        raise _unsupported("an empty disk in a package")
    if reference not in files:
        raise BadPackage(f"a disk has the file {reference[:80]!r}, which is not named")
    name = files[reference].name
    unit = _unit(_attribute(element, "capacityAllocationUnits") or "byte")
    capacity = _number(_attribute(element, "capacity")) * unit
    return PackagedDisk(
        file=name,
        format=_format(_attribute(element, "format"), name),
        capacity_bytes=capacity,
    )


def _format(said: str, file: str) -> Format:
    for words in (said.lower(), file.lower().rpartition(".")[2]):
        for word, form in _FORMATS:
            if word in words:
                return form
    raise _unsupported(f"a disk of the format {said[:80]!r}")


def _bus(controller: Item) -> Bus | None:
    if controller.said.get("Description") == ANY_BUS:
        return None
    if controller.kind == _IDE:
        return Bus.IDE
    return next((bus for word, bus in _SUBTYPES if word in controller.subtype), Bus.SCSI)


def _cpu(items: list[Item]) -> int | None:
    total = sum(_number(each.said.get("VirtualQuantity", "")) for each in _of(items, _CPU))
    return _bounded(total, MAX_CPU, "CPUs") or None


def _ram_mib(items: list[Item]) -> int | None:
    total = 0
    for each in _of(items, _MEMORY):
        unit = _unit(each.said.get("AllocationUnits") or "byte * 2^20")
        total += _number(each.said.get("VirtualQuantity", "")) * unit
    return _bounded(-(-total // 2**20), MAX_RAM_MIB, "MiB of memory") or None


def _bounded(number: int, most: int, what: str) -> int:
    if number > most:
        text = f"the VM wants more than {most} {what}"
        raise BadPackage(text, code="package-too-large")
    return number


def _nics(items: list[Item]) -> tuple[WishedNic, ...]:
    found = _of(items, _NIC)
    if len(found) > _MAX_NICS:
        message = f"the VM has more than {_MAX_NICS} network interfaces"
        raise BadPackage(message, code="package-too-large")
    return tuple(
        WishedNic(network=_line(each.said.get("Connection", "")), model=_line(each.subtype))
        for each in found
    )


def _firmware(system: Element) -> Firmware:
    """By what VMware writes, and VirtualBox: the standard has no word for it."""
    for each in system.iter():
        said = {name.rpartition("}")[2]: value.lower() for name, value in each.attrib.items()}
        vmware = said.get("key") == "firmware" and said.get("value") == "efi"
        virtualbox = _local(each) == "Firmware" and said.get("type", "").startswith("efi")
        if vmware or virtualbox:
            return Firmware.EFI
    return Firmware.BIOS


def _guest_system(system: Element) -> str:
    """Which system the guest is, where VMware's word for it stands beside a number."""
    for section in _children(system, "OperatingSystemSection"):
        for name, said in section.attrib.items():
            if name.rpartition("}")[2] == "osType" and "vmware" in name:
                return said if _SYSTEM.fullmatch(said) else ""
    return ""


def _about(system: Element) -> About:
    product = next(iter(_children(system, "ProductSection")), None)
    licences = [_text(each, "License") for each in _children(system, "EulaSection")]
    notes = [_text(each, "Annotation") for each in _children(system, "AnnotationSection")]
    return About(
        product=_line(_text(product, "Product")),
        vendor=_line(_text(product, "Vendor")),
        version=_line(_text(product, "FullVersion") or _text(product, "Version")),
        licence="\n\n".join(filter(None, licences))[:_NOTE_MAX],
        description="\n\n".join(filter(None, notes))[:_NOTE_MAX],
    )


def _unit(said: str) -> int:
    """Bytes of a unit, as in "byte * 2^20" or, formerly, "MegaBytes"."""
    match = _UNIT.fullmatch(re.sub(r"\s", "", said.lower())[:60])
    if match is None:
        raise BadPackage(f"the unit {said[:40]!r} makes no sense")
    factor, power = int(match["factor"] or 1), int(match["power"] or 1)
    return int(factor**power) << _PREFIXES[(match["base"] or "")[:1]]


def _number(said: str) -> int:
    if not _NUMBER.fullmatch(said):
        raise BadPackage(f"the number {said[:40]!r} makes no sense")
    return int(said)


def _of(items: list[Item], kind: str) -> list[Item]:
    return [each for each in items if each.kind == kind]


def _within(root: Element, section: str, name: str) -> Iterator[Element]:
    for each in _children(root, section):
        yield from _children(each, name)


def _children(element: Element, name: str) -> list[Element]:
    return [each for each in element if _local(each) == name]


def _text(element: Element | None, name: str) -> str:
    """What the first such child says."""
    children = [] if element is None else _children(element, name)
    return (children[0].text or "").strip() if children else ""


def _line(text: str) -> str:
    return _CONTROLS.sub(" ", text).strip()[:_NAME_MAX]


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _attribute(element: Element, name: str) -> str:
    """An attribute, with the envelope's prefix or without."""
    for namespace in _NAMESPACES:
        if (value := element.get(f"{{{namespace}}}{name}")) is not None:
            return value
    return element.get(name, "")


def _unsupported(what: str) -> BadPackage:
    return BadPackage(f"{what} is not supported", code="package-unsupported")
