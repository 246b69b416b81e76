"""What the inventory knows, as values: rows never leave this package otherwise."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from uuid import UUID, uuid5

from adapters.amounts import Amounts
from adapters.errors import Conflict
from adapters.forms import Form
from adapters.lan import GUARDED, MTU, Guard, Link, LinkKind, NetworkKind, Route, WaitFor
from adapters.packages import About
from adapters.plugs import Plug, Promise, Uplink, guard_of, link_of, plugged
from adapters.types import (
    Base,
    Disk,
    Export,
    Family,
    Format,
    Identity,
    Nic,
    Seed,
    Settings,
    Value,
    Vm,
    VmState,
    export_id,
)


class Image(Value):
    """A disk image in a datacenter's repository: a template's own, or a conversion of one."""

    id: UUID
    format: Format
    subformat: str = ""
    digest: str
    path: str  # relative to the repository
    virtual_size_mib: int
    identity: Identity

    @property
    def form(self) -> Form | None:
        """What a hypervisor makes of it; None is nothing that one boots."""
        return Form.of(self.format, self.subformat)


class Kept(Value):
    """An image that the library keeps: of a template, or a conversion."""

    image: Image
    owner: UUID  # the template; the conversion is its own
    is_conversion: bool

    @property
    def id(self) -> UUID:
        """The image's."""
        return self.image.id


class NewTemplate(Value):
    """A template to be: what an import is asked to make."""

    id: UUID
    enterprise_id: UUID
    datacenter_id: UUID
    name: str
    cpu: int = 1
    ram_mib: int = 128
    category: str | None = None
    shared: bool = False
    owner_id: UUID | None = None  # the user
    master_id: UUID | None = None  # the template that it is an instance of
    about: About | None = None


class Conversion(Value):
    """An image to be had in another format; the id follows from what it is made of."""

    datacenter_id: UUID
    source: Image
    format: Format
    options: str = ""  # the subformat, unless it is the format's usual one

    @classmethod
    def to(cls, form: Form, source: Image, datacenter: UUID) -> "Conversion":
        """The image in that form."""
        options = "" if form.is_usual else form.subformat
        return cls(datacenter_id=datacenter, source=source, format=form.format, options=options)

    @property
    def form(self) -> Form:
        """What it is converted to."""
        return Form.wanted(self.format, self.options)

    @property
    def id(self) -> UUID:
        """The same for equal (datacenter, digest, format, options)."""
        return uuid5(self.datacenter_id, f"{self.source.digest}/{self.format}/{self.options}")

    @property
    def path(self) -> str:
        """Where the repository has it: a set in a folder of its own."""
        folder = f"conversions/{self.source.digest[:2]}/{self.id}"
        if self.form.is_set:
            return f"{folder}/{self.format.disk_file}"
        return f"{folder}.{self.format.extension}"

    def planned(self) -> Image:
        """What is to be made: as large as its source, as far as anybody knows before."""
        size_bytes = self.source.identity.size_bytes
        return Image(
            id=self.id,
            format=self.format,
            digest=self.id.hex,  # its bytes are not known either
            path=self.path,
            virtual_size_mib=self.source.virtual_size_mib,
            identity=Identity(size_bytes=size_bytes, modified_ns=0, inode=0),
        )


class HostRecord(Value):
    """A host, and how to reach it."""

    id: UUID
    datacenter_id: UUID
    name: str
    family: Family
    address: str
    uplink: str | None = None  # behind `<namespace>/` where it is in one
    link_kind: LinkKind | None = None
    switch: str = ""


