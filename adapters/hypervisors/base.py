"""The hypervisor port: one host that runs VMs. General from the start.

Laws, held for every adapter by `tests/contracts/test_hypervisor.py`:

1. Ensure: making what already is, ours and equal, is success. There with other properties or
   another installation's: `Conflict`, and it is not touched.
2. Absent: deleting, disconnecting or switching off what is not there is success.
3. Names come from the caller: a VM is `vm-<uuid>` under its own uuid, a disk `disk-<uuid>`;
   a disk's name tells the installation, too, where nothing else can.
4. `has_*` and `power` ask the hypervisor, never a table of ours.
5. Failures are `Transient` or `Refused`, never the vendor's own exceptions.
6. Every object carries the installation's id where the hypervisor can hold it.
7. A running VM is twice there: as it runs, and as it starts the next time. Connecting changes
   both, and so does disconnecting; a connection that is in one of them only is there, is made
   whole by connecting, and taken away by disconnecting.
8. A running guest is asked to release a volume, never robbed of it: the bytes it has not written
   yet are its own. So is a card (`nic-in-use` in the end). Where the bus of its disks has no word for that, it neither comes nor goes while
   the guest runs (`Unsupported`, `InUse`). Until it has, disconnecting is `Transient`; in the end it is `InUse`, the
   volume still being connected. Who asks once more is waited for once more.
9. A line (`terminal`, `display`) is a connected stream socket: `asyncio.open_connection(sock=...)`
   takes it. It ends when the VM goes off. No address leads to a guest that others could find.
10. A seed's name tells whose it is: nothing else has it. So it is written whole each time, and
    what was half-way there is not believed. Only the host's administrators and the guest read it.

Power, by what it is (down) and what is asked for (across); what is so already is success:

| | OFF | ON | PAUSED | reset |
|---|---|---|---|---|
| not defined | success | `NotFound` | `NotFound` | `NotFound` |
| OFF | success | starts | `Refused` | `Refused` |
| ON | asks the guest, then forces | success | stops its clock | starts anew, at once |
| PAUSED | resumes to ask, then forces | goes on | success | `Refused` |

How each method is done (KVM here; the others when they come, so that the port fits them):

| method | KVM (libvirt) | vSphere | XenAPI | Hyper-V |
|---|---|---|---|---|
| describe | getInfo, getLibVersion | host.hardware | host.get_record | Get-VMHost |
| initiator | a name per VM (libiscsi) | the host's software HBA, enabled at need | host.other_config | the host's |
| ensure_disk | volume of a dir pool, qcow2 overlay | CreateVM with a child disk, else CopyVirtualDisk + ExtendVirtualDisk | VDI.clone | New-VHD -Parent |
| send_disk | `Unsupported`: its files are seen | CreateVM with the disk, ExportVm lease | export_raw_vdi | Convert-VHD, SMB |
| ensure_seed | raw volume of a dir pool, uploaded | PUT /folder, CD-ROM | ISO SR | file |
| firmwares | getDomainCapabilities | both | both | generations 1 and 2 |
| ensure_vm | defineXML, metadata | CreateVM, instanceUuid, extraConfig | VM.create, other_config | New-VM, Notes |
| set_size | `Unsupported`: a CPU cannot be taken back before the guest has set up its ACPI | ReconfigVM_Task, hot-add enabled | VM.set_VCPUs_number_live | Set-VMMemory (memory only) |
| set_nics | attach and detach of an interface, the guest is asked | ReconfigVM_Task | VIF.plug, VIF.unplug | Add-, Remove-VMNetworkAdapter (generation 2) |
| connect | network disk + private secret | static target with CHAP, RescanHba, RDM (off only) | SR lvmoiscsi / raw HBA | Connect-IscsiTarget, pass-through |
| set_power | create, shutdown, destroy, suspend | PowerOn, ShutdownGuest, PowerOff, SuspendVM_Task | start, clean_/hard_shutdown | Start-VM, Stop-VM |
| reset | reset | ResetVM_Task | VM.hard_reboot | Restart-VM -Force |
| open_stills | backup job (pull), fsFreeze where an agent answers | snapshot; its disks are sent | VDI.snapshot | Checkpoint-VM |
| console | serial log file | datastore file | host file | named pipe |
| terminal | openConsole | `Unsupported` (VSPC would need a listener) | console URL | named pipe |
| display | openGraphicsFD, VNC that listens nowhere | `Unsupported` (WebMKS is no plain socket) | console URL | enhanced session |
| changes | lifecycle events | WaitForUpdatesEx on the host's VMs | event.from | CIM event subscription |
| vms | listAllDomains | host.vm, one property query | VM.get_all_records | Get-VM |
"""

