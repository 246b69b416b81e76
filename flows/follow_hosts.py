"""Hosts are followed: a VM that went off, or was switched by hand, is soon shown so.

Each host that tells news (`NEWS`) has a thread in its datacenter's worker. News may be lost, or
come while an operation has the VM: so each host is asked anew now and then.
"""

import logging
import time
from contextlib import closing
from threading import Event, Thread
from uuid import UUID

from adapters.errors import AdapterError, NotFound
from adapters.types import Power
from flows.abilities import Capability
from flows.cloud import cloud
from flows.policies.lifecycle import seen_as

ANEW_S = 30.0
_LOOK_S = 5.0
_RETRY_S = 10.0

log = logging.getLogger(__name__)


def follow_hosts(datacenter: str, stop: Event) -> None:
    """Follow each host of the datacenter of that name, until told to stop; hosts come and go."""
    threads: dict[UUID, Thread] = {}
    while not stop.is_set():
        try:
            for host in _hosts(datacenter):
                if host not in threads or not threads[host].is_alive():
                    threads[host] = Thread(target=_follow, args=(host, stop), daemon=True)
                    threads[host].start()
        except AdapterError as error:
            log.warning("hosts are followed later: %s", error)
        stop.wait(_LOOK_S)
    for thread in threads.values():
        thread.join()


def _hosts(datacenter: str) -> list[UUID]:
    """Those that tell news."""
    found = cloud.inventory.datacenter_called(datacenter)
    every = [load.id for load in cloud.inventory.loads(found)] if found else []
    return [host for host in every if Capability.NEWS in cloud.hypervisor(host).capabilities]


def _follow(host: UUID, stop: Event) -> None:
    while not stop.is_set():
        try:
            listen(host, stop)
        except NotFound:  # the host itself has gone
            return
        except AdapterError as error:
            log.info("host %s is not heard: %s", host, error)
            stop.wait(_RETRY_S)


def listen(host: UUID, stop: Event) -> None:
    """Hear a host for a while, from what there is to what happens."""
    until, there, is_known = time.monotonic() + ANEW_S, dict[UUID, Power](), False
    with closing(cloud.hypervisor(host).changes(_LOOK_S)) as changes:
        for news in changes:
            for vm, power in news.items():
                there.pop(vm, None) if power is None else there.update({vm: power})
            if news or not is_known:
                is_known = bring_up_to_date(host, there)
            if stop.is_set() or time.monotonic() > until:
                return


def bring_up_to_date(host: UUID, there: dict[UUID, Power]) -> bool:
    """Have the states be what the host says; a VM that it does not name may have moved.

    False: there are some that could not be asked for now.
    """
    is_known = True
    for vm, former in cloud.following.of(host).items():
        try:
            power = there.get(vm) or cloud.hypervisor(host).power(vm)
        except AdapterError as error:
            log.info("VM %s: %s", vm, error)
            is_known = False
            continue
        state = seen_as(former, power)
        if state is not former and cloud.following.record(vm, former, state):
            log.info("VM %s was %s, and is %s", vm, former, state)
    return is_known