class NetworkRecord(Value):
    """A network's row."""

    id: UUID
    name: str
    kind: NetworkKind
    datacenter_id: UUID
    virtual_datacenter_id: UUID | None = None
    enterprise_id: UUID | None = None  # the one that it was given to
    tag: int | None = None
    range: IPv4Network | None = None
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    suffix: str = ""
    routes: tuple[Route, ...] = ()
    excluded: tuple[str, ...] = ()
    range6: IPv6Network | None = None
    mtu: int = MTU
    number: int | None = None
    relay: IPv4Address | None = None
    dhcp_server_id: UUID | None = None
    quarantine_s: int = 0

    @property
    def takes_tags(self) -> bool:
        """Whether its tag is taken when it is needed, and freed with its last user."""
        own = self.kind in {NetworkKind.PRIVATE, NetworkKind.UNMANAGED}
        return own and self.virtual_datacenter_id is not None

    @property
    def never_given(self) -> tuple[str, ...]:
        """What of its range is for no NIC."""
        own = (each for each in (self.gateway, self.relay) if each)
        return (*self.excluded, *map(str, own))


class DhcpRecord(Value):
    """A DHCP server, and how to reach it."""

    id: UUID
    datacenter_id: UUID
    name: str
    kind: str
    address: str


class HostLoad(Value):
    """A host as placement sees it: what it has, and what is reserved on it."""

    id: UUID
    name: str
    family: Family
    cpu: int
    ram_mib: int
    cpu_reserved: int
    ram_reserved_mib: int
    datastores: tuple[tuple[UUID, str], ...]


class PoolRecord(Value):
    """A storage pool, and how to reach its device."""

    id: UUID
    datacenter_id: UUID
    name: str
    technology: str
    directory: str
    total_mib: int
    host: str
    port: int
    control: int


class VolumeRecord(Value):
    """A volume's row."""

    id: UUID
    name: str
    virtual_datacenter_id: UUID
    pool_id: UUID
    size_mib: int
    carved: bool = False
    vm_id: UUID | None = None
    position: int = 0


class DiskRecord(Value):
    """A VM's disk: its image in the library, if any, and where it is once it is anywhere."""

    id: UUID
    position: int
    size_mib: int
    image: Image | None = None
    base: Base | None = None
    volume_id: UUID | None = None


