"""Sweep: what is on the backends without a row, and rows whose object is gone."""

from datetime import timedelta
from uuid import UUID

from adapters.database.operations import Operation
from adapters.errors import AdapterError, InUse
from adapters.types import Thing
from flows import backends
from flows.cloud import cloud
from flows.operation import operation
from flows.orphans import Sweep, compare, ids, of_nobody, told
from flows.policies import sweeping
from flows.running import mark, running
from flows.steps import Effect, step
from flows.upkeep import publish_report


@operation("datacenter", every=timedelta(hours=1))
def sweep_orphans(request: Operation) -> None:
    """Report what no row explains, and what is gone; remove the former where that is allowed."""
    datacenter = request.datacenter_id
    found = find_orphans(datacenter)
    refusal = weigh_removal(datacenter, found)
    removable = [] if refusal else hold_orphans(datacenter, found.orphans)
    for thing in removable:
        remove_orphan(thing, datacenter)
    publish_report(request.kind, datacenter, told(found, removable, refusal))


@step("find-orphans")
def find_orphans(datacenter: UUID) -> Sweep:
    return compare(datacenter)


@step("weigh-removal")
def weigh_removal(datacenter: UUID, found: Sweep) -> str:
    """Say why nothing may be removed; leave a mark, unless one is unknown to the database."""
    repository, installation = cloud.repository(datacenter), cloud.inventory.installation
    try:
        marks = repository.marks().get(installation, [])
        lost = [x for x in marks if not cloud.operations.is_known(UUID(x.rpartition(".")[2]))]
        if not lost:
            repository.leave_mark(installation, mark())
            repository.forget_marks(installation, before=mark())
    except AdapterError as error:  # a report of what is away is a report, too
        return f"the repository does not answer: {error}"
    return sweeping.refusal(
        removes=cloud.settings.sweep_removes,
        lost_marks=lost,
        never_heard_of=cloud.explanations.never_heard_of(ids(found.orphans)),
        orphans=len(found.orphans),
        seen=found.seen,
        max_percent=cloud.settings.sweep_max_percent,
    )


@step("hold-orphans")
def hold_orphans(datacenter: UUID, orphans: list[Thing]) -> list[Thing]:
    """Lock them, so that no operation begins with one; then look once more whether one has."""
    held = [
        x for x in orphans if all(cloud.explanations.hold(running(), UUID(i)) for i in ids([x]))
    ]
    rows = cloud.explanations.things(datacenter)
    return of_nobody((x for x in held if x not in rows), datacenter)


@step("remove-orphan", Effect.REMOVES)
def remove_orphan(thing: Thing, datacenter: UUID) -> None:
    """Remove it, unless something has come to use it meanwhile."""
    try:
        backends.remove(thing)
    except InUse:
        return


@remove_orphan.look
def _(thing: Thing, datacenter: UUID) -> bool:
    """Whether it is there, and nothing uses it."""
    return backends.is_idle(thing)
