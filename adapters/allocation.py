"""What placement speaks of: hosts with their room, what a VM wishes for, and the rules."""

from enum import StrEnum
from uuid import UUID

from pydantic import Field

from adapters.guests import Firmware
from adapters.types import Family, Value


class Fit(StrEnum):
    """How hosts are chosen: fill one before the next, or spread over all."""

    PROGRESSIVE = "progressive"
    PERFORMANCE = "performance"


class RuleKind(StrEnum):
    """What an allocation rule decides."""

    LOAD = "load"  # how much of a host may be given away
    FIT = "fit"  # whether hosts are filled, or VMs spread
    EXCLUSION = "exclusion"  # two enterprises never share a host
    RESTRICTION = "restriction"  # an enterprise uses only hosts that are reserved for it


class Store(Value):
    """A host's datastore; what is promised counts all hosts that share it (`uuid`)."""

    id: UUID
    uuid: UUID
    directory: str
    tier: str = ""
    promised_mib: int = 0
    total_mib: int = 0  # as the host says
    free_mib: int = 0


class Room(Value):
    """A host as placement sees it."""

    id: UUID
    name: str
    family: Family
    cpu: int
    ram_mib: int
    cpu_reserved: int = 0
    ram_reserved_mib: int = 0
    stores: tuple[Store, ...] = ()  # those that are enabled
    firmwares: frozenset[Firmware] = frozenset({Firmware.BIOS})  # its VMs may start by these
    silent: str = ""  # why it could not be asked
    maintenance: bool = False
    reserved_for: UUID | None = None
    tenants: frozenset[UUID] = frozenset()  # enterprises with VMs there, where a rule asks
    datacenter_id: UUID | None = None
    rack_id: UUID | None = None
    rack: str = ""
    vlans_free: int | None = None  # None: no rack, and no limit
    vlans: frozenset[int] | None = None  # of those that networks have, the ones its rack carries
    unlinked: str = ""  # why it has no networks; empty: it has
    untagged: str = ""  # why it has no VLANs but those that it is wired for
    wired: frozenset[int] = frozenset()


class Load(Value):
    """How much of a host may be given away, in percent: 200 is two for one, 0 no new VMs."""

    cpu_percent: int
    ram_percent: int


class Rules(Value):
    """What an operator has decided about placement in a datacenter."""

    default: Load = Load(cpu_percent=100, ram_percent=100)
    loads: dict[UUID, Load] = Field(default_factory=dict)  # by host, rack, datacenter
    fit: Fit = Fit.PERFORMANCE
    excluded: frozenset[frozenset[UUID]] = frozenset()  # pairs of enterprises
    restricted: frozenset[UUID] = frozenset()


class Pin(Value):
    """The host and the datastore that a VM was planned to go to."""

    host: UUID
    datastore: UUID


class Wish(Value):
    """What a VM needs, and what it would like."""

    family: Family
    cpu: int
    ram_mib: int
    disk_mib: int
    enterprise: UUID | None = None
    tier: str = ""  # "": any
    firmware: Firmware = Firmware.BIOS
    affinity: str = ""
    anti_affinity: str = ""
    vlans: int = 0  # that its rack has to have free
    tags: frozenset[int] = frozenset()  # VLANs of its networks, which a rack has to carry
    linked: bool = False  # is to be in networks of its host
    tagged: bool = False  # and some of them are VLANs
    pin: Pin | None = None  # no other will do


class Neighbour(Value):
    """A VM of the same appliance that is on a host already."""

    host: UUID
    affinity: str
    anti_affinity: str


class Situation(Value):
    """What there is to place into."""

    hosts: tuple[Room, ...]
    rules: Rules
    neighbours: tuple[Neighbour, ...] = ()
