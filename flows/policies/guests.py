"""Which bus a guest's disks hang on: the one it expects where its hypervisor has that."""

from collections.abc import Sequence

from adapters.guests import Bus
from adapters.types import Family

# What each family can pretend to have, its fastest first: what a guest gets that wishes nothing.
BUSES: dict[Family, tuple[Bus, ...]] = {
    Family.KVM: (Bus.VIRTIO, Bus.SATA, Bus.IDE, Bus.LSISAS, Bus.PVSCSI),
    Family.VSPHERE: (Bus.PVSCSI, Bus.SCSI, Bus.LSISAS, Bus.SATA, Bus.IDE),
}
BUSES[Family.MEMORY] = BUSES[Family.KVM]
_KNOWN_TO_ALL = Bus.SATA  # nearly every guest has a driver for AHCI since 2007


def disk_bus(family: Family, wished: Sequence[Bus]) -> Bus | None:
    """The bus of a VM's disks, by what its template wishes for the first; None is the fastest.

    All of them, and volumes, hang on that one: any of them may become the one that it boots from.
    What the family has not becomes one that any guest knows.
    """
    buses = BUSES.get(family, ())
    if not wished or not buses or wished[0] is buses[0]:
        return None
    return wished[0] if wished[0] in buses else _KNOWN_TO_ALL
