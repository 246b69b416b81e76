"""Ranges of one datacenter: nobody is given what a DHCP relay has, or somebody else may have."""

from typing import Any

import pytest
from sqlalchemy import update

from adapters.database import models
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_networks import appliance, network, public, server
from tests.worlds import require_ledger_exact

__all__ = ["server"]  # a fixture
RELAYS = "10.98.0.0/20"
YAML = {"Content-Type": "application/yaml"}


def second_server(api: Api) -> None:
    body = {"datacenter": "main", "name": "dhcp-2", "kind": "memory", "address": "second"}
    assert api.post("/v1/dhcp-servers", json=body).status_code == 201


def relays(api: Api, said: str | None = RELAYS) -> Any:
    return api.call("PATCH", f"/v1/datacenters/{api.world.datacenter}", json={"relays": said})


def relayed(api: Api, said: str = RELAYS) -> None:
    assert relays(api, said).json()["relays"] == said


def external(name: str, range_: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "datacenter": "main", "kind": "external", "range": range_, **fields}


def composed(api: Api, networks: str) -> Any:
    text = "{appliance: shop, virtual_datacenter: demo, vms: [{name: db, template: tiny, "
    return api.post("/v1/appliances", content=f"{text}networks: [{networks}]}}]}}", headers=YAML)


# --- a datacenter's relays -----------------------------------------------------------------------


@pytest.mark.parametrize("range_", ["10.98.0.0/24", "10.98.15.128/25", "10.96.0.0/12"])
def test_no_network_is_where_relays_are(api: Api, server: str, range_: str) -> None:
    relayed(api)
    body = {"name": "shop", "virtual_datacenter": "demo", "range": range_}
    told = refused(api.post("/v1/networks", json=body), 409, "relays-overlap")
    assert RELAYS in told["detail"]
    for kind in ("external", "public"):
        asked = external("shop", range_, tag=900, kind=kind)
        refused(api.post("/v1/networks", json=asked), 409, "relays-overlap")
    assert relays(api, None).json()["relays"] is None
    assert network(api, range=range_)["range"] == range_


def test_ranges_that_are_chosen_are_beside_relays(api: Api, server: str) -> None:
    relayed(api, "192.168.0.0/20")
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink="eth1", link_kind="bridge"))
    assert network(api)["range"] == "192.168.16.0/24"
    body = {"name": "other", "datacenter": "main", "family": "memory"}
    made = api.post("/v1/virtual-datacenters", json=body).json()["id"]
    (default,) = api.get(f"/v1/networks?virtual_datacenter_id={made}").json()
    assert (default["kind"], default["range"]) == ("private", "192.168.17.0/24")


def test_relays_are_not_where_networks_are(api: Api, server: str) -> None:
    made = network(api, range="10.98.7.0/24")
    told = refused(relays(api), 409, "relays-overlap")
    assert "10.98.7.0/24 of network shop" in told["detail"]
    path = f"/v1/datacenters/{api.world.datacenter}"
    assert api.get(path).json()["relays"] is None
    relayed(api, "10.98.16.0/20")
    api.done(api.delete(f"/v1/networks/{made['id']}"))
    relayed(api)


def test_a_network_that_relays_come_before_is_undone(api: Api, server: str) -> None:
    body = {"name": "shop", "virtual_datacenter": "demo", "range": "10.98.0.0/24"}
    asked = api.post("/v1/networks", json=body)
    relayed(api)
    ended = api.run(asked)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "relays-overlap")
    require_ledger_exact()


# --- a relay of a network's own ------------------------------------------------------------------


def test_a_relay_in_its_networks_range_is_given_to_nobody(api: Api, server: str) -> None:
    made = network(api, **external("office", "10.3.0.0/30", tag=901, relay="10.3.0.1"))
    assert made["addresses"]["total"] == 1
    refused(composed(api, "{name: office, address: 10.3.0.1}"), 422, "address-not-given")
    refused(composed(api, "office, office"), 409, "range-exhausted")
    (nic,) = appliance(api, "office")
    assert nic["address"] == "10.3.0.2"
    public(api, relay="198.51.100.1")
    wish = {"network": "internet", "virtual_datacenter": "demo"}
    asked = {**wish, "address": "198.51.100.1"}
    refused(api.post("/v1/addresses", json=asked), 422, "address-not-given")
    assert api.post("/v1/addresses", json=wish).json()["address"] == "198.51.100.2"


