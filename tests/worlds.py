"""A small cloud on memory adapters, and photographs of it: before == after is the whole law."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import insert, select

from adapters.amounts import Amounts
from adapters.database import models
from adapters.database.addressing import network_of
from adapters.database.conventions import Base
from adapters.database.ledger import ChargeRow
from adapters.database.operations import Operation, Request
from adapters.database.records import NewTemplate
from adapters.database.schema import FIRST_ENTERPRISE, migrate
from adapters.database.session import Database, engine, utc_now
from adapters.images.memory import write_image
from adapters.images.packing import pack, package_of
from adapters.images.repository import initialise
from adapters.settings import Settings
from adapters.types import Family, Format, TemplateState, VmState, VolumeState
from flows.catalog import FLOWS
from flows.cloud import cloud

DATABASE = "cloudloom.sqlite"
# What an operation leaves in the database on purpose: its own story.
STORY = {
    *("operations", "steps", "receipts", "idempotency_keys", "locks", "places"),
    *("durations", "workers", "events"),
}


def write_package(path: Path, *contents: str, **said: Any) -> None:
    """An OVA of pretended disks, of 1 MiB each."""
    with TemporaryDirectory() as folder:
        disks = [Path(folder, f"disk-{n}") for n, _ in enumerate(contents)]
        for disk, content in zip(disks, contents, strict=True):
            write_image(disk, Format.VMDK, 2**20, content)
        package = package_of("packed", [(disk, 2**20) for disk in disks], **said)
        pack(package, disks, path)


def vmdk_set(
    content: str = "imported", name: str = "d", kind: str = "twoGbMaxExtentFlat"
) -> dict[str, bytes]:
    """The files of a pretended image of 1 MiB: a descriptor, then two extents, by name."""
    with TemporaryDirectory() as folder:
        write_image(Path(folder, "image"), Format.VMDK, 2**20, content)
        image = Path(folder, "image").read_bytes()
    pieces = {f"{name}-f001.vmdk": image[:20], f"{name}-f002.vmdk": image[20:]}
    lines = "".join(f'RW 1024 FLAT "{piece}" 0\n' for piece in pieces)
    text = f'version=1\nCID=1\nparentCID=ffffffff\ncreateType="{kind}"\n{lines}'
    return {f"{name}.vmdk": text.encode(), **pieces}


def settings_in(home: Path, **changes: Any) -> Settings:
    """Settings for a test: no pauses, memory adapters."""
    fields: dict[str, Any] = {
        "home": home,
        "host_root": home / "host",
        "image_tool": "memory",
        "retries": 1,
        "retry_delay_s": 0,
        "retry_delay_max_s": 0,
        "backend_timeout_s": 0,
        "lease_s": 600,  # a machine that stands still costs no test its lease; `lapse` ends one
        "conversion_days": 0.01,
        "inbox_quiet_s": 0,
        "sweep_removes": True,
        "sweep_max_percent": 50,
        "rate_per_s": 0,
        "address_rate_per_s": 0,
    }
    return Settings(**{**fields, **changes})


@cache
def migrated() -> sqlite3.Connection:
    """A migrated database without rows: in memory, made once."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with TemporaryDirectory() as folder:
        made = Database(f"sqlite:///{folder}/{DATABASE}")
        migrate(made, Path(folder))
        with closing(made.engine.raw_connection()) as source:
            cast(sqlite3.Connection, source.driver_connection).backup(memory)
        made.engine.dispose()
    return memory


def put_migrated(file: Path) -> None:
    """Make an SQLite file of it."""
    with closing(sqlite3.connect(file)) as target:
        migrated().backup(target)


def refill(kept: Path | sqlite3.Connection) -> None:
    """Make the cloud's SQLite hold what this holds, under the connections that it has.

    Its engine stays, and with it every statement that it has compiled.
    """
    with closing(cloud.database.engine.raw_connection()) as raw:
        target = cast(sqlite3.Connection, raw.driver_connection)
        if isinstance(kept, Path):
            with closing(sqlite3.connect(kept)) as source:
                source.backup(target)
        else:
            kept.backup(target)


