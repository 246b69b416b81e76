"""Reserve a host for a VM: a decision that is written down, so that a resumed run reads it."""

from uuid import UUID

from adapters.database.records import HostLoad
from adapters.errors import Transient
from flows.cloud import cloud
from flows.policies.placement import Choice, NoRoom, Room, Wish, choose_host
from flows.steps import step


@step("reserve-host")
def reserve_host(vm: UUID) -> UUID:
    """The host with the most room, reserved in the transaction that counts what is reserved.

    The hosts are asked before it: one that takes its time must not hold up every writer.
    """
    rooms = ask(cloud.inventory.loads(cloud.inventory.vm(vm).datacenter_id))

    def choose(loads: list[HostLoad]) -> tuple[UUID, UUID]:
        choice = place(vm, loads, rooms)
        return choice.host, choice.datastore

    return cloud.inventory.reserve(vm, choose)


@reserve_host.undo
def _(vm: UUID) -> None:
    cloud.inventory.free(vm)


@reserve_host.look
def has_host(vm: UUID) -> bool:
    """Whether a host is reserved for the VM."""
    return cloud.inventory.vm(vm).host_id is not None


def place(vm: UUID, loads: list[HostLoad], asked: dict[UUID, Room] | None = None) -> Choice:
    """Choose a host for the VM among these, which are asked unless they have been.

    Raises `NoRoom`, with each host's reason; `Transient` while a host that may have room is away.
    """
    rooms = ask(loads) if asked is None else asked
    record = cloud.inventory.vm(vm)
    wish = Wish(
        family=record.family,
        cpu=record.cpu,
        ram_mib=record.ram_mib,
        disk_mib=sum(disk.size_mib for disk in record.local_disks),
    )
    now = [_as_reserved(rooms[load.id], load) for load in loads if load.id in rooms]
    try:
        return choose_host(wish, now, cloud.settings.cpu_overcommit)
    except NoRoom as refusal:
        if any(room.silent and room.family == wish.family for room in now):
            raise Transient(str(refusal)) from refusal
        raise


def ask(loads: list[HostLoad]) -> dict[UUID, Room]:
    """What each host has, by its own word; one that does not answer is out, and says why."""
    return {load.id: _room(load) for load in loads}


def _room(load: HostLoad) -> Room:
    known = load.model_dump(exclude={"datastores"})
    try:
        hypervisor = cloud.hypervisor(load.id)
        free = tuple((i, hypervisor.datastore(where).free_mib) for i, where in load.datastores)
    except Transient as error:
        return Room(**known, datastores=(), silent=f"does not answer: {error}")
    return Room(**known, datastores=free)


def _as_reserved(room: Room, load: HostLoad) -> Room:
    reserved = {"cpu_reserved": load.cpu_reserved, "ram_reserved_mib": load.ram_reserved_mib}
    return room.model_copy(update=reserved)
