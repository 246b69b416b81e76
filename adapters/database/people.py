"""Who may ask: roles, users, their tokens, and how often somebody has failed to log in."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from adapters.database.conventions import Base, table
from adapters.database.labels import Labelled


class Role(Labelled, Base):
    """A named set of privileges, of an enterprise or of all; a `blocked` one stays as it is."""

    __tablename__ = "roles"
    __table_args__ = table(UniqueConstraint("enterprise_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID | None] = mapped_column(ForeignKey("enterprises.id"))
    name: Mapped[str]
    blocked: Mapped[bool] = mapped_column(default=False)
    privileges: Mapped[list[str]]


class User(Labelled, Base):
    """A person; with `virtual_datacenters`, nothing outside of these is there for him."""

    __tablename__ = "users"
    __table_args__ = table(UniqueConstraint("enterprise_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    role_id: Mapped[UUID] = mapped_column(ForeignKey("roles.id"))
    name: Mapped[str]
    full_name: Mapped[str]
    email: Mapped[str]
    password_hash: Mapped[str]
    active: Mapped[bool] = mapped_column(default=True)
    virtual_datacenters: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime]


class ApiToken(Base):
    """A bearer token, by the SHA-256 of its secret half.

    Its user's, or nobody's: an enterprise's own, made before it had users. A `session` is one
    that was logged in for, and ends when it is not used.
    """

    __tablename__ = "api_tokens"
    __table_args__ = table(Index(None, "session", "expires_at"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    enterprise_id: Mapped[UUID] = mapped_column(ForeignKey("enterprises.id"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(default=list)
    read_only: Mapped[bool] = mapped_column(default=False)
    session: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class LoginAttempts(Base):
    """How often in a row a user's password was wrong; unknown names share a row of nobody's."""

    __tablename__ = "login_attempts"
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    failures: Mapped[int]
    tried_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]
