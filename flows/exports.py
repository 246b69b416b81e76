"""A target daemon that was restarted has lost its targets: they are rebuilt from our database.

Guests that use them keep their I/O waiting meanwhile. An export is rebuilt only while somebody
claims it, under the lock that its removal needs too: what is being withdrawn does not come back.
"""

import logging
from threading import Event
from uuid import UUID

from adapters.errors import AdapterError
from flows.cloud import cloud

LOOK_S = 2.0

log = logging.getLogger(__name__)


def rebuild_lost_exports(stop: Event) -> None:
    """Look every two seconds, until told to stop; what fails is tried at the next look."""
    while not stop.wait(LOOK_S):
        try:
            for pool in cloud.inventory.pools():
                rebuild(pool)
        except AdapterError as error:
            log.warning("exports are looked at again: %s", error)


def rebuild(pool: UUID) -> None:
    """Rebuild what a pool's device has lost; one question where it has lost nothing."""
    exports = cloud.inventory.exports_of(pool)
    if not exports or cloud.storage(pool).has_export(exports[0]):
        return
    for export in exports:
        with cloud.claims.held(f"export:{export.id}") as claimed:
            if claimed:
                made = cloud.storage(pool).restore([(export, cloud.secrets.read(export.id))])
                log.info("rebuilt exports %s", made)
