"""A target daemon that was restarted has lost its targets: they are rebuilt from our database.

Guests that use them keep their I/O waiting meanwhile. An export is rebuilt only while somebody
claims it, and its withdrawal waits until it is: what is withdrawn does not come back. It waits a
minute at most, should the worker die meanwhile; no transaction waits for a target daemon.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from uuid import UUID

from adapters.errors import AdapterError
from adapters.types import Export
from flows.cloud import cloud

LOOK_S = 2.0

log = logging.getLogger(__name__)


def rebuild_lost_exports(stop: Event) -> None:
    """Look every two seconds, until told to stop; what fails is tried at a later look."""
    look = 0
    while not stop.wait(LOOK_S):
        look += 1
        with _at_a_later_look():
            for pool in cloud.inventory.pools():
                with _at_a_later_look():
                    rebuild(pool, look)


def rebuild(pool: UUID, look: int = 0) -> None:
    """Rebuild what a pool's device has lost; one question where it has lost nothing.

    Each look asks for another export: one that is there proves nothing of the others, when a
    flow has just made it or the last rebuilding did not get to all.
    """
    exports = cloud.inventory.exports_of(pool)
    if not exports or cloud.storage(pool).has_export(exports[look % len(exports)]):
        return
    for export in exports:
        with _at_a_later_look():
            _put_right(pool, export)


def _put_right(pool: UUID, export: Export) -> None:
    """Make the export; where that took so long that it was withdrawn meanwhile, end it again."""
    late = False
    while True:
        kept = cloud.claims.keep(f"export:{export.id}")
        with _at_a_later_look():
            if kept.is_claimed:
                made = cloud.storage(pool).restore([(export, cloud.secrets.read(export.id))])
                log.info("rebuilt exports %s", made)
            elif late:
                cloud.storage(pool).delete_export(export)
        if cloud.claims.let_go(kept):
            return
        late = True


@contextmanager
def _at_a_later_look() -> Iterator[None]:
    """Let what one pool or export meets keep no other from being rebuilt."""
    try:
        yield
    except AdapterError as error:
        log.warning("exports are looked at again: %s", error)
