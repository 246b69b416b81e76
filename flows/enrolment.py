"""Enrolment: what is there already becomes part of the cloud, once it has shown itself.

Each function asks what has to be asked, and answers how to write down what it found: backends
may take their time, transactions may not.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.conventions import Base
from adapters.errors import Conflict, Refused
from adapters.images.repository import initialise
from adapters.types import Family
from flows.cloud import cloud

Entry = Callable[[Session], UUID]


def enrol_datacenter(name: str, repository: str) -> Entry:
    """A site, and the directory of its images, which gets a marker."""
    root = _directory(repository)
    _require_new(models.Datacenter, name)
    marker = initialise(root)
    return _entry(
        models.Datacenter(id=uuid4(), name=name, repository=repository, repository_marker=marker)
    )


def enrol_host(
    datacenter: UUID, name: str, family: Family, address: str, datastores: Iterable[str]
) -> Entry:
    """A machine that runs VMs; what it has, it says itself."""
    _require_new(models.Host, name, datacenter_id=datacenter)
    host, directories = uuid4(), list(dict.fromkeys(datastores))
    hypervisor = cloud.hypervisor_at(family, address, host)
    facts = hypervisor.describe()
    for directory in directories:
        hypervisor.datastore(directory)
    return _entry(
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
        technology = db.get_one(models.StorageDevice, device).technology
    if technology == "directory":
        _directory(directory)
    _require_new(models.StoragePool, name, device_id=device)
    return _entry(
        models.StoragePool(
            id=uuid4(),
            device_id=device,
            name=name,
            tier=tier,
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
