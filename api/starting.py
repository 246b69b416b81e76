"""A request becomes an operation: accepted in one transaction, answered, then sent."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends
from fastapi.responses import Response
from pydantic_core import to_jsonable_python
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from adapters.database import models
from adapters.database.intents import Intent
from adapters.database.locks import Locked
from adapters.database.operations import Operation, Request, accept
from adapters.errors import Conflict
from api import finding, tokens
from api.dependencies import Caller, Once, Send, sender
from api.once import Answer
from api.once import Once as Once_
from api.reports import report
from flows import traces
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.policies import lifecycle

Plan = Callable[[Session], Request]


class Starter:
    """Starts the one operation that a request asks for."""

    def __init__(self, caller: tokens.Caller, once: Once_, send: Send) -> None:
        self.id = uuid4()
        self._caller = caller
        self._once = once
        self._send = send

    def request(
        self,
        kind: str,
        target: UUID,
        name: str,
        datacenter: UUID,
        locks: Iterable[tuple[str, UUID]] = (),
        waits_s: float | None = None,
        intents: Iterable[Intent] = (),
        **arguments: Any,
    ) -> Request:
        """What is asked for; the target itself is always locked."""
        flow = FLOWS[kind]
        return Request(
            id=self.id,
            kind=kind,
            version=flow.version,
            target_kind=flow.target,
            target_id=target,
            target_name=name,
            arguments=to_jsonable_python(arguments),
            enterprise_id=self._caller.enterprise_id,
            datacenter_id=datacenter,
            requested_by=self._caller.name,
            locks=tuple(dict.fromkeys([(flow.target, target), *locks])),
            intents=tuple(intents),
            waits_s=waits_s,
            traceparent=traces.here(),
        )

    def waits_s(self, db: Session, appliance: UUID) -> float | None:
        """How long a deployment waits for approval; None where nobody asks for any."""
        row = db.get_one(models.Appliance, appliance)
        enterprise = db.get_one(models.Enterprise, self._caller.enterprise_id)
        asked = row.approval or enterprise.approval
        return cloud.settings.approval_timeout_s if asked else None

    def require_free(self, db: Session, kind: str, *objects: UUID) -> None:
        """Raise `Locked` when another operation has one of these objects."""
        for each in objects:
            held = db.get(models.Lock, each)
            if held and held.operation_id != self.id:
                raise Locked(kind, each, held.operation_id)

    def require(self, db: Session, what: str, *vms: models.VirtualMachine) -> None:
        """Raise `Locked`, or `Conflict` when a VM's state does not allow it."""
        self.require_free(db, "vm", *(vm.id for vm in vms))
        for vm in vms:
            lifecycle.require(what, vm.name, vm.state)

    def start(
        self,
        plan: Plan,
        check: Callable[[], None] = lambda: None,
        unchanged: Callable[[Session], None] = lambda _db: None,
    ) -> Response:
        """Accept what `plan` makes of the database, and answer 202.

        `plan` is asked before `check`, which may take its time, and once more under the locks:
        what it decides on must not have changed in between. `unchanged` is asked before anything
        is locked for the operation.
        """
        with cloud.database.read() as db:
            request = placed(db, plan(db))
            for kind, each in request.locks:
                self.require_free(db, kind, each)
        check()
        accepted: list[Operation] = []

        def act(db: Session) -> Answer:
            unchanged(db)
            _hold_appliance(db, request)
            operation = accept(db, request)
            if placed(db, plan(db)) != request:
                raise Conflict("it was changed in the meantime", code="changed-meanwhile")
            accepted.append(operation)
            body = report(db, operation.id).model_dump(mode="json")
            return Answer(202, body, f"/v1/operations/{operation.id}")

        answer = self._once.answer(act)
        return answer.response(BackgroundTask(self._send, accepted[-1]))


def _hold_appliance(db: Session, request: Request) -> None:
    """Let nobody change what the appliance is made of that this is about, until it is locked."""
    table = models.VirtualMachine
    vm = next((each for kind, each in request.locks if kind == "vm"), None)
    mine = db.scalar(select(table.appliance_id).where(table.id == vm)) or request.target_id
    row = models.Appliance
    db.execute(select(row.id).where(row.id == mine).with_for_update(read=True)).all()


def placed(db: Session, request: Request) -> Request:
    """The request with the virtual datacenter that its target is in."""
    where = finding.whereabouts(db, request.target_kind, request.target_id, request.arguments)
    return request.model_copy(update={"virtual_datacenter_id": where})


def _starter(caller: Caller, once: Once, send: Annotated[Send, Depends(sender)]) -> Starter:
    return Starter(caller, once, send)


Starting = Annotated[Starter, Depends(_starter)]
