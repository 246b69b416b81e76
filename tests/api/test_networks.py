"""Networks and addresses: made, used, changed, deleted; and refused for what each is."""

import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.privileges import Stock
from flows.cloud import cloud
from tests.api.conftest import Api, dumped, refused
from tests.api.people import user
from tests.worlds import require_ledger_exact

TINY = "{{appliance: {app}, virtual_datacenter: demo, vms: [{vms}]}}"


@pytest.fixture
def server(api: Api) -> str:
    body = {"datacenter": "main", "name": "dhcp-1", "kind": "memory", "address": "memory"}
    made = api.post("/v1/dhcp-servers", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def network(api: Api, **fields: Any) -> Any:
    where = {} if "datacenter" in fields else {"virtual_datacenter": "demo"}
    body = {"name": "shop", **where, **fields}
    ended = api.done(api.post("/v1/networks", json=body))
    return api.get(f"/v1/networks/{ended['target']['id']}").json()


def public(api: Api, **fields: Any) -> Any:
    body = {"datacenter": "main", "kind": "public", "range": "198.51.100.0/29", "tag": 900}
    return network(api, **{"name": "internet", **body, **fields})


def appliance(api: Api, networks: str, app: str = "shop", more: str = "") -> list[Any]:
    vms = f"{{name: db, template: tiny, networks: [{networks}]{more}}}"
    made = api.appliance(TINY.format(app=app, vms=vms))
    return [nic for vm in made["vms"] for nic in vm["nics"]]


def test_a_network_gives_its_vms_addresses_until_it_goes(api: Api, server: str) -> None:
    made = network(
        api,
        range="10.0.0.0/29",
        gateway="10.0.0.1",
        dns=["10.0.0.1"],
        suffix="shop.example",
        routes=[{"to": "10.9.0.0/16", "by": "10.0.0.3"}],
        excluded=["10.0.0.3-10.0.0.2"],
    )
    assert (made["kind"], made["tag"], made["dhcp_server_id"]) == ("private", None, server)
    assert made["addresses"] == {"total": 3, "reserved": 0, "bought": 0, "resting": 0}
    require_ledger_exact()
    (nic,) = appliance(api, "shop")
    assert (nic["address"], nic["is_default"]) == ("10.0.0.4", True)
    assert nic["network_id"] == made["id"]
    path = f"/v1/networks/{made['id']}"
    told = refused(api.delete(path), 409, "in-use")
    assert [each["kind"] for each in told["users"]] == ["vm"]
    (address,) = api.get(f"/v1/addresses?network_id={made['id']}").json()
    assert (address["address"], address["state"], address["mac"]) == (
        "10.0.0.4",
        "reserved",
        nic["mac"],
    )
    assert api.get(path).json()["addresses"]["reserved"] == 1
    (shop,) = api.get("/v1/appliances").json()
    assert api.delete(f"/v1/appliances/{shop['id']}").status_code == 204
    assert api.get("/v1/addresses").json() == []
    api.done(api.delete(path))
    refused(api.get(path), 404, "not-found")
    require_ledger_exact()


def test_a_nic_tells_the_address_that_it_gives_itself(api: Api, server: str) -> None:
    network(api, range="10.0.0.0/24", range6="fd00:0:0:7::/64")
    (nic,) = appliance(api, "shop")
    own = nic["mac"].removeprefix("52:54:00:").replace(":", "")
    assert nic["address6"] == str(IPv6Address(f"fd00::7:5054:ff:fe{own[:2]}:{own[2:]}"))
    (other,) = appliance(api, "default", app="other")
    assert other["address6"] is None


def test_addresses_and_the_default_gateway_are_picked(api: Api, server: str) -> None:
    network(api, name="front", range="10.0.0.0/29")
    network(api, name="back", range="10.1.0.0/29")
    nics = appliance(api, "front, {name: back, address: 10.1.0.5, default: true, model: e1000}")
    assert [(x["address"], x["is_default"], x["position"]) for x in nics] == [
        ("10.0.0.1", False, 0),
        ("10.1.0.5", True, 1),
    ]
    assert nics[1]["model"] == "e1000"
    for wanted, status, code in (
        ("{name: back, address: 10.1.0.5}", 409, "address-taken"),
        ("{name: back, address: 10.2.0.5}", 422, "address-not-given"),
        ("{name: default, address: 10.1.0.5}", 409, "network-without-addresses"),
        ("{name: front, default: true}, {name: back, default: true}", 422, "several-defaults"),
        ("elsewhere", 404, "unknown-network"),
    ):
        text = TINY.format(app="more", vms=f"{{name: db, template: tiny, networks: [{wanted}]}}")
        headers = {"Content-Type": "application/yaml"}
        refused(api.post("/v1/appliances", content=text, headers=headers), status, code)
    many = TINY.format(
        app="more",
        vms="{name: db, template: tiny, replicas: 2, networks: [{name: back, address: 10.1.0.2}]}",
    )
    headers = {"Content-Type": "application/yaml"}
    refused(api.post("/v1/appliances", content=many, headers=headers), 422, "address-of-many")


def test_a_range_gives_to_all_or_to_none(api: Api, server: str) -> None:
    made = network(api, range="10.0.0.0/29")
    text = TINY.format(app="many", vms="{name: db, template: tiny, replicas: 7, networks: [shop]}")
    headers = {"Content-Type": "application/yaml"}
    told = refused(
        api.post("/v1/appliances", content=text, headers=headers), 409, "range-exhausted"
    )
    assert (told["free"], told["asked"]) == (6, 7)
    assert api.get(f"/v1/networks/{made['id']}").json()["addresses"]["reserved"] == 0


def test_copies_get_addresses_of_their_own_and_moves_new_ones(api: Api, server: str) -> None:
    network(api, range="10.0.0.0/29")
    (nic,) = appliance(api, "shop")
    (shop,) = api.get("/v1/appliances").json()
    copy = api.post(f"/v1/appliances/{shop['id']}/copy", json={"name": "copy"}).json()
    (copied,) = api.get(f"/v1/appliances/{copy['id']}").json()["vms"][0]["nics"]
    assert (nic["address"], copied["address"]) == ("10.0.0.1", "10.0.0.2")
    assert nic["mac"] != copied["mac"]
    body = {"name": "other", "datacenter": "main", "family": "memory"}
    api.post("/v1/virtual-datacenters", json=body)
    network(api, virtual_datacenter="other", range="10.5.0.0/29")
    path = f"/v1/appliances/{shop['id']}"
    moved = api.post(f"{path}/move", json={"virtual_datacenter": "other"})
    assert moved.status_code == 200, moved.text
    (nic,) = api.get(path).json()["vms"][0]["nics"]
    assert nic["address"] == "10.5.0.1"
    assert sorted(x["address"] for x in api.get("/v1/addresses").json()) == [
        "10.0.0.2",
        "10.5.0.1",
    ]


def test_public_addresses_are_bought_used_and_released(api: Api, server: str) -> None:
    made = public(api, quarantine_s=3600)
    wish = {"network": "internet", "virtual_datacenter": "demo"}
    first = api.post("/v1/addresses", json={**wish, "address": "198.51.100.4"})
    assert (first.status_code, first.json()["state"]) == (201, "bought"), first.text
    path = first.headers["location"]
    require_ledger_exact()
    refused(
        api.post("/v1/addresses", json={**wish, "address": "198.51.100.4"}), 409, "address-taken"
    )
    (nic,) = appliance(api, "internet")
    assert nic["address"] == "198.51.100.4"
    headers = {"Content-Type": "application/yaml"}
    text = TINY.format(app="more", vms="{name: db, template: tiny, networks: [internet]}")
    answer = api.post("/v1/appliances", content=text, headers=headers)
    refused(answer, 409, "address-not-bought")
    refused(api.delete(path), 409, "in-use")
    (shop,) = api.get("/v1/appliances").json()
    api.delete(f"/v1/appliances/{shop['id']}")
    assert api.get(path).json()["state"] == "bought"
    told = refused(api.delete(f"/v1/networks/{made['id']}"), 409, "in-use")
    assert [each["kind"] for each in told["users"]] == ["virtual-datacenter"]
    assert api.delete(path).status_code == 204
    assert api.get(f"/v1/networks/{made['id']}").json()["addresses"]["resting"] == 1
    refused(
        api.post("/v1/addresses", json={**wish, "address": "198.51.100.4"}), 409, "address-taken"
    )
    require_ledger_exact()
    api.done(api.delete(f"/v1/networks/{made['id']}"))


def test_vlans_and_public_addresses_are_limited(api: Api, server: str) -> None:
    public(api)
    hard = {"hard": {"vlans": 1, "public_addresses": 1}}
    path = f"/v1/limits/virtual-datacenter/{api.world.vdc}"
    assert api.call("PUT", path, json=hard).status_code == 200
    network(api)
    body = {"name": "more", "virtual_datacenter": "demo"}
    refused(api.post("/v1/networks", json=body), 409, "hard-limit")
    wish = {"network": "internet", "virtual_datacenter": "demo"}
    assert api.post("/v1/addresses", json=wish).status_code == 201
    refused(api.post("/v1/addresses", json=wish), 409, "hard-limit")
    assert len(api.get("/v1/addresses").json()) == 1


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"range": "10.0.0.0/31"}, 422, "invalid-network"),
        ({"range": "10.0.0.1/24"}, 422, "invalid-request"),
        ({"range": "10.0.0.0/24", "gateway": "10.0.1.1"}, 422, "invalid-network"),
        ({"range": "10.0.0.0/24", "gateway": "10.0.0.255"}, 422, "invalid-network"),
        ({"range": "10.0.0.0/24", "excluded": ["x"]}, 422, "invalid-range"),
        ({"range": "10.0.0.0/24", "excluded": ["10.0.0.0-10.0.0.255"]}, 422, "invalid-network"),
        ({"range6": "fd00::/60"}, 422, "invalid-network"),
        ({"tag": 7}, 422, "invalid-network"),
        ({"kind": "public", "range": "10.0.0.0/24"}, 422, "invalid-network"),
        ({"kind": "unmanaged", "range": "10.0.0.0/24"}, 422, "invalid-network"),
        ({"datacenter": "main"}, 422, "invalid-network"),
        ({"name": "default"}, 409, "name-taken"),
        ({"suffix": "Not A Name"}, 422, "invalid-request"),
    ],
)
def test_what_is_no_network(
    api: Api, server: str, fields: dict[str, Any], status: int, code: str
) -> None:
    body = {"name": "shop", "virtual_datacenter": "demo", **fields}
    refused(api.post("/v1/networks", json=body), status, code)
    assert len(api.get("/v1/networks").json()) == 1


