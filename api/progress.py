"""Operations as Rich shows them: live while they run, as tables when they have ended."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from adapters.types import OperationState, StepState
from api.client import Client, Operation, Step

_BAR = 30
_LANES = 40  # more are not read by anybody
_MARKS = {
    StepState.PENDING: Text("·", "dim"),
    StepState.DONE: Text("✓", "green"),
    StepState.FAILED: Text("✗", "red"),
    StepState.UNDONE: Text("↶", "yellow"),
    StepState.SKIPPED: Text("-", "dim"),
}
_COLOURS = {
    OperationState.SUCCEEDED: "green",
    OperationState.FAILED: "red",
    OperationState.STUCK: "red",
    OperationState.CANCELLED: "yellow",
    OperationState.ABANDONED: "yellow",
}
_SEVERITIES = {"warning": "yellow", "error": "red"}
_MOVING = {StepState.RUNNING, StepState.UNDOING}


def watch(client: Client, operation: Operation, console: Console) -> Operation:
    """Show an operation until it rests, a line for each lane and what is done there now."""
    shown = Lanes(operation)
    live = Live(shown, console=console, refresh_per_second=8)
    with live if console.is_terminal else nullcontext():  # a file gets the end alone
        for now in client.follow(operation.id):
            shown.operation = now
    if not console.is_terminal:
        console.print(shown)
    console.print(outcome(shown.operation))
    return shown.operation


class Lanes:
    """A running operation; its clocks tick between two tellings."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> Table:
        """A row for the operation's own steps, and one for each lane."""
        table = Table(box=None, show_header=False, padding=(0, 1))
        lanes = dict.fromkeys(step.lane for step in self.operation.steps)
        if sum(self.operation.counts.values()) > len(self.operation.steps) or len(lanes) > _LANES:
            return self._summed_up(table)
        for lane in lanes:
            steps = [step for step in self.operation.steps if step.lane == lane]
            latest = next((each for each in steps if each.state in _MOVING), steps[-1])
            done = sum(step.state is StepState.DONE for step in steps)
            table.add_row(
                self._spinner if latest.state in _MOVING else _MARKS[latest.state],
                Text(lane or self.operation.target.name, "bold" if lane else ""),
                Text(_words(latest), "red" if latest.state is StepState.FAILED else ""),
                f"{done} done",
                _seconds(steps[0].started_at, max(s.ended_at or _now() for s in steps)),
            )
        return table

    def _summed_up(self, table: Table) -> Table:
        """How many steps are in which state, and what is waited for the longest."""
        for state, many in sorted(self.operation.counts.items()):
            mark = self._spinner if state in _MOVING else _MARKS.get(state, Text("…"))
            table.add_row(mark, Text(str(many), "bold"), f"steps {state}")
        if slow := self.operation.slowest:
            waited = f"{slow.step} of {slow.lane} for {_seconds(slow.started_at, None)}"
            table.add_row("", Text(slow.host, "bold"), f"is the slowest host: {waited}")
        return table


def outcome(operation: Operation) -> Text:
    """One sentence: what was asked for, how it ended, after how long, and why."""
    colour = _COLOURS.get(operation.state, "cyan")
    took = _seconds(operation.started_at, operation.ended_at)
    text = Text.assemble(operation.name, " ", (str(operation.state), colour), f"  {took}")
    if operation.error:
        text.append(f"\n  {operation.error.get('detail')} ({operation.error.get('code')})", "red")
    if operation.left_behind:
        text.append("\n  something was left behind; the receipt says what", "red")
    return text


