"""Reserve hosts for VMs: a decision that is written down, so that a resumed run reads it."""

from collections.abc import Sequence
from uuid import UUID

from adapters.database.records import HostLoad
from adapters.errors import Transient
from flows.cloud import cloud
from flows.policies.placement import Choice, NoRoom, Room, Wish, choose_hosts
from flows.steps import step


@step("reserve-hosts")
def reserve_hosts(target: UUID, vms: list[UUID]) -> None:
    """The hosts with the most room, reserved in the transaction that counts what is reserved.

    The hosts are asked before it: one that takes its time must not hold up every writer.
    """
    datacenter = cloud.inventory.vm(vms[0]).datacenter_id
    rooms = ask(cloud.inventory.loads(datacenter))

    def choose(left: list[UUID], loads: list[HostLoad]) -> dict[UUID, tuple[UUID, UUID]]:
        choices = place(left, loads, rooms)
        return {vm: (each.host, each.datastore) for vm, each in choices.items()}

    cloud.inventory.reserve(vms, datacenter, choose)


@reserve_hosts.undo
def _(target: UUID, vms: list[UUID]) -> None:
    cloud.inventory.free(vms)


@reserve_hosts.look
def _(target: UUID, vms: list[UUID]) -> bool:
    return cloud.inventory.have_host(vms)


def place(
    vms: Sequence[UUID], loads: list[HostLoad], asked: dict[UUID, Room] | None = None
) -> dict[UUID, Choice]:
    """Choose a host for each VM among these, which are asked unless they have been.

    Raises `NoRoom`, with each host's reason; `Transient` while a host that may have room is away.
    """
    rooms = ask(loads) if asked is None else asked
    wishes = {
        vm.id: Wish(
            family=vm.family,
            cpu=vm.cpu,
            ram_mib=vm.ram_mib,
            disk_mib=sum(disk.size_mib for disk in vm.local_disks),
        )
        for vm in cloud.inventory.vms(vms)
    }
    now = [_as_reserved(rooms[load.id], load) for load in loads if load.id in rooms]
    try:
        return choose_hosts(wishes, now, cloud.settings.cpu_overcommit)
    except NoRoom as refusal:
        families = {wish.family for wish in wishes.values()}
        if any(room.silent and room.family in families for room in now):
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
