"""Networks of VMs on hosts of every kind: what each is asked for, and no more."""

from uuid import UUID

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.types import OperationState
from flows.cloud import cloud
from tests.flows.scenarios import deploy_networked
from tests.worlds import World


def answered(operation: UUID) -> int:
    """How many of a receipt's questions were not answered as expected."""
    return cloud.stories.answers(operation)[1]


@pytest.mark.parametrize(
    ("kind", "switch", "plugged", "guards"),
    [("bridge", "", "", 1), ("ovs", "br0", "br0", 0), ("port-group", "vSwitch0", "", 0)],
)
def test_a_vm_is_plugged_in_as_its_host_has_networks(
    world: World, kind: str, switch: str, plugged: str, guards: int
) -> None:
    vm, _ = deploy_networked(world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(link_kind=kind, switch=switch))
    deployed = world.run("deploy_vm", vm)
    assert (deployed.state, answered(deployed.id)) == (OperationState.SUCCEEDED, 0)
    record, installation = cloud.inventory.vm(vm), cloud.inventory.installation
    (link,) = cloud.switch(record.host).links(installation)
    (card,) = record.cards
    assert (link.kind, link.switch, link.tag) == (kind, switch, 105)
    assert (card.kind, card.bridge) == (kind, plugged or link.name)
    assert len(cloud.switch(record.host).guards(installation)) == guards
    gone = world.run("undeploy_vm", vm)
    assert (gone.state, answered(gone.id)) == (OperationState.SUCCEEDED, 0)
    assert cloud.switch(record.host).links(installation) == []
    assert cloud.switch(record.host).guards(installation) == []
