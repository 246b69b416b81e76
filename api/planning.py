"""Actions that can be planned: shown with `dry_run`, and carried out as shown with `plan`.

A plan has the id of the operation that it becomes. Before it does, the flow is looked ahead once
more: what would be done now has to be what was shown. From then on it cannot change: its objects
are locked, and its VMs go to the hosts that were planned, or the operation fails.
"""

from collections.abc import Callable
from contextlib import contextmanager
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from adapters.database import models, plans
from adapters.database import operations as accepted
from adapters.database.locks import Locked
from adapters.database.vms import parts, volume_of, whole_vms
from adapters.errors import Conflict, NotFound, Refused
from adapters.plans import Outlook, Planned
from api import tokens
from api.dependencies import Caller, Once, Send, sender
from api.errors import Problem
from api.once import Answer
from api.once import Once as Once_
from api.plan_view import Plan, limits_of, plan_of
from api.reports import Operation
from api.starting import Plan as Asked
from api.starting import Starter, placed
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.planning import look_ahead, with_pins
from flows.policies.outdating import PlanOutdated, require_as_shown

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Plan, "description": "What would be done (`dry_run`)."},
    202: {"model": Operation},
}


class PlannedStarter(Starter):
    """Starts what a request asks for; or shows it; or starts what was shown."""

    def __init__(
        self,
        caller: tokens.Caller,
        once: Once_,
        send: Send,
        route: str,
        *,
        dry_run: bool = False,
        plan: Planned | None = None,
    ) -> None:
        super().__init__(caller, once, send)
        self._route = route
        self._dry_run = dry_run
        self._plan = plan
        self._chosen: dict[str, Any] = {}
        self._stand_ins: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        if plan:
            self.id = plan.id

    @property
    def looks_ahead(self) -> bool:
        """Whether a plan is made, or used."""
        return self._dry_run or self._plan is not None

    def chosen(self, name: str, choose: Callable[[], UUID]) -> UUID:
        """What is decided before any step: once, and kept in the plan."""
        kept = self._plan.chosen if self._plan else self._chosen
        if name not in kept:
            kept[name] = str(choose())
        return UUID(kept[name])

    def kept(self, name: str, said: Any) -> Any:
        """What was said for a plan and is needed again: as it was said then."""
        if self._plan:
            return self._plan.chosen.get(name)
        self._chosen[name] = said
        return said

    def foresee(self, stand_ins: dict[str, Any], **known: Any) -> None:
        """Look ahead with these instead of arguments that nobody knows before, and these facts."""
        self._stand_ins, self._known = stand_ins, known

    def require_as_shown(self, plan: Asked, wish: BaseModel) -> None:
        """Refuse what `start` would refuse of a plan: for what has to be sent before."""
        if self._plan:
            self._require_asked(self._plan, self._digest_of(wish))
            with cloud.database.read() as db:
                request = placed(db, plan(db))
            self._require_same(self._plan, request)

    def start(
        self,
        plan: Asked,
        check: Callable[[], None] = lambda: None,
        unchanged: Callable[[Session], None] = lambda _db: None,
        wish: BaseModel | None = None,
    ) -> Response:
        """Accept it, and answer 202; or answer 200, with what would be done.

        A plan is for the same `wish`. Where one is made or carried out, looking ahead takes the
        place of `check`: whatever it would refuse, that refuses.
        """
        asked = self._digest_of(wish)
        if self._dry_run:
            return self._show(plan, asked)
        if self._plan is None:
            return super().start(plan, check, unchanged)
        return self._carry_out(self._plan, plan, unchanged, asked)

    def _digest_of(self, wish: BaseModel | None) -> str:
        said = f"{self._route}\n{wish.model_dump_json() if wish else ''}"
        return sha256(said.encode()).hexdigest()

    def _looked(self, request: accepted.Request) -> Outlook:
        arguments = {**request.arguments, **self._stand_ins}
        request = request.model_copy(update={"arguments": arguments})
        return look_ahead(FLOWS[request.kind].body, request, **self._known)

    @staticmethod
    def _require_asked(shown: Planned, asked: str) -> None:
        if shown.asked != asked:
            text = f"plan {shown.id} was made for another request"
            raise Conflict(text, code="plan-of-another-request")

    def _require_same(self, shown: Planned, request: accepted.Request) -> None:
        with _outdated():
            require_as_shown(shown.outlook, self._looked(request))

    def _show(self, plan: Asked, asked: str) -> Response:
        with cloud.database.read() as db:
            request = placed(db, plan(db))
            for kind, each in request.locks:
                self.require_free(db, kind, each)
        outlook = self._looked(request)
        with cloud.database.read() as db:
            limits = limits_of(db, outlook)
        made = Planned(id=request.id, asked=asked, chosen=self._chosen, outlook=outlook)

        def act(db: Session) -> Answer:
            valid_s, caller = cloud.settings.plan_valid_s, self._caller
            until = plans.keep(db, made, caller.enterprise_id, caller.name, valid_s)
            body = plan_of(request, outlook, limits, until)
            return Answer(200, body.model_dump(mode="json"))

        return self._once.answer(act, quiet=True).response()

    def _carry_out(
        self, shown: Planned, plan: Asked, unchanged: Callable[[Session], None], asked: str
    ) -> Response:
        self._require_asked(shown, asked)
        seen: list[tuple[accepted.Request, str]] = []

        def as_planned(db: Session) -> accepted.Request:
            with _outdated():
                request = with_pins(plan(db), shown.outlook.pins)
            seen.append((request, _digest(db, request)))
            if seen[-1] != seen[0]:
                raise Conflict("it was changed in the meantime", code="changed-meanwhile")
            return request

        def check() -> None:
            self._require_same(shown, seen[0][0])

        def use(db: Session) -> None:
            unchanged(db)
            plans.use_up(db, shown.id)

        return super().start(as_planned, check, use)


