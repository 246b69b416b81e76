"""A pretended DHCP server: the reference twin.

Its world holds things of three kinds, each of a server: `subnet` and `reservation` as their
values are, `lease` (mac, address, hostname). A guest that is on has asked for its address: the
memory hypervisor tells its cards as `macs`.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Any, TypeVar
from uuid import UUID

from adapters.lan import Lease, Reservation, Subnet
from adapters.networks.held import Held, OtherReservation, OtherSubnet
from adapters.types import Power
from adapters.world import World

R = TypeVar("R")


class MemoryDhcp:
    """One server among those of its world, as one installation sees it."""

    def __init__(self, world: World, server: UUID, installation: UUID) -> None:
        self.world = world
        self.server = server
        self.installation = installation

    def verify(self) -> None:
        self._ask("verify", lambda: None, None)

    def ensure_subnet(self, subnet: Subnet) -> None:
        self._change("ensure_subnet", lambda held: held.with_subnet(subnet))

    def has_subnet(self, subnet: Subnet) -> bool:
        def effect() -> bool:
            return self._held().subnets.get(subnet.id) == subnet

        return self._ask("has_subnet", effect, lie=False)

    def delete_subnet(self, subnet: UUID) -> None:
        self._change("delete_subnet", lambda held: held.without_subnet(subnet))

    def ensure_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[Subnet] = ()
    ) -> None:
        said = list(reservations), list(subnets)
        self._change("ensure_reservations", lambda held: held.with_reservations(*said))

    def has_reservations(self, reservations: Iterable[Reservation]) -> set[UUID]:
        def effect() -> set[UUID]:
            found = self._held().reservations
            return {each.id for each in reservations if found.get(each.id) == each}

        return self._ask("has_reservations", effect, set())

    def delete_reservations(
        self, reservations: Iterable[Reservation], subnets: Iterable[UUID] = ()
    ) -> None:
        said = list(reservations), list(subnets)
        self._change("delete_reservations", lambda held: held.without_reservations(*said))

    def replace(self, subnets: Iterable[Subnet], reservations: Iterable[Reservation]) -> None:
        said = list(subnets), list(reservations)
        self._change("replace", lambda held: held.replaced(*said))

    def content(self) -> tuple[dict[UUID, Subnet], dict[UUID, Reservation]]:
        def effect() -> tuple[dict[UUID, Subnet], dict[UUID, Reservation]]:
            held = self._held()
            return held.subnets, held.reservations

        nothing: tuple[dict[UUID, Subnet], dict[UUID, Reservation]] = ({}, {})
        return self._ask("content", effect, nothing)

    def leases(self, subnet: UUID | None = None) -> list[Lease]:
        def effect() -> list[Lease]:
            held = self._held()
            wanted = [each.range for key, each in held.subnets.items() if subnet in {None, key}]
            told = {lease.address: lease for lease in self._leases()}
            on = self._cards_that_are_on()
            for each in held.reservations.values():
                if each.mac in on:
                    told[each.address] = _lease(each)
            found = [told[key] for key in sorted(told)]
            return [lease for lease in found if any(lease.address in each for each in wanted)]

        return self._ask("leases", effect, [])

    def offer(self, mac: str, relay: IPv4Address) -> Lease | None:
        """A guest asks by that relay, as it does when it starts."""
        subnets = [Subnet(**each) for each in self._all("subnet")]
        asked = {each.id for each in subnets if each.relay == relay} or {
            each.id for each in subnets if each.relay is None and relay in each.range
        }
        for each in (Reservation(**each) for each in self._all("reservation")):
            if each.mac == mac and each.subnet in asked:
                lease = _lease(each)
                self.world.put("lease", self._key(each.address), self._mine(lease))
                return lease
        return None

    def _ask(self, method: str, effect: Callable[[], R], lie: R) -> R:
        return self.world.call(f"dhcp.{method}", self.server, effect, lie)

    def _change(self, method: str, change: Callable[[Held], Held]) -> None:
        def effect() -> None:
            before = self._held()
            after = change(before)
            kinds: tuple[tuple[str, dict[UUID, Any], dict[UUID, Any]], ...] = (
                ("subnet", before.subnets, after.subnets),
                ("reservation", before.reservations, after.reservations),
            )
            for kind, were, are in kinds:
                for key in were.keys() - are.keys():
                    self.world.remove(kind, self._key(key))
                for key, value in are.items():
                    if were.get(key) != value:
                        self.world.put(kind, self._key(key), self._mine(value))
            for lease in before.ended_by(after, self._leases()):
                self.world.remove("lease", self._key(lease.address))

        self._ask(method, effect, None)

    def _held(self) -> Held:
        subnets = [Subnet(**each) for each in self._all("subnet")]
        cards = [Reservation(**each) for each in self._all("reservation")]
        mine = {each.id: each for each in subnets if each.installation == self.installation}
        return Held(
            mine,
            {each.id: each for each in cards if each.subnet in mine},
            tuple(
                OtherSubnet(each.range, each.number, each.relay)
                for each in subnets
                if each.id not in mine
            ),
            tuple(
                OtherReservation(each.subnet, each.mac, each.address)
                for each in cards
                if each.subnet not in mine
            ),
        )

    def _leases(self) -> list[Lease]:
        return [Lease(**each) for each in self._all("lease")]

    def _cards_that_are_on(self) -> set[str]:
        on = [vm for vm in self.world.all("vm").values() if vm["power"] == Power.ON]
        return {mac for vm in on for mac in vm.get("macs", ())}

    def _all(self, kind: str) -> list[dict[str, Any]]:
        every = self.world.all(kind).items()
        return [
            {name: value for name, value in each.items() if name != "server"}
            for key, each in every
            if key.startswith(f"{self.server}/")
        ]

    def _key(self, of: object) -> str:
        return f"{self.server}/{of}"

    def _mine(self, value: Subnet | Reservation | Lease) -> dict[str, Any]:
        return {"server": str(self.server), **value.model_dump(mode="json")}


def _lease(reservation: Reservation) -> Lease:
    wanted = ("mac", "address", "hostname")
    return Lease(**{name: getattr(reservation, name) for name in wanted})
