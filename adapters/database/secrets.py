"""Secrets: encrypted with a keyring whose keys are outside the database."""

import os
import secrets
from pathlib import Path
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr
from sqlalchemy import delete

from adapters.database import models
from adapters.database.session import Database
from adapters.errors import NotAllowed, NotFound
from adapters.settings import Settings
from adapters.types import Chap


def keyring(settings: Settings) -> MultiFernet:
    """The keys, newest first; one is made in `home/secret.key` where none are set."""
    if settings.secret_keys is not None:
        keys = settings.secret_keys.get_secret_value().split(",")
    else:
        keys = [_key_file(settings.home / "secret.key").read_text().strip()]
    return MultiFernet([Fernet(key.strip()) for key in keys])


def _key_file(path: Path) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_bytes(Fernet.generate_key())
        try:
            os.link(fresh, path)  # the first process wins; nobody overwrites a key
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path


class Secrets:
    """User names and passwords by id."""

    def __init__(self, database: Database, keys: MultiFernet) -> None:
        self._database = database
        self._keys = keys

    def ensure(self, secret: UUID) -> Chap:
        """The user and password under this id; random ones when there are none yet."""
        with self._database.write() as db:
            row = db.get(models.Secret, secret)
            if row is None:
                row = models.Secret(
                    id=secret,
                    user=secret.hex,
                    ciphertext=self._keys.encrypt(secrets.token_hex(8).encode()),
                )
                db.add(row)
            return self._open(row)

    def read(self, secret: UUID) -> Chap:
        """The user and password under this id. Raises `NotFound`."""
        with self._database.read() as db:
            if row := db.get(models.Secret, secret):
                return self._open(row)
        raise NotFound(f"no secret {secret}")

    def forget(self, secret: UUID) -> None:
        """Remove it; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.Secret).where(models.Secret.id == secret))

    def _open(self, row: models.Secret) -> Chap:
        try:
            password = self._keys.decrypt(row.ciphertext).decode()
        except InvalidToken as error:
            raise NotAllowed(f"secret {row.id}: no key of the keyring opens it") from error
        return Chap(user=row.user, password=SecretStr(password))
