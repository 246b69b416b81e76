"""What a guest expects of the machine that it runs on."""

from enum import StrEnum

MOST_NICS = 8  # of a VM: what has a place of its own on its bus
_IDE_PLACES = 3  # of four: the last one is the seed's


class Bus(StrEnum):
    """What a disk hangs on; of SCSI also whose controller it is, as drivers differ."""

    IDE = "ide"
    SATA = "sata"
    SCSI = "scsi"  # LSI Logic's, parallel, unless more is said
    LSISAS = "lsisas"
    PVSCSI = "pvscsi"
    VIRTIO = "virtio"
    NVME = "nvme"


class NicKind(StrEnum):
    """What a card is plugged into at its host."""

    USER = "user"  # a network of its own that leads nowhere: QEMU's user-mode one, restricted
    BRIDGE = "bridge"
    OVS = "ovs"  # a port of an Open vSwitch bridge
    PORT_GROUP = "port-group"
    DISTRIBUTED = "distributed"  # a port group of a distributed switch


class Boot(StrEnum):
    """What a VM may start from."""

    DISK = "disk"  # the first one, be it a volume
    NETWORK = "network"


class Firmware(StrEnum):
    """What starts a guest."""

    BIOS = "bios"
    EFI = "efi"  # without secure boot


def bus_at(bus: Bus, position: int) -> Bus:
    """The bus of the disk there: what IDE has no place for is on SATA."""
    return Bus.SATA if bus is Bus.IDE and position >= _IDE_PLACES else bus
