"""The hypervisor port: one host that runs VMs. General from the start.

Laws, held for every adapter by `tests/contracts/test_hypervisor.py`:

1. Ensure: making what already is, ours and equal, is success. There with other properties or
   another installation's: `Conflict`, and it is not touched.
2. Absent: deleting, disconnecting or switching off what is not there is success.
3. Names come from the caller: a VM is `vm-<uuid>` under its own uuid, a disk `disk-<uuid>`.
4. `has_*` and `power` ask the hypervisor, never a table of ours.
5. Failures are `Transient` or `Refused`, never the vendor's own exceptions.
6. Every object carries the installation's id where the hypervisor can hold it.
7. Connections are configured while the VM is off; the guest finds the volume at its next start.

How each method is done (KVM here; the others when they come, so that the port fits them):

| method | KVM (libvirt) | vSphere | XenAPI | Hyper-V |
|---|---|---|---|---|
| describe | getInfo, getLibVersion | host.hardware | host.get_record | Get-VMHost |
| initiator | a name per VM (libiscsi) | the host's HBA | host.other_config | the host's |
| ensure_disk | volume of a dir pool, qcow2 overlay | linked clone / copy | VDI.clone | New-VHD -Parent |
| ensure_vm | defineXML, metadata | CreateVM, instanceUuid, extraConfig | VM.create, other_config | New-VM, Notes |
| connect | network disk + private secret | static target, RDM | SR lvmoiscsi / raw HBA | Connect-IscsiTarget, pass-through |
| set_power | create, shutdown, destroy, suspend | PowerOn/ShutdownGuest/PowerOff | start, clean_/hard_shutdown | Start-VM, Stop-VM |
| console | serial log file | datastore file | host file | named pipe |
| vms | listAllDomains | container view | VM.get_all_records | Get-VM |
"""

from enum import StrEnum
from typing import Protocol
from uuid import UUID

from adapters.types import Capacity, Chap, Connection, Disk, HostFacts, Power, Vm


class Capability(StrEnum):
    """What only some hypervisors can do; a flow asks before it plans."""

    OVERLAY = "overlay"  # a disk as an overlay of a read-only base
    ISCSI_PER_VM = "iscsi-per-vm"  # each VM is an initiator of its own
    PAUSE = "pause"


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

    def disk_path(self, disk: Disk) -> str:
        """Where the disk's bytes are, as the host sees it (qcow2)."""

    def ensure_vm(self, vm: Vm) -> None:
        """Define the VM, off. Raises `NotFound` when a disk is missing, `Conflict`."""

    def has_vm(self, vm: Vm) -> bool:
        """Whether this very VM is defined. Raises `Conflict`."""

    def delete_vm(self, vm: UUID) -> None:
        """Forget the definition (with its connections), not the disks. Raises `InUse` while on."""

    def connect(self, connection: Connection, chap: Chap) -> None:
        """Give an off VM the volume as a disk. Raises `InUse` while on, `NotFound`, `Conflict`."""

    def has_connection(self, connection: Connection) -> bool:
        """Whether the VM has that volume, at that target and position. Raises `Conflict`."""

    def disconnect(self, connection: Connection) -> None:
        """Take the volume away. Raises `InUse` while the VM is on."""

    def power(self, vm: UUID) -> Power | None:
        """The VM's power, or None when it is not defined here."""

    def set_power(self, vm: UUID, power: Power, *, timeout_s: float) -> None:
        """Switch on; or off: ask the guest (ACPI), and force it after `timeout_s`.

        `timeout_s=0` pulls the plug. Raises `NotFound` when switching on what is not defined.
        """

    def console(self, vm: UUID) -> bytes:
        """What the VM has printed on its serial console since it was last started."""

    def vms(self) -> dict[UUID, Power]:
        """Every VM of this installation on the host."""
