"""VMs: what they are, and what may be done with each of them."""

from collections.abc import Iterable, Sequence
from functools import partial
from ipaddress import IPv6Network
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import Session

from adapters.amounts import Force
from adapters.database import models
from adapters.database import operations as accepted
from adapters.database.events import tell
from adapters.database.labels import labels_of
from adapters.database.records import VolumeRecord
from adapters.errors import Conflict
from adapters.guests import Boot, Bus, Firmware
from adapters.lan import WaitFor, stateless
from adapters.privileges import Privilege
from adapters.types import Power, VmState
from api import consoles, finding
from api.consoles import Console, ConsoleKind
from api.dependencies import Caller, Name, Pages, chosen
from api.deploying import Deploying
from api.forcing import Forcing
from api.labelling import SoughtLabels
from api.permissions import needs
from api.planning import ANSWERS, PlannedStarting
from api.protection import require_unprotected
from api.reports import Operation
from api.routers.volumes import Volume, require_new_name
from api.starting import Starting
from flows.abilities import Capability, require_ability, require_readable
from flows.charges import require_within, to_deploy
from flows.choose_pool import choose_pool
from flows.cloud import cloud
from flows.reserve_host import place

B = TypeVar("B", bound=BaseModel)

router = APIRouter(prefix="/vms", tags=["vms"])
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Operation}}


class Disk(BaseModel):
    """A VM's disk: of its template's, or one more; `volume_id` when it is persistent."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    position: int
    size_mib: int
    template_disk_id: UUID | None
    volume_id: UUID | None


class Nic(BaseModel):
    """A VM's network interface."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    network_id: UUID
    position: int
    mac: str
    address: str | None = Field(None, description="That is reserved for it in its network.")
    address6: str | None = Field(None, description="That it has by its MAC, in its network's /64.")
    is_default: bool = Field(description="Its guest's packets leave by its network's gateway.")
    model: str | None = Field(description="What its template wishes for; null: the fastest.")


class HostOfVm(BaseModel):
    """Where a VM runs."""

    id: UUID
    name: str


class Vm(BaseModel):
    """A virtual machine."""

    id: UUID
    name: str
    appliance_id: UUID
    template_id: UUID
    state: VmState
    locked_by: UUID | None
    leaving: bool = Field(description="It goes when its appliance is deployed the next time.")
    cpu: int
    ram_mib: int
    depends_on: list[str]
    tier_id: UUID | None
    affinity: str | None
    anti_affinity: str | None
    protected: bool
    has_user_data: bool
    boot: list[Boot]
    has_vnc_password: bool
    firmware: Firmware
    bus: Bus | None = Field(description="Of its disks and volumes; null: what is fastest there.")
    wait_for: WaitFor | None = Field(description="Of its deployment; null: as its appliance says.")
    labels: dict[str, str]
    host: HostOfVm | None
    disks: list[Disk]
    volumes: list[Volume]
    nics: list[Nic]


class PowerWish(BaseModel):
    """What a VM's power is to be."""

    model_config = ConfigDict(extra="forbid")

    power: Power


class ConsoleWish(BaseModel):
    """Which of a VM's lines somebody wants to open."""

    model_config = ConfigDict(extra="forbid")

    kind: ConsoleKind


class ConsoleAddress(BaseModel):
    """Where a line to a VM may be opened, once."""

    url: str = Field(description="A WebSocket of binary messages, such as noVNC opens.")
    valid_s: int


class Persistence(Forcing):
    """The volume that becomes a VM's boot disk."""

    volume: Name | None = Field(None, description="Its name; else the VM's, with `-boot`.")
    tier: Name = "default"


