"""Placement: filters say which hosts a VM may go to, weighers which is best; both say why.

An appliance is placed whole or not at all. The same is chosen whatever order hosts come in.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import Field

from adapters.allocation import Fit, Load, Room, Rules, Situation, Store, Wish
from adapters.errors import OutOfSpace
from adapters.types import Value

_TOLD = 10
_ANOTHER = "is not the one that was planned"


class Choice(Value):
    """Where a VM goes, and why there; of other hosts, some at most, why not."""

    host: UUID
    datastore: UUID
    because: str
    others: dict[str, str] = Field(default_factory=dict)


class NoRoom(OutOfSpace):
    """No host fits; the details say of each one why, and of which VM."""

    code = "no-room"

    def __init__(self, vm: UUID, reasons: dict[str, str], *, waits: bool = False) -> None:
        listed = [f"{host}: {why}" for host, why in sorted(reasons.items())]
        more = [f"{len(listed) - _TOLD} more"] if len(listed) > _TOLD else []
        told = "; ".join(listed[:_TOLD] + more) or "there are no hosts"
        super().__init__(f"no host has room: {told}")
        self.waits = waits  # one that does not answer may have
        self.vm = vm
        self.reasons = {host: why for host, why in reasons.items() if why != _ANOTHER}
        self.details = {"hosts": reasons, "vm": str(vm)}


def choose_hosts(
    wishes: Mapping[UUID, Wish], situation: Situation, *, explain: bool = False
) -> dict[UUID, Choice]:
    """A host for each VM, all or none; each counts for those after it. Raises `NoRoom`.

    They are taken in their order; should that not work out, the largest first.
    """
    try:
        return _in_order(wishes.items(), situation, explain)
    except NoRoom as refusal:
        largest = sorted(wishes.items(), key=_largest_first)
        try:
            return _in_order(largest, situation, explain)
        except NoRoom:
            raise refusal from None


def load_of(host: Room, rules: Rules) -> Load:
    """How much of a host may be given away: its own rule, else its rack's, its datacenter's."""
    about = (each for each in (host.id, host.rack_id, host.datacenter_id) if each)
    return next((rules.loads[each] for each in about if each in rules.loads), rules.default)


def left_of(host: Room, load: Load) -> tuple[int, int]:
    """The CPUs and the MiB of RAM of a host that may still be given away."""
    cpu = host.cpu * load.cpu_percent // 100 - host.cpu_reserved
    return cpu, host.ram_mib * load.ram_percent // 100 - host.ram_reserved_mib


def left_in(store: Store) -> int:
    """The MiB of a datastore that may still be promised to disks."""
    return min(store.free_mib, store.total_mib - store.promised_mib)


@dataclass
class _Host:
    """A host while VMs are placed: what is left of it, and who has been placed there."""

    room: Room
    load: Load
    cpu: int
    ram_mib: int
    near: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)

    def put(self, affinity: str, anti_affinity: str) -> None:
        self.near[affinity] += bool(affinity)
        self.apart[anti_affinity] += bool(anti_affinity)

    def left(self, wish: Wish) -> float:
        """How many VMs like this one there is room for."""
        return min(self.cpu / wish.cpu, self.ram_mib / wish.ram_mib)


class _Field:
    """All hosts while VMs are placed."""

    def __init__(self, situation: Situation) -> None:
        self.rules = situation.rules
        self.hosts: dict[UUID, _Host] = {}
        self.disk: dict[UUID, int] = {}  # room of each datastore, once however many share it
        for room in situation.hosts:
            load = load_of(room, self.rules)
            self.hosts[room.id] = _Host(room, load, *left_of(room, load))
            for store in room.stores:
                mib = left_in(store)
                self.disk[store.uuid] = min(mib, self.disk.get(store.uuid, mib))
        for each in situation.neighbours:
            if each.host in self.hosts:
                self.hosts[each.host].put(each.affinity, each.anti_affinity)
        self._open: dict[tuple[object, ...], tuple[list[_Host], dict[str, str]]] = {}

    def choose(self, vm: UUID, wish: Wish, *, explain: bool) -> Choice:
        """Place a VM. Raises `NoRoom`."""
        allowed, barred = self._allowed(wish)
        best = min(
            (host for host in allowed if not self._lacks(wish, host)),
            key=lambda host: self._weigh(wish, host),
            default=None,
        )
        if best is None:
            reasons = barred | {host.room.name: self._lacks(wish, host) for host in allowed}
            waits = any(reasons[x.room.name] == x.room.silent != "" for x in allowed)
            raise NoRoom(vm, reasons, waits=waits)
        store = self._store(wish, best.room)
        because = self._because(wish, best, store)
        others = self._others(wish, best, allowed, barred) if explain else {}
        best.cpu -= wish.cpu
        best.ram_mib -= wish.ram_mib
        best.put(wish.affinity, wish.anti_affinity)
        self.disk[store.uuid] -= wish.disk_mib
        return Choice(host=best.room.id, datastore=store.id, because=because, others=others)

    def _others(
        self, wish: Wish, best: _Host, allowed: list[_Host], barred: dict[str, str]
    ) -> dict[str, str]:
        """Why not another host: the next best first."""
        lacks = {host.room.name: self._lacks(wish, host) for host in allowed}
        ranked = sorted(
            (host for host in allowed if host is not best),
            key=lambda host: (lacks[host.room.name] != "", self._weigh(wish, host)),
        )
        why = {
            host.room.name: lacks[host.room.name] or "; ".join(self._merits(wish, host))
            for host in ranked
        }
        return dict([*why.items(), *barred.items()][:_TOLD])

    def _allowed(self, wish: Wish) -> tuple[list[_Host], dict[str, str]]:
        """The hosts that nothing bars, and why the others are; asked once for alike VMs."""
        alike = (
            *(wish.family, wish.enterprise, wish.tier, wish.vlans, wish.pin),
            *(wish.firmware, wish.linked, wish.tagged, wish.tags),
        )
        if alike not in self._open:
            hosts = self.hosts.values()
            why = {x.room.name: next(_bars(wish, x.room, x.load, self.rules), "") for x in hosts}
            self._open[alike] = (
                [each for each in hosts if not why[each.room.name]],
                {name: reason for name, reason in why.items() if reason},
            )
        return self._open[alike]

    def _lacks(self, wish: Wish, host: _Host) -> str:
        """What a host that is allowed has too little of, by now."""
        if host.cpu < wish.cpu:
            return f"{max(0, host.cpu)} CPUs free, {wish.cpu} needed"
        if host.ram_mib < wish.ram_mib:
            return f"{max(0, host.ram_mib)} MiB RAM free, {wish.ram_mib} needed"
        stores = _stores(wish, host.room)
        if not stores:
            of_tier = f" of tier {wish.tier}" if wish.tier else ""
            return host.room.silent or f"has no datastore{of_tier}"
        free = max(self.disk[store.uuid] for store in stores)
        if free < wish.disk_mib:
            return f"{max(0, free)} MiB disk free, {wish.disk_mib} needed"
        return ""

    def _store(self, wish: Wish, host: Room) -> Store:
        """The datastore of the tier with the most room."""
        return max(_stores(wish, host), key=lambda each: (self.disk[each.uuid], str(each.id)))

    def _weigh(self, wish: Wish, host: _Host) -> tuple[int, int, float, str]:
        """The least is best: apart from its like, then near its like, then as the policy says."""
        left = host.left(wish)
        return (
            host.apart[wish.anti_affinity],
            -host.near[wish.affinity],
            left if self.rules.fit is Fit.PROGRESSIVE else -left,
            host.room.name,
        )

    def _because(self, wish: Wish, host: _Host, store: Store) -> str:
        *near, room = self._merits(wish, host)
        most = "least" if self.rules.fit is Fit.PROGRESSIVE else "most"
        disk = f"{self.disk[store.uuid]} MiB free in {store.directory}"
        why = [*near, f"{room}, the {most} ({self.rules.fit})", disk]
        return f"{host.room.name}: {'; '.join(why)}"

    @staticmethod
    def _merits(wish: Wish, host: _Host) -> list[str]:
        """What hosts are weighed by."""
        why = []
        if wish.anti_affinity:
            why.append(f"{host.apart[wish.anti_affinity]} of {wish.anti_affinity} are there")
        if wish.affinity:
            why.append(f"{host.near[wish.affinity]} of {wish.affinity} are there to be near")
        return [*why, f"room for {int(host.left(wish))} like it"]


def _in_order(
    wishes: Iterable[tuple[UUID, Wish]],
    situation: Situation,
    explain: bool,  # noqa: FBT001 - passed on
) -> dict[UUID, Choice]:
    hosts = _Field(situation)
    return {vm: hosts.choose(vm, wish, explain=explain) for vm, wish in wishes}


def _largest_first(each: tuple[UUID, Wish]) -> tuple[int, int, int]:
    wish = each[1]
    return -wish.ram_mib, -wish.cpu, -wish.disk_mib


def _stores(wish: Wish, host: Room) -> list[Store]:
    planned = wish.pin and wish.pin.datastore
    return [
        store
        for store in host.stores
        if wish.tier in {"", store.tier} and planned in {None, store.id}
    ]


def _bars(wish: Wish, host: Room, load: Load, rules: Rules) -> Iterator[str]:
    """Every reason why a VM may not go to a host, however much room there is."""
    if wish.pin and wish.pin.host != host.id:
        yield _ANOTHER
    if host.family != wish.family:
        yield f"runs {host.family}, not {wish.family}"
    if wish.firmware not in host.firmwares and not host.silent:
        yield f"starts no VM by {wish.firmware}"
    if host.maintenance:
        yield "is in maintenance"
    if host.reserved_for not in {None, wish.enterprise}:
        yield "is reserved for another enterprise"
    if wish.enterprise in rules.restricted and host.reserved_for != wish.enterprise:
        yield "is not reserved for the enterprise, which may use no other"
    if any(
        wish.enterprise in pair and pair & host.tenants - {wish.enterprise}
        for pair in rules.excluded
    ):
        yield "has VMs that the enterprise must not share a host with"
    if not (load.cpu_percent and load.ram_percent):
        yield "takes no new VMs, by a load rule"
    yield from _bars_of_networks(wish, host)


def _bars_of_networks(wish: Wish, host: Room) -> Iterator[str]:
    """Every reason why a VM's networks may not be on a host."""
    if host.vlans_free is not None and host.vlans_free < wish.vlans:
        yield f"{host.vlans_free} VLANs free in rack {host.rack}, {wish.vlans} needed"
    if host.vlans is not None and (strange := wish.tags - host.vlans):
        where = f"rack {host.rack}" if host.rack else "being in no rack, it"
        yield f"{where} does not carry VLAN {min(strange)}"
    if wish.linked and host.unlinked:
        yield host.unlinked
    if host.untagged and (wish.tags - host.wired or (wish.tagged and not host.wired)):
        yield host.untagged
