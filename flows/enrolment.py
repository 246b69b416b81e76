"""Enrolment: what is there already becomes part of the cloud, once it has shown itself.

Each function asks what has to be asked, and answers how to write down what it found: backends
may take their time, transactions may not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.conventions import Base
from adapters.errors import Conflict, NotAllowed, NotFound, Refused, Transient
from adapters.images.repository import initialise
from adapters.nodes.base import MARKER
from adapters.types import Chap, Family, VmState
from flows.cloud import cloud

Entry = Callable[[Session], UUID]


def enrol_datacenter(name: str, repository: str) -> Entry:
    """A site, and the directory of its images, which gets a marker."""
    root = _directory(repository)
    _require_new(models.Datacenter, name)
    marker = initialise(root)
    datacenter = uuid4()
    return _entry(
        models.Datacenter(
            id=datacenter, name=name, repository=repository, repository_marker=marker
        ),
        models.Tier(id=uuid4(), datacenter_id=datacenter, name="default"),
    )


def require_moved(repository: str, marker: UUID) -> None:
    """Refuse a directory that is not the repository of this marker."""
    root = _directory(repository)
    kept = root / MARKER
    if not kept.is_file() or kept.read_text().strip() != str(marker):
        text = f"{repository} is not the repository with the marker {marker}"
        raise Conflict(text, code="other-repository")


def ask_host_at(host: UUID, address: str, login: Chap | None = None) -> dict[str, Any]:
    """What a host says at an address, as its row has it; it has to know the VMs that are there."""
    record = cloud.inventory.host(host)
    hypervisor = cloud.hypervisor_at(record.family, address, host, login)
    facts = hypervisor.describe()
    (load,) = (x for x in cloud.inventory.loads(record.datacenter_id) if x.id == host)
    for _, directory in load.datastores:
        hypervisor.datastore(directory)
    if address != record.address and (missing := _defined_on(host) - {*hypervisor.vms()}):
        text = f"the host at {address} does not have VM {min(missing)}"
        raise Conflict(text, code="other-host")
    return {"address": address, "cpu": facts.cpu, "ram_mib": facts.ram_mib}


def ask_dhcp_at(kind: str, address: str, server: UUID, login: Chap | None = None) -> None:
    """Refuse a DHCP server that does not answer, or cannot do what it is needed for."""
    try:
        cloud.dhcp_at(kind, address, server, login).verify()
    except Transient as error:
        raise Refused(str(error), code="dhcp-server-away") from error
    except NotAllowed:
        raise
    except Refused as error:
        raise Refused(str(error), code="dhcp-server-unfit") from error


def require_datastore(host: UUID, directory: str) -> None:
    """Refuse what the host does not have. Raises `NotFound`."""
    cloud.hypervisor(host).datastore(directory)


def _defined_on(host: UUID) -> set[UUID]:
    table, unmade = models.VirtualMachine, (VmState.NOT_ALLOCATED, VmState.ALLOCATED)
    query = select(table.id).where(table.host_id == host, table.state.not_in(unmade))
    with cloud.database.read() as db:
        return {*db.scalars(query)}


def enrol_host(
    datacenter: UUID,
    name: str,
    family: Family,
    address: str,
    datastores: Mapping[str, UUID | None],
    login: Chap | None = None,
) -> Entry:
    """A machine that runs VMs; what it has, it says itself. A datastore may be one we know."""
    _require_new(models.Host, name, datacenter_id=datacenter)
    host = uuid4()
    hypervisor = cloud.hypervisor_at(family, address, host, login)
    facts = hypervisor.describe()
    for directory in datastores:
        hypervisor.datastore(directory)
    entry = _entry(
        models.Host(
            id=host,
            datacenter_id=datacenter,
            name=name,
            family=family,
            address=address,
            cpu=facts.cpu,
            ram_mib=facts.ram_mib,
        ),
        *(
            models.Datastore(id=uuid4(), host_id=host, uuid=uuid or uuid4(), directory=directory)
            for directory, uuid in datastores.items()
        ),
    )

    def enter(db: Session) -> UUID:
        entered = entry(db)
        if login is not None:
            cloud.secrets.keep(db, entered, login)
        return entered

    return enter


def enrol_storage_device(
    datacenter: UUID, name: str, technology: str, host: str, port: int, control: int
) -> Entry:
    """An iSCSI storage server."""
    _require_new(models.StorageDevice, name, datacenter_id=datacenter)
    return _entry(
        models.StorageDevice(
            id=uuid4(),
            datacenter_id=datacenter,
            name=name,
            technology=technology,
            host=host,
            port=port,
            control=control,
        )
    )


def enrol_pool(device: UUID, name: str, tier: str, directory: str, total_mib: int) -> Entry:
    """A part of a storage device, of one tier."""
    with cloud.database.read() as db:
        row = db.get_one(models.StorageDevice, device)
        technology, datacenter = row.technology, row.datacenter_id
        tiers = select(models.Tier.id).filter_by(datacenter_id=datacenter, name=tier)
        if (tier_id := db.scalars(tiers).one_or_none()) is None:
            raise NotFound(f"the datacenter has no tier {tier}", code="unknown-tier")
    if technology == "directory":
        _directory(directory)
    _require_new(models.StoragePool, name, device_id=device)
    return _entry(
        models.StoragePool(
            id=uuid4(),
            device_id=device,
            name=name,
            tier_id=tier_id,
            directory=directory,
            total_mib=total_mib,
        )
    )


def _directory(path: str) -> Path:
    root = Path(path)
    if not root.is_absolute():
        raise Refused(f"{path!r} is no absolute path", code="path-not-absolute")
    if not root.is_dir():
        raise Refused(f"there is no directory {path}", code="no-such-directory")
    return root


def _require_new(table: type[Base], name: str, **within: UUID) -> None:
    """Refuse a name early, before anything is asked of a backend."""
    with cloud.database.read() as db:
        if db.scalars(select(table).filter_by(name=name, **within)).first() is not None:
            raise _taken(name)


def _entry(
    first: models.Datacenter | models.Host | models.StorageDevice | models.StoragePool,
    *others: Base,
) -> Entry:
    def enter(db: Session) -> UUID:
        try:
            with db.begin_nested():
                db.add(first)
        except IntegrityError as error:
            raise _taken(first.name) from error
        db.add_all(others)
        return first.id

    return enter


def _taken(name: str) -> Conflict:
    return Conflict(f"there is one called {name} already", code="name-taken")
