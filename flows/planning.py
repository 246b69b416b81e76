"""Planning: a flow is run by somebody who takes no step, and writes down which it would take.

It is the flow's own text that is run, so that a plan and its execution cannot differ but by what
has changed meanwhile. Steps whose answer is needed further on have a function that foresees it
(`Step.plan`), by what is there and by what was planned so far.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from adapters.allocation import Pin
from adapters.amounts import Amounts, Charge, Force
from adapters.database.operations import Operation, Request
from adapters.database.records import VmRecord
from adapters.plans import Copy, Outlook, Placement, PlannedDisk, PlannedStep
from adapters.types import OperationState, VmState
from flows import running
from flows.cloud import cloud
from flows.policies.limits import within
from flows.steps import Step, performer

_DIGITS = 16
_PINS = "pins"


@dataclass
class Planner:
    """What is planned so far; `pins` is where VMs have to go, if it was planned before."""

    pins: Mapping[UUID, Pin] = field(default_factory=dict)
    steps: dict[str, PlannedStep] = field(default_factory=dict)
    placement: dict[UUID, Placement] = field(default_factory=dict)
    disks: list[PlannedDisk] = field(default_factory=list)
    _copies: dict[str, int] = field(default_factory=dict)
    _charges: dict[tuple[str, UUID], Charge] = field(default_factory=dict)
    _seen: dict[str, dict[str, str]] = field(default_factory=dict)
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def perform(self, step: Step[Any, Any], key: str, arguments: dict[str, Any]) -> Any:
        """Write the step down, and answer what it would."""
        if key in self.steps:
            raise RuntimeError(f"{key} is called twice in one operation")
        told = json.dumps(arguments, sort_keys=True).encode()
        self.steps[key] = PlannedStep(
            name=step.name,
            what=key.removeprefix(step.name)[1:-1],
            lane=running.lane_name.get(),
            digest=sha256(told).hexdigest()[:_DIGITS],
        )
        return step.foresight(**arguments) if step.foresight else None

    def charge(self, charges: Iterable[Charge], force: Force | None) -> None:
        """These things would be charged this. Raises what limits leave no room for."""
        self._charges |= {(each.kind, each.id): each for each in charges}
        within(cloud.ledger.preview([*self._charges.values()]), forced=force is not None)

    def lower(self, charges: Iterable[Charge]) -> None:
        """These things would be charged less, by then."""
        self._charges |= {(each.kind, each.id): each for each in charges}

    def refund(self, charges: Iterable[Charge]) -> None:
        """These things would be charged no more."""
        self.lower(each.model_copy(update={"amounts": Amounts()}) for each in charges)

    def copy(self, what: str, size_bytes: int) -> None:
        """So much would be copied, or converted: once, however many need it."""
        self._copies[what] = size_bytes

    def foresee(self, what: Hashable, it: Any) -> None:
        """This would be there by then."""
        self._known[what] = it

    def foreseen(self, what: Hashable) -> Any:
        """What would be there by then, or None."""
        return self._known.get(what)

    def notice(self, what: str, **facts: object) -> None:
        """This is what is gone by: in words, for who is told what of it has changed."""
        self._seen[what] = {name: str(fact) for name, fact in facts.items()}

    def placed(self, vm: VmRecord) -> VmRecord:
        """A VM as it is once it has the host that is planned for it."""
        self.notice(
            f"vm {vm.name}",
            cpu=vm.cpu,
            ram_mib=vm.ram_mib,
            disks=", ".join(f"{each.size_mib} MiB" for each in vm.local_disks) or "none",
            volumes=", ".join(each.name for each in vm.volumes) or "none",
            depends_on=", ".join(vm.depends_on) or "none",
        )
        if (where := self.placement.get(vm.id)) is None:
            return vm
        there = {"host_id": where.host, "datastore": where.directory}
        if vm.plugs:
            there["uplink"] = cloud.inventory.uplink(where.host)
        return vm.model_copy(update={**there, "state": VmState.ALLOCATED})

    def outlook(self) -> Outlook:
        """All of it."""
        return Outlook(
            steps=tuple(self.steps.values()),
            placement=self.placement,
            copies=tuple(Copy(what=k, size_bytes=n) for k, n in self._copies.items()),
            charges=tuple(self._charges.values()),
            seen=self._seen,
            disks=tuple(self.disks),
        )


def planner() -> Planner | None:
    """Who plans here; None where steps are taken."""
    found = performer.get(None)
    return found if isinstance(found, Planner) else None


def planning() -> Planner:
    """Who plans here."""
    if (found := planner()) is None:
        raise RuntimeError("nothing is planned here")
    return found


def look_ahead(body: Callable[[Operation], None], request: Request, **known: Any) -> Outlook:
    """What a flow would do that is asked for this, as things are.

    Raises what it would be refused with.
    """
    made = Planner(_pins_of(request.arguments))
    for what, it in known.items():
        made.foresee(what, it)
    token = performer.set(made)
    try:
        body(_as_accepted(request))
    finally:
        performer.reset(token)
    return made.outlook()


def pinned() -> Mapping[UUID, Pin]:
    """Where VMs have to go in the operation that runs, or is planned, here; if it was planned."""
    found = planner()
    return found.pins if found else _pins_of(running.this_saga().operation.arguments)


def with_pins(request: Request, pins: Mapping[UUID, Pin]) -> Request:
    """The same, of which VMs go where they were planned to."""
    if not pins:
        return request
    given = {str(vm): pin.model_dump(mode="json") for vm, pin in pins.items()}
    return request.model_copy(update={"arguments": {**request.arguments, _PINS: given}})


def _pins_of(arguments: dict[str, Any]) -> dict[UUID, Pin]:
    given = arguments.get(_PINS, {})
    return {UUID(vm): Pin.model_validate(pin) for vm, pin in given.items()}


def _as_accepted(request: Request) -> Operation:
    """The operation that it would become."""
    fields = {k: v for k, v in request if k in Operation.model_fields}
    return Operation(
        **fields,
        state=OperationState.ACCEPTED,
        objects=[each for _, each in request.locks],
        wish=None,
        error=None,
        accepted_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
        provisional=False,
        left_behind=False,
        epoch=0,
        attempt=0,
        flow_run_id=None,
        due_at=None,
    )