class VmRecord(Value):
    """A VM with all that deploying it takes."""

    id: UUID
    name: str
    appliance_id: UUID
    virtual_datacenter_id: UUID
    datacenter_id: UUID
    family: Family
    cpu: int
    ram_mib: int
    state: VmState
    depends_on: tuple[str, ...]
    host_id: UUID | None
    datastore: str
    disks: tuple[DiskRecord, ...]
    nics: tuple[Nic, ...]
    volumes: tuple[VolumeRecord, ...]
    installation: UUID
    user_data: UUID | None = None  # the secret that has it
    settings: Settings = Settings()
    plugs: tuple[Plug, ...] = ()  # of those NICs that are in networks
    uplink: Uplink | None = None  # its host's
    wait_for: WaitFor | None = None  # unless a deployment says otherwise

    @property
    def host(self) -> UUID:
        """The host that is reserved for it. Raises `Conflict` when there is none."""
        if self.host_id is None:
            raise Conflict(f"VM {self.name} has no host", code="not-allocated")
        return self.host_id

    @property
    def local_disks(self) -> tuple[DiskRecord, ...]:
        """The disks on its host's datastore: all that are not persistent."""
        return tuple(disk for disk in self.disks if disk.volume_id is None)

    @property
    def uses(self) -> Amounts:
        """What it is charged for while it has a host."""
        disk_mib = sum(disk.size_mib for disk in self.local_disks)
        return Amounts(cpu=self.cpu, ram_mib=self.ram_mib, disk_mib=disk_mib)

    @property
    def seed(self) -> Seed | None:
        """What its guest reads when it boots first; None where it has no user data."""
        if self.user_data is None:
            return None
        return Seed(
            id=self.id,
            hostname=hostname(self.name),
            secret=self.user_data,
            datastore=self.datastore,
            installation=self.installation,
        )

    @property
    def links(self) -> tuple[Link, ...]:
        """The networks that its host has to have for it."""
        if self.uplink is None:
            return ()
        return tuple(
            {x.network: link_of(x, self.uplink, self.installation) for x in self.plugs}.values()
        )

    @property
    def guards(self) -> tuple[Guard, ...]:
        """What may be heard of its cards; ESXi's port groups leave that to their operator."""
        uplink = self.uplink
        if uplink is None or uplink.kind not in GUARDED:
            return ()
        nics = {nic.id: nic for nic in self.nics}
        return tuple(
            guard_of(nics[x.nic], x, uplink, self.installation)
            for x in self.plugs
            if x.nic in nics
        )

    @property
    def served(self) -> dict[UUID, list[UUID]]:
        """Its NICs that are told their addresses, by the DHCP server that does it."""
        found: dict[UUID, list[UUID]] = {}
        for each in self.plugs:
            if each.server and each.address:
                found.setdefault(each.server, []).append(each.nic)
        return found

    @property
    def promised(self) -> list[Promise]:
        """The addresses that its guest is to be told."""
        macs = {nic.id: nic.mac for nic in self.nics}
        return [
            Promise(server=x.server, network=x.network, mac=macs[x.nic], address=x.address)
            for x in self.plugs
            if x.server and x.address
        ]

    @property
    def cards(self) -> tuple[Nic, ...]:
        """Its NICs as the hypervisor is to make them."""
        links = {link.network: link for link in self.links}
        into = {each.nic: links.get(each.network) for each in self.plugs}
        return tuple(plugged(x, link) if (link := into.get(x.id)) else x for x in self.nics)

    def card(self, nic: UUID) -> Nic:
        """One of its NICs as the hypervisor has it."""
        return next(each for each in self.cards if each.id == nic)

    def is_restricted(self, nic: UUID) -> bool:
        """Whether one of its NICs is in no network of its host's."""
        return all(each.nic != nic for each in self.plugs)

    def in_networks_of(self, nics: Sequence[UUID]) -> "VmRecord":
        """The VM as if it had no other NICs in networks."""
        return self.model_copy(update={"plugs": tuple(x for x in self.plugs if x.nic in nics)})

    def without_nic(self, nic: UUID) -> "VmRecord":
        """The VM without one of its NICs."""
        left = tuple(each for each in self.nics if each.id != nic)
        plugs = tuple(each for each in self.plugs if each.nic != nic)
        return self.model_copy(update={"nics": left, "plugs": plugs})

    def plus(self, disk: DiskRecord) -> "VmRecord":
        """The VM with one disk more."""
        return self.model_copy(update={"disks": (*self.disks, disk)})

    def without(self, disk: UUID) -> "VmRecord":
        """The VM without one of its disks."""
        left = tuple(each for each in self.disks if each.id != disk)
        return self.model_copy(update={"disks": left})

    def disk(self, record: DiskRecord, base: Base | None = None) -> Disk:
        """A disk as the hypervisor is to make it."""
        return Disk(
            id=record.id,
            vm=self.id,
            position=record.position,
            size_mib=record.size_mib,
            datastore=self.datastore,
            base=base or record.base,
            installation=self.installation,
        )

    def export(self, volume: UUID, initiator: str) -> Export:
        """Its right to use a volume, by this initiator of its host or its own."""
        return Export(
            id=export_id(volume, initiator),
            volume=volume,
            initiator=initiator,
            installation=self.installation,
        )

    def definition(self, bases: dict[UUID, Base] | None = None) -> Vm:
        """The VM as the hypervisor is to define it, on these bases or the recorded ones."""
        return Vm(
            id=self.id,
            name=self.name,
            cpu=self.cpu,
            ram_mib=self.ram_mib,
            disks=tuple(self.disk(d, (bases or {}).get(d.id)) for d in self.local_disks),
            nics=self.cards,
            installation=self.installation,
            seed=self.seed,
            settings=self.settings,
        )


def hostname(name: str) -> str:
    """A VM's name as its guest's, whose letters are fewer."""
    return name.lower().replace("_", "-").rstrip("-.")