DryRun = Annotated[
    bool, Query(description="Do nothing, but answer with what would be done: a plan.")
]
PlanId = Annotated[
    UUID | None,
    Query(description="Do what this plan has shown, or refuse where that has changed."),
]


def starter_of(
    caller: tokens.Caller,
    once: Once_,
    send: Send,
    route: str,
    *,
    dry_run: bool = False,
    plan: UUID | None = None,
) -> PlannedStarter:
    """The starter of a request that may be planned. Raises `Conflict`, `NotFound`, `Problem`."""
    if dry_run and plan:
        raise Problem(422, "invalid-request", "a plan is made (dry_run), or used (plan)")
    found = cloud.plans.read(plan, caller.enterprise_id) if plan else None
    return PlannedStarter(caller, once, send, route, dry_run=dry_run, plan=found)


def _planned(
    request: Request,
    caller: Caller,
    once: Once,
    send: Annotated[Send, Depends(sender)],
    dry_run: DryRun = False,  # noqa: FBT002 - a query parameter
    plan: PlanId = None,
) -> PlannedStarter:
    route = f"{request.method} {request.url.path}"
    return starter_of(caller, once, send, route, dry_run=dry_run, plan=plan)


PlannedStarting = Annotated[PlannedStarter, Depends(_planned)]


@contextmanager
def _outdated() -> Any:
    """Let what is refused by now be told as what has changed."""
    try:
        yield
    except (Locked, NotFound, PlanOutdated):
        raise
    except Refused as error:
        raise PlanOutdated([str(error)]) from error


def _digest(db: Session, request: accepted.Request) -> str:
    """Of the VMs and volumes that it is about, as the inventory has them."""
    vms, volumes = ([x for kind, x in request.locks if kind == k] for k in ("vm", "volume"))
    found = sha256()
    rows = models.VolumeRow
    for some in parts(volumes):
        for row in db.scalars(select(rows).where(rows.id.in_(some)).order_by(rows.id)):
            found.update(volume_of(row).model_dump_json().encode())
    for some in parts(vms):
        which = models.VirtualMachine.id.in_(some)
        for vm in whole_vms(db, which, cloud.inventory.installation):
            found.update(vm.model_dump_json().encode())
    return found.hexdigest()
