"""Secrets: encrypted with a keyring whose keys are outside the database.

The keys' file may be replaced while everything runs (`rotation`): who cannot open a secret reads
it again, and who encrypts one looks first whether it is still the same.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr
from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.session import Database
from adapters.errors import NotAllowed, NotFound
from adapters.settings import Settings
from adapters.types import Chap


class Keyring:
    """The keys, newest first; one is made in `home/secret.key` where none are set."""

    def __init__(self, settings: Settings) -> None:
        self.file = None if settings.secret_keys else settings.home / "secret.key"
        self._turn = Lock()
        self._seen: tuple[int, ...] | None = None
        self.keys: Sequence[bytes] = ()
        if settings.secret_keys:
            self.keys = _split(settings.secret_keys.get_secret_value())
        self.renew()

    def renew(self) -> bool:
        """Read the file again if it is another one by now; answers whether it was."""
        if self.file is None:
            return False
        with self._turn:
            stat = _key_file(self.file).stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return False
            self.keys, self._seen = _split(self.file.read_text()), seen
            return True

    def replace(self, keys: Sequence[bytes]) -> None:
        """Keep these keys from now on: all of them, or those that were there, whatever happens."""
        if self.file is None:
            raise NotAllowed("the keys are those of CLOUDLOOM_SECRET_KEYS")
        fresh, former = self.file.with_suffix(".new"), self.file.stat()
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        os.chown(fresh, former.st_uid, former.st_gid)
        with fresh.open("wb") as opened:
            opened.write(b"\n".join(keys))
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.renew()

    def encrypt(self, plain: bytes) -> bytes:
        """Encrypt with the newest key that there is now."""
        self.renew()
        return Fernet(self.keys[0]).encrypt(plain)

    def decrypt(self, token: bytes | str, ttl: int | None = None) -> bytes:
        """Decrypt with whichever key does it. Raises `InvalidToken`."""
        try:
            return self._ring().decrypt(token, ttl)
        except InvalidToken:
            if not self.renew():
                raise
            return self._ring().decrypt(token, ttl)

    def rotated(self, token: bytes) -> bytes | None:
        """The same encrypted with the newest key; None when it is already."""
        try:
            Fernet(self.keys[0]).decrypt(token)
        except InvalidToken:
            return self._ring().rotate(token)
        return None

    def _ring(self) -> MultiFernet:
        return MultiFernet([Fernet(key) for key in self.keys])


def _split(text: str) -> list[bytes]:
    return [key.encode() for key in text.replace(",", " ").split()]


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
    """User names and passwords by id; `witness` hears of each that is handed out."""

    def __init__(
        self,
        database: Database,
        keys: Keyring,
        witness: Callable[[UUID], None] = lambda _secret: None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._witness = witness

    def ensure(self, secret: UUID) -> Chap:
        """The user and password under this id; random ones when there are none yet."""
        try:
            return self.read(secret)
        except NotFound:
            self._make(secret)
        return self.read(secret)

    def read(self, secret: UUID) -> Chap:
        """The user and password under this id. Raises `NotFound`."""
        try:
            chap = self._read(secret)
        except InvalidToken:
            chap = self._read_again(secret)
        self._witness(secret)
        return chap

    def keep(self, db: Session, secret: UUID, chap: Chap) -> None:
        """Keep what somebody gave us under this id, in his transaction; it may replace another."""
        still(db)  # the newest key stays the newest one until this is there
        plain = chap.password.get_secret_value().encode()
        row = db.get(models.Secret, secret) or models.Secret(id=secret)
        row.user, row.ciphertext = chap.user, self._keys.encrypt(plain)
        db.add(row)

    def has(self, secret: UUID) -> bool:
        """Whether there is such a secret."""
        with self._database.read() as db:
            return db.get(models.Secret, secret) is not None

    def rename(self, secret: UUID, new: UUID) -> None:
        """Give it another id; done already is success. Raises `NotFound` without either."""
        table = models.Secret
        with self._database.write() as db:
            db.execute(update(table).where(table.id == secret).values(id=new))
            if db.get(table, new) is None:
                raise NotFound(f"no secret {secret}")

    def forget(self, secret: UUID) -> None:
        """Remove it; absent is success."""
        with self._database.write() as db:
            db.execute(delete(models.Secret).where(models.Secret.id == secret))

    def _make(self, secret: UUID) -> None:
        plain = secrets.token_hex(8).encode()
        with self._database.write() as db:
            still(db)  # the newest key stays the newest one until this is there
            ciphertext = self._keys.encrypt(plain)
            db.add(models.Secret(id=secret, user=secret.hex, ciphertext=ciphertext))

    def _read_again(self, secret: UUID) -> Chap:
        """It was encrypted anew, and the key that it was read with has gone meanwhile."""
        try:
            return self._read(secret)
        except InvalidToken as error:
            raise NotAllowed(f"secret {secret}: no key of the keyring opens it") from error

    def _read(self, secret: UUID) -> Chap:
        with self._database.read() as db:
            row = db.get(models.Secret, secret)
            if row is None:
                raise NotFound(f"no secret {secret}")
            password = self._keys.decrypt(row.ciphertext).decode()
            return Chap(user=row.user, password=SecretStr(password))


def copied(db: Session, secret: UUID | None) -> UUID | None:
    """The id of a secret that says the same as this one, if there is one, and goes by itself."""
    if secret is None:
        return None
    still(db)  # no key goes that the copy needs
    row = db.get_one(models.Secret, secret)
    copy = models.Secret(id=uuid4(), user=row.user, ciphertext=row.ciphertext)
    db.add(copy)
    db.flush()
    return copy.id


def forget_unused(db: Session, secrets: Iterable[UUID | None]) -> None:
    """Remove those of these that no VM has any more."""
    table, vm = models.Secret, models.VirtualMachine
    ids = [each for each in secrets if each]
    needed = exists().where(or_(vm.user_data_id == table.id, vm.screen_id == table.id))
    change = delete(table).where(table.id.in_(ids), ~needed)
    db.execute(change.execution_options(synchronize_session=False))


def still(db: Session, *, alone: bool = False) -> None:
    """Let nobody drop a key until this transaction ends; `alone`: nor encrypt anything."""
    db.execute(select(models.Installation).with_for_update(read=not alone)).all()