def test_a_range_is_once_on_a_server_and_a_tag_once_in_a_datacenter(api: Api, server: str) -> None:
    network(api, range="10.0.0.0/24")
    body = {"name": "more", "virtual_datacenter": "demo", "range": "10.0.0.128/25"}
    refused(api.post("/v1/networks", json=body), 409, "no-dhcp-server")
    second = {"datacenter": "main", "name": "dhcp-2", "kind": "memory", "address": "second"}
    assert api.post("/v1/dhcp-servers", json=second).status_code == 201
    assert network(api, **body)["dhcp_server_id"] != server
    refused(api.delete(f"/v1/dhcp-servers/{server}"), 409, "in-use")
    public(api)
    other = {"name": "x", "datacenter": "main", "kind": "unmanaged", "tag": 900}
    refused(api.post("/v1/networks", json=other), 409, "tag-of-external")


def test_without_a_dhcp_server_no_network_has_addresses(api: Api) -> None:
    body = {"name": "more", "virtual_datacenter": "demo"}
    refused(api.post("/v1/networks", json=body), 409, "no-dhcp-server")
    made = network(api, kind="unmanaged")
    assert (made["range"], made["addresses"]["total"]) == (None, 0)


def test_default_is_private_where_hosts_can_have_it(api: Api, server: str) -> None:
    body = {"name": "first", "datacenter": "main", "family": "memory"}
    plain = api.post("/v1/virtual-datacenters", json=body).json()["id"]
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink="eth1", link_kind="bridge"))
    made = api.post("/v1/virtual-datacenters", json={**body, "name": "second"}).json()["id"]
    third = api.post("/v1/virtual-datacenters", json={**body, "name": "third"}).json()["id"]
    kinds = {
        vdc: [(x["name"], x["kind"], x["range"]) for x in told]
        for vdc in (plain, made, third)
        if (told := api.get(f"/v1/networks?virtual_datacenter_id={vdc}").json())
    }
    assert kinds == {
        plain: [("default", "restricted", None)],
        made: [("default", "private", "192.168.0.0/24")],
        third: [("default", "private", "192.168.1.0/24")],
    }
    require_ledger_exact()
    assert api.delete(f"/v1/virtual-datacenters/{made}").status_code == 204
    require_ledger_exact()


