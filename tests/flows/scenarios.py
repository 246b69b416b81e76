"""An example of every operation: the world it needs, and what it is asked."""

import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy import delete, insert, select, update

from adapters.database import models
from adapters.database.conventions import Base
from adapters.database.operations import Operation
from adapters.database.packages import PackageRow
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import utc_now
from adapters.images.inbox import placed_in
from adapters.images.memory import write_image
from adapters.images.repository import INBOX
from adapters.images.vmdk import digest_of
from adapters.placed import Shape
from adapters.types import Chap, Family, Format, Source
from api import tokens
from api.tickets import use_up
from api.transfers import Transfer
from flows.cloud import cloud
from flows.policies.inbox import format_of
from tests.worlds import (
    DATABASE,
    World,
    build,
    empty,
    keep,
    photograph,
    refill,
    refresh_identities,
    settings_in,
    vmdk_set,
    write_package,
)

Asked = tuple[UUID, dict[str, Any]]
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Scenario:
    """How to ask for one kind of operation, and what of the world is not its to leave alone."""

    kind: str
    prepare: Callable[[World], Asked]
    stays: tuple[str, ...] = ()  # parts of names of files and tables: a library keeps what it has
    takes: str = ""  # part of the names of files that it takes away whatever happens

    def accept(self, world: World) -> Operation:
        target, arguments = self.prepare(world)
        return world.accept(self.kind, target, **arguments)

    def photograph(self) -> dict[str, Any]:
        photo = photograph()
        photo["tables"] = {k: v for k, v in photo["tables"].items() if k not in self.stays}
        photo["files"] = [
            each for each in photo["files"] if not any(f"/{part}/" in each for part in self.stays)
        ]
        return photo

    def before(self) -> dict[str, Any]:
        photo = self.photograph()
        photo["files"] = [x for x in photo["files"] if not self.takes or self.takes not in x]
        return photo


def rows() -> Rows:
    """Every row of every table."""
    tables = Base.metadata.sorted_tables
    with cloud.database.read() as db:
        return {x.name: [dict(row) for row in db.execute(select(x)).mappings()] for x in tables}


def put_rows_back(kept: Rows) -> None:
    """Make the tables hold these rows, and no others."""
    tables = Base.metadata.sorted_tables
    with cloud.database.write() as db:
        for table in reversed(tables):
            db.execute(delete(table))
        for table in tables:
            if kept[table.name]:
                db.execute(insert(table), kept[table.name])


class Worlds:
    """Prepared worlds with their accepted operations: made once, put back as often as needed.

    `fresh` answers the URL of an empty database; empty: SQLite, a file of the world.
    """

    def __init__(self, folder: Path, fresh: Callable[[], str] = str) -> None:
        self._folder = folder
        self._fresh = fresh
        self._made: dict[str, tuple[World, UUID, str, Rows]] = {}

    def new(self, url: str = "") -> World:
        """A world in which nothing was asked for yet; it ends where the next one begins."""
        home = self._folder / "home"
        return build(home, database_url=url)

    def put_back(self, name: str) -> Operation:
        kept = self._folder / f"kept-{name}"
        if name not in self._made:
            self._make(name, kept)
        world, operation, url, kept_rows = self._made[name]
        cloud.become(settings_in(world.home, database_url=url))
        empty(world.home)
        # copies keep their times, so that the repository's files are still themselves
        shutil.copytree(kept, world.home, dirs_exist_ok=True)
        if url:
            put_rows_back(kept_rows)
        else:
            refill(kept.with_suffix(".sqlite"))
        refresh_identities(world)
        return cloud.operations.read(operation)

    def _make(self, name: str, kept: Path) -> None:
        url = self._fresh()
        world = self.new(url)
        operation = SCENARIOS[name].accept(world).id
        self._made[name] = world, operation, url, rows()
        if not url:
            keep(kept.with_suffix(".sqlite"))
        cloud.become(cloud.settings)  # closes the memory world, so that it is one file
        shutil.copytree(world.home, kept, ignore=shutil.ignore_patterns(f"{DATABASE}*"))


def _vm_of(appliance: UUID) -> UUID:
    return cloud.inventory.vms_of(appliance)[0].id


def _volume(world: World, name: str, size_mib: int) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "name": name,
        "virtual_datacenter_id": str(world.vdc),
        "pool_id": str(world.pool),
        "size_mib": size_mib,
    }


def _off_vm_with_volume(world: World) -> UUID:
    vm = _deployed_vm(world)
    world.run("change_power", vm, power="off", former="ON")
    return vm