@router.get("", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def list_vms(
    caller: Caller,
    page: Pages,
    sought: SoughtLabels,
    name: str | None = None,
    state: VmState | None = None,
    virtual_datacenter_id: UUID | None = None,
    appliance_id: UUID | None = None,
    host_id: UUID | None = None,
    template_id: UUID | None = None,
) -> list[Vm]:
    """List VMs."""
    query = finding.vms(caller)
    if virtual_datacenter_id:
        inside = models.Appliance.virtual_datacenter_id == virtual_datacenter_id
        query = query.where(
            models.VirtualMachine.appliance_id.in_(select(models.Appliance.id).where(inside))
        )
    if state:
        query = query.where(_in_state(state))
    query = chosen(
        query,
        name=name,
        appliance_id=appliance_id,
        host_id=host_id,
        template_id=template_id,
    )
    query = sought.among(query, models.VirtualMachine)
    with cloud.database.read() as db:
        return vms_of(db, page.rows(db, query, models.VirtualMachine, "name", "state"))


@router.get("/{vm_id}", dependencies=[needs(Privilege.VDC_ENUMERATE)])
def read_vm(vm_id: UUID, caller: Caller) -> Vm:
    """Read a VM."""
    with cloud.database.read() as db:
        return vms_of(db, [finding.vm(db, caller, vm_id)])[0]


@router.post(
    "/{vm_id}/deploy",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_DEPLOY_UNDEPLOY)],
)
def deploy(
    vm_id: UUID, caller: Caller, starter: PlannedStarting, how: Deploying | None = None
) -> Response:
    """Deploy a VM on the host with the most room."""
    wish = how or Deploying()
    force = wish.by(caller)
    with cloud.database.read() as db:
        datacenter = datacenter_of(db, finding.vm(db, caller, vm_id).appliance_id)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "deploy", vm)
        if vm.leaving:
            raise Conflict(f"VM {vm.name} leaves its appliance: keep it first", code="vm-leaving")
        locks, waits_s = volume_locks(db, [vm]), starter.waits_s(db, vm.appliance_id)
        return starter.request(
            "deploy_vm", vm.id, vm.name, datacenter, locks, waits_s, force=force, **wish.waits
        )

    return starter.start(plan, lambda: require_room([vm_id], datacenter, force), wish=wish)


@router.post(
    "/{vm_id}/undeploy",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_DEPLOY_UNDEPLOY)],
)
def undeploy(vm_id: UUID, caller: Caller, starter: PlannedStarting) -> Response:
    """Take a VM off its host: its disks go, its volumes stay."""

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "undeploy", vm)
        require_unprotected(db, "undeploy", [vm])
        datacenter = datacenter_of(db, vm.appliance_id)
        return starter.request("undeploy_vm", vm.id, vm.name, datacenter, volume_locks(db, [vm]))

    return starter.start(plan)


@router.post(
    "/{vm_id}/power",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_PERFORM_ACTIONS)],
)
def change_power(vm_id: UUID, wish: PowerWish, caller: Caller, starter: Starting) -> Response:
    """Switch a deployed VM on, or off: its guest is asked first; pause it, or let it go on."""

    def check() -> None:
        if wish.power is Power.PAUSED:
            require_ability(vm_id, Capability.PAUSE)

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, f"power {wish.power}", vm)
        return starter.request(
            "change_power",
            vm.id,
            vm.name,
            datacenter_of(db, vm.appliance_id),
            volume_locks(db, [vm]),
            power=wish.power,
            former=vm.state,
        )

    return starter.start(plan, check)


@router.post(
    "/{vm_id}/reset",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[needs(Privilege.VAPP_PERFORM_ACTIONS)],
)
def reset(vm_id: UUID, caller: Caller, starter: Starting) -> Response:
    """Start a VM that is on anew, at once: its guest is not asked, and nothing brings it back."""

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "reset", vm)
        require_unprotected(db, "reset", [vm])
        return starter.request("reset_vm", vm.id, vm.name, datacenter_of(db, vm.appliance_id))

    return starter.start(plan, lambda: require_ability(vm_id, Capability.RESET))


