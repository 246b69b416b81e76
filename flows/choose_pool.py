"""Choose a storage pool for a new volume: the one of its tier with the most room."""

from uuid import UUID

from sqlalchemy import select

from adapters.database import models
from adapters.errors import NotFound, OutOfSpace
from flows.cloud import cloud


def choose_pool(datacenter: UUID, tier: str, size_mib: int) -> UUID:
    """The pool with the most room. Raises `OutOfSpace`, with what each pool has."""
    pools = _pools(datacenter, tier)
    if not pools:
        raise NotFound(f"the datacenter has no storage of tier {tier}", code="unknown-tier")
    free_mib = {pool: cloud.storage(pool).capacity().free_mib for pool in pools}
    best = max(pools, key=lambda pool: (free_mib[pool], pools[pool]))
    if free_mib[best] >= size_mib:
        return best
    refusal = OutOfSpace(f"no pool of tier {tier} has {size_mib} MiB free", code="no-room")
    refusal.details = {
        "pools": {name: f"{free_mib[pool]} MiB free" for pool, name in pools.items()}
    }
    raise refusal


def require_more(pool: UUID, more_mib: int) -> None:
    """Refuse what a volume's pool has too little left for. Raises `OutOfSpace`."""
    free_mib = cloud.storage(pool).capacity().free_mib
    if free_mib < more_mib:
        text = f"its pool has {free_mib} MiB free, {more_mib} more needed"
        raise OutOfSpace(text, code="no-room")


def _pools(datacenter: UUID, tier: str) -> dict[UUID, str]:
    query = (
        select(models.StoragePool)
        .join(models.StorageDevice, models.StorageDevice.id == models.StoragePool.device_id)
        .join(models.Tier, models.Tier.id == models.StoragePool.tier_id)
        .where(models.StorageDevice.datacenter_id == datacenter)
        .where(models.Tier.name == tier, models.Tier.enabled)
    )
    with cloud.database.read() as db:
        return {row.id: row.name for row in db.scalars(query)}
