"""Placement: the host with the most room, among those that fit; and why."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from adapters.errors import OutOfSpace
from adapters.types import Family, Value


class Room(Value):
    """A host as placement sees it."""

    id: UUID
    name: str
    family: Family
    cpu: int
    ram_mib: int
    cpu_reserved: int
    ram_reserved_mib: int
    datastores: tuple[tuple[UUID, int], ...]  # with their free MiB
    silent: str = ""  # why it could not be asked


class Wish(Value):
    """What a VM needs."""

    family: Family
    cpu: int
    ram_mib: int
    disk_mib: int


class Choice(Value):
    """Where a VM goes, and why there."""

    host: UUID
    datastore: UUID
    because: str


class NoRoom(OutOfSpace):
    """No host fits; the details say of each one why."""

    code = "no-room"

    def __init__(self, reasons: dict[str, str]) -> None:
        listed = "; ".join(f"{host}: {why}" for host, why in sorted(reasons.items()))
        super().__init__(f"no host has room: {listed or 'there are no hosts'}")
        self.details = {"hosts": reasons}


def choose_hosts(
    wishes: Mapping[UUID, Wish], hosts: Sequence[Room], cpu_overcommit: float
) -> dict[UUID, Choice]:
    """A host for each VM, one after the other: each counts for those after it. Raises `NoRoom`."""
    rooms = {host.id: host for host in hosts}
    choices: dict[UUID, Choice] = {}
    for vm, wish in wishes.items():
        choice = choose_host(wish, list(rooms.values()), cpu_overcommit)
        rooms[choice.host] = _after(rooms[choice.host], wish, choice.datastore)
        choices[vm] = choice
    return choices


def _after(host: Room, wish: Wish, datastore: UUID) -> Room:
    left = {store: free - wish.disk_mib * (store == datastore) for store, free in host.datastores}
    taken = {
        "cpu_reserved": host.cpu_reserved + wish.cpu,
        "ram_reserved_mib": host.ram_reserved_mib + wish.ram_mib,
        "datastores": tuple(left.items()),
    }
    return host.model_copy(update=taken)


def choose_host(wish: Wish, hosts: Sequence[Room], cpu_overcommit: float) -> Choice:
    """The fitting host with the most free RAM, ties by name. Raises `NoRoom`."""
    reasons = {host.name: why for host in hosts if (why := _why_not(wish, host, cpu_overcommit))}
    fitting = [host for host in hosts if host.name not in reasons]
    if not fitting:
        raise NoRoom(reasons)
    best = min(fitting, key=lambda host: (host.ram_reserved_mib - host.ram_mib, host.name))
    datastore, free_mib = max(best.datastores, key=lambda each: (each[1], str(each[0])))
    free_ram = best.ram_mib - best.ram_reserved_mib
    because = f"{best.name} has the most free RAM ({free_ram} MiB), {free_mib} MiB of disk free"
    return Choice(host=best.id, datastore=datastore, because=because)


def _why_not(wish: Wish, host: Room, cpu_overcommit: float) -> str:
    free_cpu = int(host.cpu * cpu_overcommit) - host.cpu_reserved
    free_ram = host.ram_mib - host.ram_reserved_mib
    free_disk = max((free for _, free in host.datastores), default=0)
    if host.family != wish.family:
        return f"runs {host.family}, not {wish.family}"
    if not host.datastores:
        return host.silent or "has no datastore"
    if free_cpu < wish.cpu:
        return f"{free_cpu} CPUs free, {wish.cpu} needed"
    if free_ram < wish.ram_mib:
        return f"{free_ram} MiB RAM free, {wish.ram_mib} needed"
    if free_disk < wish.disk_mib:
        return f"{free_disk} MiB disk free, {wish.disk_mib} needed"
    return ""
