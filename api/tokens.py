"""Bearer tokens: `cl_<id>_<secret>`, of which only the secret's SHA-256 is kept."""

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError

from adapters.database import events, models
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import Database, utc_now
from adapters.types import Scope, Value

_SHAPE = re.compile(r"cl_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
_NOBODY = UUID(int=0)
_FIRST = uuid5(NAMESPACE_DNS, "token.cloudloom")


class Caller(Value):
    """Who asks: a token of an enterprise."""

    token_id: UUID
    enterprise_id: UUID
    name: str
    scopes: frozenset[Scope]


def mint(
    database: Database,
    name: str,
    enterprise: UUID = FIRST_ENTERPRISE,
    expires_at: datetime | None = None,
    scopes: Iterable[Scope] = (),
    token: UUID | None = None,
) -> str:
    """Make a token; what this answers is all that will ever show its secret."""
    token, secret = token or uuid4(), token_urlsafe(32)
    with database.write() as db:
        db.add(
            models.ApiToken(
                id=token,
                enterprise_id=enterprise,
                name=name,
                digest=_digest(secret),
                scopes=sorted(scopes),
                created_at=utc_now(),
                expires_at=expires_at,
                revoked_at=None,
            )
        )
    return f"cl_{token.hex}_{secret}"


def first_token(database: Database) -> str | None:
    """Mint the installation's first token, which may do everything; None when it has had one.

    Its id is always the same: of two homes that begin at once, one is told it.
    """
    with database.read() as db:
        if db.scalar(select(func.count()).select_from(models.ApiToken)):
            return None
    try:
        return mint(database, "first", scopes=Scope, token=_FIRST)
    except IntegrityError:
        return None


def revoke(database: Database, token: UUID) -> None:
    """Let the token open nothing from now on."""
    with database.write() as db:
        db.get_one(models.ApiToken, token).revoked_at = utc_now()


def bearer(database: Database, token: str) -> Caller | None:
    """Who a token stands for, if for anybody; all refusals take the same way through here."""
    shape = _SHAPE.fullmatch(token)
    token_id, secret = (UUID(shape[1]), shape[2]) if shape else (_NOBODY, "")
    row = _valid(database, token_id)
    known = compare_digest(_digest(secret), row.digest if row else _digest(str(token_id)))
    return _caller(row) if row and known else None


def holder(database: Database, token: UUID) -> Caller | None:
    """Who a token stands for that was shown before, unless it has expired or been revoked."""
    row = _valid(database, token)
    return _caller(row) if row else None


def known(caller: Caller) -> Caller:
    """Let what this request changes be told of its caller."""
    who = {"who": caller.name, "who_id": caller.token_id, "enterprise_id": caller.enterprise_id}
    events.origin.set(events.origin.get().model_copy(update=who))
    return caller


def _valid(database: Database, token: UUID) -> models.ApiToken | None:
    query = select(models.ApiToken).where(
        models.ApiToken.id == token,
        models.ApiToken.revoked_at.is_(None),
        or_(models.ApiToken.expires_at.is_(None), models.ApiToken.expires_at > utc_now()),
    )
    with database.read() as db:
        row = db.scalars(query).one_or_none()
        if row:
            db.expunge(row)
        return row


def _caller(row: models.ApiToken) -> Caller:
    scopes = frozenset(map(Scope, row.scopes))
    return Caller(token_id=row.id, enterprise_id=row.enterprise_id, name=row.name, scopes=scopes)


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
