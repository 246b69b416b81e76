"""User data: what a VM's guest is told when it boots first.

It may hold passwords, so it is a secret: it is never told again, only that there is some.
"""

from typing import Annotated
from uuid import UUID, uuid4

from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy.orm import Session

from adapters.types import Chap
from flows.cloud import cloud

_MOST_BYTES = 2**16
USER_DATA = (
    "What cloud-init does when the guest boots first: `#cloud-config`, a script, ... It is kept"
    " encrypted, and never told again."
)


def _fits(text: SecretStr) -> SecretStr:
    if len(text.get_secret_value().encode()) > _MOST_BYTES:
        raise ValueError(f"user data has at most {_MOST_BYTES} bytes")
    return text


UserData = Annotated[
    SecretStr,
    Field(min_length=1, max_length=_MOST_BYTES, examples=["#cloud-config\npackages: [nginx]\n"]),
    AfterValidator(_fits),
]


def kept(db: Session, text: SecretStr | None) -> UUID | None:
    """Keep it in this transaction; answers the id of the secret."""
    if text is None:
        return None
    secret = uuid4()
    cloud.secrets.keep(db, secret, Chap(user="", password=text))
    db.flush()
    return secret
