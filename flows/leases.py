"""Waiting for guests to be told their addresses: a VM is up when it has been heard."""

import time
from contextlib import suppress
from uuid import UUID

from adapters.database.records import VmRecord
from adapters.errors import Refused, Transient
from adapters.types import WaitFor
from flows.cloud import cloud
from flows.running import this_saga
from flows.steps import step

_LOOK_S = 1.0


def wait_for(vm: VmRecord, what: str | None) -> None:
    """Wait until the VM's guest has what its deployment is to wait for."""
    if what == WaitFor.LEASE and vm.served:
        await_leases(vm.id, vm.served)


@step("await-leases")
def await_leases(vm: UUID, served: dict[UUID, list[UUID]]) -> None:
    """Wait until these NICs of a VM, by server, have been told what is reserved for them."""
    missing = {
        (card.mac, card.address)
        for server, nics in served.items()
        for card in cloud.lans.of_vms(server, [vm])[1]
        if card.id in nics
    }
    end = time.monotonic() + cloud.settings.lease_wait_s
    while missing := missing.difference(*map(_told, served)):
        this_saga().runner.check()
        if time.monotonic() > end:
            lacking = ", ".join(sorted(str(address) for _, address in missing))
            raise Refused(f"nobody has asked for {lacking}", code="no-lease")
        time.sleep(min(_LOOK_S, cloud.settings.lease_wait_s / 10))


def _told(server: UUID) -> set[tuple[str, object]]:
    """Which cards that server has told which addresses; one that is away may come back in time."""
    with suppress(Transient):
        return {(lease.mac, lease.address) for lease in cloud.dhcp(server).leases()}
    return set()
