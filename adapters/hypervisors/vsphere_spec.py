"""What a VM and its disks are to vSphere: names, devices, and our marks in `extraConfig`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pyVmomi import vim

from adapters.errors import Conflict, Unsupported
from adapters.guests import Boot, Bus, NicKind, bus_at
from adapters.types import Connection, Disk, Nic, Power, Vm

INSTALLATION = "cloudloom.installation"
DIGEST = "cloudloom.digest"
_CONNECTION = "cloudloom.connection."
_CONTROLLER = 1000
_SATA = 15000
_IDE = 200  # the first of the two that every VM has
_OWN_UNIT = 7  # where the controller itself is on its bus
_UNITS = 16
_DEVICE = vim.vm.device
_BOOT = {Boot.DISK: "hdd", Boot.NETWORK: "ethernet0"}
_CARDS = {
    "": _DEVICE.VirtualVmxnet3,
    "e1000": _DEVICE.VirtualE1000,
    "e1000e": _DEVICE.VirtualE1000e,
    "pcnet32": _DEVICE.VirtualPCNet32,
}
_SCSI = {  # that volumes hang on, too, whatever disks do: a LUN goes to no other bus
    None: _DEVICE.ParaVirtualSCSIController,
    Bus.PVSCSI: _DEVICE.ParaVirtualSCSIController,
    Bus.SCSI: _DEVICE.VirtualLsiLogicController,
    Bus.LSISAS: _DEVICE.VirtualLsiLogicSASController,
    Bus.SATA: _DEVICE.VirtualLsiLogicController,
    Bus.IDE: _DEVICE.VirtualLsiLogicController,
}
_SYSTEMS = set(vim.vm.GuestOsDescriptor.GuestOsIdentifier.values)
_Change = _DEVICE.VirtualDeviceSpec


@dataclass(frozen=True)
class Found:
    """A VM of ours, as it was when it was looked at."""

    vm: Any
    marks: dict[str, str]
    devices: list[Any]
    power: Power

    @property
    def connections(self) -> list[Connection]:
        """The volumes that it has."""
        return connections(self.marks)

    @property
    def files(self) -> set[str]:
        """The files that it is defined with."""
        return files_of(self.devices)

    def noted(self, connection: Connection) -> Connection | None:
        """How it has that volume, if it has it."""
        return next((x for x in self.connections if x.volume == connection.volume), None)

    def has(self, connection: Connection) -> bool:
        """Whether it has the volume so. Raises `Conflict` when it has it otherwise."""
        noted = self.noted(connection)
        if noted is not None and noted != connection:
            raise Conflict(f"VM {connection.vm} has volume {connection.volume}, and otherwise")
        return noted is not None


def vm_name(vm: UUID) -> str:
    """What a VM is called in the inventory."""
    return f"vm-{vm}"


def disk_prefix(disk: UUID, installation: UUID) -> str:
    """How a disk's name begins, whatever it was made from."""
    return f"disk-{disk}.{installation}."


def disk_name(disk: Disk) -> str:
    """A disk's name, which tells what it was made from: nothing on a datastore does."""
    made_from = "empty"
    if disk.base is not None:
        text = f"{disk.base.path}\0{disk.base.digest}"
        made_from = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{disk_prefix(disk.id, disk.installation)}{made_from}.vmdk"


