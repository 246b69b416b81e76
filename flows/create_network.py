"""Create a network: rows only, until its first VM is deployed."""

from adapters.amounts import Force
from adapters.database.operations import Operation
from adapters.database.records import NetworkRecord
from flows.charges import charge
from flows.cloud import cloud
from flows.operation import operation
from flows.steps import step


@operation("network")
def create_network(request: Operation) -> None:
    """Charge the network its VLAN, and write it down; hosts have it from its first VM on."""
    record = NetworkRecord.model_validate(request.arguments["network"])
    if record.takes_tags:
        charge_network(record, request.force)
    enter_network(record)


@step("charge-network")
def charge_network(network: NetworkRecord, force: Force | None) -> None:
    """Charge the VLAN that it will have."""
    charge(cloud.networks.charges(network), force)


@charge_network.undo
def _(network: NetworkRecord, force: Force | None) -> None:
    cloud.ledger.refund("network", [network.id])


@charge_network.look
def _(network: NetworkRecord, force: Force | None) -> bool:
    return cloud.ledger.has("network", [network.id])


@step("enter-network")
def enter_network(network: NetworkRecord) -> None:
    cloud.networks.enter(network)


@enter_network.undo
def _(network: NetworkRecord) -> None:
    cloud.networks.forget(network.id)


@enter_network.look
def _(network: NetworkRecord) -> bool:
    return cloud.networks.has(network.id)
