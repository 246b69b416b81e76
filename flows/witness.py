"""Whoever is handed a secret is told of: an operation, or a process that works by itself."""

from uuid import UUID

from adapters.database import events
from flows import running
from flows.cloud import cloud


def witness(secret: UUID) -> None:
    """An operation's events go with its journal: it waits for no commit more than without."""
    if saga := running.saga.get(None):
        saga.witness(secret)
        return
    with cloud.database.write() as db, events.acting("worker"):
        events.tell(db, "secret.read", secret=secret)
