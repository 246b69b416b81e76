"""Growth: whether a VM may have more at the host that it is on. What it has stays its own."""

from collections.abc import Iterator
from uuid import UUID

from adapters.allocation import Room, Situation
from adapters.amounts import Amounts
from flows.policies.placement import NoRoom, left_in, left_of, load_of


def require_room(vm: UUID, host: UUID, directory: str, more: Amounts, now: Situation) -> None:
    """Refuse what the VM's host, or the datastore in `directory`, has too little left for.

    Raises `NoRoom`, which waits where the host is silent. As its present use is counted already,
    `more` is what comes on top.
    """
    room = next(each for each in now.hosts if each.id == host)
    if lacks := next(_lacks(room, directory, more, now), ""):
        raise NoRoom(vm, {room.name: lacks}, waits=lacks == room.silent)


def _lacks(room: Room, directory: str, more: Amounts, now: Situation) -> Iterator[str]:
    cpu, ram_mib = left_of(room, load_of(room, now.rules))
    if more.cpu > max(0, cpu):
        yield f"{max(0, cpu)} CPUs free, {more.cpu} more needed"
    if more.ram_mib > max(0, ram_mib):
        yield f"{max(0, ram_mib)} MiB RAM free, {more.ram_mib} more needed"
    if more.disk_mib and room.silent:
        yield room.silent
    if more.disk_mib:
        free_mib = sum(left_in(each) for each in room.stores if each.directory == directory)
        if more.disk_mib > max(0, free_mib):
            yield f"{max(0, free_mib)} MiB disk free, {more.disk_mib} more needed"