def _deployed_vm(world: World) -> UUID:
    vm = _vm_of(world.appliance("db"))
    world.volume("data", vm)
    world.run("deploy_vm", vm)
    return vm


def create_volume(world: World) -> Asked:
    volume = _volume(world, "data", 8)
    return UUID(volume["id"]), {"volume": volume}


def delete_volume(world: World) -> Asked:
    return world.volume("data"), {}


def create_network(world: World) -> Asked:
    network = {
        "id": str(uuid4()),
        "name": "shop",
        "kind": "private",
        "datacenter_id": str(world.datacenter),
        "virtual_datacenter_id": str(world.vdc),
        "range": "10.0.0.0/24",
    }
    return UUID(network["id"]), {"network": network}


def delete_network(world: World) -> Asked:
    network, asked = create_network(world)
    world.run("create_network", network, **asked)
    return network, {}


def attach(world: World) -> Asked:
    vm = _off_vm_with_volume(world)
    return world.volume("more"), {"vm": str(vm), "position": 2}


def detach(world: World) -> Asked:
    vm = _off_vm_with_volume(world)
    return cloud.inventory.vm(vm).volumes[0].id, {"vm": str(vm)}


def hot_attach(world: World) -> Asked:
    return world.volume("more"), {"vm": str(_deployed_vm(world)), "position": 2}


def hot_detach(world: World) -> Asked:
    vm = _deployed_vm(world)
    return cloud.inventory.vm(vm).volumes[0].id, {"vm": str(vm)}


def deploy_vm(world: World) -> Asked:
    vm = _vm_of(world.appliance("db", template=world.image("foreign", Format.VMDK)))
    world.volume("data", vm, carved=False)
    world.volume("more", vm, position=2)
    return vm, {}


def _seeded_vm(world: World, name: str = "db") -> UUID:
    vm, secret = _vm_of(world.appliance(name)), uuid4()
    with cloud.database.write() as db:
        given = Chap(user="", password=SecretStr("#cloud-config\n"))
        cloud.secrets.keep(db, secret, given)
        db.flush()
        db.get_one(models.VirtualMachine, vm).user_data_id = secret
    return vm


def deploy_seeded(world: World) -> Asked:
    """A VM with user data."""
    return _seeded_vm(world), {}


def networked(world: World) -> UUID:
    """Have hosts with uplinks, in racks; a DHCP server, and the world's network be private."""
    server, rack = uuid4(), uuid4()
    kind, address = world.dhcp
    with cloud.database.write() as db:
        db.add(
            models.DhcpServer(
                id=server, datacenter_id=world.datacenter, name="dhcp", kind=kind, address=address
            )
        )
        db.add(
            models.Rack(
                id=rack, datacenter_id=world.datacenter, name="rack", vlan_min=100, vlan_max=110,
                vlans_avoided=["100-104"], vlans_reserved=0, low_vlans_percent=0,
            )
        )  # fmt: skip
        db.flush()
        db.execute(update(models.Host).values(uplink="up0", link_kind="bridge", rack_id=rack))
        db.execute(
            update(models.Network).values(
                kind="private", range="10.0.0.0/24", gateway="10.0.0.1", number=7, suffix="lan",
                dhcp_server_id=server, relay="10.0.0.1", tag=None,
            )
        )  # fmt: skip
    _charged(world.network)
    return server


def _charged(network: UUID) -> None:
    """Charge a tenant's network, as creating it does."""
    record = cloud.networks.network(network)
    cloud.ledger.charge(cloud.networks.charges(record), lambda _: True)


def addressed(*vms: UUID) -> None:
    """Give each of these VMs' NICs an address."""
    with cloud.database.write() as db:
        nics = select(models.NicRow).where(models.NicRow.vm_id.in_(vms))
        for nic in db.scalars(nics.order_by(models.NicRow.id)):
            place = 2 + db.query(models.AddressRow).count()
            db.add(
                models.AddressRow(
                    id=uuid4(), network_id=nic.network_id, place=place,
                    address=f"10.0.0.{place}", nic_id=nic.id,
                )
            )  # fmt: skip
            db.flush()


def deploy_networked(world: World) -> Asked:
    """A VM in a private network that nobody is in yet."""
    networked(world)
    vm = _vm_of(world.appliance("db"))
    addressed(vm)
    return vm, {}


def deploy_awaited(world: World) -> Asked:
    """One that has to ask for its address."""
    return deploy_networked(world)[0], {"wait_for": "lease"}


def deploy_distributed(world: World) -> Asked:
    """One whose network is a port group of all hosts."""
    asked = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind="distributed", switch="DVS0"))
    return asked