import socket
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from pydantic import SecretStr

from adapters.guests import Firmware
from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Nic, Power, Seed, Vm


class Capability(StrEnum):
    """What only some hypervisors can do; a flow asks before it plans."""

    OVERLAY = "overlay"  # a disk as an overlay of a read-only base
    ISCSI_PER_VM = "iscsi-per-vm"  # each VM is an initiator of its own
    PAUSE = "pause"
    RESET = "reset"
    HOT_ATTACH = "hot-attach"  # volumes come and go while the VM is on
    HOT_NIC = "hot-nic"  # and cards in networks
    HOT_CPU = "hot-cpu"  # a VM that is on is given more CPUs
    HOT_RAM = "hot-ram"  # and memory
    TERMINAL = "terminal"
    DISPLAY = "display"
    DISK_FILES = "disk-files"  # whoever runs flows can read a disk where `disk_path` says
    STILLS = "stills"  # disks of a VM that is on can be read as they are at one moment (`stills`)
    DISK_STREAM = "disk-stream"  # a disk that no VM runs with is sent to whoever asks
    NEWS = "news"  # it tells at once when a VM is switched, or gone, whoever did it
    SEED = "seed"  # a small read-only disc that the guest reads when it boots first


class DisplayKind(StrEnum):
    """The protocol that a screen speaks."""

    VNC = "vnc"


@dataclass(frozen=True)
class Display:
    """A line to a VM's screen, from its first byte on; who has it closes it."""

    kind: DisplayKind
    line: socket.socket


def differences(
    former: Mapping[UUID, Power], now: Mapping[UUID, Power]
) -> dict[UUID, Power | None]:
    """What has changed from one answer of `vms` to another."""
    gone: dict[UUID, Power | None] = dict.fromkeys(former.keys() - now.keys())
    return gone | {vm: power for vm, power in now.items() if former.get(vm) is not power}


