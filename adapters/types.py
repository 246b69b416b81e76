"""The vocabulary: frozen values that flows and adapters exchange, JSON in and out.

They are also the journal's wire format: add fields with defaults only. Sizes are in MiB or
bytes as their names say; ids are UUIDs chosen by the caller. None of them holds a secret.
"""

import hashlib
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from adapters.guests import Boot, Bus, Firmware, NicKind
from adapters.states import (
    ApplianceState,
    ConversionState,
    Decision,
    OperationState,
    StepState,
    TemplateState,
    VmState,
    VolumeState,
)

__all__ = [  # the states; the other words are below
    "ApplianceState",
    "ConversionState",
    "Decision",
    "OperationState",
    "StepState",
    "TemplateState",
    "VmState",
    "VolumeState",
]


class Value(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Family(StrEnum):
    """A family of hypervisors; a virtual datacenter has exactly one."""

    KVM = "kvm"
    XEN = "xen"
    VSPHERE = "vsphere"
    XENSERVER = "xenserver"
    HYPERV = "hyperv"
    VIRTUALBOX = "virtualbox"
    MEMORY = "memory"


class Role(StrEnum):
    """The queues of a datacenter's work pool, the most urgent first: what a worker may serve."""

    MAINTENANCE = "maintenance"
    DEPLOY = "deploy"
    STORAGE = "storage"
    IMAGES = "images"


class Format(StrEnum):
    """Disk formats, by qemu's names (`vpc` is Microsoft's VHD)."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VPC = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"

    @property
    def extension(self) -> str:
        """The usual ending of such a file's name."""
        return "vhd" if self is Format.VPC else self.value

    @property
    def disk_file(self) -> str:
        """What a template's first disk is called in its folder, and a set's first file too."""
        return self.disk_name(0)

    def disk_name(self, position: int) -> str:
        """What a template's disk at this position is called in its folder."""
        return f"disk-{position}.{self.extension}"


class Power(StrEnum):
    """What a hypervisor says of a VM that is defined there."""

    ON = "on"
    OFF = "off"
    PAUSED = "paused"


class Scope(StrEnum):
    """What a token may do beyond the ordinary, as far as its user may."""

    ADMIN = "admin"  # make tokens; change enterprises, users and roles
    APPROVE = "approve"  # decide about operations that wait, and what need not wait


class Finding(Value):
    """A line of a maintenance report: a thing, how it is, and what there is to say of that."""

    what: str
    name: str
    state: str
    detail: str = ""


class OnFailure(StrEnum):
    """What becomes of an appliance when one of its VMs does not come up."""

    UNDO = "undo"  # all VMs are undone
    KEEP = "keep"  # only the failed ones are, and those that depend on them


class Failure(Value):
    """A VM that did not come up, and why."""

    name: str
    code: str
    detail: str


class Kind(StrEnum):
    """Kinds of things on backends."""

    VM = "vm"
    DISK = "disk"
    SEED = "seed"
    COPY = "copy"
    LINK = "link"
    GUARD = "guard"
    VOLUME = "volume"
    EXPORT = "export"
    FILE = "file"


class Thing(Value):
    """A thing on a backend: on a host, in a pool, or in a datacenter's repository."""

    kind: Kind
    place: UUID
    name: str  # its id; a copy's digest; a link's network; a guard's NIC; a file's path

    @property
    def id(self) -> str:
        """All of it, as one word."""
        return f"{self.kind}:{self.place}:{self.name}"


class Owner(Value):
    """Whose a backend object is: our installation, and the object it stands for."""

    installation: UUID
    id: UUID


# --- storage -----------------------------------------------------------------------------------


class Volume(Value):
    """A block device in a storage pool, named `vol-<id>` where the backend has names."""

    id: UUID
    size_mib: int = Field(gt=0)
    installation: UUID


class Export(Value):
    """The right of one initiator to use one volume, as LUN 1 of a target of its own."""

    id: UUID
    volume: UUID
    initiator: str = Field(pattern=r"^iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.:-]+$", max_length=200)
    installation: UUID

    @property
    def iqn(self) -> str:
        """The target's name."""
        return f"iqn.2026-11.org.cloudloom:{self.id}"

    @property
    def account(self) -> str:
        """The user name with which its initiator logs in: an export's `Chap.user`."""
        return self.id.hex


def export_id(volume: UUID, initiator: str) -> UUID:
    """The id of an initiator's right to use a volume: the same whoever asks."""
    return uuid5(volume, initiator)


class Target(Value):
    """Where an initiator finds an exported volume."""

    host: str
    port: int
    iqn: str
    lun: int = 1


class Chap(BaseModel):
    """A user name and password for one export. Never journaled: it is no `Value`."""

    model_config = ConfigDict(frozen=True)

    user: str
    password: SecretStr


class Source(BaseModel):
    """Where a file is to be had, and as whom. Never journaled: either may be the right to it."""

    model_config = ConfigDict(frozen=True)

    url: SecretStr
    login: Chap | None = None

    def beside(self, url: str) -> "Source":
        """Another file of the same place."""
        return self.model_copy(update={"url": SecretStr(url)})


class Capacity(Value):
    """Room in a pool, datastore or repository."""

    total_mib: int
    free_mib: int


# --- images ------------------------------------------------------------------------------------


class ImageInfo(Value):
    """What inspection found: a single disk image, safe to hand to qemu-img with `-f format`."""

    format: Format
    virtual_size_bytes: int
    file_size_bytes: int  # extents included
    subformat: str = ""  # VMDK's createType (streamOptimized, ...), VHD's fixed or dynamic
    extents: tuple[str, ...] = ()  # further files beside it, by name, in order

    @property
    def virtual_size_mib(self) -> int:
        """The guest's size, rounded up to whole MiB."""
        return -(-self.virtual_size_bytes // 2**20)


class Identity(Value):
    """A cheap fingerprint of a file: changes when it is replaced or rewritten."""

    size_bytes: int
    modified_ns: int
    inode: int


# --- hypervisors -------------------------------------------------------------------------------


class Base(Value):
    """A read-only image that disks are overlays of: its path as the host sees it."""

    path: str
    format: Format
    digest: str  # SHA-256 of the file, hex

    @classmethod
    def copied_to(cls, directory: str, digest: str, form: Format, installation: UUID) -> "Base":
        """A host's own copy of an image, whose name tells whose it is, and of what."""
        path = f"{directory}/base-{digest}.{installation}.{form.extension}"
        return cls(path=path, format=form, digest=digest)

    @classmethod
    def of_copy(cls, path: str, installation: UUID) -> "Base | None":
        """The copy that a file is by its name, if it is the installation's."""
        directory, _, name = path.rpartition("/")
        digest = name.removeprefix("base-").partition(".")[0]
        every = (cls.copied_to(directory, digest, form, installation) for form in Format)
        return next((copy for copy in every if copy.path == path), None)

    @property
    def is_copy(self) -> bool:
        """Whether it is a host's own copy, not the library's file."""
        return self.path.rsplit("/", 1)[-1].startswith(f"base-{self.digest}")


MOST_DISKS = 15  # of a VM, volumes among them: what fits a SCSI controller of vSphere


class Disk(Value):
    """A disk of a VM on a datastore of its host, `disk-<id>`; empty, or an overlay of `base`."""

    id: UUID
    vm: UUID
    position: int = 0  # 0 is vda, the boot disk
    size_mib: int = Field(gt=0)
    datastore: str  # directory as the host sees it
    base: Base | None = None
    installation: UUID


class Seed(Value):
    """What a VM's guest reads when it boots first, on a datastore of its host: a NoCloud image."""

    id: UUID  # the VM's
    hostname: str
    secret: UUID  # its text, which may hold passwords
    datastore: str
    installation: UUID


class Nic(Value):
    """A network card, and what it is plugged into at the host."""

    id: UUID
    mac: str = Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
    kind: NicKind = NicKind.USER
    model: str = ""  # e1000, vmxnet3, ...; empty is the hypervisor's fastest
    bridge: str = ""  # or OVS bridge, or port group
    tag: int | None = None  # of a port of OVS
    mtu: int | None = None  # where not every switch can that
    place: int | None = None  # on the VM's bus; else the first that is free


class Connection(Value):
    """A volume as a disk of a VM, over iSCSI."""

    volume: UUID
    vm: UUID
    initiator: str
    target: Target
    position: int = 1  # 0 is vda, 1 is vdb
    read_only: bool = False
    bus: Bus | None = None  # as the VM's disks have it

    @property
    def id(self) -> UUID:
        """A volume is a disk of one VM only."""
        return self.volume

    @property
    def export(self) -> UUID:
        """The export that it uses, whose password opens it."""
        return export_id(self.volume, self.initiator)


class Settings(Value):
    """How a VM starts, what opens its screen (else the line is enough), what it expects."""

    boot: tuple[Boot, ...] = (Boot.DISK,)  # the first that works
    screen: UUID | None = None
    firmware: Firmware = Firmware.BIOS
    bus: Bus | None = None  # of its disks and volumes; None is the hypervisor's fastest
    system: str = ""  # in VMware's word; empty where nobody has said


class Vm(Value):
    """A VM as a hypervisor is to define it, named `vm-<id>`, its uuid being `id`."""

    id: UUID
    name: str  # what people call it; shown as the title
    cpu: int = Field(gt=0)
    ram_mib: int = Field(gt=0)
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    installation: UUID
    seed: Seed | None = None
    settings: Settings = Settings()

    @property
    def digest(self) -> str:
        """Of all its properties: two definitions are equal when their digests are.

        What older versions had no word for counts only where it is said; where a card is does
        not: one that came to a running guest may be elsewhere.
        """
        fields = type(self).model_fields
        new = ("seed", "settings")
        unsaid: dict[str, Any] = {x: True for x in new if getattr(self, x) == fields[x].default}
        words = {"model", "bridge", "tag", "mtu"}
        silent = (words - nic.model_dump(exclude_defaults=True).keys() for nic in self.nics)
        unsaid["nics"] = {n: {*each, "place"} for n, each in enumerate(silent)}
        said = self.settings.model_dump(exclude_defaults=True)
        unsaid.setdefault("settings", {"firmware", "bus", "system"} - said.keys())
        return hashlib.sha256(self.model_dump_json(exclude=unsaid).encode()).hexdigest()


class HostFacts(Value):
    """What a host says of itself."""

    cpu: int
    ram_mib: int
    version: str