def undeploy_networked(world: World) -> Asked:
    """The last VM of its network."""
    vm, asked = deploy_networked(world)
    world.run("deploy_vm", vm)
    return vm, asked


def deploy_networked_appliance(world: World) -> Asked:
    """Two VMs in a network that another one is in."""
    first, _ = undeploy_networked(world)
    assert cloud.inventory.vm(first).links
    appliance = world.appliance("mail", "web")
    vms = [vm.id for vm in cloud.inventory.vms_of(appliance)]
    addressed(*vms)
    return appliance, {"vms": [str(vm) for vm in vms]}


def sync_networked(world: World) -> Asked:
    """One VM leaves a network as another one comes."""
    networked(world)
    appliance = world.appliance("old")
    old = _vm_of(appliance)
    addressed(old)
    world.run("deploy_appliance", appliance, vms=[str(old)])
    new = world.vm(appliance, "new", 1, world.template, [])
    addressed(new)
    return appliance, {"vms": [str(new)], "leaving": [str(old)]}


def undeploy_seeded(world: World) -> Asked:
    vm = _seeded_vm(world)
    world.run("deploy_vm", vm)
    return vm, {}


def undeploy_vm(world: World) -> Asked:
    return _deployed_vm(world), {}


def deploy_appliance(world: World) -> Asked:
    foreign = world.image("foreign", Format.VMDK)
    appliance = world.appliance("db", "mail", "web", template=foreign, web=["db", "mail"])
    vms = cloud.inventory.vms_of(appliance)
    world.volume("data", vms[0].id)
    return appliance, {"vms": [str(vm.id) for vm in vms]}


def sync_appliance(world: World) -> Asked:
    """`old` leaves, with a volume of its own; `new` comes, and `db`, which it needs, stays."""
    appliance = world.appliance("db", "old")
    db, old = cloud.inventory.vms_of(appliance)
    world.volume("data", db.id)
    world.volume("more", old.id)
    world.run("deploy_appliance", appliance, vms=[str(db.id), str(old.id)])
    new = world.vm(appliance, "new", 2, world.image("foreign", Format.VMDK), ["db"])
    world.volume("fresh", new, carved=False)
    return appliance, {"vms": [str(new)], "leaving": [str(old.id)]}


def undeploy_appliance(world: World) -> Asked:
    appliance = world.appliance("db", "web", web=["db"])
    vms = cloud.inventory.vms_of(appliance)
    world.volume("data", vms[0].id)
    asked = {"vms": [str(vm.id) for vm in vms]}
    world.run("deploy_appliance", appliance, **asked)
    return appliance, asked


def power_off(world: World) -> Asked:
    return _deployed_vm(world), {"power": "off", "former": "ON"}


def power_on(world: World) -> Asked:
    return _off_vm_with_volume(world), {"power": "on", "former": "OFF"}


def pause(world: World) -> Asked:
    return _deployed_vm(world), {"power": "paused", "former": "ON"}


def _paused_vm(world: World) -> UUID:
    vm = _deployed_vm(world)
    world.run("change_power", vm, power="paused", former="ON")
    return vm


def go_on(world: World) -> Asked:
    return _paused_vm(world), {"power": "on", "former": "PAUSED"}


def power_off_paused(world: World) -> Asked:
    return _paused_vm(world), {"power": "off", "former": "PAUSED"}


def reset(world: World) -> Asked:
    return _deployed_vm(world), {}


def persist(world: World) -> Asked:
    vm = _off_vm_with_volume(world)
    return vm, {"volume": _volume(world, "boot", 16)}


def _captured(world: World, vm: UUID) -> Asked:
    record, template = cloud.inventory.vm(vm), _new_template(world, "captured")
    disks = [*record.local_disks, *record.volumes]
    asked = {"template": template, "disks": [str(disk.id) for disk in disks]}
    return vm, {**asked, "wishes": {"cpu": 2, "ram_mib": 64}}


def capture(world: World) -> Asked:
    """A VM that is off, with a volume and one disk more than its template has."""
    vm, asked = add_disk(world)
    world.run("add_disk", vm, **asked)
    return _captured(world, vm)


def capture_persistent(world: World) -> Asked:
    """One that boots from a volume."""
    vm, asked = persist(world)
    world.run("persist_vm", vm, **asked)
    return _captured(world, vm)


def capture_on(world: World) -> Asked:
    """One that is on, with its volume."""
    return _captured(world, _deployed_vm(world))


def capture_on_alone(world: World) -> Asked:
    """One that is on, and has no volume."""
    vm = _vm_of(world.appliance("db"))
    world.run("deploy_vm", vm)
    return _captured(world, vm)