def test_networks_are_changed_as_far_as_they_can_be(api: Api, server: str) -> None:
    made = network(api, range="10.0.0.0/29", excluded=["10.0.0.2"])
    path = f"/v1/networks/{made['id']}"
    changed = api.call("PATCH", path, json={"name": "office", "gateway": "10.0.0.6"})
    assert changed.status_code == 200, changed.text
    assert changed.json() == {
        **made,
        "name": "office",
        "gateway": "10.0.0.6",
        "addresses": {**made["addresses"], "total": 4},
    }
    (nic,) = appliance(api, "office")
    taken = {"gateway": nic["address"]}
    refused(api.call("PATCH", path, json=taken), 409, "address-taken")
    refused(api.call("PATCH", path, json={"name": "default"}), 409, "name-taken")
    refused(api.call("PATCH", path, json={"gateway": "10.1.0.6"}), 422, "invalid-network")
    refused(api.call("PATCH", path, json={"range": "10.1.0.0/29"}), 422, "invalid-request")
    old = {"If-Match": '"old"'}
    refused(api.call("PATCH", path, json={}, headers=old), 412, "precondition-failed")


def test_hosts_say_how_they_have_networks(api: Api) -> None:
    path = f"/v1/hosts/{api.world.hosts[0]}"
    assert api.get(path).json()["uplink"] is None
    body = {"uplink": "eth1", "link_kind": "ovs", "switch": "br0"}
    told = api.call("PATCH", path, json=body).json()
    assert {name: told[name] for name in body} == body


