"""Which operations have a flow run: asked every second, so only what is needed is read."""

from uuid import UUID

from sqlalchemy import select

from adapters.database import models
from adapters.database.session import Database
from adapters.types import OperationState, Value


class Sent(Value):
    """An operation that has not ended nor is stuck, and the newest flow run that it has."""

    operation: UUID
    flow_run: UUID
    claimed: bool  # by a runner of that very run, or a later one
    wish: str | None


def sent(database: Database, datacenter: UUID, limit: int = 1000) -> dict[UUID, Sent]:
    """A datacenter's, by flow run; those that have been sent first come first."""
    row = models.Operation
    query = (
        select(row.id, row.flow_run_id, row.epoch >= row.attempt, row.wish)
        .where(
            row.datacenter_id == datacenter,
            row.state.in_(
                [OperationState.ACCEPTED, OperationState.RUNNING, OperationState.UNWINDING]
            ),
            row.flow_run_id.is_not(None),
        )
        .order_by(row.accepted_at)
        .limit(limit)
    )
    with database.read() as db:
        return {
            run: Sent(operation=operation, flow_run=run, claimed=claimed, wish=wish)
            for operation, run, claimed, wish in db.execute(query)
            if run is not None
        }
