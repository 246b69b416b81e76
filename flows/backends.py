"""What of this installation is on a datacenter's backends, and how a stray thing is removed."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from uuid import UUID

from adapters.database.records import HostLoad
from adapters.lan import Link
from adapters.types import Kind, Thing
from flows.cloud import cloud
from flows.running import running
from flows.vm_disks import claim_on
from flows.vm_networks import link_claims

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OURS = re.compile(
    rf"templates/{_UUID}|conversions/../{_UUID}(?:\.\w+)?|packages/{_UUID}\.ova|incoming/[^/]+"
)

Seen = dict[Thing, bool]  # each thing, and whether something else still uses it


def on_host(host: HostLoad) -> Seen:
    """VMs, their disks and seeds, copies of images, and networks."""
    hypervisor, node = cloud.hypervisor(host.id), cloud.node(host.id)
    seen = {_on(host, Kind.VM, str(vm)): power != "off" for vm, power in hypervisor.vms().items()}
    for _, datastore in host.datastores:
        disks = hypervisor.disks(datastore).items()
        seen |= {_on(host, Kind.DISK, str(disk)): used for disk, used in disks}
        seeds = hypervisor.seeds(datastore).items()
        seen |= {_on(host, Kind.SEED, str(vm)): used for vm, used in seeds}
        copies = node.copies(datastore, cloud.inventory.installation)
        seen |= {_on(host, Kind.COPY, copy.digest): False for copy in copies}
    return seen | _in_networks(host)


def _in_networks(host: HostLoad) -> Seen:
    """Links, used while cards are in them, and guards; of a host that has an uplink."""
    if cloud.inventory.host(host.id).uplink is None:
        return {}
    switch, installation = cloud.switch(host.id), cloud.inventory.installation
    links = [link for link in switch.links(installation) if not _is_of_others(link, host.id)]
    guards = switch.guards(installation)
    return {
        **{_on(host, Kind.LINK, str(x.network)): bool(switch.cards(x)) for x in links},
        **{_on(host, Kind.GUARD, str(guard.nic)): False for guard in guards},
    }


def _is_of_others(link: Link, host: UUID) -> bool:
    """Whether VMs of other hosts need it, and none of this one: a distributed switch's."""
    mine, *common = link_claims(link, host)
    return any(map(cloud.claims.is_claimed, common)) and not cloud.claims.is_claimed(mine)


def _on(host: HostLoad, kind: Kind, name: str) -> Thing:
    return Thing(kind=kind, place=host.id, name=name)


def in_pool(pool: UUID) -> Seen:
    """Exports, used while somebody is logged in; and volumes, used once a guest has written."""
    storage, installation = cloud.storage(pool), cloud.inventory.installation
    exports = storage.exports(installation)
    exported = {export.volume for export, _ in exports.values()}
    return {
        **{
            Thing(kind=Kind.EXPORT, place=pool, name=str(export)): used
            for export, (_, used) in exports.items()
        },
        **{
            Thing(kind=Kind.VOLUME, place=pool, name=str(each.id)): each.id in exported
            or storage.written(each)
            for each in storage.volumes(installation).values()
        },
    }


def in_repository(datacenter: UUID) -> Seen:
    """Templates and conversions; and somebody's work, used while it is young."""
    young_ns = time.time_ns() - int(cloud.settings.scratch_hours * 3600e9)
    repository, seen = cloud.repository(datacenter), {}
    for entry, changed_ns in repository.entries().items():
        if not _OURS.fullmatch(entry):
            continue
        thing = Thing(kind=Kind.FILE, place=datacenter, name=entry)
        young = is_scratch(thing) and changed_ns > young_ns
        seen[thing] = young or bool(cloud.claims.within(f"file:{repository.path(entry)}"))
    return seen


def is_scratch(thing: Thing) -> bool:
    """Whether it is work that somebody has begun in a repository."""
    return thing.kind is Kind.FILE and PurePosixPath(thing.name).parts[0] == "incoming"


def is_idle(thing: Thing) -> bool:
    """Whether the thing is there, and nothing uses it: so that it could go."""
    if thing.kind in {Kind.LINK, Kind.GUARD}:
        return _in_networks(_host(thing)).get(thing) is False
    if thing.kind in {Kind.VM, Kind.DISK, Kind.SEED, Kind.COPY}:
        return on_host(_host(thing)).get(thing) is False
    if thing.kind is Kind.FILE:
        return in_repository(thing.place).get(thing) is False
    return in_pool(thing.place).get(thing) is False


def _host(thing: Thing) -> HostLoad:
    datacenter = cloud.inventory.host(thing.place).datacenter_id
    return next(x for x in cloud.inventory.loads(datacenter) if x.id == thing.place)


def remove(thing: Thing) -> None:
    """Remove it; what has come to be used meanwhile is refused: `InUse`."""
    _REMOVERS[thing.kind](thing)


def _remove_vm(thing: Thing) -> None:
    cloud.hypervisor(thing.place).delete_vm(UUID(thing.name))


def _remove_disk(thing: Thing) -> None:
    for _, datastore in _host(thing).datastores:
        cloud.hypervisor(thing.place).discard_disk(datastore, UUID(thing.name))


def _remove_seed(thing: Thing) -> None:
    for _, datastore in _host(thing).datastores:
        cloud.hypervisor(thing.place).discard_seed(datastore, UUID(thing.name))


def _remove_copy(thing: Thing) -> None:
    node = cloud.node(thing.place)
    for _, datastore in _host(thing).datastores:
        for copy in node.copies(datastore, cloud.inventory.installation):
            if copy.digest == thing.name:
                with _unclaimed(claim_on(copy, thing.place)):
                    node.delete_copy(copy)


def _remove_link(thing: Thing) -> None:
    switch = cloud.switch(thing.place)
    for link in switch.links(cloud.inventory.installation):
        if str(link.network) == thing.name:
            with _unclaimed(link_claims(link, thing.place)[-1]):
                switch.delete_link(link)


def _remove_guard(thing: Thing) -> None:
    switch = cloud.switch(thing.place)
    every = switch.guards(cloud.inventory.installation)
    switch.delete_guards([guard for guard in every if str(guard.nic) == thing.name])


def _remove_export(thing: Thing) -> None:
    storage = cloud.storage(thing.place)
    with _unclaimed(f"export:{thing.name}"):
        if found := storage.exports(cloud.inventory.installation).get(UUID(thing.name)):
            storage.delete_export(found[0])


def _remove_volume(thing: Thing) -> None:
    storage = cloud.storage(thing.place)
    if found := storage.volumes(cloud.inventory.installation).get(UUID(thing.name)):
        storage.discard_volume(found)


def _remove_file(thing: Thing) -> None:
    repository = cloud.repository(thing.place)
    with _unclaimed(f"file:{repository.path(thing.name)}"):
        repository.discard(thing.name)


@contextmanager
def _unclaimed(shared: str) -> Iterator[None]:
    """Let nobody claim it while it is removed. Raises `InUse` where somebody has."""
    cloud.claims.begin_removal(shared, running())
    yield
    cloud.claims.removed(shared, running())


_REMOVERS = {
    Kind.VM: _remove_vm,
    Kind.DISK: _remove_disk,
    Kind.SEED: _remove_seed,
    Kind.COPY: _remove_copy,
    Kind.LINK: _remove_link,
    Kind.GUARD: _remove_guard,
    Kind.EXPORT: _remove_export,
    Kind.VOLUME: _remove_volume,
    Kind.FILE: _remove_file,
}
