"""Whether what a plan has shown is still what would happen; what has changed, in words."""

from collections.abc import Iterator, Sequence

from adapters.amounts import Amounts
from adapters.errors import Conflict
from adapters.plans import Outlook

_TOLD = 20


class PlanOutdated(Conflict):
    """The world has changed since; the details say how."""

    code = "plan-outdated"

    def __init__(self, changed: Sequence[str]) -> None:
        told = list(changed[:_TOLD])
        if more := len(changed) - len(told):
            told.append(f"and {more} more")
        super().__init__(f"it would not be as planned: {'; '.join(told)}")
        self.details = {"changed": told}


def require_as_shown(shown: Outlook, now: Outlook) -> None:
    """Raise `PlanOutdated` where anything would be done otherwise than was shown.

    Less to copy is no change: somebody else has done it meanwhile.
    """
    looks = (_seen, _placed_elsewhere, _charged, _copied)
    changed = [each for look in looks for each in look(shown, now)]
    if changed := changed or [*_steps(shown, now)]:
        raise PlanOutdated(changed)


def _seen(shown: Outlook, now: Outlook) -> Iterator[str]:
    for what, facts in now.seen.items():
        was = shown.seen.get(what, facts)
        for name, fact in facts.items():
            if was.get(name) != fact:
                yield f"{what}: {name} is {fact}, was {was.get(name)}"


def _placed_elsewhere(shown: Outlook, now: Outlook) -> Iterator[str]:
    for vm in {**shown.placement, **now.placement}:
        was, will = shown.placement.get(vm), now.placement.get(vm)
        if was is None and will:
            yield f"{will.name} would be placed, too"
        elif was and will is None:
            yield f"{was.name} would not be placed any more"
        elif was and will and shown.pins[vm] != now.pins[vm]:
            yield f"{was.name} would go to {will.host_name}, not to {was.host_name}"


def _charged(shown: Outlook, now: Outlook) -> Iterator[str]:
    was = {(each.kind, each.id): each.amounts for each in shown.charges}
    will = {(each.kind, each.id): each.amounts for each in now.charges}
    for key in {**was, **will}:
        kind, id_ = key
        before, after = was.get(key), will.get(key)
        if before is None or after is None:
            amounts = before or after or Amounts()
            done = "charged" if any(n for _, n in amounts.items()) else "refunded"
            yield f"{kind} {id_} would {'not ' if after is None else ''}be {done}"
        elif before != after:
            yield f"{kind} {id_} would be charged {_differing(before, after)}"


def _differing(before: Amounts, after: Amounts) -> str:
    was = dict(before.items())
    return ", ".join(f"{k} {n}, not {was[k]}" for k, n in after.items() if n != was[k])


def _copied(shown: Outlook, now: Outlook) -> Iterator[str]:
    was = {each.what: each.size_bytes for each in shown.copies}
    for each in now.copies:
        if each.size_bytes > was.get(each.what, 0):
            yield f"{each.size_bytes} bytes would be copied for {each.what}"


def _steps(shown: Outlook, now: Outlook) -> Iterator[str]:
    was = {(each.name, each.what): each for each in shown.steps}
    will = {(each.name, each.what): each for each in now.steps}
    for key, step in was.items():
        if key not in will:
            yield f"{step} would not be done"
    for key, step in will.items():
        if key not in was:
            yield f"{step} would be done, too"
        elif was[key] != step:
            yield f"{step} would be told something else"
    if was.keys() == will.keys() and list(was) != list(will):
        yield "steps would be in another order"
