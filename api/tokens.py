"""Bearer tokens: `cl_<id>_<secret>`, of which only the secret's SHA-256 is kept.

A token can do what its user's role allows, less what its scopes leave out.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import events
from adapters.database.people import ApiToken, Role, User
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import Database, utc_now
from adapters.errors import Transient
from adapters.privileges import Privilege
from adapters.types import Scope, Value
from flows.cloud import cloud
from flows.policies.privileges import known, narrowed, of_nobody

_SHAPE = re.compile(r"cl_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
_NOBODY = UUID(int=0)
_FIRST = uuid5(NAMESPACE_DNS, "token.cloudloom")
_NOTED_S = 60.0  # that a token is used is written down as often at most


class Caller(Value):
    """Who asks: a user by one of his tokens, or an enterprise's own token."""

    token_id: UUID
    user_id: UUID | None
    enterprise_id: UUID
    name: str
    scopes: frozenset[Scope]
    read_only: bool
    granted: frozenset[Privilege]  # by the role
    privileges: frozenset[Privilege]  # what the token leaves of that
    virtual_datacenters: frozenset[UUID]  # nothing outside is there for him; none: no bounds

    @property
    def sees_all(self) -> bool:
        """Whether other enterprises' objects are there for him, where that makes sense."""
        return Privilege.ENTERPRISE_ADMINISTER_ALL in self.privileges


def mint(
    database: Database,
    name: str,
    enterprise: UUID = FIRST_ENTERPRISE,
    expires_at: datetime | None = None,
    scopes: Iterable[Scope] = (),
    token: UUID | None = None,
    *,
    user: UUID | None = None,
    read_only: bool = False,
    session_s: float | None = None,
) -> str:
    """Make a token; what this answers is all that will ever show its secret."""
    token, secret = token or uuid4(), token_urlsafe(32)
    with database.write() as db:
        row = ApiToken(
            id=token,
            enterprise_id=enterprise,
            user_id=user,
            name=name,
            digest=_digest(secret),
            scopes=sorted(scopes),
            read_only=read_only,
            session=session_s is not None,
            created_at=utc_now(),
            expires_at=expires_at,
            last_used_at=None,
            revoked_at=None,
        )
        if session_s is not None:
            row.expires_at, row.last_used_at = utc_now(session_s), utc_now()
        db.add(row)
    return f"cl_{token.hex}_{secret}"


def first_token(database: Database) -> str | None:
    """Mint the installation's first token, which may do everything; None when it has had one.

    Its id is always the same: of two homes that begin at once, one is told it.
    """
    with database.read() as db:
        if db.scalar(select(func.count()).select_from(ApiToken)):
            return None
    try:
        return mint(database, "first", scopes=Scope, token=_FIRST)
    except IntegrityError:
        return None


def revoke(database: Database, token: UUID) -> None:
    """Let the token open nothing from now on."""
    with database.write() as db:
        db.get_one(ApiToken, token).revoked_at = utc_now()


def hand_over(db: Session, token: UUID, user: UUID) -> None:
    """Let a token that is nobody's be a user's from now on."""
    mine = (ApiToken.id == token) & ApiToken.user_id.is_(None)
    db.execute(update(ApiToken).where(mine).values(user_id=user))


def end_sessions(db: Session, user: UUID, but: UUID | None = None) -> None:
    """Log a user out everywhere, but here."""
    open_ = ApiToken.user_id == user, ApiToken.session, ApiToken.revoked_at.is_(None)
    query = update(ApiToken).where(*open_).values(revoked_at=utc_now())
    db.execute(query.where(ApiToken.id != but) if but else query)


def bearer(database: Database, token: str) -> Caller | None:
    """Who a token stands for, if for anybody; all refusals take the same way through here."""
    shape = _SHAPE.fullmatch(token)
    token_id, secret = (UUID(shape[1]), shape[2]) if shape else (_NOBODY, "")
    found = _valid(database, token_id)
    digest = found.digest if found else _digest(str(token_id))
    if not compare_digest(_digest(secret), digest) or found is None:
        return None
    if found.is_news:
        _note_use(database, token_id)
    return found.caller


def holder(database: Database, token: UUID) -> Caller | None:
    """Who a token stands for that was shown before, unless it has expired or been revoked."""
    found = _valid(database, token)
    return found.caller if found else None


def acting(caller: Caller) -> Caller:
    """Let what this request changes be told of its caller."""
    who = {"who": caller.name, "who_id": caller.token_id, "enterprise_id": caller.enterprise_id}
    events.origin.set(events.origin.get().model_copy(update=who))
    return caller


class _Valid(NamedTuple):
    caller: Caller
    digest: str
    is_news: bool  # that it is used


def _valid(database: Database, token: UUID) -> _Valid | None:
    row, idle_s = ApiToken, cloud.settings.session_idle_s
    is_news = or_(row.last_used_at.is_(None), row.last_used_at < utc_now(-_NOTED_S))
    query = (
        select(row, User, Role, is_news)
        .outerjoin(User, User.id == row.user_id)
        .outerjoin(Role, Role.id == User.role_id)
        .where(
            row.id == token,
            row.revoked_at.is_(None),
            or_(row.expires_at.is_(None), row.expires_at > utc_now()),
            or_(~row.session, row.last_used_at > utc_now(-idle_s)),
            or_(row.user_id.is_(None), User.active),
        )
    )
    with database.read() as db:
        if (found := db.execute(query).one_or_none()) is None:
            return None
        return _Valid(_caller(*found[:3]), found[0].digest, bool(found[3]))


def _note_use(database: Database, token: UUID) -> None:
    with suppress(Transient), database.write() as db:
        db.execute(update(ApiToken).where(ApiToken.id == token).values(last_used_at=utc_now()))


def _caller(row: ApiToken, user: User | None, role: Role | None) -> Caller:
    scopes = frozenset(map(Scope, row.scopes))
    operators = row.enterprise_id == FIRST_ENTERPRISE
    granted = known(role.privileges) if role else of_nobody(operators=operators)
    return Caller(
        token_id=row.id,
        user_id=row.user_id,
        enterprise_id=row.enterprise_id,
        name=user.name if user else row.name,
        scopes=scopes,
        read_only=row.read_only,
        granted=granted,
        privileges=narrowed(granted, scopes, read_only=row.read_only),
        virtual_datacenters=frozenset(map(UUID, user.virtual_datacenters if user else ())),
    )


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
