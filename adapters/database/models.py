"""The tables; sizes in MiB. Rows leave this package as values only (`types`, `records`)."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import LONG, LONG_BYTES, Base, table
from adapters.database.infrastructure import (
    AllocationRule,
    Datacenter,
    Datastore,
    Host,
    Rack,
    StorageDevice,
    StoragePool,
    Tier,
)
from adapters.database.labels import Labelled
from adapters.database.networks import AddressRow, DhcpServer, Network
from adapters.types import (
    ConversionState,
    Family,
    Format,
    OperationState,
    StepState,
    TemplateState,
    VmState,
    VolumeState,
)

__all__ = [  # those of the infrastructure and of networks; the others are below
    "AddressRow",
    "AllocationRule",
    "Datacenter",
    "Datastore",
    "DhcpServer",
    "Host",
    "Network",
    "Rack",
    "StorageDevice",
    "StoragePool",
    "Tier",
]


class Installation(Base):
    """This installation: the id that every backend object of ours carries."""

    __tablename__ = "installation"
    id: Mapped[UUID] = mapped_column(primary_key=True)


class Enterprise(Labelled, Base):
    """A tenant; with `approval`, its deployments wait until somebody approves."""

    __tablename__ = "enterprises"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    approval: Mapped[bool] = mapped_column(default=False)


class IdempotencyKey(Base):
    """An answer that was given to a key, to be given again."""

    __tablename__ = "idempotency_keys"
    token_id: Mapped[UUID] = mapped_column(ForeignKey("api_tokens.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    location: Mapped[str | None]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Secret(Base):
    """A password, or a text that may hold some, encrypted with the keyring."""

    __tablename__ = "secrets"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user: Mapped[str]
    ciphertext: Mapped[bytes] = mapped_column(LONG_BYTES)


class Template(Labelled, Base):
    """Images with their hardware wishes, in a datacenter's library; `about` is what it says.

    Every enterprise sees one that is `shared`; one with a master is an instance of that.
    """

    __tablename__ = "templates"
    __table_args__ = table(UniqueConstraint("enterprise_id", "datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    state: Mapped[TemplateState]
    cpu: Mapped[int]
    ram_mib: Mapped[int]
    created_at: Mapped[datetime]
    hardware: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    about: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    category: Mapped[str | None] = mapped_column(String(63))
    shared: Mapped[bool] = mapped_column(default=False)
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    master_id: Mapped[UUID | None] = mapped_column(ForeignKey("templates.id"))


class TemplateDisk(Base):
    """One disk of a template: an image, whose `path` in the repository is empty until published.

    A persistent template's is a volume, of which there is neither path nor digest.
    """

    __tablename__ = "template_disks"
    __table_args__ = table(UniqueConstraint("template_id", "position"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    template_id: Mapped[UUID] = mapped_column(ForeignKey("templates.id"))
    position: Mapped[int]
    format: Mapped[Format]
    subformat: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(500))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    virtual_size_mib: Mapped[int]
    identity: Mapped[dict[str, Any]]
    volume_id: Mapped[UUID | None] = mapped_column(ForeignKey("volumes.id"))


class Conversion(Base):
    """A template disk's image in another format, cached by digest, format and options."""

    __tablename__ = "conversions"
    __table_args__ = table(UniqueConstraint("datacenter_id", "source_digest", "format", "options"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    source_digest: Mapped[str] = mapped_column(String(64))
    format: Mapped[Format]
    options: Mapped[str]
    state: Mapped[ConversionState]
    path: Mapped[str] = mapped_column(String(500))
    digest: Mapped[str] = mapped_column(String(64))
    identity: Mapped[dict[str, Any]]


class VirtualDatacenter(Labelled, Base):
    """A tenant's slice of one datacenter, with one hypervisor family."""

    __tablename__ = "virtual_datacenters"
    __table_args__ = table(UniqueConstraint("enterprise_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    name: Mapped[str]
    family: Mapped[Family]


class Appliance(Labelled, Base):
    """A virtual appliance; its state is derived from its VMs'."""

    __tablename__ = "appliances"
    __table_args__ = table(UniqueConstraint("virtual_datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    virtual_datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("virtual_datacenters.id"))
    name: Mapped[str]
    approval: Mapped[bool] = mapped_column(default=False)
    wait_for: Mapped[str | None] = mapped_column(String(16))  # of its VMs that say nothing
    created_at: Mapped[datetime]


class VirtualMachine(Labelled, Base):
    """A VM; `state` is the one it had before an operation locked it.

    VMs of an appliance with one `affinity` would be on one host, with one `anti_affinity` on
    different ones; `tier_id` is the datastore's that their disks are to be on. What destroys is
    refused of a `protected` one. Its user data is a secret, and so is what opens its screen.
    """

    __tablename__ = "vms"
    __table_args__ = table(UniqueConstraint("appliance_id", "name"), Index(None, "host_id"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    appliance_id: Mapped[UUID] = mapped_column(ForeignKey("appliances.id"))
    template_id: Mapped[UUID] = mapped_column(ForeignKey("templates.id"))
    name: Mapped[str]
    position: Mapped[int]
    depends_on: Mapped[list[str]]
    cpu: Mapped[int]
    ram_mib: Mapped[int]
    state: Mapped[VmState]
    host_id: Mapped[UUID | None] = mapped_column(ForeignKey("hosts.id"))
    datastore_id: Mapped[UUID | None] = mapped_column(ForeignKey("datastores.id"))
    tier_id: Mapped[UUID | None] = mapped_column(ForeignKey("tiers.id"))
    affinity: Mapped[str | None]
    anti_affinity: Mapped[str | None]
    protected: Mapped[bool] = mapped_column(default=False)
    user_data_id: Mapped[UUID | None] = mapped_column(ForeignKey("secrets.id"))
    boot: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    screen_id: Mapped[UUID | None] = mapped_column(ForeignKey("secrets.id"))
    leaving: Mapped[bool] = mapped_column(default=False)  # it goes when its appliance is deployed
    firmware: Mapped[str | None] = mapped_column(String(16))
    bus: Mapped[str | None] = mapped_column(String(16))
    guest_system: Mapped[str | None] = mapped_column(String(64))
    wait_for: Mapped[str | None] = mapped_column(String(16))


class VmDisk(Base):
    """A disk of a VM: on its host's datastore while deployed, or a volume once persistent.

    One that is made of no image of the template's is empty at first.
    """

    __tablename__ = "disks"
    __table_args__ = table(UniqueConstraint("vm_id", "position"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id"))
    position: Mapped[int]
    template_disk_id: Mapped[UUID | None] = mapped_column(ForeignKey("template_disks.id"))
    size_mib: Mapped[int]
    base: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    volume_id: Mapped[UUID | None] = mapped_column(ForeignKey("volumes.id"))


class NicRow(Base):
    """A network interface of a VM; the default one's network has the gateway that it uses."""

    __tablename__ = "nics"
    __table_args__ = table(UniqueConstraint("vm_id", "position"), Index(None, "network_id"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id"))
    network_id: Mapped[UUID] = mapped_column(ForeignKey("networks.id"))
    position: Mapped[int]
    mac: Mapped[str] = mapped_column(String(17), unique=True)
    model: Mapped[str | None] = mapped_column(String(32))
    is_default: Mapped[bool] = mapped_column(default=False)


class VolumeRow(Labelled, Base):
    """An iSCSI volume; `position` is its place among the disks of the VM that uses it."""

    __tablename__ = "volumes"
    __table_args__ = table(UniqueConstraint("virtual_datacenter_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    virtual_datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("virtual_datacenters.id"))
    pool_id: Mapped[UUID] = mapped_column(ForeignKey("storage_pools.id"))
    name: Mapped[str]
    size_mib: Mapped[int]
    carved: Mapped[bool]
    state: Mapped[VolumeState]
    vm_id: Mapped[UUID | None] = mapped_column(ForeignKey("vms.id"))
    position: Mapped[int]


class ExportRow(Base):
    """The right of one initiator to use a volume, and where it finds it."""

    __tablename__ = "exports"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    volume_id: Mapped[UUID] = mapped_column(ForeignKey("volumes.id"), index=True)
    initiator: Mapped[str]
    secret_id: Mapped[UUID] = mapped_column(ForeignKey("secrets.id"))
    target: Mapped[dict[str, Any]]


class SharedThing(Base):
    """A backend object with claims; `remover` is removing it, or somebody has it in hand."""

    __tablename__ = "shared_things"
    name: Mapped[str] = mapped_column(String(500), primary_key=True)
    remover: Mapped[UUID | None]
    kept_until: Mapped[datetime | None]


class Claim(Base):
    """`holder` (such as `disk:<id>`) needs the shared thing for as long as it lives."""

    __tablename__ = "claims"
    thing: Mapped[str] = mapped_column(String(500), ForeignKey(SharedThing.name), primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)


class Place(Base):
    """One of the few places at a host or a repository, and the runner that has it."""

    __tablename__ = "places"
    thing: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    operation_id: Mapped[UUID | None]
    epoch: Mapped[int]
    turn: Mapped[int] = mapped_column(server_default="0")


class Waiter(Base):
    """A runner that waits for a place, and in which turn of its enterprise."""

    __tablename__ = "waiters"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(index=True)
    operation_id: Mapped[UUID]
    epoch: Mapped[int]
    enterprise_id: Mapped[UUID | None]
    turn: Mapped[int]
    since: Mapped[datetime]


class Lock(Base):
    """An object that an operation has; gone when the operation ends."""

    __tablename__ = "locks"
    object_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"), index=True)


class Operation(Base):
    """One thing asked for; with its lease (`runner` to `due_at`).

    `due_at` is when to look after it: at once while accepted, when the lease expires, when it
    has waited too long for `approval`, later for a provisional receipt; never when stuck, settled.
    """

    __tablename__ = "operations"
    __table_args__ = table(Index(None, "state", "kind"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[OperationState]
    target_kind: Mapped[str] = mapped_column(String(32))
    target_id: Mapped[UUID] = mapped_column(index=True)
    target_name: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    objects: Mapped[list[str]]
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    datacenter_id: Mapped[UUID] = mapped_column(ForeignKey("datacenters.id"))
    virtual_datacenter_id: Mapped[UUID | None] = mapped_column(index=True)  # of its target
    requested_by: Mapped[str]
    approval: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    wish: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    accepted_at: Mapped[datetime] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    provisional: Mapped[bool]
    left_behind: Mapped[bool]
    epoch: Mapped[int]
    runner_host: Mapped[str | None]
    runner_pid: Mapped[int | None]
    runner_started: Mapped[float | None]
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    attempt: Mapped[int]
    flow_run_id: Mapped[UUID | None]
    traceparent: Mapped[str | None] = mapped_column(String(64))


class Step(Base):
    """One line of the journal."""

    __tablename__ = "steps"
    __table_args__ = table(Index(None, "operation_id", "position"))
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    lane: Mapped[str]
    host: Mapped[str] = mapped_column(String(36))
    layer: Mapped[int]
    position: Mapped[int]
    arguments: Mapped[dict[str, Any]]
    found: Mapped[bool]
    state: Mapped[StepState]
    result: Mapped[Any] = mapped_column(JSON())
    error: Mapped[str | None] = mapped_column(LONG)
    percent: Mapped[int | None]
    attempts: Mapped[int]
    epoch: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Receipt(Base):
    """What was asked about one step when its operation ended, and what was answered."""

    __tablename__ = "receipts"
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    query: Mapped[str] = mapped_column(LONG)
    expected: Mapped[str] = mapped_column(String(16))
    answer: Mapped[str] = mapped_column(LONG)
    as_expected: Mapped[bool]
    looked_at: Mapped[datetime]