def vm_spec(
    vm: Vm, disks: Mapping[UUID, str], datastore: str, console: str, cards: list[Any], seed: str
) -> Any:
    """Define a VM: its disks, which are there, by where they are; its network cards."""
    wants, bus = vm.settings, vm.settings.bus
    return vim.vm.ConfigSpec(
        name=vm_name(vm.id),
        annotation=vm.name,
        instanceUuid=str(vm.id),
        uuid=str(vm.id),
        numCPUs=vm.cpu,
        memoryMB=vm.ram_mib,
        cpuHotAddEnabled=True,
        memoryHotAddEnabled=True,
        guestId=wants.system if wants.system in _SYSTEMS else "otherLinux64Guest",
        firmware=wants.firmware.value,
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=False),
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        extraConfig=[
            option(INSTALLATION, str(vm.installation)),
            option(DIGEST, vm.digest),
            option("answer.msg.serial.file.open", "Replace"),
            option("bios.bootOrder", ",".join(_BOOT[each] for each in vm.settings.boot)),
        ],
        deviceChange=[
            *_controllers(bus),
            *(_disk(disk, disks[disk.id], place(bus, disk.position)) for disk in vm.disks),
            *([_disc(seed, bus)] if seed else []),
            *cards,
            _Change(
                operation="add",
                device=_DEVICE.VirtualSerialPort(
                    key=-300,
                    yieldOnPoll=True,
                    backing=_DEVICE.VirtualSerialPort.FileBackingInfo(fileName=console),
                ),
            ),
        ],
    )


def resized(vm: Vm) -> Any:
    """Change a VM's size, and the mark that says how it is defined."""
    return vim.vm.ConfigSpec(
        numCPUs=vm.cpu, memoryMB=vm.ram_mib, extraConfig=[option(DIGEST, vm.digest)]
    )


def _controllers(bus: Bus | None) -> list[Any]:
    """Make what disks and volumes hang on. Raises `Unsupported`."""
    if bus not in _SCSI:
        raise Unsupported(f"vSphere has no bus {bus} here")
    devices = [_SCSI[bus](key=_CONTROLLER, busNumber=0, sharedBus="noSharing")]
    if bus in {Bus.SATA, Bus.IDE}:
        devices.append(_DEVICE.VirtualAHCIController(key=_SATA, busNumber=0))
    return [_Change(operation="add", device=each) for each in devices]


def _disk(disk: Disk, path: str, there: tuple[int, int]) -> Any:
    controller, number = there
    return _Change(
        operation="add",
        device=_DEVICE.VirtualDisk(
            key=-100 - disk.position,
            controllerKey=controller,
            unitNumber=number,
            capacityInKB=disk.size_mib * 1024,
            backing=_DEVICE.VirtualDisk.FlatVer2BackingInfo(
                fileName=path, diskMode="persistent", thinProvisioned=True
            ),
        ),
    )


def _disc(path: str, bus: Bus | None) -> Any:
    """Make a CD-ROM, on a controller that every VM has: the last place where disks are on it."""
    last = 1 if bus is Bus.IDE else 0
    return _Change(
        operation="add",
        device=_DEVICE.VirtualCdrom(
            key=-400,
            controllerKey=_IDE + last,
            unitNumber=last,
            backing=_DEVICE.VirtualCdrom.IsoBackingInfo(fileName=path),
            connectable=_DEVICE.VirtualDevice.ConnectInfo(
                startConnected=True, connected=True, allowGuestControl=False
            ),
        ),
    )


def card(place: int, nic: Nic, network: Any, name: str, port: Any = None) -> Any:
    """Make a card in a network, or at a port of a distributed switch; `user` leads nowhere."""
    if nic.model not in _CARDS:
        raise Unsupported(f"vSphere has no card {nic.model}")
    plugged = nic.kind is not NicKind.USER
    kinds = _DEVICE.VirtualEthernetCard
    backing = kinds.NetworkBackingInfo(deviceName=name, network=network)
    if port is not None:
        backing = kinds.DistributedVirtualPortBackingInfo(port=port)
    return _Change(
        operation="add",
        device=_CARDS[nic.model](
            key=-200 - place,
            addressType="manual",
            macAddress=nic.mac,
            backing=backing,
            connectable=_DEVICE.VirtualDevice.ConnectInfo(
                startConnected=plugged, connected=plugged, allowGuestControl=False
            ),
        ),
    )


def unit(position: int) -> int:
    """Where a disk of that position is on the bus. Raises `Unsupported` beyond its end."""
    number = position if position < _OWN_UNIT else position + 1
    if number >= _UNITS:
        raise Unsupported(f"a VM has no place for a disk {position}")
    return number