def test_the_operators_networks_are_for_whom_he_gave_them(api: Api, stranger: Api) -> None:
    (mine,) = api.get("/v1/enterprises?name=default").json()
    server = {"datacenter": "main", "name": "dhcp-1", "kind": "memory", "address": "memory"}
    api.post("/v1/dhcp-servers", json=server)
    public(api)
    external = {"kind": "external", "datacenter": "main", "range": "10.3.0.0/24", "tag": 901}
    given = network(api, name="given", enterprise=mine["id"], **external)
    own = network(api)
    assert sorted(x["name"] for x in api.get("/v1/networks").json()) == [
        *("default", "given", "internet", "shop"),
    ]
    assert [x["name"] for x in stranger.get("/v1/networks").json()] == ["internet"]
    for each in (given, own):
        refused(stranger.get(f"/v1/networks/{each['id']}"), 404, "not-found")
        refused(stranger.delete(f"/v1/networks/{each['id']}"), 404, "not-found")
    wish = {"network": "internet", "virtual_datacenter": str(UUID(int=1))}
    refused(stranger.post("/v1/addresses", json=wish), 404, "unknown-virtual-datacenter")
    body = {"name": "theirs", "datacenter": "main", "family": "memory"}
    assert stranger.post("/v1/virtual-datacenters", json=body).status_code == 201
    wish = {"network": "internet", "virtual_datacenter": "theirs"}
    bought = stranger.post("/v1/addresses", json=wish)
    assert bought.status_code == 201, bought.text
    tenant = user(api, Stock.ENTERPRISE_ADMIN)
    refused(tenant.get(bought.headers["location"]), 404, "not-found")
    assert tenant.get("/v1/addresses").json() == []
    operator = user(api, Stock.CLOUD_ADMIN)
    assert [x["id"] for x in operator.get("/v1/addresses").json()] == [bought.json()["id"]]