def _sent(prepare: Callable[[World], Asked]) -> Callable[[World], Asked]:
    """The same on a host that shows nobody its disks, and sends them, as real ones of a family."""

    def prepared(world: World) -> Asked:
        with cloud.database.write() as db:
            pretended = update(models.Host).where(models.Host.family == Family.MEMORY)
            db.execute(pretended.values(address="memory?without=disk-files"))
        return prepare(world)

    return prepared


def _new_template(world: World, name: str) -> dict[str, str]:
    from adapters.database.schema import FIRST_ENTERPRISE

    return {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": name,
    }


def capture_volume(world: World) -> Asked:
    """All that a persistent VM which is off has: what it boots from, and a volume of nothing."""
    vm, asked = persist(world)
    world.run("persist_vm", vm, **asked)
    volumes = sorted(cloud.inventory.vm(vm).volumes, key=lambda volume: volume.position)
    template = _new_template(world, "captured")
    asked = {"template": template, "volumes": [str(volume.id) for volume in volumes]}
    return UUID(template["id"]), {**asked, "wishes": {"cpu": 2, "ram_mib": 64}}


def persist_template(world: World, source: UUID | None = None) -> Asked:
    source, template = source or world.template, _new_template(world, "root")
    sizes = [image.virtual_size_mib for image in cloud.library.images(source)]
    volumes = [_volume(world, f"root-{n}", size_mib) for n, size_mib in enumerate(sizes)]
    asked = {"template": template, "volumes": volumes, "source": str(source)}
    return UUID(template["id"]), asked


def persist_disks(world: World) -> Asked:
    """Of two disks."""
    return persist_template(world, packed_template(world))


def _persistent_template(world: World) -> UUID:
    template, asked = persist_disks(world)
    world.run("persist_template", template, **asked)
    return template


def _vm_of_volumes(world: World) -> UUID:
    return _vm_of(world.appliance("db", template=_persistent_template(world)))


def deploy_persistent(world: World) -> Asked:
    return _vm_of_volumes(world), {}


def undeploy_persistent(world: World) -> Asked:
    vm = _vm_of_volumes(world)
    world.run("deploy_vm", vm)
    return vm, {}


def delete_persistent(world: World) -> Asked:
    """A template whose disks are volumes."""
    template = _persistent_template(world)
    volumes = [str(volume.id) for volume in cloud.persistent.volumes(template)]
    asked = {"former": "AVAILABLE", "library": str(world.datacenter), "volumes": volumes}
    return template, asked


def resize(world: World) -> Asked:
    """More CPUs, less memory."""
    return _off_vm_with_volume(world), {"size": {"cpu": 2, "ram_mib": 32}}


def resize_on(world: World) -> Asked:
    """More CPUs, while it is on."""
    return _deployed_vm(world), {"size": {"cpu": 2}}


def resize_undeployed(world: World) -> Asked:
    return _vm_of(world.appliance("db")), {"size": {"cpu": 2, "ram_mib": 32}}


def resize_volume(world: World) -> Asked:
    """One that is exported to a VM which is off."""
    vm = _off_vm_with_volume(world)
    return cloud.inventory.vm(vm).volumes[0].id, {"size_mib": 12}


def _disk() -> dict[str, Any]:
    return {"id": str(uuid4()), "position": 2, "size_mib": 8}


def add_disk(world: World) -> Asked:
    return _off_vm_with_volume(world), {"disk": _disk()}


def add_disk_undeployed(world: World) -> Asked:
    return _vm_of(world.appliance("db")), {"disk": _disk()}


def delete_disk(world: World) -> Asked:
    vm, disk = _off_vm_with_volume(world), _disk()
    world.run("add_disk", vm, disk=disk)
    return vm, {"disk": disk["id"]}


def delete_disk_undeployed(world: World) -> Asked:
    vm, asked = add_disk_undeployed(world)
    world.run("add_disk", vm, **asked)
    return vm, {"disk": asked["disk"]["id"]}


def redefine(world: World) -> Asked:
    """Another order, and no password any more."""
    vm, screen = _off_vm_with_volume(world), uuid4()
    with cloud.database.write() as db:
        cloud.secrets.keep(db, screen, Chap(user="", password=SecretStr("password")))
    plain = {"boot": ["disk"], "screen": None}
    asked = {"boot": ["disk"], "screen": str(screen)}
    world.run("redefine_vm", vm, settings=asked, former=plain)
    return vm, {"settings": {"boot": ["network", "disk"], "screen": None}, "former": asked}


def convert(world: World) -> Asked:
    return world.image("foreign", Format.VMDK), {"format": "qcow2"}