def keep(kept: Path) -> None:
    """Write down, for `refill`, what the cloud's SQLite holds."""
    with (
        closing(cloud.database.engine.raw_connection()) as source,
        closing(sqlite3.connect(kept)) as target,
    ):
        cast(sqlite3.Connection, source.driver_connection).backup(target)


@dataclass
class World:
    """The ids of what a small cloud has."""

    home: Path
    datacenter: UUID
    hosts: list[UUID]
    datastores: list[str]
    pool: UUID
    vdc: UUID
    network: UUID
    template: UUID
    dhcp: tuple[str, str] = ("memory", "")  # kind and address of its DHCP server, if any

    def add(self, row: Base) -> None:
        with cloud.database.write() as db:
            db.add(row)

    def appliance(self, *vms: str, template: UUID | None = None, **links: list[str]) -> UUID:
        """An appliance with VMs of these names; `links` says which depend on which."""
        appliance = uuid4()
        self.add(
            models.Appliance(
                id=appliance,
                virtual_datacenter_id=self.vdc,
                name=f"app-{appliance}",
                created_at=utc_now(),
            )
        )
        for position, name in enumerate(vms):
            self.vm(appliance, name, position, template or self.template, links.get(name, []))
        return appliance

    def vm(
        self, appliance: UUID, name: str, position: int, template: UUID, depends_on: list[str]
    ) -> UUID:
        vm = uuid4()
        with cloud.database.write() as db:
            db.add(
                models.VirtualMachine(
                    id=vm,
                    appliance_id=appliance,
                    template_id=template,
                    name=name,
                    position=position,
                    depends_on=depends_on,
                    cpu=1,
                    ram_mib=64,
                    state=VmState.NOT_ALLOCATED,
                )
            )
            db.flush()
            for image in db.scalars(
                select(models.TemplateDisk).where(models.TemplateDisk.template_id == template)
            ):
                db.add(
                    models.VmDisk(
                        id=uuid4(),
                        vm_id=vm,
                        position=image.position,
                        template_disk_id=image.id,
                        size_mib=image.virtual_size_mib,
                        volume_id=image.volume_id,
                    )
                )
                if image.volume_id:
                    volume = db.get_one(models.VolumeRow, image.volume_id)
                    volume.vm_id, volume.position = vm, image.position
                    volume.state = VolumeState.ATTACHED
            db.add(
                models.NicRow(
                    id=uuid4(),
                    vm_id=vm,
                    network_id=self.network,
                    position=0,
                    mac="52:54:00:" + ":".join(vm.hex[n : n + 2] for n in (0, 2, 4)),
                )
            )
        return vm

    def volume(
        self, name: str, vm: UUID | None = None, *, carved: bool = True, position: int = 1
    ) -> UUID:
        volume = uuid4()
        self.add(
            models.VolumeRow(
                id=volume,
                virtual_datacenter_id=self.vdc,
                pool_id=self.pool,
                name=name,
                size_mib=8,
                carved=carved,
                state=VolumeState.ATTACHED if vm else VolumeState.DETACHED,
                vm_id=vm,
                position=position if vm else 0,
            )
        )
        if carved:
            from flows.create_iscsi_volume import as_volume

            record = cloud.inventory.volume(volume)
            cloud.storage(self.pool).ensure_volume(as_volume(record))
            cloud.ledger.charge(cloud.ledger.of_volumes([record]), lambda _: True)
        return volume

    def image(self, name: str, form: Format, content: str = "") -> UUID:
        """A template whose one image has this format; and is another's, where one says so."""
        template, disk = uuid4(), uuid4()
        repository = cloud.repository(self.datacenter)
        path = f"templates/{template}/disk-0.{form.extension}"
        scratch = repository.scratch(f"made-{template}", 1024)
        write_image(scratch, form, 16 * 2**20, content or name)
        digest = repository.digest(scratch)
        identity = repository.publish(scratch, path)
        with cloud.database.write() as db:
            db.add(
                models.Template(
                    id=template,
                    enterprise_id=FIRST_ENTERPRISE,
                    datacenter_id=self.datacenter,
                    name=name,
                    state=TemplateState.AVAILABLE,
                    cpu=1,
                    ram_mib=64,
                    created_at=utc_now(),
                )
            )
            db.flush()
            db.add(
                models.TemplateDisk(
                    id=disk,
                    template_id=template,
                    position=0,
                    format=form,
                    subformat="",
                    digest=digest,
                    path=path,
                    size_bytes=identity.size_bytes,
                    virtual_size_mib=16,
                    identity=identity.model_dump(),
                )
            )
        new = NewTemplate(
            id=template, enterprise_id=FIRST_ENTERPRISE, datacenter_id=self.datacenter, name=name
        )
        cloud.ledger.charge([cloud.ledger.of_template(new, 1)], lambda _: True)
        return template

    def accept(
        self, kind: str, target: UUID, *locks: tuple[str, UUID], **arguments: Any
    ) -> Operation:
        """Accept an operation as the API would."""
        flow = FLOWS[kind]
        return cloud.operations.accept(
            Request(
                id=uuid4(),
                kind=kind,
                version=flow.version,
                target_kind=flow.target,
                target_id=target,
                target_name=str(target),
                arguments=arguments,
                enterprise_id=FIRST_ENTERPRISE,
                datacenter_id=self.datacenter,
                requested_by="tests",
                locks=locks or ((flow.target, target),),
            )
        )

    def run(self, kind: str, target: UUID, **arguments: Any) -> Operation:
        """Accept and run an operation here and now; it must succeed."""
        operation = FLOWS[kind](self.accept(kind, target, **arguments).id)
        assert operation.state == "succeeded", operation.error
        return operation