def test_a_deployed_vm_is_told_its_address_in_its_networks_vlan(api: Api, server: str) -> None:
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink="eth1", link_kind="bridge"))
    made = network(api, range="10.0.0.0/29", gateway="10.0.0.1")
    path = f"/v1/networks/{made['id']}"
    appliance(api, "shop")
    (vm,) = api.get("/v1/vms").json()
    api.done(api.post(f"/v1/vms/{vm['id']}/deploy"))
    assert api.get(path).json()["tag"] == 2
    _, told = cloud.dhcp(UUID(server)).content()
    (nic,) = vm["nics"]
    assert [(str(x.address), x.mac) for x in told.values()] == [(nic["address"], nic["mac"])]
    assert nic["address"] == "10.0.0.2"
    api.done(api.post(f"/v1/vms/{vm['id']}/undeploy"))
    assert api.get(path).json()["tag"] is None
    assert cloud.dhcp(UUID(server)).content() == ({}, {})
    assert api.get(path).json()["addresses"]["reserved"] == 1


def test_a_network_is_asked_for_by_its_vlans_relay(api: Api, server: str) -> None:
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink="eth1", link_kind="bridge"))
        db.execute(update(models.Datacenter).values(relays="10.98.0.0/20"))
    network(api, range="10.0.0.0/29")
    appliance(api, "shop")
    (vm,) = api.get("/v1/vms").json()
    api.done(api.post(f"/v1/vms/{vm['id']}/deploy"))
    dhcp = cloud.dhcp(UUID(server))
    (subnet,) = dhcp.content()[0].values()
    assert subnet.relay == IPv4Address("10.98.0.2")
    moved = {"relays": "10.99.0.0/20"}
    path = f"/v1/datacenters/{api.world.datacenter}"
    assert api.call("PATCH", path, json=moved).json()["relays"] == moved["relays"]
    api.done(api.post(f"{path}/maintenance", json={"kind": "sync_dhcp"}))
    (subnet,) = dhcp.content()[0].values()
    assert subnet.relay == IPv4Address("10.99.0.2")
    refused(api.call("PATCH", path, json={"relays": "10.99.0.0/24"}), 422, "invalid-request")


def test_an_operators_network_may_be_asked_for_from_elsewhere(api: Api, server: str) -> None:
    assert public(api, relay="10.98.0.1")["relay"] == "10.98.0.1"
    body = {"name": "more", "datacenter": "main", "kind": "external", "range": "10.0.0.0/24"}
    refused(api.post("/v1/networks", json={**body, "relay": "10.0.0.0"}), 422, "invalid-network")


def test_the_same_key_makes_one_network_and_buys_one_address(api: Api, server: str) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"name": "shop", "virtual_datacenter": "demo"}
    first, again = (api.post("/v1/networks", json=body, headers=key) for _ in range(2))
    assert first.json() == again.json()
    public(api)
    wish = {"network": "internet", "virtual_datacenter": "demo"}
    first, again = (api.post("/v1/addresses", json=wish, headers=key) for _ in range(2))
    assert first.json() == again.json()
    assert len(api.get("/v1/addresses").json()) == 1


