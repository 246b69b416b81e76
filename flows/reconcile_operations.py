"""Settle what has ended without a receipt, and send what nobody works on."""

from contextvars import copy_context
from uuid import UUID

from adapters.database.operations import LeaseLost, Operation
from flows import dispatch
from flows.cloud import cloud
from flows.operation import FLOWS, operation
from flows.saga import execute
from flows.steps import step


@operation("datacenter", scheduled=True)
def reconcile_operations(request: Operation) -> None:
    """Look after every operation of the datacenter that is due."""
    for due in survey_due(request.datacenter_id, request.id):
        if cloud.operations.read(due).ended:
            settle_operation(due)
        else:
            send_operation(due)


@step("survey-due")
def survey_due(datacenter: UUID, but: UUID) -> list[UUID]:
    return [each.id for each in cloud.operations.due(datacenter) if each.id != but]


@step("settle-operation")
def settle_operation(operation: UUID) -> None:
    """Write the receipt under that operation's own lease; another runner's is as good."""
    flow = FLOWS[cloud.operations.read(operation).kind]
    try:
        copy_context().run(execute, operation, frozenset(), flow.body, flow.version)
    except LeaseLost:
        return


@step("send-operation")
def send_operation(operation: UUID) -> None:
    dispatch.send(cloud.operations.read(operation))