def import_image(world: World, *, folder: bool = False) -> Asked:
    repository = cloud.repository(world.datacenter)
    upload = image = repository.scratch(f"upload-{uuid4()}", 1024)
    if folder:
        upload.mkdir()
        image = upload / Format.VMDK.disk_file
    write_image(image, Format.VMDK, 2**20, "imported")
    template = {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": "imported",
    }
    return UUID(template["id"]), {
        "template": template,
        "format": "vmdk",
        "digest": repository.digest(image),
        "upload": upload.name,
        **({"expects": {"firmware": "efi", "bus": "sata"}} if folder else {}),
    }


URL = "https://images.example/secret-folder/image?right=secret"


def from_url(world: World, kind: str, content: Path, url: str = URL) -> Asked:
    """Something of this kind that lies at an address, which is kept as a secret."""
    from adapters.images.memory import publish_source
    from flows.downloads import kept

    publish_source(cloud.world, url, content.read_bytes())
    content.unlink()
    secret, template = uuid4(), _new_template(world, "imported")
    with cloud.database.write() as db:
        cloud.secrets.keep(db, secret, kept(Source(url=SecretStr(url))))
    wanted = {"source": str(secret), "format": kind}
    return UUID(template["id"]), {"template": template, "wanted": wanted, "wishes": {}}


def download_image(world: World) -> Asked:
    from adapters.images.memory import write_image

    path = world.home / "image"
    write_image(path, Format.VMDK, 2**20, "imported")
    return from_url(world, "vmdk", path)


def download_descriptor(world: World) -> Asked:
    """An OVF, with its manifest and two disks beside it."""
    import tarfile

    from adapters.images.memory import publish_source

    path = world.home / "package"
    write_package(path, "imported", "more")
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member).read()
            publish_source(cloud.world, f"https://images.example/{member.name}", content)
        name = archive.getnames()[0]
        path.write_bytes(archive.extractfile(name).read())
    return from_url(world, "ovf", path, f"https://images.example/{name}")


def download_set(world: World) -> Asked:
    """A VMDK in three files, of which one names the others."""
    from adapters.images.memory import publish_source

    (name, descriptor), *others = vmdk_set().items()
    for other, content in others:
        publish_source(cloud.world, f"https://images.example/{other}", content)
    path = world.home / "descriptor"
    path.write_bytes(descriptor)
    return from_url(world, "vmdk", path, f"https://images.example/{name}")


INDEX = b"""<RepositorySpace RepositoryName="public">
<OVFDescription OVFFile="tiny/tiny.ovf" OVFCategories="OS"><Product>Tiny</Product></OVFDescription>
<OVFDescription OVFFile="shop.ova" OVFCategories="Shops"><Product>Shop</Product></OVFDescription>
</RepositorySpace>"""


def refresh(world: World) -> Asked:
    """An index of two packages, in the place of one that had another."""
    from adapters.database.repositories import TemplateRepositoryRow
    from adapters.database.schema import FIRST_ENTERPRISE
    from adapters.images.memory import publish_source
    from adapters.packages import RemotePackage

    remote, url = uuid4(), "https://images.example/ovfindex.xml"
    world.add(
        TemplateRepositoryRow(
            id=remote,
            enterprise_id=FIRST_ENTERPRISE,
            datacenter_id=world.datacenter,
            name="public",
            url=url,
            created_at=utc_now(),
        )
    )
    former = RemotePackage(url="https://images.example/old.ovf", name="old")
    cloud.repositories.refresh(remote, uuid4(), [former])
    publish_source(cloud.world, url, INDEX)
    return remote, {}


def delete_template(world: World) -> Asked:
    """With a conversion of its own; and with the image of another, whose conversions stay."""
    own = world.image("own", Format.VMDK)
    world.image("other", Format.VMDK)
    world.run("convert_image", own, format="qcow2")
    return own, {"former": "AVAILABLE", "library": str(world.datacenter)}


def import_package(world: World) -> Asked:
    """An archive of two disks."""
    repository = cloud.repository(world.datacenter)
    upload = repository.scratch(f"upload-{uuid4()}", 1024)
    write_package(upload, "imported", "more")
    template = {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": "imported",
    }
    return UUID(template["id"]), {
        "template": template,
        "wishes": {"ram_mib": 64},
        "digest": repository.digest(upload),
        "upload": upload.name,
    }