def place(bus: Bus | None, position: int) -> tuple[int, int]:
    """The controller of the disk of that position, and where it is on that."""
    on = bus and bus_at(bus, position)
    if on is Bus.IDE:
        return _IDE + position // 2, position % 2
    return (_SATA, position) if on is Bus.SATA else (_CONTROLLER, unit(position))


def connected(connection: Connection, device: str) -> Any:
    """Give a VM a LUN as it is, and the note of what it is."""
    backing = _DEVICE.VirtualDisk.RawDiskMappingVer1BackingInfo(
        fileName="",
        deviceName=device,
        compatibilityMode="physicalMode",
        diskMode="independent_persistent",
    )
    disk = _DEVICE.VirtualDisk(
        key=-1,
        controllerKey=_CONTROLLER,
        unitNumber=unit(connection.position),
        backing=backing,
    )
    return vim.vm.ConfigSpec(
        deviceChange=[_Change(operation="add", fileOperation="create", device=disk)],
        extraConfig=[option(note_of(connection.volume), connection.model_dump_json())],
    )


def disconnected(devices: list[Any], connection: Connection) -> Any:
    """Take it away again, with the file that maps it; what is on the LUN stays."""
    return vim.vm.ConfigSpec(
        deviceChange=[removal(each) for each in disks_at(devices, connection) if is_mapped(each)],
        extraConfig=[option(note_of(connection.volume), "")],
    )


def stripped(devices: list[Any]) -> Any:
    """Take all disks away: what is left is ours, and no definition of anything."""
    disks = [each for each in devices if isinstance(each, _DEVICE.VirtualDisk)]
    return vim.vm.ConfigSpec(
        deviceChange=[removal(disk) for disk in disks], extraConfig=[option(DIGEST, "")]
    )


def removal(device: Any) -> Any:
    """Take one device away. A file that maps a LUN goes, a disk's file stays."""
    how = {"fileOperation": "destroy"} if is_mapped(device) else {}
    return _Change(operation="remove", device=device, **how)


def is_mapped(disk: Any) -> bool:
    """Whether it is a LUN."""
    return isinstance(disk.backing, _DEVICE.VirtualDisk.RawDiskMappingVer1BackingInfo)


def disks_at(devices: list[Any], connection: Connection) -> list[Any]:
    """What is where a volume is to be, or a disk of its position would be."""
    places = {place(None, connection.position), place(connection.bus, connection.position)}
    disks = (each for each in devices if isinstance(each, _DEVICE.VirtualDisk))
    return [disk for disk in disks if (disk.controllerKey, disk.unitNumber) in places]


def files_of(devices: list[Any]) -> set[str]:
    """The files that a VM's disks and CD-ROMs are in, and what disks are overlays of."""
    files = set()
    disks: list[Any] = [x for x in devices if isinstance(x, _DEVICE.VirtualDisk)]
    for device in (each for each in devices if isinstance(each, _DEVICE.VirtualCdrom)):
        files.add(getattr(device.backing, "fileName", ""))
    for disk in disks:
        backing = disk.backing
        while backing is not None:
            files.add(backing.fileName)
            backing = getattr(backing, "parent", None)
    return files


def console_of(devices: list[Any]) -> str:
    """Where its serial port is written to; nowhere, for another's VM."""
    ports = (each for each in devices if isinstance(each, _DEVICE.VirtualSerialPort))
    return next((str(port.backing.fileName) for port in ports), "")


def marks(extra_config: list[Any]) -> dict[str, str]:
    """What we have noted at a VM."""
    return {each.key: each.value for each in extra_config if each.key.startswith("cloudloom.")}


def connections(noted: Mapping[str, str]) -> list[Connection]:
    """The volumes that a VM has."""
    texts = (text for key, text in sorted(noted.items()) if key.startswith(_CONNECTION))
    return [Connection.model_validate(json.loads(text)) for text in texts]


def note_of(volume: UUID) -> str:
    """The key under which a connection is noted."""
    return f"{_CONNECTION}{volume}"


def option(key: str, value: str) -> Any:
    """A note; an empty one takes it away."""
    return vim.option.OptionValue(key=key, value=value)
