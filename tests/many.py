"""Many VMs of many enterprises in a world's database, one of them far larger."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import insert, select

from adapters.database import models
from adapters.database.labels import LabelRow
from adapters.types import Family, OperationState, VmState, VolumeState
from flows.cloud import cloud
from tests.worlds import World

VMS_OF_AN_APPLIANCE = 10
_STATES = [VmState.ON, VmState.OFF, VmState.NOT_ALLOCATED, VmState.ON, VmState.PAUSED]
_BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Largest:
    """The largest enterprise, and something of each kind in it."""

    enterprise: UUID
    vdc: UUID
    appliance: UUID
    template: UUID
    host: UUID
    vm: str
    vms: int


def fill(world: World, vms: int = 25_000, enterprises: int = 500) -> Largest:
    """Enter them; the largest enterprise has a tenth of all, the others have equally many."""
    sizes = [vms // 10, *[(vms - vms // 10) // (enterprises - 1)] * (enterprises - 1)]
    sizes[1] += vms - sum(sizes)
    rows: dict[type[models.Base], list[dict[str, object]]] = {}

    def add(table: type[models.Base], **values: object) -> UUID:
        made = uuid4()
        rows.setdefault(table, []).append({"id": made, **values})
        return made

    with cloud.database.read() as db:
        disk = db.scalars(select(models.TemplateDisk.id)).first()
    for n, size in enumerate(sizes):
        tenant = add(models.Enterprise, name=f"tenant-{n:03}", approval=False)
        templates = [_template(add, world, tenant, each) for each in range(4)]
        vdc = add(
            models.VirtualDatacenter,
            enterprise_id=tenant,
            datacenter_id=world.datacenter,
            name="demo",
            family=Family.MEMORY,
        )
        network = add(
            models.Network,
            virtual_datacenter_id=vdc,
            datacenter_id=world.datacenter,
            name="default",
            kind="restricted",
        )
        for number in range(size):
            if number % VMS_OF_AN_APPLIANCE == 0:
                appliance = add(
                    models.Appliance,
                    virtual_datacenter_id=vdc,
                    name=f"shop-{number:05}",
                    approval=False,
                    created_at=_BEGAN + timedelta(seconds=number),
                )
            state = _STATES[number % len(_STATES)]
            host = world.hosts[number % min(20, len(world.hosts))]
            vm = add(
                models.VirtualMachine,
                appliance_id=appliance,
                template_id=templates[number % len(templates)],
                name=f"vm-{number:05}",
                position=number % VMS_OF_AN_APPLIANCE,
                depends_on=[],
                cpu=1,
                ram_mib=128,
                state=state,
                host_id=None if state is VmState.NOT_ALLOCATED else host,
                datastore_id=None,
            )
            _label(rows, "vms", vm, env=("live", "test")[number % 2])
            if number % 100 == 0:
                _label(rows, "vms", vm, few="yes")
            add(models.VmDisk, vm_id=vm, position=0, template_disk_id=disk, size_mib=64)
            mac = f"52:54:{n >> 8:02x}:{n & 255:02x}:{number >> 8:02x}:{number & 255:02x}"
            add(models.NicRow, vm_id=vm, network_id=network, position=0, mac=mac)
            if number % 5 == 0:
                _volume(add, world, vdc, number)
                _operation(add, world, tenant, vm, number)
        if n == 0:
            found = Largest(tenant, vdc, appliance, templates[0], world.hosts[0], "", size)
    tiers = [
        add(
            models.Tier,
            datacenter_id=world.datacenter,
            name=f"tier-{n}",
            description="",
            enabled=True,
        )
        for n in range(10)
    ]
    for n in range(100):
        device = add(
            models.StorageDevice,
            datacenter_id=world.datacenter,
            name=f"san-{n:03}",
            technology="memory",
            host="127.0.0.1",
            port=3260,
            control=0,
        )
        add(
            models.StoragePool,
            device_id=device,
            name=f"pool-{n:03}",
            tier_id=tiers[n % 10],
            directory="",
            total_mib=4096,
        )
    with cloud.database.write() as db:
        for table, values in rows.items():
            db.execute(insert(table), values)
    return Largest(**{**vars(found), "vm": f"vm-{sizes[0] // 2:05}"})


def _label(rows, kind: str, thing: UUID, **labels: str) -> None:
    for key, value in labels.items():
        row = {"object_id": thing, "kind": kind, "key": key, "value": value}
        rows.setdefault(LabelRow, []).append(row)


def _template(add, world: World, tenant: UUID, number: int) -> UUID:
    return add(
        models.Template,
        enterprise_id=tenant,
        datacenter_id=world.datacenter,
        name=f"linux-{number}",
        shared=number % 10 == 0,
        state="AVAILABLE",
        cpu=1,
        ram_mib=128,
        created_at=_BEGAN,
    )


def _volume(add, world: World, vdc: UUID, number: int) -> None:
    add(
        models.VolumeRow,
        virtual_datacenter_id=vdc,
        pool_id=world.pool,
        name=f"data-{number:05}",
        size_mib=8,
        carved=True,
        state=VolumeState.DETACHED,
        vm_id=None,
        position=0,
    )


def _operation(add, world: World, tenant: UUID, vm: UUID, number: int) -> None:
    add(
        models.Operation,
        kind=("deploy_vm", "undeploy_vm", "change_power")[number // 5 % 3],
        version="0",
        state=OperationState.SUCCEEDED,
        target_kind="vm",
        target_id=vm,
        target_name=f"vm-{number:05}",
        arguments={},
        objects=[],
        enterprise_id=tenant,
        datacenter_id=world.datacenter,
        requested_by="first",
        approval=None,
        wish=None,
        error=None,
        accepted_at=_BEGAN + timedelta(seconds=number),
        provisional=False,
        left_behind=False,
        epoch=1,
        due_at=None,
        attempt=1,
        flow_run_id=None,
    )
