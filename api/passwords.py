"""Passwords: kept as Argon2id hashes, and checked a few at a time, since each takes 64 MiB."""

from secrets import token_urlsafe
from threading import BoundedSemaphore
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from pydantic import Field, SecretStr

LONGEST = 128
New = Annotated[SecretStr, Field(min_length=10, max_length=LONGEST)]
Shown = Annotated[SecretStr, Field(min_length=1, max_length=LONGEST)]
AT_ONCE = 2
_HASHER = PasswordHasher()
_TURNS = BoundedSemaphore(AT_ONCE)
# Of a password that nobody has, with the costs of all others: what unknown names are checked with.
_NOBODYS = _HASHER.hash(token_urlsafe(32))


def hashed(password: SecretStr) -> str:
    """The password as it is kept."""
    with _TURNS:
        return _HASHER.hash(password.get_secret_value())


def is_right(password: SecretStr, kept: str | None) -> bool:
    """Whether this is it; where there is none, it takes as long to find that out."""
    try:
        with _TURNS:
            _HASHER.verify(kept or _NOBODYS, password.get_secret_value())
    except VerifyMismatchError:
        return False
    return kept is not None