def empty(home: Path) -> None:
    """Remove everything from a home but the database, which an engine may have open."""
    home.mkdir(parents=True, exist_ok=True)
    for each in home.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif not each.name.startswith(DATABASE):
            each.unlink()


def away_from_disks(database: Path) -> None:
    """Let it be in memory, where `python -m tests` names a place there.

    A disk that others keep busy may take longer for one commit than a lease lasts.
    """
    memory = os.environ.get("CLOUDLOOM_TESTS_MEMORY")
    if memory and not database.is_symlink():
        database.parent.mkdir(parents=True, exist_ok=True)
        database.symlink_to(Path(memory, f"{uuid4()}.sqlite"))


def build(home: Path, *, hosts: int = 2, **changes: Any) -> World:
    """A datacenter with a repository, hosts, a pool, a VDC with a network, and a template.

    A home that was used before is used again, with the engine of its database.
    """
    if not (home / DATABASE).exists():
        engine.cache_clear()
        away_from_disks(home / DATABASE)
    cloud.become(settings_in(home, **changes))
    empty(home)
    if cloud.settings.database_url:
        migrate(cloud.database, home)
    else:
        refill(migrated())
    repository = home / "repository"
    repository.mkdir()
    marker = initialise(repository)
    world = World(
        home, uuid4(), [uuid4() for _ in range(hosts)], [], uuid4(), uuid4(), uuid4(), uuid4()
    )
    device, tier = uuid4(), uuid4()
    with cloud.database.write() as db:
        db.add(
            models.Datacenter(
                id=world.datacenter,
                name="main",
                repository=str(repository),
                repository_marker=marker,
            )
        )
        db.flush()
        db.add(models.Tier(id=tier, datacenter_id=world.datacenter, name="default"))
        for n, host in enumerate(world.hosts):
            db.add(
                models.Host(
                    id=host,
                    datacenter_id=world.datacenter,
                    name=f"host-{n}",
                    family=Family.MEMORY,
                    address="memory",
                    cpu=16,
                    ram_mib=4096,
                )
            )
            db.flush()
            directory = f"{home}/datastore-{n}"
            Path(directory).mkdir()
            world.datastores.append(directory)
            db.add(models.Datastore(id=uuid4(), host_id=host, uuid=uuid4(), directory=directory))
        db.add(
            models.StorageDevice(
                id=device,
                datacenter_id=world.datacenter,
                name="san",
                technology="memory",
                host="127.0.0.1",
                port=3260,
                control=0,
            )
        )
        db.flush()
        db.add(
            models.StoragePool(
                id=world.pool,
                device_id=device,
                name="pool",
                tier_id=tier,
                directory="",
                total_mib=4096,
            )
        )
        db.add(
            models.VirtualDatacenter(
                id=world.vdc,
                enterprise_id=FIRST_ENTERPRISE,
                datacenter_id=world.datacenter,
                name="demo",
                family=Family.MEMORY,
            )
        )
        db.flush()
        db.execute(
            insert(models.Network).values(
                id=world.network,
                virtual_datacenter_id=world.vdc,
                datacenter_id=world.datacenter,
                name="default",
                kind="restricted",
            )
        )
    world.template = world.image("tiny", Format.QCOW2)
    return world


