"""What only some hypervisors can do, asked for before anything is begun: by ability, not type."""

from typing import cast
from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Unsupported
from adapters.guests import Bus
from adapters.hypervisors.base import Capability
from adapters.hypervisors.stills import Stilling
from adapters.types import VmState
from flows.cloud import cloud

__all__ = [
    "Capability",
    "require_ability",
    "require_hot_nic",
    "require_readable",
    "require_sockets",
    "stilling",
]

_READING = {Capability.DISK_FILES, Capability.DISK_STREAM}


def require_ability(vm: UUID, ability: Capability) -> None:
    """Raise `Unsupported` where the VM's host cannot do that."""
    record = cloud.inventory.vm(vm)
    if ability not in cloud.hypervisor(record.host).capabilities:
        raise Unsupported(f"the host of VM {record.name} has no {ability}")


def require_readable(vm: UUID) -> None:
    """Raise `Unsupported` where nobody here can read the VM's disks."""
    record = cloud.inventory.vm(vm)
    if not _READING & cloud.hypervisor(record.host).capabilities:
        raise Unsupported(f"the host of VM {record.name} neither shows its disks nor sends them")


def require_sockets(vm: UUID) -> None:
    """Raise `Unsupported` where volumes neither come nor go now, for the VM is on."""
    if cloud.inventory.state(vm) is VmState.ON:
        require_ability(vm, Capability.HOT_ATTACH)
        record = cloud.inventory.vm(vm)
        if record.settings.bus not in {None, Bus.VIRTIO}:
            raise Unsupported(f"VM {record.name} is on: its bus takes no volume now")


def require_hot_nic(vm: VmRecord, *, restricted: bool) -> None:
    """Raise `Unsupported` where such a NIC neither comes nor goes now, for the VM is on."""
    if vm.state is not VmState.ON:
        return
    why = ""
    if restricted:
        why = "a restricted NIC neither comes nor goes meanwhile"
    elif Capability.HOT_NIC not in cloud.hypervisor(vm.host).capabilities:
        why = f"its host has no {Capability.HOT_NIC}"
    if why:
        raise Unsupported(f"VM {vm.name} is on: {why}", code="nic-not-hot")


def stilling(host: UUID) -> Stilling:
    """A host that can show disks as they were. Raises `Unsupported`."""
    hypervisor = cloud.hypervisor(host)
    if Capability.STILLS not in hypervisor.capabilities:
        raise Unsupported(f"host {host} has no {Capability.STILLS}")
    return cast(Stilling, hypervisor)
