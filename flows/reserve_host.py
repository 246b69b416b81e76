"""Reserve hosts for VMs: a decision that is written down, so that a resumed run reads it."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from adapters.allocation import Load, Pin, Room, Situation
from adapters.amounts import Amounts
from adapters.database.records import VmRecord
from adapters.errors import Refused, Transient, Unsupported
from adapters.guests import Firmware
from adapters.plans import Placement
from flows.cloud import cloud
from flows.planning import pinned, planning
from flows.policies.growth import require_room
from flows.policies.outdating import PlanOutdated
from flows.policies.placement import Choice, NoRoom, choose_hosts
from flows.steps import step

log = logging.getLogger(__name__)
_TOLD = 20


@step("reserve-hosts")
def reserve_hosts(target: UUID, vms: list[UUID]) -> None:
    """The best hosts by filters and rules, reserved in the transaction that counts what is.

    The hosts are asked before it: one that takes its time must not hold up every writer. What was
    planned goes where that was, or nowhere.
    """
    datacenter = cloud.inventory.vm(vms[0]).datacenter_id
    placer = Placer(datacenter, vms, pinned())

    def choose(left: list[UUID], now: Situation) -> dict[UUID, tuple[UUID, UUID]]:
        choices = placer.place(left, now)
        return {vm: (each.host, each.datastore) for vm, each in choices.items()}

    cloud.inventory.reserve(vms, datacenter, choose)
    placer.tell()


@reserve_hosts.undo
def _(target: UUID, vms: list[UUID]) -> None:
    cloud.inventory.free(vms)


@reserve_hosts.look
def _(target: UUID, vms: list[UUID]) -> bool:
    return cloud.inventory.have_host(vms)


@reserve_hosts.plan
def _(target: UUID, vms: list[UUID]) -> None:
    placed = [vm for vm in cloud.inventory.vms(vms) if vm.host_id is None]
    if not placed:
        return
    datacenter, left = placed[0].datacenter_id, [vm.id for vm in placed]
    now = cloud.inventory.situation(datacenter, left)
    choices = Placer(datacenter, left, pinned()).place(left, now, explain=True)
    names = {host.id: host.name for host in now.hosts}
    stores = {store.id: store.directory for host in now.hosts for store in host.stores}
    for vm in placed:
        choice = choices[vm.id]
        planning().placement[vm.id] = Placement(
            **choice.model_dump(),
            name=vm.name,
            host_name=names[choice.host],
            directory=stores[choice.datastore],
        )


def place(vms: Sequence[UUID], datacenter: UUID) -> dict[UUID, Choice]:
    """Choose a host for each VM as things are now; nothing is reserved.

    Raises `NoRoom`, with each host's reason; `Transient` while a host that may have room is away.
    """
    return Placer(datacenter, vms).place(vms, cloud.inventory.situation(datacenter, vms))


def room_at(vm: VmRecord) -> Callable[[Amounts, Situation], None]:
    """What refuses a VM more than its host has left; the host is asked now."""
    rooms = cloud.inventory.situation(vm.datacenter_id).hosts
    said = _Said(host for host in rooms if host.id == vm.host_id)

    def require(more: Amounts, now: Situation) -> None:
        try:
            require_room(vm.id, vm.host, vm.datastore, more, said.in_(now))
        except NoRoom as refusal:
            if refusal.waits:
                raise Transient(str(refusal)) from refusal
            raise

    return require


class Placer:
    """Places VMs, with what they wish for and what hosts said: neither is asked again."""

    def __init__(
        self, datacenter: UUID, vms: Sequence[UUID], pins: Mapping[UUID, Pin] | None = None
    ) -> None:
        self._pins = pins or {}
        self._wishes = {
            vm: wish.model_copy(update={"pin": self._pins.get(vm)})
            for vm, wish in cloud.inventory.wishes(vms).items()
        }
        families = {wish.family for wish in self._wishes.values()}
        hosts = cloud.inventory.situation(datacenter).hosts
        asked = (x for x in hosts if x.family in families and not x.maintenance)
        linked = any(wish.linked for wish in self._wishes.values())
        self._said = _Said(asked, {wish.firmware for wish in self._wishes.values()}, linked=linked)
        self._choices: dict[UUID, Choice] = {}

    def place(
        self, vms: Sequence[UUID], now: Situation, *, explain: bool = False
    ) -> dict[UUID, Choice]:
        """A host for each VM, as things are now. Raises `NoRoom`, `PlanOutdated`, `Transient`."""
        wishes = {vm: self._wishes[vm] for vm in vms}
        try:
            self._choices = choose_hosts(wishes, self._said.in_(now), explain=explain)
        except NoRoom as refusal:
            if refusal.waits:
                raise Transient(str(refusal)) from refusal
            if refusal.vm in self._pins:
                why = [f"{host}: {reason}" for host, reason in refusal.reasons.items()]
                raise PlanOutdated(why or ["the host that was planned is gone"]) from refusal
            raise
        return self._choices

    def tell(self) -> None:
        """Tell the log why VMs are where they are."""
        for vm, choice in [*self._choices.items()][:_TOLD]:
            log.info("vm %s goes to %s", vm, choice.because)


class _Said:
    """What hosts have said of their datastores, and of what else any VM wants of them."""

    def __init__(
        self, hosts: Iterable[Room], firmwares: Collection[Firmware] = (), *, linked: bool = False
    ) -> None:
        more = bool({*firmwares} - {Firmware.BIOS})
        self._asked = {x.id: _asked(x, firmwares=more, linked=linked) for x in hosts}

    def in_(self, now: Situation) -> Situation:
        """Things as the database has them now, with what was said, and what the settings say."""
        percent = round(cloud.settings.cpu_overcommit * 100)
        default = Load(cpu_percent=percent, ram_percent=100)
        rules = now.rules.model_copy(update={"default": default})
        hosts = tuple(self._as_is(host) for host in now.hosts)
        return now.model_copy(update={"hosts": hosts, "rules": rules})

    def _as_is(self, host: Room) -> Room:
        if (said := self._asked.get(host.id)) is None:
            return host.model_copy(update={"stores": ()})
        known = {store.id: store for store in said.stores}
        stores = tuple(
            known[each.id].model_copy(update={"promised_mib": each.promised_mib})
            for each in host.stores
            if each.id in known
        )
        told = {"stores": stores, "silent": said.silent, "firmwares": said.firmwares}
        return host.model_copy(
            update={**told, **{x: getattr(said, x) for x in ("unlinked", "untagged", "wired")}}
        )


def _asked(host: Room, *, firmwares: bool, linked: bool) -> Room:
    """What a host has, by its own word; one that does not answer is out, and says why."""
    stores = []
    try:
        hypervisor = cloud.hypervisor(host.id)
        for store in host.stores:
            with suppress(
                Refused
            ):  # it is not there: its VMs have something to fear, new ones not
                room = hypervisor.datastore(store.directory)
                stores.append(store.model_copy(update=room.model_dump()))
        known = hypervisor.firmwares() if firmwares else host.firmwares
        layer2 = _layer2(host) if linked and not host.unlinked else {}
    except Transient as error:
        return host.model_copy(update={"stores": (), "silent": f"does not answer: {error}"})
    return host.model_copy(update={"stores": tuple(stores), "firmwares": known, **layer2})


def _layer2(host: Room) -> dict[str, str | frozenset[int]]:
    """Why a host has no networks, or no VLANs; nothing, where it has."""
    try:
        able = cloud.switch(host.id).abilities()
    except Unsupported as error:
        return {"unlinked": str(error)}
    return {"unlinked": able.without, "untagged": able.untagged_only, "wired": able.tags}
