"""Enrolment: what is there already becomes part of the cloud, once it has shown itself."""

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from adapters.database import models
from adapters.errors import Conflict, Refused
from adapters.images.repository import initialise
from adapters.types import Family
from flows.cloud import cloud


def enrol_datacenter(name: str, repository: str) -> UUID:
    """A site, and the directory of its images, which gets a marker."""
    root = Path(repository)
    if not root.is_absolute():
        raise Refused(f"{repository} is no absolute path", code="path-not-absolute")
    if not root.is_dir():
        raise Refused(f"there is no directory {repository}", code="no-such-directory")
    _require_new(models.Datacenter, name)
    datacenter = uuid4()
    marker = initialise(root)
    _enter(
        name,
        models.Datacenter(
            id=datacenter, name=name, repository=repository, repository_marker=marker
        ),
    )
    return datacenter


def enrol_host(
    datacenter: UUID, name: str, family: Family, address: str, datastores: Iterable[str]
) -> UUID:
    """A machine that runs VMs; what it has, it says itself."""
    _require_new(models.Host, name, datacenter_id=datacenter)
    host, directories = uuid4(), list(dict.fromkeys(datastores))
    hypervisor = cloud.hypervisor_at(family, address, host)
    facts = hypervisor.describe()
    for directory in directories:
        hypervisor.datastore(directory)
    _enter(
        name,
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
            models.Datastore(id=uuid4(), host_id=host, uuid=uuid4(), directory=each)
            for each in directories
        ),
    )
    return host


def enrol_storage_device(
    datacenter: UUID, name: str, technology: str, host: str, port: int, control: int
) -> UUID:
    """An iSCSI storage server."""
    _require_new(models.StorageDevice, name, datacenter_id=datacenter)
    device = uuid4()
    _enter(
        name,
        models.StorageDevice(
            id=device,
            datacenter_id=datacenter,
            name=name,
            technology=technology,
            host=host,
            port=port,
            control=control,
        ),
    )
    return device


def enrol_pool(device: UUID, name: str, tier: str, directory: str, total_mib: int) -> UUID:
    """A part of a storage device; it has to answer before it is ours."""
    _require_new(models.StoragePool, name, device_id=device)
    pool = uuid4()
    row = models.StoragePool(
        id=pool, device_id=device, name=name, tier=tier, directory=directory, total_mib=total_mib
    )
    _enter(name, row)
    try:
        cloud.storage(pool).capacity()
    except BaseException:
        with cloud.database.write() as db:
            db.delete(db.get_one(models.StoragePool, pool))
        raise
    return pool


def _require_new(table: type[models.Base], name: str, **within: UUID) -> None:
    """Refuse a name early, before anything is asked of a backend."""
    with cloud.database.read() as db:
        if db.scalars(select(table).filter_by(name=name, **within)).first() is not None:
            raise _taken(name)


def _enter(name: str, first: models.Base, *others: models.Base) -> None:
    with cloud.database.write() as db:
        try:
            with db.begin_nested():
                db.add(first)
                db.flush()
                db.add_all(others)
        except IntegrityError as error:
            raise _taken(name) from error


def _taken(name: str) -> Conflict:
    return Conflict(f"there is one called {name} already", code="name-taken")