def test_a_dhcp_servers_password_is_never_told(api: Api) -> None:
    login = {"user": "kea", "password": "secret-word"}
    body = {"datacenter": "main", "name": "d", "kind": "memory", "address": "m", "login": login}
    made = api.post("/v1/dhcp-servers", json=body, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201, made.text
    path = made.headers["location"]
    assert api.call("PATCH", path, json={"name": "e", "login": login}).status_code == 200
    for told in (made, api.get(path), api.get("/v1/events")):
        assert "secret-word" not in told.text
        assert "login" not in told.text
    assert b"secret-word" not in dumped()
    assert cloud.secrets.has(UUID(made.json()["id"]))
    assert api.delete(path).status_code == 204
    assert not cloud.secrets.has(UUID(made.json()["id"]))


def test_a_dhcp_server_is_asked_when_it_is_added_and_when_it_is_found_elsewhere(
    api: Api, tmp_path: Path
) -> None:
    body = {"datacenter": "main", "name": "d", "kind": "memory", "address": "m"}
    (tmp_path / "dnsmasq.pid").write_text(f"{os.getpid()}\n")
    for kind, address in (
        ("kea", f"{tmp_path}/kea.sock"),
        ("kea", "http://127.0.0.1:1/"),
        ("kea", "http://[::1"),
        ("dnsmasq", str(tmp_path)),
    ):
        asked = {**body, "kind": kind, "address": address}
        told = refused(api.post("/v1/dhcp-servers", json=asked), 422, "dhcp-server-away")
        assert address in told["detail"]
    cloud.world.set_fate("dhcp.verify", "refuses")
    refused(api.post("/v1/dhcp-servers", json=body), 422, "dhcp-server-unfit")
    assert api.get("/v1/dhcp-servers").json() == []
    path = api.post("/v1/dhcp-servers", json=body).headers["location"]
    for change in ({"address": "n"}, {"login": {"user": "kea", "password": "secret-word"}}):
        cloud.world.set_fate("dhcp.verify", "fails")
        refused(api.call("PATCH", path, json=change), 422, "dhcp-server-away")
    cloud.world.set_fate("dhcp.verify", "fails")
    assert api.call("PATCH", path, json={"name": "e"}).status_code == 200
    assert api.get(path).json()["address"] == "m"
    assert not cloud.secrets.has(UUID(path.rpartition("/")[2]))


def test_cards_come_and_go_while_a_vm_is_off(api: Api, server: str) -> None:
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink="eth1", link_kind="bridge"))
    front, back = network(api, name="front"), network(api, name="back")
    appliance(api, "front")
    vm = f"/v1/vms/{api.get('/v1/vms').json()[0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/power", json={"power": "paused"}))
    refused(api.post(f"{vm}/nics", json={"network": "back"}), 409, "wrong-state")
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    refused(api.post(f"{vm}/nics", json={"network": "none"}), 404, "unknown-network")
    api.done(api.post(f"{vm}/nics", json={"network": "back", "address": "192.168.1.9"}))
    nics = api.get(vm).json()["nics"]
    assert [(x["network_id"], x["address"], x["is_default"]) for x in nics] == [
        (front["id"], "192.168.0.1", True),
        (back["id"], "192.168.1.9", False),
    ]
    _, told = cloud.dhcp(UUID(server)).content()
    assert {str(each.address) for each in told.values()} == {"192.168.0.1", "192.168.1.9"}
    assert api.get(f"/v1/networks/{back['id']}").json()["tag"] == 3
    refused(api.delete(f"{vm}/nics/{nics[0]['id']}"), 409, "default-nic")
    api.done(api.delete(f"{vm}/nics/{nics[1]['id']}"))
    assert api.get(vm).json()["nics"] == nics[:1]
    assert api.get(f"/v1/networks/{back['id']}").json()["tag"] is None
    _, told = cloud.dhcp(UUID(server)).content()
    assert [str(each.address) for each in told.values()] == ["192.168.0.1"]
    api.done(api.post(f"{vm}/power", json={"power": "on"}))
    api.done(api.post(f"{vm}/undeploy"))
    assert cloud.dhcp(UUID(server)).content() == ({}, {})