def test_a_relay_is_in_no_other_networks_range(api: Api, server: str) -> None:
    network(api, **external("office", "10.3.0.0/24", tag=901, relay="192.168.0.9"))
    body = {"name": "shop", "virtual_datacenter": "demo", "range": "192.168.0.0/24"}
    told = refused(api.post("/v1/networks", json=body), 409, "relays-overlap")
    assert "192.168.0.9" in told["detail"]
    assert network(api)["range"] == "192.168.1.0/24"
    strange = external("lab", "10.4.0.0/24", tag=902, relay="192.168.1.9")
    refused(api.post("/v1/networks", json=strange), 409, "relays-overlap")


def test_a_relay_is_one_networks_at_a_dhcp_server(api: Api, server: str) -> None:
    second_server(api)
    network(api, **external("office", "10.3.0.0/24", tag=901, relay="10.98.0.1"))
    asked = external("lab", "10.4.0.0/24", tag=902, relay="10.98.0.1", dhcp_server="dhcp-1")
    refused(api.post("/v1/networks", json=asked), 409, "relays-overlap")
    network(api, **{**asked, "dhcp_server": "dhcp-2"})


def test_a_relay_that_a_network_says_is_no_other_vlans(api: Api, server: str) -> None:
    relayed(api)
    for tag in (900, None):
        asked = external("office", "10.3.0.0/24", tag=tag, relay="10.98.3.133")
        refused(api.post("/v1/networks", json=asked), 409, "relays-overlap")
    network(api, **external("office", "10.3.0.0/24", tag=901, relay="10.98.3.133"))
    refused(relays(api, "10.96.0.0/12"), 409, "relays-overlap")
    relayed(api, "10.98.0.0/19")


# --- other networks ------------------------------------------------------------------------------


def test_what_has_no_vlan_is_one_wire(api: Api, server: str) -> None:
    second_server(api)
    network(api, **external("office", "10.3.0.0/24"))
    asked = external("lab", "10.3.0.128/25", dhcp_server="dhcp-2")
    told = refused(api.post("/v1/networks", json=asked), 409, "range-taken")
    assert "office" in told["detail"]
    network(api, **{**asked, "tag": 901})


def test_a_public_address_is_sold_once(api: Api, server: str) -> None:
    second_server(api)
    public(api)
    asked = external("more", "198.51.100.0/28", kind="public", tag=901)
    refused(api.post("/v1/networks", json=asked), 409, "range-taken")
    network(api, **{**asked, "kind": "external"})


def test_an_address_that_was_bought_becomes_no_gateway(api: Api, server: str) -> None:
    path = f"/v1/networks/{public(api)['id']}"
    wish = {"network": "internet", "virtual_datacenter": "demo", "address": "198.51.100.4"}
    bought = api.post("/v1/addresses", json=wish).headers["location"]
    gateway = {"gateway": "198.51.100.4"}
    refused(api.call("PATCH", path, json=gateway), 409, "address-taken")
    assert api.delete(bought).status_code == 204
    assert api.call("PATCH", path, json=gateway).json()["gateway"] == "198.51.100.4"


def test_no_vm_is_in_two_networks_that_overlap(api: Api, server: str) -> None:
    second_server(api)
    network(api, name="front", range="10.0.0.0/24")
    network(api, name="back", range="10.0.0.0/16")
    told = refused(composed(api, "front, back"), 409, "ranges-overlap")
    assert "back (10.0.0.0/16) and front (10.0.0.0/24)" in told["detail"]
    nics = appliance(api, "front, front")
    assert [each["address"] for each in nics] == ["10.0.0.1", "10.0.0.2"]
    (vm,) = api.get("/v1/vms").json()
    ended = api.run(api.post(f"/v1/vms/{vm['id']}/nics", json={"network": "back"}))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "ranges-overlap")
    assert api.get(f"/v1/vms/{vm['id']}").json()["nics"] == nics


def test_a_dhcp_server_is_added_once(api: Api, server: str) -> None:
    same = {"datacenter": "main", "name": "again", "kind": "memory", "address": "memory/"}
    told = refused(api.post("/v1/dhcp-servers", json=same), 409, "dhcp-server-known")
    assert "as dhcp-1" in told["detail"]
    path = api.post("/v1/dhcp-servers", json={**same, "address": "other"}).headers["location"]
    refused(api.call("PATCH", path, json={"address": "memory"}), 409, "dhcp-server-known")
    assert api.call("PATCH", path, json={"address": "other/"}).status_code == 200
    far = {"name": "far", "repository": str(api.world.home / "far")}
    (api.world.home / "far").mkdir()
    assert api.post("/v1/datacenters", json=far).status_code == 201
    assert api.post("/v1/dhcp-servers", json={**same, "datacenter": "far"}).status_code == 201