class Hypervisor(Protocol):
    """One host."""

    capabilities: frozenset[Capability]

    def describe(self) -> HostFacts:
        """What the host has. Raises `Transient` when it does not answer."""

    def datastore(self, directory: str) -> Capacity:
        """Room where VM disks go. Raises `NotFound`."""

    def initiator(self, vm: UUID) -> str:
        """The iSCSI name under which this VM (or its host) will log in; the same every time."""

    def ensure_disk(self, disk: Disk) -> None:
        """Make the disk. Raises `OutOfSpace`, `NotFound` without base, `Conflict`."""

    def has_disk(self, disk: Disk) -> bool:
        """Whether this very disk is there. Raises `Conflict`."""

    def delete_disk(self, disk: Disk) -> None:
        """Remove it. Raises `InUse` while a running VM has it."""

    def disks(self, datastore: str) -> dict[UUID, bool]:
        """The installation's disks there, and whether a VM is defined with it (is on or off)."""

    def discard_disk(self, datastore: str, disk: UUID) -> None:
        """Remove one of `disks` by its id alone. Raises `InUse` while a VM is defined with it."""

    def disk_path(self, disk: Disk) -> str:
        """Where the disk's bytes are, as the host sees it; with `DISK_FILES` a qcow2."""

    def send_disk(self, disk: Disk, target: Path, progress: Callable[[float], None]) -> None:
        """Write what a guest would see of it to a new file here, as a streamOptimized VMDK.

        `progress` hears of percents. Raises `NotFound`, `InUse` while a running VM has the disk
        (unless there are stills of it: then as they are), `OutOfSpace` here, `Unsupported` without `DISK_STREAM`.
        """

    def is_sending(self, disk: Disk) -> bool:
        """Whether the host still has something of a `send_disk`."""

    def stop_sending(self, disk: Disk) -> None:
        """Remove what one that was broken off has left at the host."""

    def ensure_seed(self, seed: Seed, image: bytes) -> None:
        """Write the VM's seed. Raises `NotFound` without datastore, `OutOfSpace`."""

    def has_seed(self, seed: Seed) -> bool:
        """Whether anything of the seed is there."""

    def delete_seed(self, seed: Seed) -> None:
        """Remove it. Raises `InUse` while the VM runs with it."""

    def seeds(self, datastore: str) -> dict[UUID, bool]:
        """The VMs with a seed of the installation there, and whether they are defined with it."""

    def discard_seed(self, datastore: str, vm: UUID) -> None:
        """Remove one of `seeds` by its VM alone. Raises `InUse` while that is defined with it."""

    def firmwares(self) -> frozenset[Firmware]:
        """What its VMs may start by."""

    def ensure_vm(self, vm: Vm, screen: SecretStr | None = None) -> None:
        """Define the VM, off; `screen` is the password that opens its screen, where it has one.

        Raises `NotFound` when a disk or its seed is missing, `Conflict`, and `Unsupported` when
        the host has not what its guest expects. What its firmware remembers is new.
        """

    def has_vm(self, vm: Vm) -> bool:
        """Whether this very VM is defined. Raises `Conflict`."""

    def set_size(self, former: Vm, vm: Vm) -> None:
        """Give a VM the size of `vm`, at once where it is on; it differs from `former` in that alone.

        More is given as far as `HOT_CPU` and `HOT_RAM` say, and can be taken back at once. Raises
        `Conflict` when it is defined as neither, `Unsupported`.
        """

    def set_nics(self, former: Vm, vm: Vm) -> None:
        """Give a VM the NICs of `vm`, at once where it is on; it differs from `former` in them alone.

        A guest is asked to release what goes. Raises `Conflict` when it is defined as neither,
        `Transient`, in the end `InUse`, while a guest keeps one, and `Unsupported` without
        `HOT_NIC`, or for a card that is in no network of the host's.
        """

    def has_nic(self, vm: UUID, nic: Nic, *, whole: bool = False) -> bool:
        """Whether the VM has that card, now or at its next start; or, `whole`, both."""

    def delete_vm(self, vm: UUID) -> None:
        """Forget the definition (with its connections), not the disks. Raises `InUse` while on."""

    def connect(self, connection: Connection, chap: Chap) -> None:
        """Give the VM the volume as a disk, a running one at once.

        Raises `NotFound`, `Conflict`, `Transient` when the volume does not let it in, and
        `Unsupported` when a VM that is on has its disks on another bus than virtio.
        """

    def has_connection(self, connection: Connection) -> bool:
        """Whether the VM has that volume, at that target and position, now or at its next start.

        Raises `Conflict`.
        """

    def disconnect(self, connection: Connection) -> None:
        """Take the volume away. Raises `Transient`, in the end `InUse`, while a guest keeps it."""

    def power(self, vm: UUID) -> Power | None:
        """The VM's power, or None when it is not defined here."""

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:
        """Switch on, pause or resume; or off: ask the guest (ACPI), and force it after `timeout_s`.

        `timeout_s=0` pulls the plug. Raises as the table above says.
        """

    def reset(self, vm: UUID) -> None:
        """Start a VM that is on anew, without asking the guest; again is again."""

    def console(self, vm: UUID) -> bytes:
        """What the VM has printed on its serial console since it was last started."""

    def terminal(self, vm: UUID) -> socket.socket:
        """Open the serial port of a VM that is not off, for one at a time: `InUse` for the next.

        Output is also kept for `console`, which any number may read meanwhile; what was printed
        before is read there. Nothing is lost of it when nobody has the line, or reads it slowly.
        Raises `NotFound`, `Conflict` when off, `Unsupported`.
        """

    def display(self, vm: UUID) -> Display:
        """Open the screen of a VM that is not off; several may have it, and see the same.

        Raises `NotFound`, `Conflict` when off, `Unsupported`.
        """

    def vms(self) -> dict[UUID, Power]:
        """Every VM of this installation on the host."""

    def changes(self, timeout_s: float) -> Generator[dict[UUID, Power | None], None, None]:
        """Tell all `vms`, then again and again what has changed since: None for one that is gone.

        Answers as soon as something has, and after `timeout_s` at the latest, maybe with nothing.
        Who has heard enough closes it. Raises `Transient` when the host is not heard any more,
        `Unsupported` without `NEWS`.
        """
