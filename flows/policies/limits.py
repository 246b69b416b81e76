"""Limits: whether what is asked for fits; a soft limit may be passed, a hard one never."""

from collections.abc import Sequence

from adapters.amounts import Amounts, Level, Standing
from adapters.errors import Conflict, OutOfSpace, Refused
from adapters.types import Value


class Excess(Value):
    """A limit that would be passed: what is used, and how much more is asked for."""

    level: Level
    id: str
    resource: str
    limit: int
    used: int
    asked: int

    def __str__(self) -> str:
        """As people read it."""
        told = f"{self.resource} of the {self.level}: limit {self.limit}, used {self.used}"
        return f"{told}, asked {self.asked}"


class LimitExceeded(OutOfSpace):
    """A limit leaves no room; the details say which, of which level."""

    def __init__(self, exceeded: Sequence[Excess]) -> None:
        super().__init__(f"beyond the {self.code}: {'; '.join(map(str, exceeded))}")
        self.details = {"exceeded": [each.model_dump() for each in exceeded]}


class SoftLimitExceeded(LimitExceeded):
    """May be passed by who says why."""

    code = "soft-limit"


class HardLimitExceeded(LimitExceeded):
    """Is never passed."""

    code = "hard-limit"


def within(standings: Sequence[Standing], *, forced: bool = False) -> bool:
    """Whether all fits; False where force was needed to pass soft limits.

    Only an increase is looked at: what is over a limit already may stay, or become less.
    Raises `HardLimitExceeded`, or `SoftLimitExceeded` unless forced.
    """
    if hard := [x for each in standings for x in _exceeded(each, each.hard)]:
        raise HardLimitExceeded(hard)
    soft = [x for each in standings for x in _exceeded(each, each.soft)]
    if soft and not forced:
        raise SoftLimitExceeded(soft)
    return not soft


def _exceeded(standing: Standing, limits: Amounts) -> list[Excess]:
    found = []
    for resource, limit in limits.items():
        used, more = getattr(standing.used, resource), getattr(standing.more, resource)
        if limit and more and used + more > limit:
            found.append(
                Excess(
                    level=standing.level,
                    id=str(standing.id),
                    resource=resource,
                    limit=limit,
                    used=used,
                    asked=more,
                )
            )
    return found


def require_settable(former: Standing, soft: Amounts, hard: Amounts) -> None:
    """Refuse limits that contradict each other, or that are lowered below what is used.

    A limit that stays, or is raised, may be below: somebody has forced what is beyond it.
    """
    crossed = [k for k, n in soft.items() if n > getattr(hard, k) > 0]
    if crossed:
        raise Refused(f"soft is above hard for {', '.join(crossed)}", code="soft-above-hard")
    if former.level is Level.VIRTUAL_DATACENTER and (soft.repository_mib or hard.repository_mib):
        text = "templates belong to no virtual datacenter: repository_mib cannot be limited there"
        raise Refused(text, code="not-at-this-level")
    below = sorted(
        {
            k
            for k, n in _lowered(former.soft, soft) | _lowered(former.hard, hard)
            if n < getattr(former.used, k)
        }
    )
    if below:
        refusal = Conflict(f"in use beyond that: {', '.join(below)}", code="limit-below-use")
        refusal.details = {"used": {k: getattr(former.used, k) for k in below}}
        raise refusal


def _lowered(former: Amounts, new: Amounts) -> set[tuple[str, int]]:
    was = dict(former.items())
    return {(k, n) for k, n in new.items() if n and (n < was[k] or not was[k])}
