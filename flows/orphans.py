"""Backends compared with the database: what no row explains, and rows whose object is gone."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from uuid import UUID

from adapters.errors import AdapterError
from adapters.types import Finding, Kind, Thing, Value
from flows import backends
from flows.cloud import cloud
from flows.running import running

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ON_DATASTORES = {Kind.DISK, Kind.SEED}
_ALONG = {Kind.COPY, Kind.LINK, Kind.GUARD}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Sweep(Value):
    """What was found: of ours without a row, idle or still used; rows alone; silent backends.

    And VMs that are not where their rows say, but at another host: somebody has moved them.
    """

    orphans: list[Thing]
    used: list[Thing]
    missing: list[Thing]
    moved: tuple[Thing, ...] = ()
    away: list[Finding]
    seen: int


def compare(datacenter: UUID) -> Sweep:
    """Ask the backends first, and the database then.

    What is made in between has its row, or is named by an operation that is not settled. Of
    files, those that are gone are `verify_library`'s.
    """
    seen, answered, away = everything(datacenter)
    rows = cloud.explanations.things(datacenter)
    gone = {x for x in rows - seen.keys() if x.kind is not Kind.FILE}
    elsewhere = {x.name for x in gone if x.kind is Kind.VM}
    stray = of_nobody((x for x in seen if x not in rows), datacenter)
    moved = tuple(x for x in stray if x.kind is Kind.VM and x.name in elsewhere)
    used = _used(seen, answered)
    return Sweep(
        orphans=[x for x in stray if x not in used and x not in moved],
        used=[x for x in stray if x in used and x not in moved and not backends.is_scratch(x)],
        missing=of_nobody((x for x in gone if x.place in answered), datacenter),
        moved=moved,
        away=away,
        seen=len(seen),
    )


def everything(datacenter: UUID) -> tuple[backends.Seen, set[UUID], list[Finding]]:
    """Everything of ours that is there, the places that have answered, and those that have not."""
    seen: backends.Seen = {}
    answered: set[UUID] = set()
    away: list[Finding] = []

    def ask(what: str, place: UUID, name: str, look: Callable[[], backends.Seen]) -> None:
        try:
            seen.update(look())
            answered.add(place)
        except AdapterError as error:  # to be told; the others are asked all the same
            away.append(Finding(what=what, name=name, state="away", detail=str(error)))

    for host in cloud.inventory.loads(datacenter):
        ask("host", host.id, host.name, partial(backends.on_host, host))
    for pool in cloud.inventory.pools(datacenter):
        name = cloud.inventory.pool(pool).name
        ask("pool", pool, name, partial(backends.in_pool, pool))
    name = cloud.inventory.datacenter_name(datacenter)
    ask("repository", datacenter, name, partial(backends.in_repository, datacenter))
    return seen, answered, away


def _used(seen: backends.Seen, answered: set[UUID]) -> set[Thing]:
    """What is still used, also if only a host says so that shows the same datastore.

    One that has not answered might.
    """
    neighbours = cloud.explanations.neighbours()
    used = {x for x, is_used in seen.items() if is_used}
    for thing in (x for x in seen if x.kind in _ON_DATASTORES):
        others = neighbours.get(thing.place, set()) - {thing.place}
        there = {thing.model_copy(update={"place": other}) for other in others}
        if others - answered or used & there:
            used.add(thing)
    return used


def of_nobody(things: Iterable[Thing], datacenter: UUID) -> list[Thing]:
    """Those that are no unsettled operation's and, in a shared repository, surely ours."""
    under_way = cloud.explanations.under_way(running())
    idle = [x for x in things if not any(word in under_way for word in _words(x))]
    if any(x.kind is Kind.FILE for x in idle) and _is_shared(datacenter):
        heard_of = {*ids(idle)} - {*cloud.explanations.never_heard_of(ids(idle))}
        idle = [x for x in idle if x.kind is not Kind.FILE or heard_of & {*ids([x])}]
    return sorted(idle, key=str)


def _words(thing: Thing) -> list[str]:
    return _ID.findall(thing.name) or _DIGEST.findall(thing.name)


def _is_shared(datacenter: UUID) -> bool:
    """Whether another installation has left marks in the datacenter's repository."""
    try:
        return bool(cloud.repository(datacenter).marks().keys() - {cloud.inventory.installation})
    except AdapterError:  # then nothing of it has been seen, and nobody can say
        return True


def ids(things: Iterable[Thing]) -> list[str]:
    """What operations have named, if they are ours; what only goes along with VMs is not."""
    named = (x for x in things if x.kind not in _ALONG and not backends.is_scratch(x))
    return [_ID.findall(x.name)[-1] for x in named if _ID.search(x.name)]


def told(found: Sweep, removed: list[Thing], refusal: str) -> list[Finding]:
    """The report: first of all, what was done about it."""
    verdict = f"{len(removed)} removed" if not refusal else "left"
    return [
        Finding(what="sweep", name=f"{found.seen} things", state=verdict, detail=refusal),
        *found.away,
        *(_finding(x, "removed" if x in removed else "orphan") for x in found.orphans),
        *(_finding(x, "orphan, in use") for x in found.used),
        *(_finding(x, "missing") for x in found.missing),
        *(_finding(x, "moved") for x in found.moved),
    ]


def _finding(thing: Thing, state: str) -> Finding:
    return Finding(what=thing.kind, name=thing.name, state=state, detail=f"at {thing.place}")
