"""Leaving: what goes with a user, and with an enterprise."""

from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.database import models
from adapters.database.operations import ENDED
from adapters.database.people import ApiToken, LoginAttempts, Role, User
from adapters.database.repositories import TemplateRepositoryRow
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.errors import Conflict, InUse


def remove_user(db: Session, user: UUID) -> None:
    """Remove a user with all of his tokens: one that lost its user would be the enterprise's.

    His templates are nobody's then, of the same enterprise.
    """
    _remove_tokens(db, list(db.scalars(select(ApiToken.id).where(ApiToken.user_id == user))))
    db.execute(delete(LoginAttempts).where(LoginAttempts.user_id == user))
    owned = update(models.Template).where(models.Template.owner_id == user)
    db.execute(owned.values(owner_id=None))
    db.execute(delete(User).where(User.id == user))


def remove_enterprise(db: Session, row: models.Enterprise) -> None:
    """Remove an enterprise. Raises `InUse` while something of it is left or goes on."""
    if row.id == FIRST_ENTERPRISE:
        raise Conflict("the first enterprise stays", code="first-enterprise")
    if users := [*_what_is_left(db, row.id)]:
        raise InUse(f"enterprise {row.name} is not empty", users=users)
    _forget_operations(db, row.id)
    for user in db.scalars(select(User.id).where(User.enterprise_id == row.id)).all():
        remove_user(db, user)
    tokens = select(ApiToken.id).where(ApiToken.enterprise_id == row.id)
    _remove_tokens(db, list(db.scalars(tokens)))
    db.execute(delete(Role).where(Role.enterprise_id == row.id))
    try:
        with db.begin_nested():
            db.delete(row)
    except IntegrityError as error:
        raise InUse(f"enterprise {row.name} still has something") from error


def _what_is_left(db: Session, enterprise: UUID) -> list[str]:
    left: list[str] = []
    for table, noun in (
        (models.VirtualDatacenter, "virtual datacenter"),
        (models.Template, "template"),
        (TemplateRepositoryRow, "template repository"),
        (models.Network, "network"),
    ):
        names = select(table.name).where(table.enterprise_id == enterprise).limit(20)
        left += [f"{noun} {name}" for name in db.scalars(names)]
    row = models.Operation
    unsettled = row.state.not_in(ENDED) | row.due_at.is_not(None)
    going = select(row.id).where(row.enterprise_id == enterprise, unsettled).limit(20)
    return left + [f"operation {each}" for each in db.scalars(going)]


def _forget_operations(db: Session, enterprise: UUID) -> None:
    mine = select(models.Operation.id).where(models.Operation.enterprise_id == enterprise)
    for table in (models.Receipt, models.Step, models.Lock):
        db.execute(
            delete(table)
            .where(table.operation_id.in_(mine))
            .execution_options(synchronize_session=False)
        )
    db.execute(
        delete(models.Operation)
        .where(models.Operation.enterprise_id == enterprise)
        .execution_options(synchronize_session=False)
    )


def _remove_tokens(db: Session, tokens: list[UUID]) -> None:
    keys = models.IdempotencyKey
    db.execute(delete(keys).where(keys.token_id.in_(tokens)))
    db.execute(delete(ApiToken).where(ApiToken.id.in_(tokens)))