def refresh_identities(world: World) -> None:
    """Record the files' identities anew: a copied world has the same files under other inodes."""
    repository = cloud.repository(world.datacenter)
    with cloud.database.write() as db:
        for table in (models.TemplateDisk, models.Conversion):
            for row in db.scalars(select(table)):
                if row.path:
                    row.identity = repository.identity(row.path).model_dump()


def photograph() -> dict[str, Any]:
    """Everything outside of operations' stories: backends, repository, tables."""
    tables: dict[str, Any] = {}
    with cloud.database.read() as db:
        for table in Base.metadata.sorted_tables:
            if table.name not in STORY:
                rows = db.execute(select(table)).mappings()
                tables[table.name] = sorted(
                    json.dumps({k: str(v) for k, v in row.items()}, sort_keys=True) for row in rows
                )
    home = cloud.settings.home
    folders = [home / "repository", *sorted(home.glob("datastore-*"))]
    files = sorted(
        str(each.relative_to(home))
        for folder in folders
        for each in folder.rglob("*")
        if each.is_file() and ".cloudloom-marks" not in each.parts  # how far it was: a story, too
    )
    world = cloud.world.everything()
    for properties in world.values():
        properties.pop("console", None)  # a log, of no weight
    return {"world": world, "tables": tables, "files": files}


def require_ledger_exact() -> None:
    """What is charged is what exists: no more, no less, nothing twice."""
    with cloud.database.read() as db:
        rows = db.scalars(select(ChargeRow)).all()
        charged = {(x.kind, x.id): _counted(x) for x in rows}
        vdcs = {x.id: x for x in db.scalars(select(models.VirtualDatacenter))}
        apps = {x.id: x.virtual_datacenter_id for x in db.scalars(select(models.Appliance))}
        disks, images = db.scalars(select(models.VmDisk)).all(), models.TemplateDisk
        exist: dict[tuple[str, UUID], dict[str, int]] = {}
        for vm in db.scalars(select(models.VirtualMachine).where(_VM.host_id.is_not(None))):
            local = sum(x.size_mib for x in disks if x.vm_id == vm.id and x.volume_id is None)
            used = {"cpu": vm.cpu, "ram_mib": vm.ram_mib, "disk_mib": local}
            exist["vm", vm.id] = {k: n for k, n in used.items() if n}
            where = next(x for x in rows if x.id == vm.id)
            assert where.virtual_datacenter_id == apps[vm.appliance_id]
        for volume in db.scalars(select(models.VolumeRow).where(models.VolumeRow.carved)):
            exist["volume", volume.id] = {"storage_mib": volume.size_mib}
        for image in db.scalars(select(images).where(images.path != "")):
            size_mib = -(-image.size_bytes // 2**20)
            exist["template", image.template_id] = {"repository_mib": size_mib}
        for network in db.scalars(select(models.Network)):
            if network_of(network).takes_tags:
                exist["network", network.id] = {"vlans": 1}
        bought = models.AddressRow.virtual_datacenter_id.is_not(None)
        for address in db.scalars(select(models.AddressRow.id).where(bought)):
            exist["address", address] = {"public_addresses": 1}
        assert charged == exist
        for row in rows:
            vdc = vdcs.get(row.virtual_datacenter_id)
            assert (vdc is None) == (row.kind == "template")
            assert vdc is None or row.datacenter_id == vdc.datacenter_id
            assert row.enterprise_id == (vdc.enterprise_id if vdc else FIRST_ENTERPRISE)


_VM = models.VirtualMachine


def _counted(row: ChargeRow) -> dict[str, int]:
    return {k: n for k in Amounts.model_fields if (n := getattr(row, k))}
