"""Settle what has ended without a receipt, and send what nobody works on."""

from contextvars import copy_context
from datetime import timedelta
from uuid import UUID

from adapters.database.operations import LeaseLost, Operation
from adapters.types import Finding, OperationState
from flows import dispatch
from flows.cloud import cloud
from flows.operation import FLOWS, operation
from flows.saga import execute
from flows.steps import step
from flows.upkeep import publish_report


@operation("datacenter", every=timedelta(minutes=5))
def reconcile_operations(request: Operation) -> None:
    """Look after every operation of the datacenter that is due."""
    findings = []
    for due in survey_due(request.datacenter_id, request.id):
        settle = cloud.operations.read(due).ended
        findings.append(settle_operation(due) if settle else send_operation(due))
    publish_report(request.kind, request.datacenter_id, findings)


@step("survey-due")
def survey_due(datacenter: UUID, but: UUID) -> list[UUID]:
    return [each.id for each in cloud.operations.due(datacenter) if each.id != but]


@step("settle-operation")
def settle_operation(operation: UUID) -> Finding:
    """Write the receipt under that operation's own lease; another runner's is as good."""
    flow = FLOWS[cloud.operations.read(operation).kind]
    try:
        copy_context().run(execute, operation, frozenset(), flow.body, flow.version)
    except LeaseLost:
        return _finding(operation, "settled by another")
    return _finding(operation, "settled")


@step("send-operation")
def send_operation(operation: UUID) -> Finding:
    """Make its next attempt a flow run; what nobody has approved in time ends.

    A run that has been made and not begun stays the one: of two, one would find nothing to do.
    """
    was = cloud.operations.read(operation)
    if dispatch.has_run(was):
        return _finding(operation, "has a run")
    dispatch.send(was)
    return _finding(operation, "timed out" if was.state is OperationState.WAITING else "sent")


def _finding(operation: UUID, state: str) -> Finding:
    row = cloud.operations.read(operation)
    detail = f"{row.kind} {row.target_name}: {row.state}{', left behind' * row.left_behind}"
    return Finding(what="operation", name=str(operation), state=state, detail=detail)