@router.post("/{vm_id}/console", dependencies=[needs(Privilege.VAPP_PERFORM_ACTIONS)])
def open_console(
    vm_id: UUID, wish: ConsoleWish, request: Request, caller: Caller
) -> ConsoleAddress:
    """Say where the serial port or the screen of a VM that is not off can be opened."""
    with cloud.database.write() as db:
        row = finding.vm(db, caller, vm_id)
        vm = row.id
        tell(db, "vm.console-opened", row, console=wish.kind)
    path = consoles.address(Console(token_id=caller.token_id, vm=vm, kind=wish.kind))
    base = urlsplit(cloud.settings.public_url or str(request.base_url))
    scheme = "wss" if base.scheme == "https" else "ws"
    url = f"{scheme}://{base.netloc}{base.path.rstrip('/')}{path}"
    return ConsoleAddress(url=url, valid_s=consoles.VALID_S)


@router.post(
    "/{vm_id}/persist",
    status_code=202,
    responses=ANSWERS,
    dependencies=[needs(Privilege.VAPP_CREATE_STATEFUL)],
)
def persist(vm_id: UUID, wish: Persistence, caller: Caller, starter: PlannedStarting) -> Response:
    """Move the boot disk of a VM that is off onto a volume that outlives its deployment."""
    with cloud.database.read() as db:
        vm = finding.vm(db, caller, vm_id)
        boot = _boot_disk(db, vm)
        appliance = db.get_one(models.Appliance, vm.appliance_id)
        record = VolumeRecord(
            id=uuid5(starter.id, "volume"),
            name=wish.volume or f"{appliance.name}-{vm.name}-boot",
            virtual_datacenter_id=appliance.virtual_datacenter_id,
            pool_id=starter.id,  # until one is chosen
            size_mib=boot.size_mib,
        )
        datacenter = datacenter_of(db, vm.appliance_id)
    choose = partial(choose_pool, datacenter, wish.tier, record.size_mib)
    pool = starter.chosen("pool", choose)
    record = record.model_copy(update={"pool_id": pool})

    def plan(db: Session) -> accepted.Request:
        vm = finding.vm(db, caller, vm_id)
        starter.require(db, "persist", vm)
        _boot_disk(db, vm)
        require_new_name(db, record.virtual_datacenter_id, record.name)
        locks = volume_locks(db, [vm])
        return starter.request(
            "persist_vm", vm.id, vm.name, datacenter, locks, volume=record, force=force
        )

    def check() -> None:
        require_readable(vm_id)
        require_within(uses, force)

    uses, force = cloud.ledger.of_volumes([record]), wish.by(caller)
    return starter.start(plan, check, wish=wish)


def vms_of(db: Session, rows: Sequence[models.VirtualMachine]) -> list[Vm]:
    """VMs with all that they have, however many, by a few queries."""
    ids = [row.id for row in rows]
    locks = select(models.Lock.object_id, models.Lock.operation_id)
    locks = locks.where(models.Lock.object_id.in_(ids))
    locked = {lock.object_id: lock.operation_id for lock in db.execute(locks)}
    hosts = select(models.Host.id, models.Host.name)
    hosts = hosts.where(models.Host.id.in_({row.host_id for row in rows}))
    host_names = {host.id: host.name for host in db.execute(hosts)}
    disks = _by_vm(db, models.VmDisk, Disk, ids)
    nics = _by_vm(db, models.NicRow, Nic, ids)
    tell_addresses(db, [nic for some in nics.values() for nic in some])
    volumes = _by_vm(db, models.VolumeRow, Volume, ids)
    on_volumes = labels_of(db, [each.id for some in volumes.values() for each in some])
    for volume in (each for some in volumes.values() for each in some):
        volume.labels = on_volumes.get(volume.id, {})
    return [
        Vm(
            id=row.id,
            name=row.name,
            appliance_id=row.appliance_id,
            template_id=row.template_id,
            state=VmState.LOCKED if row.id in locked else row.state,
            locked_by=locked.get(row.id),
            leaving=row.leaving,
            cpu=row.cpu,
            ram_mib=row.ram_mib,
            depends_on=row.depends_on,
            tier_id=row.tier_id,
            affinity=row.affinity,
            anti_affinity=row.anti_affinity,
            protected=row.protected,
            has_user_data=row.user_data_id is not None,
            boot=row.boot or [Boot.DISK],
            has_vnc_password=row.screen_id is not None,
            firmware=Firmware(row.firmware or Firmware.BIOS),
            bus=row.bus and Bus(row.bus),
            wait_for=row.wait_for and WaitFor(row.wait_for),
            labels=row.labels,
            host=HostOfVm(id=row.host_id, name=host_names[row.host_id]) if row.host_id else None,
            disks=disks.get(row.id, []),
            volumes=volumes.get(row.id, []),
            nics=nics.get(row.id, []),
        )
        for row in rows
    ]