def put_into_inbox(world: World, name: str, content: str = "found") -> Path:
    """A pretended image, or, by its name, an archive, or a folder of a package or a set."""
    place = world.home / "repository" / INBOX / "default" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".vmdk"):
        write_image(place, Format.VMDK, 2**20, content)
    elif name == "set":
        place.mkdir()
        for each, piece in vmdk_set(content).items():
            (place / each).write_bytes(piece)
        return place
    else:
        write_package(place, content, "more")
    if not place.suffix:
        archive = place.rename(f"{place}.tar")
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")
        archive.unlink()
    return place


def import_found(world: World, *, name: str = "found.vmdk") -> Asked:
    """What a rescan asks for."""
    put_into_inbox(world, name)
    repository = cloud.repository(world.datacenter)
    (placed,) = placed_in(repository)
    digest = repository.digest(repository.path(placed.path))
    if placed.shape is Shape.SET:
        digest = digest_of([sha256(each).hexdigest() for each in vmdk_set("found").values()])
    template = {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": "found",
    }
    return UUID(template["id"]), {
        "template": template,
        "placed": placed.model_dump(mode="json"),
        "format": format_of(placed),
        "digest": digest,
    }


def inbox(world: World) -> Asked:
    """A good image, a package in a folder, a bad image, a name that says nothing, and a link."""
    good = put_into_inbox(world, "good.vmdk")
    put_into_inbox(world, "package")
    (good.parent / "bad.qcow2").write_text("nothing")
    (good.parent / "notes.txt").write_text("nothing")
    (good.parent / "link.raw").symlink_to("/etc/passwd")
    return world.datacenter, {}


def adapt_template(world: World) -> Asked:
    """Of two disks."""
    template = {
        "id": str(uuid4()),
        "enterprise_id": str(FIRST_ENTERPRISE),
        "datacenter_id": str(world.datacenter),
        "name": "ready",
    }
    source = packed_template(world)
    return UUID(template["id"]), {"template": template, "source": str(source)}


def datacenter(world: World) -> Asked:
    return world.datacenter, {}


def packed_template(world: World) -> UUID:
    """A template of two disks, of which none is streamed."""
    template, arguments = import_package(world)
    world.run("import_package", template, **arguments)
    return template


def export_template(world: World) -> Asked:
    return packed_template(world), {}


def export_vm(world: World) -> Asked:
    vm = _vm_of(world.appliance("db", template=packed_template(world)))
    world.run("deploy_vm", vm)
    world.run("change_power", vm, power="off", former="ON")
    return vm, {}


def unneeded_conversion(world: World) -> Asked:
    """A conversion that nobody needs, an hour old; a package and an upload of days ago."""
    abandoned_upload(world)
    template = world.image("foreign", Format.VMDK)
    world.run("convert_image", template, format="qcow2")
    world.run("export_template", template)
    with cloud.database.write() as db:
        db.execute(update(PackageRow).values(created_at=utc_now(-2 * 86_400)))
    image = cloud.library.conversions(world.datacenter)[0]
    path = cloud.repository(world.datacenter).path(image.path)
    os.utime(path, (time.time() - 3600,) * 2)
    refresh_identities(world)
    return world.datacenter, {}


def abandoned_upload(world: World) -> UUID:
    """Half a file that was sent by somebody days ago."""
    token = UUID(tokens.mint(cloud.database, "sender").split("_")[1])
    ticket = Transfer.model_construct(id=uuid4(), token_id=token)
    use_up(ticket)
    path = cloud.repository(world.datacenter).scratch(ticket.scratch, 4)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 2 * 86_400,) * 2)
    return ticket.id


def _wired_vm(world: World) -> UUID:
    """A VM in a network that is off."""
    vm, _ = undeploy_networked(world)
    world.run("change_power", vm, power="off", former="ON")
    return vm


def _second_nic(world: World) -> dict[str, str]:
    """One in a network that nobody is in yet."""
    other = uuid4()
    with cloud.database.write() as db:
        like = db.scalars(select(models.Network)).first()
        kept = {x.key: getattr(like, x.key) for x in models.Network.__table__.columns}
        fresh = {"id": other, "name": "other", "number": 8, "tag": None, "relay": "10.0.1.1"}
        ranged = {"range": "10.0.1.0/24", "gateway": "10.0.1.1"}
        db.add(models.Network(**{**kept, **fresh, **ranged}))
    _charged(other)
    return {"id": str(uuid4()), "network": str(other)}


def attach_nic(world: World) -> Asked:
    vm = _wired_vm(world)
    return vm, {"nic": _second_nic(world)}


def attach_nic_undeployed(world: World) -> Asked:
    vm, _ = deploy_networked(world)
    return vm, {"nic": _second_nic(world)}