def step_table(operation: Operation) -> Table:
    """Every step: its lane, when it began, how long it took, as numbers and as a bar."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for heading in ("", "lane", "step"):
        table.add_column(heading, no_wrap=True)
    table.add_column("at", justify="right")
    table.add_column("took", justify="right")
    table.add_column("")
    if not operation.steps:
        return table
    start = min(step.started_at for step in operation.steps)
    end = max(step.ended_at or _now() for step in operation.steps)
    for step in operation.steps:
        table.add_row(
            _MARKS.get(step.state, Text("…", "cyan")),
            step.lane,
            _words(step),
            _seconds(start, step.started_at),
            _seconds(step.started_at, step.ended_at),
            _bar(step, start, (end - start).total_seconds()),
        )
        if step.error:
            table.add_row("", "", Text(step.error, "red"))
    return table


def operation_table(operations: list[Operation]) -> Table:
    """Operations, a line each."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    table.add_column("id", no_wrap=True, min_width=36)
    for heading in ("operation", "state", "progress", "accepted", "took"):
        table.add_column(heading, overflow="fold")
    for each in operations:
        table.add_row(
            str(each.id),
            each.name,
            Text(str(each.state), _COLOURS.get(each.state, "cyan")),
            f"{each.progress} %",
            f"{each.accepted_at:%Y-%m-%d %H:%M:%S}",
            _seconds(each.started_at, each.ended_at),
        )
    return table


def planned_table(plan: dict[str, Any]) -> Table:
    """The steps of a plan, in order; of more lanes than are read, some."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for heading in ("lane", "step", "of"):
        table.add_column(heading, overflow="fold")
    lanes = list(dict.fromkeys(step["lane"] for step in plan["steps"]))
    told = set(lanes[:_LANES])
    for step in plan["steps"]:
        if step["lane"] in told:
            table.add_row(step["lane"], step["name"], Text(step["what"], "dim"))
    if more := len(lanes) - len(told):
        table.add_row("", f"and {more} more lanes")
    return table


def placement_table(plan: dict[str, Any]) -> Table:
    """Where a plan's VMs would go, why there, and why not elsewhere."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for heading in ("VM", "host", "because", "not"):
        table.add_column(heading, overflow="fold")
    for each in plan["placement"][:_LANES]:
        host = each["host"]["name"]
        others = "\n".join(f"{name}: {why}" for name, why in each["others"].items())
        why = each["because"].removeprefix(f"{host}: ")
        table.add_row(each["vm"]["name"], host, Text(why), Text(others, "dim"))
    return table


def limits_after(plan: dict[str, Any]) -> Table:
    """How limits stand, and would stand, where a plan changes what is used."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for heading in ("limits of", "resource", "used", "after", "soft", "hard"):
        table.add_column(heading)
    for each in plan["limits"]:
        for resource, after in each["after"].items():
            used = each["used"][resource]
            if used != after:
                limits = (str(each[kind][resource] or "") for kind in ("soft", "hard"))
                table.add_row(each["level"], resource, str(used), str(after), *limits)
    return table


def event_line(event: dict[str, Any]) -> Text:
    """When, what, on what, and by whom: one line."""
    at = datetime.fromisoformat(event["at"]).astimezone(UTC)
    about = event["object"] or {"kind": "", "name": ""}
    done = event["details"].get("kind", "") if event["operation"] else ""
    return Text.assemble(
        (f"{at:%Y-%m-%d %H:%M:%S}  ", "dim"),
        (f"{event['kind']:<24}", _SEVERITIES.get(event["severity"], "")),
        f" {about['kind']} {about['name']}  ",
        (f"{done.replace('_', '-')} " if done else "", "dim"),
        (f"by {event['who']['name']}" if event["who"]["name"] else "", "dim"),
    )


def _words(step: Step) -> str:
    tries = f" (attempt {step.attempts})" if step.attempts > 1 else ""
    part = "" if step.percent is None or step.state not in _MOVING else f" {step.percent} %"
    return f"{'undo ' if step.state is StepState.UNDOING else ''}{step.name}{part}{tries}"


def _bar(step: Step, start: datetime, total_s: float) -> Text:
    unit = max(total_s, 0.001) / _BAR
    left = int((step.started_at - start).total_seconds() / unit)
    length = int(((step.ended_at or _now()) - step.started_at).total_seconds() / unit)
    return Text(" " * min(left, _BAR - 1) + "━" * max(1, length), "cyan")


def _seconds(start: datetime | None, end: datetime | None) -> str:
    if start is None:
        return ""
    return f"{max((end or _now()) - start, timedelta()).total_seconds():.1f} s"


def _now() -> datetime:
    return datetime.now(UTC)