def tell_addresses(db: Session, nics: Sequence[Nic]) -> None:
    """Tell the addresses that these NICs have."""
    ranges = select(models.Network.id, models.Network.range6).where(
        models.Network.id.in_({nic.network_id for nic in nics}), models.Network.range6.is_not(None)
    )
    announced = {network: IPv6Network(said) for network, said in db.execute(ranges)}
    table = models.AddressRow
    query = select(table.nic_id, table.network_id, table.address)
    query = query.where(table.nic_id.in_([nic.id for nic in nics]))
    had = {(nic, network): address for nic, network, address in db.execute(query)}
    for nic in nics:
        nic.address = had.get((nic.id, nic.network_id))
        if range6 := announced.get(nic.network_id):
            nic.address6 = str(stateless(range6, nic.mac))


def datacenter_of(db: Session, appliance: UUID) -> UUID:
    """The datacenter that an appliance is in."""
    row = db.get_one(models.Appliance, appliance)
    return db.get_one(models.VirtualDatacenter, row.virtual_datacenter_id).datacenter_id


def volume_locks(db: Session, vms: Iterable[models.VirtualMachine]) -> list[tuple[str, UUID]]:
    """The locks that an operation on these VMs needs for their volumes."""
    query = (
        select(models.VolumeRow.id)
        .where(models.VolumeRow.vm_id.in_([vm.id for vm in vms]))
        .order_by(models.VolumeRow.id)
    )
    return [("volume", volume) for volume in db.scalars(query)]


def require_room(vms: Sequence[UUID], datacenter: UUID, force: Force | None) -> None:
    """Refuse at once what is beyond limits, or finds no host, each VM counting for those after."""
    require_within(to_deploy(vms), force)
    place(list(vms), datacenter)


def _boot_disk(db: Session, vm: models.VirtualMachine) -> models.VmDisk:
    boot = db.scalars(select(models.VmDisk).filter_by(vm_id=vm.id, position=0)).one()
    if boot.volume_id is not None:
        raise Conflict(f"VM {vm.name} is persistent already", code="already-persistent")
    return boot


def _in_state(state: VmState) -> ColumnElement[bool]:
    """As it is shown: LOCKED while an operation has it, whatever it was before."""
    table = models.VirtualMachine
    locked = exists().where(models.Lock.object_id == table.id)
    return locked if state is VmState.LOCKED else and_(table.state == state, ~locked)


def _by_vm(db: Session, table: Any, told: type[B], vms: Sequence[UUID]) -> dict[UUID, list[B]]:
    """What each VM has of these, by columns: entities would cost more than asking for them."""
    columns = [
        getattr(table, x) for x in told.model_fields if x not in {"labels", "address", "address6"}
    ]
    query = select(table.vm_id.label("of"), *columns).where(table.vm_id.in_(vms))
    found: dict[UUID, list[B]] = {}
    for row in db.execute(query.order_by(table.position)):
        found.setdefault(row.of, []).append(told.model_validate(row))
    return found