def detach_nic(world: World) -> Asked:
    vm, asked = attach_nic(world)
    world.run("attach_nic", vm, **asked)
    return vm, {"nic": asked["nic"]["id"]}


def hot_attach_nic(world: World) -> Asked:
    vm, _ = undeploy_networked(world)
    return vm, {"nic": _second_nic(world)}


def hot_detach_nic(world: World) -> Asked:
    vm, asked = hot_attach_nic(world)
    world.run("attach_nic", vm, **asked)
    return vm, {"nic": asked["nic"]["id"]}


def detach_nic_undeployed(world: World) -> Asked:
    vm, asked = attach_nic_undeployed(world)
    world.run("attach_nic", vm, **asked)
    return vm, {"nic": asked["nic"]["id"]}


def strayed(world: World) -> Asked:
    """A DHCP server that has lost one address, has kept another, and has a third otherwise."""
    server = networked(world)
    vms = [_vm_of(world.appliance(name)) for name in ("db", "web", "old")]
    addressed(*vms)
    for vm in vms[:2]:
        world.run("deploy_vm", vm)
    dhcp = cloud.dhcp(server)
    known = dhcp.content()[1]
    lost, other = known.values()
    dhcp.delete_reservations([lost])
    dhcp.ensure_reservations([other.model_copy(update={"hostname": "another"})])
    dhcp.ensure_reservations(cloud.lans.of_vms(server, vms[2:])[1])
    return world.datacenter, {}


def unlinked(world: World) -> Asked:
    """Two VMs whose network somebody has taken from their host; the guard of one is gone, too."""
    networked(world)
    vms = [_vm_of(world.appliance(name)) for name in ("db", "web")]
    addressed(*vms)
    for vm in vms:
        world.run("deploy_vm", vm)
    record = cloud.inventory.vm(vms[0])
    switch = cloud.switch(record.host)
    switch.delete_link(record.links[0])
    switch.delete_guards(record.guards)
    for nic in record.nics:
        cloud.world.put("loose", f"{record.host}:{nic.id}", {"card": nic.mac})
    return world.datacenter, {}


def orphaned(world: World) -> Asked:
    """A volume whose row is gone, and a disk that an undeploy believed to have removed."""
    volume, vm = _volume(world, "lost", 8), _vm_of(world.appliance("db"))
    world.run("create_iscsi_volume", UUID(volume["id"]), volume=volume)
    cloud.inventory.forget_volume(UUID(volume["id"]))
    cloud.ledger.refund("volume", [UUID(volume["id"])])
    world.run("deploy_vm", vm)
    cloud.world.set_fate("hypervisors.delete_disk", "lies")
    assert world.run("undeploy_vm", vm).left_behind
    world.run("deploy_vm", _vm_of(world.appliance("web")))
    return world.datacenter, {}


def broken_images(world: World) -> Asked:
    """A template and a conversion that have changed on their own, the latter needed by nobody."""
    world.run("convert_image", world.image("foreign", Format.VMDK), format="qcow2")
    repository = cloud.repository(world.datacenter)
    for path in (
        cloud.library.conversions(world.datacenter)[0].path,
        cloud.library.images(world.template)[0].path,
    ):
        with repository.path(path).open("ab") as file:
            file.write(b" ")
    return world.datacenter, {}


