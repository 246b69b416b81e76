"""Plans that were shown: each may be carried out once, for a while."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, ForeignKey, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from adapters.amounts import Amounts, Charge
from adapters.database.conventions import Base
from adapters.database.ledger import Key, standings
from adapters.database.session import Database, utc_now
from adapters.errors import Conflict, NotFound
from adapters.plans import LimitAfter, Outlook, Planned


class PlanRow(Base):
    """A plan; `asked` is the digest of the request that may carry it out."""

    __tablename__ = "plans"
    id: Mapped[UUID] = mapped_column(primary_key=True)  # becomes its operation's
    enterprise_id: Mapped[UUID] = mapped_column(
        ForeignKey("enterprises.id", ondelete="CASCADE"), index=True
    )
    made_by: Mapped[str]
    asked: Mapped[str] = mapped_column(String(64))
    chosen: Mapped[dict[str, Any]]
    outlook: Mapped[dict[str, Any]]
    valid_until: Mapped[datetime] = mapped_column(index=True)
    used: Mapped[bool]


class Plans:
    """The plans of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, plan: UUID, enterprise: UUID) -> Planned:
        """An enterprise's plan. Raises `NotFound`; `Conflict` when it can be used no more."""
        query = select(PlanRow, PlanRow.valid_until > utc_now()).where(
            PlanRow.id == plan, PlanRow.enterprise_id == enterprise
        )
        with self._database.read() as db:
            if (found := db.execute(query).one_or_none()) is None:
                raise NotFound(f"there is no plan {plan}")
            row, valid = found
            _require_usable(row, valid=valid)
            outlook = Outlook.model_validate(row.outlook)
            return Planned(id=row.id, asked=row.asked, chosen=row.chosen, outlook=outlook)


def keep(db: Session, plan: Planned, enterprise: UUID, made_by: str, valid_s: float) -> datetime:
    """Write a plan down; answers until when it may be used."""
    row = PlanRow(
        **plan.model_dump(mode="json", exclude={"id"}),
        id=plan.id,
        enterprise_id=enterprise,
        made_by=made_by,
        valid_until=utc_now(valid_s),
        used=False,
    )
    db.add(row)
    db.flush()
    db.refresh(row)
    return row.valid_until


def use_up(db: Session, plan: UUID) -> None:
    """Use a plan: nobody else can. Raises `Conflict` when it was, or comes too late."""
    valid = PlanRow.valid_until > utc_now()
    change = update(PlanRow).where(PlanRow.id == plan, ~PlanRow.used, valid).values(used=True)
    if cast(CursorResult[Any], db.execute(change)).rowcount != 1:
        row = db.get(PlanRow, plan, populate_existing=True)
        if row is None:
            raise NotFound(f"there is no plan {plan}")
        _require_usable(row, valid=False)


def limits_after(
    db: Session, charges: Sequence[Charge], former: Sequence[Charge]
) -> list[LimitAfter]:
    """How every level that these charges count at stands, and would stand with them."""
    asked, had = _by_level(charges), _by_level(former)
    found = []
    for enterprise in dict.fromkeys(enterprise for enterprise, _ in asked):
        levels = [key for whose, key in asked if whose == enterprise]
        for each in standings(db, enterprise, levels):
            key = (enterprise, (each.level, each.id))
            after = (each.used + asked[key]).beyond(had.get(key, Amounts()))
            kept = each.model_dump(include={"level", "id", "soft", "hard", "used"})
            found.append(LimitAfter(**kept, after=after))
    return found


def _by_level(charges: Sequence[Charge]) -> dict[tuple[UUID, Key], Amounts]:
    found: defaultdict[tuple[UUID, Key], Amounts] = defaultdict(Amounts)
    for each in charges:
        for key in each.holders.items():
            found[each.enterprise_id, key] += each.amounts
    return found


def _require_usable(row: PlanRow, *, valid: bool) -> None:
    if row.used:
        raise Conflict(f"plan {row.id} was carried out: operation {row.id}", code="plan-used")
    if not valid:
        raise Conflict(f"plan {row.id} was valid until {row.valid_until}", code="plan-expired")
