"""Look whether what a datacenter needs is there: workers, repository, hosts, pools, and room."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx
from prefect.exceptions import PrefectException

from adapters.database.operations import Operation
from adapters.database.records import HostLoad
from adapters.errors import AdapterError
from adapters.types import Capacity, Finding
from flows import dispatch
from flows.cloud import cloud
from flows.engine import is_prefect_watching
from flows.operation import operation
from flows.steps import step
from flows.upkeep import publish_report


@operation("datacenter", every=timedelta(minutes=10))
def check_datacenters(request: Operation) -> None:
    """Ask workers, repository, hosts and pools whether they are there, and have room."""
    datacenter = request.datacenter_id
    findings = [*check_workers(datacenter), *check_repository(datacenter)]
    for host in survey_hosts(datacenter):
        findings += check_host(host)
    for pool in survey_pools(datacenter):
        findings += check_pool(pool)
    publish_report(request.kind, datacenter, findings)


@step("survey-hosts")
def survey_hosts(datacenter: UUID) -> list[HostLoad]:
    return cloud.inventory.loads(datacenter)


@step("survey-pools")
def survey_pools(datacenter: UUID) -> list[UUID]:
    return list(cloud.inventory.pools(datacenter))


@step("check-workers")
def check_workers(datacenter: UUID) -> list[Finding]:
    """Ask Prefect which of the pool's workers are alive; those long gone are no news."""
    pool = cloud.inventory.datacenter_name(datacenter)
    if not is_prefect_watching():
        return [Finding(what="workers", name=pool, state="unknown", detail="run without Prefect")]
    try:
        workers = dispatch.client().read_workers_for_work_pool(pool)
    except (httpx.HTTPError, PrefectException) as error:
        return [Finding(what="workers", name=pool, state="unknown", detail=str(error))]
    found = [
        Finding(
            what="worker",
            name=each.name,
            state=str(each.status and each.status.value).lower(),
            detail=f"heard of at {each.last_heartbeat_time:%Y-%m-%d %H:%M:%S %Z}",
        )
        for each in sorted(workers, key=lambda each: str(each.last_heartbeat_time), reverse=True)
        if each.last_heartbeat_time
    ]
    silent = Finding(what="workers", name=pool, state="silent", detail="no worker is alive")
    return [x for x in found if x.state == "online"] or [silent, *found[:1]]


@step("check-repository")
def check_repository(datacenter: UUID) -> list[Finding]:
    """Prove that the repository is mounted, is the one that was enrolled, and takes writes."""
    repository = cloud.repository(datacenter)

    def room() -> Capacity:
        repository.verify()
        return repository.capacity()

    return [_checked("repository", str(repository.root), room)]


@step("check-host")
def check_host(host: HostLoad) -> list[Finding]:
    hypervisor = cloud.hypervisor(host.id)

    def room(directory: str) -> Callable[[], Capacity]:
        return lambda: hypervisor.datastore(directory)

    return [
        _checked("datastore", f"{host.name}:{directory}", room(directory))
        for _, directory in host.datastores
    ]


@step("check-pool")
def check_pool(pool: UUID) -> list[Finding]:
    storage = cloud.storage(pool)

    def room() -> Capacity:
        storage.exports(cloud.inventory.installation)  # is the target daemon there?
        return storage.capacity()

    return [_checked("pool", cloud.inventory.pool(pool).name, room)]


def _checked(what: str, name: str, room: Callable[[], Capacity]) -> Finding:
    """Ask for the room; what does not answer is what this is to find out, and no failure."""
    try:
        capacity = room()
    except AdapterError as error:
        return Finding(what=what, name=name, state="away", detail=str(error))
    low = capacity.free_mib * 100 < capacity.total_mib * cloud.settings.low_space_percent
    detail = f"{capacity.free_mib} of {capacity.total_mib} MiB free"
    return Finding(what=what, name=name, state="low" if low else "ok", detail=detail)
