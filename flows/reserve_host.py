"""Reserve a host for a VM: a decision that is written down, so that a resumed run reads it."""

from uuid import UUID

from adapters.database.records import HostLoad
from flows.cloud import cloud
from flows.policies.placement import Choice, Room, Wish, choose_host
from flows.steps import step


@step("reserve-host")
def reserve_host(vm: UUID) -> UUID:
    """The host with the most room, reserved in the same transaction that looked for it."""

    def choose(loads: list[HostLoad]) -> tuple[UUID, UUID]:
        choice = place(vm, loads)
        return choice.host, choice.datastore

    return cloud.inventory.reserve(vm, choose)


@reserve_host.undo
def _(vm: UUID) -> None:
    cloud.inventory.free(vm)


@reserve_host.look
def has_host(vm: UUID) -> bool:
    """Whether a host is reserved for the VM."""
    return cloud.inventory.vm(vm).host_id is not None


def place(vm: UUID, loads: list[HostLoad]) -> Choice:
    """Choose a host for the VM among these. Raises `NoRoom`, with each host's reason."""
    record = cloud.inventory.vm(vm)
    wish = Wish(
        family=record.family,
        cpu=record.cpu,
        ram_mib=record.ram_mib,
        disk_mib=sum(disk.size_mib for disk in record.local_disks),
    )
    return choose_host(wish, [_room(load) for load in loads], cloud.settings.cpu_overcommit)


def _room(load: HostLoad) -> Room:
    hypervisor = cloud.hypervisor(load.id)
    free = tuple((i, hypervisor.datastore(where).free_mib) for i, where in load.datastores)
    return Room(**load.model_dump(exclude={"datastores"}), datastores=free)