LIBRARY = ("conversions",)
LISTED = ("template_repositories", "remote_packages")  # what was read stays
SECRET = ("secrets",)  # an address that goes with its operation, whatever becomes of that
SCENARIOS = {
    "import_image": Scenario("import_image", import_image, takes="/upload-"),
    "import_set": Scenario("import_image", partial(import_image, folder=True), takes="/upload-"),
    "import_package": Scenario("import_package", import_package, takes="/upload-"),
    "import_found": Scenario("import_found", import_found),
    "import_found-folder": Scenario("import_found", partial(import_found, name="found")),
    "import_found-set": Scenario("import_found", partial(import_found, name="set")),
    "import_from_url": Scenario("import_from_url", download_image, SECRET),
    "import_from_url-ovf": Scenario("import_from_url", download_descriptor, SECRET),
    "import_from_url-set": Scenario("import_from_url", download_set, SECRET),
    "refresh_repository": Scenario("refresh_repository", refresh, LISTED),
    "convert_image": Scenario("convert_image", convert, LIBRARY),
    "delete_template": Scenario("delete_template", delete_template),
    "adapt_template": Scenario("adapt_template", adapt_template),
    "export_template": Scenario("export_template", export_template),
    "export_vm": Scenario("export_vm", export_vm, LIBRARY),
    "export_vm-sent": Scenario("export_vm", _sent(export_vm), LIBRARY),
    "create_iscsi_volume": Scenario("create_iscsi_volume", create_volume),
    "delete_iscsi_volume": Scenario("delete_iscsi_volume", delete_volume),
    "create_network": Scenario("create_network", create_network),
    "delete_network": Scenario("delete_network", delete_network),
    "attach_volume": Scenario("attach_volume", attach),
    "detach_volume": Scenario("detach_volume", detach),
    "attach_volume-hot": Scenario("attach_volume", hot_attach),
    "detach_volume-hot": Scenario("detach_volume", hot_detach),
    "deploy_vm": Scenario("deploy_vm", deploy_vm, LIBRARY),
    "deploy_vm-seeded": Scenario("deploy_vm", deploy_seeded),
    "deploy_vm-awaited": Scenario("deploy_vm", deploy_awaited),
    "deploy_vm-networked": Scenario("deploy_vm", deploy_networked),
    "deploy_vm-distributed": Scenario("deploy_vm", deploy_distributed),
    "undeploy_vm-networked": Scenario("undeploy_vm", undeploy_networked),
    "deploy_appliance-networked": Scenario("deploy_appliance", deploy_networked_appliance),
    "sync_appliance-networked": Scenario("sync_appliance", sync_networked),
    "undeploy_vm": Scenario("undeploy_vm", undeploy_vm),
    "undeploy_vm-seeded": Scenario("undeploy_vm", undeploy_seeded),
    "deploy_appliance": Scenario("deploy_appliance", deploy_appliance, LIBRARY),
    "sync_appliance": Scenario("sync_appliance", sync_appliance, LIBRARY),
    "undeploy_appliance": Scenario("undeploy_appliance", undeploy_appliance),
    "change_power-off": Scenario("change_power", power_off),
    "change_power-on": Scenario("change_power", power_on),
    "change_power-pause": Scenario("change_power", pause),
    "change_power-go-on": Scenario("change_power", go_on),
    "change_power-off-paused": Scenario("change_power", power_off_paused),
    "reset_vm": Scenario("reset_vm", reset),
    "persist_vm": Scenario("persist_vm", persist),
    "capture_image": Scenario("capture_image", capture),
    "capture_image-sent": Scenario("capture_image", _sent(capture)),
    "capture_image-persistent": Scenario("capture_image", capture_persistent),
    "capture_image-sent-on": Scenario("capture_image", _sent(capture_on_alone)),
    "capture_image-on": Scenario("capture_image", capture_on),
    "persist_vm-sent": Scenario("persist_vm", _sent(persist)),
    "persist_template": Scenario("persist_template", persist_template),
    "persist_template-disks": Scenario("persist_template", persist_disks),
    "deploy_vm-persistent": Scenario("deploy_vm", deploy_persistent),
    "undeploy_vm-persistent": Scenario("undeploy_vm", undeploy_persistent),
    "delete_template-persistent": Scenario("delete_template", delete_persistent),
    "capture_volume": Scenario("capture_volume", capture_volume),
    "resize_vm": Scenario("resize_vm", resize),
    "resize_vm-on": Scenario("resize_vm", resize_on),
    "resize_vm-undeployed": Scenario("resize_vm", resize_undeployed),
    "resize_volume": Scenario("resize_volume", resize_volume),
    "add_disk": Scenario("add_disk", add_disk),
    "add_disk-undeployed": Scenario("add_disk", add_disk_undeployed),
    "delete_disk": Scenario("delete_disk", delete_disk),
    "delete_disk-undeployed": Scenario("delete_disk", delete_disk_undeployed),
    "attach_nic": Scenario("attach_nic", attach_nic),
    "attach_nic-undeployed": Scenario("attach_nic", attach_nic_undeployed),
    "detach_nic": Scenario("detach_nic", detach_nic),
    "detach_nic-undeployed": Scenario("detach_nic", detach_nic_undeployed),
    "attach_nic-hot": Scenario("attach_nic", hot_attach_nic),
    "detach_nic-hot": Scenario("detach_nic", hot_detach_nic),
    "redefine_vm": Scenario("redefine_vm", redefine),
    "reconcile_operations": Scenario("reconcile_operations", datacenter),
    "check_datacenters": Scenario("check_datacenters", datacenter),
    "sweep_orphans": Scenario("sweep_orphans", orphaned),
    "sync_dhcp": Scenario("sync_dhcp", strayed),
    "mend_links": Scenario("mend_links", unlinked),
    "verify_library": Scenario("verify_library", broken_images),
    "trim_history": Scenario("trim_history", unneeded_conversion),
    "rescan_library": Scenario("rescan_library", inbox),
}
