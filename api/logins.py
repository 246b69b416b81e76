"""Logging in: a name and a password become a session's token, or nothing.

Unknown, inactive and locked-out names take the same way as wrong passwords: as many writes, one
Argon2 check, one answer. An attempt is counted before the password is looked at, so that many at
once gain nothing.
"""

from datetime import datetime
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.events import acting, tell
from adapters.database.people import ApiToken, LoginAttempts, User
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import Database, Joined, insert_missing, utc_now
from adapters.types import Scope, Value
from api import passwords, tokens
from flows.policies.lockout import pause_s

_NOBODY = UUID(int=0)


class LoggedIn(Value):
    """A session, as it is told once."""

    id: UUID
    user_id: UUID
    token: str
    expires_at: datetime


def log_in(
    database: Database, enterprise: str | None, name: str, password: SecretStr, session_s: float
) -> LoggedIn | None:
    """A session of the user's, who is found in the first enterprise unless another is named."""
    user = _user(database, enterprise, name)
    subject = user.id if user else _NOBODY
    is_free = _begin_attempt(database, subject)
    is_right = passwords.is_right(password, user.password_hash if user else None)
    if not (user and user.active and is_free and is_right):
        return None
    return _open(database, user.id, session_s)


def may_change(database: Database, user: UUID, password: SecretStr) -> bool:
    """Whether this is the user's password: asked once more, and counted as any other attempt."""
    is_free = _begin_attempt(database, user)
    with database.read() as db:
        kept = db.get_one(User, user).password_hash
    if not (passwords.is_right(password, kept) and is_free):
        return False
    with database.write() as db:
        forgive(db, user)
    return True


def forgive(db: Session, user: UUID) -> None:
    """Let the user's failed attempts count no more."""
    row = db.get(LoginAttempts, user, with_for_update=True)
    if row:
        row.failures, row.locked_until = 0, None


def _user(database: Database, enterprise: str | None, name: str) -> User | None:
    table = models.Enterprise
    which = table.id == FIRST_ENTERPRISE if enterprise is None else table.name == enterprise
    query = select(User).join(table, table.id == User.enterprise_id)
    with database.read() as db:
        user = db.scalars(query.where(which, User.name == name)).one_or_none()
        db.expunge_all()
        return user


def _begin_attempt(database: Database, subject: UUID) -> bool:
    """Count an attempt as failed until it is known better; answers whether it may succeed."""
    first = {"user_id": subject, "failures": 0, "tried_at": utc_now(), "locked_until": None}
    with database.write() as db:
        db.execute(insert_missing(LoginAttempts).values(**first))
        row = db.get_one(LoginAttempts, subject, with_for_update=True)
        now = db.scalars(select(utc_now())).one()
        is_free = row.locked_until is None or row.locked_until <= now
        row.tried_at = utc_now()
        if is_free:
            row.failures += 1
            row.locked_until = utc_now(pause_s(row.failures))
        return is_free


def _open(database: Database, user_id: UUID, session_s: float) -> LoggedIn | None:
    with database.write() as db:
        user = db.get(User, user_id, with_for_update=True)
        if user is None or not user.active:  # since it was asked
            return None
        forgive(db, user_id)
        with acting(user.name):
            tell(db, "session.begun", user)
        session = uuid4()
        token = tokens.mint(
            Joined(db),
            "session",
            user.enterprise_id,
            scopes=Scope,
            token=session,
            user=user_id,
            session_s=session_s,
        )
        db.flush()
        row = db.get_one(ApiToken, session)
        db.refresh(row)
        if row.expires_at is None:
            raise AssertionError("a session ends")
        return LoggedIn(id=session, user_id=user_id, token=token, expires_at=row.expires_at)
