"""Tickets: what the bearer of a signed address may do, once and for a while, at a gateway.

They are encrypted, so that an address tells nothing; and they end with the token of whoever asked
for them.
"""

from typing import ClassVar, TypeVar
from uuid import UUID, uuid4

from cryptography.fernet import InvalidToken
from pydantic import Field
from sqlalchemy.exc import IntegrityError

from adapters.database import models
from adapters.database.secrets import Keyring
from adapters.database.session import utc_now
from adapters.errors import Conflict, NotAllowed
from adapters.privileges import Privilege
from adapters.types import Value
from api import tokens
from flows.cloud import cloud

T = TypeVar("T", bound="Ticket")


class Ticket(Value):
    """Something that somebody may do."""

    use: ClassVar[str]
    privilege: ClassVar[Privilege]  # whoever has lost it meanwhile may not

    id: UUID = Field(default_factory=uuid4)
    token_id: UUID


def sign(ticket: Ticket) -> str:
    """The ticket as a part of an address."""
    return Keyring(cloud.settings).encrypt(ticket.model_dump_json().encode()).decode()


def opened(kind: type[T], signed: str, valid_s: int) -> tuple[T, tokens.Caller]:
    """The ticket, and for whom it is. Raises `NotAllowed`."""
    code = f"{kind.use}-invalid"
    try:
        ticket = kind.model_validate_json(Keyring(cloud.settings).decrypt(signed, ttl=valid_s))
    except (InvalidToken, ValueError) as error:
        raise NotAllowed("this address is not valid, or no longer", code=code) from error
    caller = tokens.holder(cloud.database, ticket.token_id)
    if caller and kind.privilege in caller.privileges:
        return ticket, caller
    raise NotAllowed(f"whoever asked for this {kind.use} may no longer", code=code)


def use_up(ticket: Ticket) -> None:
    """Let nobody use it again, whatever becomes of this use. Raises `Conflict`."""
    used = models.IdempotencyKey(
        token_id=ticket.token_id,
        route=ticket.use,
        key=str(ticket.id),
        body_digest="",
        status=0,
        location=None,
        answer={},
        created_at=utc_now(),
    )
    try:
        with cloud.database.write() as db:
            db.add(used)
    except IntegrityError as error:
        raise Conflict("this address was used already", code=f"{ticket.use}-used") from error
