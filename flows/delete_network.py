"""Delete a network. Forward-only: its addresses may be another's at once."""

from uuid import UUID

from adapters.database.operations import Operation
from flows.cloud import cloud
from flows.operation import operation
from flows.steps import Effect, step


@operation("network")
def delete_network(request: Operation) -> None:
    """Strike the network, which no VM is in; its VLAN is charged no more."""
    strike_network(request.target_id)
    refund_network(request.target_id)


@step("strike-network", Effect.REMOVES)
def strike_network(network: UUID) -> None:
    cloud.networks.forget(network)


@strike_network.look
def _(network: UUID) -> bool:
    return cloud.networks.has(network)


@step("refund-network", Effect.REMOVES)
def refund_network(network: UUID) -> None:
    cloud.ledger.refund("network", [network])


@refund_network.look
def _(network: UUID) -> bool:
    return cloud.ledger.has("network", [network])
