"""Rotation: all secrets are encrypted anew with a new key, and only then do old keys go.

It may be killed anywhere and begun again: what is encrypted with the newest key is left alone,
and no key is made while one is not done with. Everything goes on meanwhile (`secrets`).
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import Severity, tell
from adapters.database.secrets import Keyring, still
from adapters.database.session import Database
from adapters.errors import Conflict, NotAllowed
from adapters.types import Value

BATCH = 200


class Rotated(Value):
    """How many secrets there are, how many were encrypted anew, how many old keys went."""

    secrets: int
    anew: int
    dropped: int


def rotate(database: Database, keys: Keyring) -> Rotated:
    """Encrypt everything with the newest key, a new one where the keys are in a file of ours.

    Raises `NotAllowed` where a secret cannot be opened: then no key goes.
    """
    if keys.file is None:
        return _through(database, keys)
    with _alone(keys.file):
        keys.renew()
        if len(keys.keys) == 1:
            keys.replace([Fernet.generate_key(), *keys.keys])
        return _through(database, keys)


def _through(database: Database, keys: Keyring) -> Rotated:
    last, anew, batch = UUID(int=0), 0, BATCH
    while batch == BATCH:
        with database.write() as db:
            more, last, batch = _encrypt_batch(db, keys, last)
            anew += more
    with database.write() as db:
        still(db, alone=True)  # whoever was encrypting with an old key has ended
        last, all_, batch = UUID(int=0), 0, BATCH
        while batch == BATCH:
            more, last, batch = _encrypt_batch(db, keys, last)
            anew, all_ = anew + more, all_ + batch
        old = len(keys.keys) - 1
        done = Rotated(secrets=all_, anew=anew, dropped=old if keys.file else 0)
        tell(db, "keyring.rotated", None, Severity.WARNING, **done.model_dump())
    if done.dropped:
        keys.replace(keys.keys[:1])
    return done


def _encrypt_batch(db: Session, keys: Keyring, after: UUID) -> tuple[int, UUID, int]:
    """Encrypt some rows anew; answers how many, the last row, and how many it has looked at."""
    row = models.Secret
    query = select(row).where(row.id > after).order_by(row.id).limit(BATCH).with_for_update()
    rows, anew = list(db.scalars(query)), 0
    for each in rows:
        try:
            ciphertext = keys.rotated(each.ciphertext)
        except InvalidToken as error:
            text = f"secret {each.id}: no key of the keyring opens it; no key was dropped"
            raise NotAllowed(text) from error
        if ciphertext:
            each.ciphertext = ciphertext
            anew += 1
    return anew, rows[-1].id if rows else after, len(rows)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One rotation at a time. Raises `Conflict` while there is another."""
    with file.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("another rotation is under way", code="rotating") from error
        yield
