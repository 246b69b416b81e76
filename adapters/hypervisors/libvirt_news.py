"""News of a libvirt host: its daemon tells who is connected when a VM starts, stops or goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

import libvirt

from adapters.errors import Transient
from adapters.hypervisors.libvirt_session import Session, speaking_libvirt

_TOGETHER_S = 0.2
_LOOK_S = 1.0  # how long a lost daemon may go unnoticed


@contextmanager
def listening(session: Session) -> Iterator[Callable[[float], None]]:
    """Hand out what waits until there is news, for so long at most."""
    heard: SimpleQueue[None] = SimpleQueue()
    with speaking_libvirt():
        connection = session()
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        ear = connection.domainEventRegisterAny(None, kind, lambda *_: heard.put(None), None)

    def wait(timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            if not connection.isAlive():
                raise Transient("the daemon is not heard any more")
            with suppress(Empty):
                heard.get(timeout=min(left, _LOOK_S))
                time.sleep(_TOGETHER_S)
                break
        while not heard.empty():  # what comes together is looked at together
            heard.get()

    try:
        yield wait
    finally:
        with suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(ear)
