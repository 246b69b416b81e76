"""Leases: whether VMs have been told their addresses, as their DHCP servers say."""

import time
from collections.abc import Iterable
from threading import Event
from uuid import UUID

from adapters.errors import Refused
from adapters.plugs import Promise
from flows.cloud import cloud
from flows.running import this_saga
from flows.steps import step

_POLL_S = 1.0


@step("await-leases")
def await_leases(vm: UUID, promised: list[Promise]) -> None:
    """Wait until the VM's guest has been told its addresses. Raises `Refused` after a while."""
    end = time.monotonic() + cloud.settings.lease_wait_s
    while left := [*_untold(promised)]:
        if time.monotonic() >= end:
            names = ", ".join(str(each.address) for each in left)
            raise Refused(f"no guest has asked for {names}", code="no-lease")
        this_saga().runner.check()
        Event().wait(min(_POLL_S, cloud.settings.lease_wait_s))


@await_leases.plan
def _(vm: UUID, promised: list[Promise]) -> None:
    """Whether it is told, nobody foresees."""


def _untold(promised: Iterable[Promise]) -> Iterable[Promise]:
    for each in promised:
        leases = cloud.dhcp(each.server).leases(each.network)
        if (each.mac, each.address) not in {(lease.mac, lease.address) for lease in leases}:
            yield each
