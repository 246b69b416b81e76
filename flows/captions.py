"""What the exhibits say: values become short texts and tables for people, and nothing is asked."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from adapters.database.operations import Operation
from adapters.database.stories import Moment, PlannedVm, Question
from adapters.types import StepState
from flows.outline import Steps

MOST = 200  # lines: more would be read by nobody
UNPLACED = "not yet reserved"
_BAR = 12
_ERROR = 200  # characters of it
_ID = 8  # of an id: more would push the rest off the page
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|&#~])")
_EMPTY, _FULL = "░█"  # of one font, so that bars stand in line

Row = dict[str, Any]


def heading(operation: Operation, once: Steps, each: Steps) -> str:
    """What is asked for, by whom, and the steps to come."""
    asker = _plain(operation.requested_by)
    lines = [
        f"## {_plain(title(operation))}",
        f"Asked for by {asker} at {_time(operation.accepted_at)}; operation `{operation.id}`.",
        f"**Once, where needed:** {_arrows(once)}",
    ]
    if each:
        lines.append(f"**For each VM, where needed:** {_arrows(each)}")
    return "\n\n".join(lines)


def plan(heading: str, vms: Sequence[PlannedVm], all_: int) -> str:
    """The heading, and a line for each VM, up to some."""
    if not vms:
        return heading
    table = ["| VM | after | CPUs | RAM | volumes | host |", "|---|---|--:|--:|--:|---|"]
    for vm in vms:
        after = ", ".join(map(_plain, vm.depends_on))
        host = _plain(vm.host) or UNPLACED
        cells = (_plain(vm.name), after, vm.cpu, f"{vm.ram_mib} MiB", vm.volumes, host)
        table.append(f"| {' | '.join(map(str, cells))} |")
    more = [f"and {all_ - len(vms)} more VMs"] if all_ > len(vms) else []
    return "\n\n".join([heading, "\n".join(table), *more])


def timeline(moments: Sequence[Moment]) -> list[Row]:
    """A row and a bar for each step; of many, a row for all steps of one name."""
    if not moments:
        return []
    start = min(each.started_at for each in moments)
    until = max(each.ended_at or each.started_at for each in moments)
    unit_s = max((until - start).total_seconds(), 0.001) / _BAR
    if len(moments) > MOST:
        return _summed_up(moments, start, unit_s)
    return [_row(each, start, unit_s) for each in moments]


def receipt(questions: Sequence[Question]) -> list[Row]:
    """A row for each question; what is not as expected is first, by how they were read."""
    return [
        {
            "VM": each.lane,
            "step": each.key.partition("[")[0],
            "expected": each.expected,
            "found": each.answer[:_ERROR],
            "as expected": "yes" if each.as_expected else "NO",
            "of": each.key.partition("[")[2].removesuffix("]")[:_ID],
            "asked at": f"{each.looked_at.astimezone(UTC):%H:%M:%S} UTC",
        }
        for each in questions
    ]


def title(operation: Operation) -> str:
    """What is done, and to what."""
    return f"{operation.kind.replace('_', '-')} {operation.target_name}"


def outcome(operation: Operation) -> str:
    """How it ended, after how long, and why."""
    took = ""
    if operation.started_at and operation.ended_at:
        took = f" after {(operation.ended_at - operation.started_at).total_seconds():.1f} s"
    why = (operation.error or {}).get("detail", "")
    told = f"**{operation.state}**{took}: operation `{operation.id}`."
    return f"{told} {_plain(why[:_ERROR])}".rstrip()


def proof(operation: Operation, asked: int, otherwise: int) -> str:
    """What the receipt amounts to, and whether it is the last word."""
    told = f"Operation `{operation.id}`: {asked} questions, {otherwise} answered otherwise."
    if operation.provisional:
        told += " Provisional: they are asked again after the longest time-out; the API has that."
    return told + (f" The first {MOST} are shown." if asked > MOST else "")


def _row(each: Moment, start: datetime, unit_s: float) -> Row:
    end = each.ended_at or each.started_at
    why = {"why": each.error[:_ERROR]} if each.error else {}
    return {
        "VM": each.lane,
        "step": each.name,
        "host": each.host,
        "state": each.state + (f", attempt {each.attempts}" if each.attempts > 1 else ""),
        "at": f"{(each.started_at - start).total_seconds():.1f} s",
        "took": f"{(end - each.started_at).total_seconds():.1f} s",
        "when": _bar(each.started_at, end, start, unit_s),
        **why,
    }


def _summed_up(moments: Sequence[Moment], start: datetime, unit_s: float) -> list[Row]:
    rows = []
    order = list(dict.fromkeys(each.name for each in moments))
    by_name = sorted(moments, key=lambda each: order.index(each.name))
    for name, some in groupby(by_name, key=lambda each: each.name):
        each = list(some)
        spans = [((x.ended_at or x.started_at) - x.started_at).total_seconds() for x in each]
        longest = each[spans.index(max(spans))]
        first = min(x.started_at for x in each)
        last = max(x.ended_at or x.started_at for x in each)
        rows.append(
            {
                "step": name,
                "times": len(each),
                "done": sum(x.state is StepState.DONE for x in each),
                "from": f"{(first - start).total_seconds():.1f} s",
                "to": f"{(last - start).total_seconds():.1f} s",
                "mean": f"{sum(spans) / len(spans):.2f} s",
                "longest": f"{max(spans):.2f} s",
                "of VM": longest.lane,
                "at host": longest.host,
                "when": _bar(first, last, start, unit_s),
            }
        )
    return rows


def _bar(begin: datetime, end: datetime, start: datetime, unit_s: float) -> str:
    left = min(int((begin - start).total_seconds() / unit_s), _BAR - 1)
    length = int((end - begin).total_seconds() / unit_s)
    full = max(1, min(length, _BAR - left))
    return _EMPTY * left + _FULL * full + _EMPTY * (_BAR - left - full)


def _arrows(steps: Steps) -> str:
    return " → ".join(step.name for step in steps)


def _plain(text: str) -> str:
    """A text that Markdown leaves alone."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
