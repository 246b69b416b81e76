"""What an OVF package says of a VM: its disks, the hardware that its guest expects, and notes."""

from typing import Literal

from adapters.errors import BadImage
from adapters.guests import Bus, Firmware
from adapters.types import Format, Value

ANY_BUS = "Any bus will do"  # of a controller that stands for others: some has to be said
MAX_CPU, MAX_RAM_MIB = 1024, 2**24  # that a template may wish for
PACKAGE: Literal["ova"] = (
    "ova"  # what is said of an upload that is no image but an archive of them
)


class BadPackage(BadImage):
    """A package that must not be used; `code` says what is wrong with it.

    Codes: package-invalid, package-truncated, package-too-large, package-foreign-path,
    package-not-a-file, package-duplicate-file, package-surplus-file, package-missing-file,
    package-entities, package-unsupported, package-trailing-data, package-size-differs,
    package-capacity-differs, package-digest-mismatch, package-signature-invalid,
    package-signer-unknown.
    """

    code = "package-invalid"


class WishedNic(Value):
    """A network interface that a guest expects."""

    network: str = ""  # what the package calls it
    model: str = ""  # e1000, vmxnet3, virtio...; empty when it does not matter


class Hardware(Value):
    """What a guest expects beside CPUs and memory."""

    firmware: Firmware = Firmware.BIOS
    buses: tuple[Bus, ...] = ()  # of its disks, in order
    nics: tuple[WishedNic, ...] = ()
    system: str = ""  # which one the guest is, in VMware's word: debian12_64Guest


class Expected(Value):
    """What somebody says that a guest expects; the rest is as its package says, or nothing."""

    firmware: Firmware | None = None
    bus: Bus | None = None  # of all disks

    def over(self, hardware: Hardware, disks: int) -> Hardware:
        """The hardware that this becomes, of so many disks."""
        buses = (self.bus,) * disks if self.bus else hardware.buses
        firmware = self.firmware or hardware.firmware
        return hardware.model_copy(update={"firmware": firmware, "buses": buses})


class Adapted(Value):
    """What a guest expects once it has been made ready for KVM."""

    bus: Bus
    nic: str  # a network card's model


class About(Value):
    """What a template, or a package, says of what is in it."""

    product: str = ""
    vendor: str = ""
    version: str = ""
    licence: str = ""
    description: str = ""

    def over(self, other: "About") -> "About":
        """What it says, and what the other says where it says nothing."""
        return other.model_copy(update={key: said for key, said in self if said})


class Wishes(Value):
    """What a template wishes for its VMs, and what it says of itself."""

    cpu: int | None = None
    ram_mib: int | None = None
    hardware: Hardware = Hardware()
    about: About = About()


class PackagedFile(Value):
    """A file of a package, as its descriptor names it."""

    name: str
    size_bytes: int | None = None


class PackagedDisk(Value):
    """A disk, and the file that has its image."""

    file: str
    format: Format
    capacity_bytes: int


class Package(Wishes):
    """A VM as a package describes it."""

    name: str
    disks: tuple[PackagedDisk, ...]
    files: tuple[PackagedFile, ...]  # all of them, those of no disk included


class RemotePackage(Value):
    """What a remote repository's index says of a package."""

    url: str
    name: str
    description: str = ""
    category: str = ""
    vendor: str = ""
    version: str = ""
    disk_format: str = ""  # in the index's own words
    size_mib: int | None = None
    icon: str = ""
