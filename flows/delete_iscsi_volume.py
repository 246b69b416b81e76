"""Delete an iSCSI volume. Forward-only: bytes that are gone do not come back."""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.types import Role, Volume
from flows.charges import refund_volume
from flows.cloud import cloud
from flows.create_iscsi_volume import as_volume
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_volume


@operation("volume", role=Role.STORAGE)
def delete_iscsi_volume(request: Operation) -> None:
    """Remove the volume from its pool, then from the inventory; it is charged no more."""
    record = survey_volume(request.target_id)
    remove_volume(as_volume(record), record.pool_id)
    strike_volume(record.id)
    refund_volume(record.id)


@step("remove-volume", Effect.REMOVES)
def remove_volume(volume: Volume, pool: UUID) -> None:
    cloud.storage(pool).delete_volume(volume)


@remove_volume.look
def _(volume: Volume, pool: UUID) -> bool:
    return cloud.storage(pool).has_volume(volume)


@step("strike-volume", Effect.REMOVES)
def strike_volume(volume: UUID) -> None:
    cloud.inventory.forget_volume(volume)


@strike_volume.look
def _(volume: UUID) -> bool:
    return cloud.inventory.has_volume(volume)
