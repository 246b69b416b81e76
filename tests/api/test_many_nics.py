"""An appliance of a thousand NICs: what is asked of DHCP servers does not grow with them."""

from typing import Any

from sqlalchemy import update

from adapters.database import models
from flows.cloud import cloud
from tests.api.conftest import Api

MANY = """\
appliance: many
virtual_datacenter: demo
vms:
- {name: front, template: tiny, replicas: 125, networks: [a, b, a, b]}
- {name: back, template: tiny, replicas: 125, networks: [c, d, c, d]}
"""
CHANGING = (
    "ensure_subnet",
    "delete_subnet",
    "ensure_reservations",
    "delete_reservations",
    "replace",
)


def made(api: Api, name: str, wanted: str) -> Any:
    body = {"name": name, "virtual_datacenter": "demo", "range": wanted}
    ended = api.done(api.post("/v1/networks", json=body))
    return api.get(f"/v1/networks/{ended['target']['id']}").json()


def changes() -> list[str]:
    """The changes of DHCP servers so far: each server as often as it was changed."""
    return sorted(server for each in CHANGING for server in cloud.world.calls(f"dhcp.{each}"))


def test_a_thousand_nics_are_one_change_of_each_dhcp_server(api: Api) -> None:
    servers = []
    for name in ("dhcp-1", "dhcp-2"):
        body = {"datacenter": "main", "name": name, "kind": "memory", "address": name}
        servers.append(api.post("/v1/dhcp-servers", json=body).json()["id"])
    with cloud.database.write() as db:
        db.execute(
            update(models.Host).values(uplink="eth1", link_kind="bridge", cpu=500, ram_mib=2**16)
        )
        db.execute(update(models.StoragePool).values(total_mib=2**20))
    ranges = {"a": "10.0.0.0/23", "b": "10.0.2.0/23", "c": "10.0.0.0/23", "d": "10.0.2.0/23"}
    networks = [made(api, name, wanted) for name, wanted in ranges.items()]
    assert [x["dhcp_server_id"] for x in networks] == [*servers[:1] * 2, *servers[1:] * 2]
    appliance = api.appliance(MANY)
    nics = [nic for vm in appliance["vms"] for nic in vm["nics"]]
    assert len({(nic["network_id"], nic["address"]) for nic in nics}) == 1000
    path = f"/v1/appliances/{appliance['id']}"
    api.done(api.post(f"{path}/deploy"))
    assert changes() == sorted(servers)
    told = [x for server in cloud.lans.servers(api.world.datacenter) for x in _known(server.id)]
    assert sorted(told) == sorted((nic["mac"], nic["address"]) for nic in nics)
    api.done(api.post(f"{path}/undeploy"))
    assert changes() == sorted(servers * 2)
    assert not [
        x for server in cloud.lans.servers(api.world.datacenter) for x in _known(server.id)
    ]


def _known(server: Any) -> list[tuple[str, str]]:
    return [(x.mac, str(x.address)) for x in cloud.dhcp(server).content()[1].values()]
