"""The tables of what is there already: sites, racks, hosts, storage; and who may be put where."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from adapters.allocation import Fit, RuleKind
from adapters.database.conventions import Base, table
from adapters.database.labels import Labelled
from adapters.types import Family


class Datacenter(Labelled, Base):
    """A site, with its image repository; in VLAN n, its DHCP relay has the n-th of `relays`."""

    __tablename__ = "datacenters"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    repository: Mapped[str]
    repository_marker: Mapped[UUID]
    repository_share: Mapped[str | None] = mapped_column(String(400))
    relays: Mapped[str | None] = mapped_column(String(18))


class Rack(Labelled, Base):
    """Hosts that share a range of VLANs, but for those avoided (`100`, `200-210`).

    Each virtual datacenter keeps some in reserve; few free ones (in percent) are reported.
    """

    __tablename__ = "racks"
    __table_args__ = table(UniqueConstraint("datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    vlan_min: Mapped[int]
    vlan_max: Mapped[int]
    vlans_avoided: Mapped[list[str]]
    vlans_reserved: Mapped[int]
    low_vlans_percent: Mapped[int]


class Host(Labelled, Base):
    """A machine that runs VMs; `address` is what its hypervisor adapter connects to.

    Reserved, it runs one enterprise's only; in maintenance, it gets no new ones. By its uplink it
    has networks, as its link kind says (on an OVS bridge or vSwitch: `switch`); without, none.
    """

    __tablename__ = "hosts"
    __table_args__ = table(UniqueConstraint("datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    rack_id: Mapped[UUID | None] = mapped_column(ForeignKey("racks.id"))
    name: Mapped[str]
    family: Mapped[Family]
    address: Mapped[str]
    cpu: Mapped[int]
    ram_mib: Mapped[int]
    reserved_for_id: Mapped[UUID | None] = mapped_column(ForeignKey("enterprises.id"))
    maintenance: Mapped[bool] = mapped_column(default=False)
    uplink: Mapped[str | None] = mapped_column(String(63))
    link_kind: Mapped[str | None] = mapped_column(String(16))
    switch: Mapped[str] = mapped_column(String(63), default="")


class Datastore(Base):
    """Where a host keeps VM disks; the same `uuid` on two hosts means shared."""

    __tablename__ = "datastores"
    __table_args__ = table(UniqueConstraint("host_id", "directory"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    host_id: Mapped[UUID] = mapped_column(ForeignKey("hosts.id"))
    uuid: Mapped[UUID]
    directory: Mapped[str]
    tier_id: Mapped[UUID | None] = mapped_column(ForeignKey("tiers.id"))
    enabled: Mapped[bool] = mapped_column(default=True)

    @property
    def name(self) -> str:
        """What it is called: its directory."""
        return self.directory


class Tier(Labelled, Base):
    """A class of storage service in a datacenter; a disabled one gets nothing new."""

    __tablename__ = "tiers"
    __table_args__ = table(UniqueConstraint("datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    enabled: Mapped[bool] = mapped_column(default=True)


class StorageDevice(Labelled, Base):
    """An iSCSI storage server: for `directory`, a target daemon on this machine."""

    __tablename__ = "storage_devices"
    __table_args__ = table(UniqueConstraint("datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    technology: Mapped[str]
    host: Mapped[str]
    port: Mapped[int]
    control: Mapped[int]


class StoragePool(Labelled, Base):
    """A part of a storage device, of one tier."""

    __tablename__ = "storage_pools"
    __table_args__ = table(UniqueConstraint("device_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    device_id: Mapped[UUID] = mapped_column(ForeignKey("storage_devices.id"))
    name: Mapped[str]
    tier_id: Mapped[UUID] = mapped_column(ForeignKey("tiers.id"))
    directory: Mapped[str]
    total_mib: Mapped[int]


class AllocationRule(Base):
    """A rule of placement; `about` says what of, and there is one rule about a thing.

    A load rule is about a datacenter, rack or host; a fit about a datacenter, or all of them; an
    exclusion about two enterprises, a restriction about one.
    """

    __tablename__ = "allocation_rules"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[RuleKind]
    about: Mapped[str] = mapped_column(unique=True)
    datacenter_id: Mapped[UUID | None] = mapped_column(ForeignKey("datacenters.id"))
    rack_id: Mapped[UUID | None] = mapped_column(ForeignKey("racks.id"))
    host_id: Mapped[UUID | None] = mapped_column(ForeignKey("hosts.id"))
    cpu_percent: Mapped[int | None]
    ram_percent: Mapped[int | None]
    policy: Mapped[Fit | None]
    enterprise_id: Mapped[UUID | None] = mapped_column(ForeignKey("enterprises.id"))
    other_enterprise_id: Mapped[UUID | None] = mapped_column(ForeignKey("enterprises.id"))

    @property
    def name(self) -> str:
        """What it is called: its kind."""
        return self.kind.value
