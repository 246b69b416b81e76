"""Every change leaves an event: who, what, on what, from where; and nobody else sees it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text as sql

from adapters.database import events as told
from adapters.database.events import Severity
from adapters.database.repositories import package_id
from adapters.database.session import Database, utc_now
from adapters.packages import RemotePackage
from api import exporting, tokens
from api.routers import events as router
from api.routers.labels import KINDS as LABELLED
from flows.cloud import cloud
from flows.trim_history import trim_history
from tests.api.conftest import Api, refused
from tests.api.test_cli import Workers, workers  # noqa: F401 - a fixture
from tests.api.test_gateway import IMAGE
from tests.worlds import put_migrated

REQUEST = "a-request-of-ours"
WITH_VOLUME = """{appliance: shop, virtual_datacenter: demo, vms: [
    {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}]}"""
PASSWORD = "correct horse battery"
PLAIN = "{appliance: shop, virtual_datacenter: demo, vms: [{name: db, template: tiny}]}"
LINES = {"Accept": exporting.MEDIA_TYPE}
VOLUME = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}


def events(api: Api, **query: Any) -> list[Any]:
    answer = api.get("/v1/events", params=query)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()
    return found


def kinds(api: Api, **query: Any) -> list[str]:
    return [each["kind"] for each in events(api, sort="at", **query)]


# --- every route --------------------------------------------------------------------------------


def shop(api: Api) -> str:
    return f"/v1/appliances/{api.appliance(WITH_VOLUME)['id']}"


def deployed(api: Api) -> str:
    made = api.appliance(PLAIN)
    api.done(api.post(f"/v1/appliances/{made['id']}/deploy"))
    return f"/v1/vms/{made['vms'][0]['id']}"


def switched_off(api: Api) -> str:
    vm = deployed(api)
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    return vm


def waiting(api: Api) -> str:
    appliance = shop(api)
    api.call("PATCH", appliance, json={"approval": True})
    return f"/v1/operations/{api.post(f'{appliance}/deploy').json()['id']}"


def accepted(api: Api) -> str:
    return f"/v1/operations/{api.post('/v1/volumes', json=VOLUME).json()['id']}"


def stuck(api: Api) -> str:
    volume = api.volume()
    cloud.world.set_fate("storage.delete_volume", "refuses", times=1)
    ended = api.run(api.delete(f"/v1/volumes/{volume}"))
    assert ended["state"] == "stuck"
    return f"/v1/operations/{ended['id']}"


def a_vm(api: Api) -> dict[str, str]:
    return {"vm": api.appliance(PLAIN)["vms"][0]["id"]}


def keep(api: Api) -> Any:
    vm = deployed(api)
    assert api.delete(vm).json()["leaving"]
    return api.post(f"{vm}/keep")


def nic_of(api: Api) -> str:
    vm = api.appliance(PLAIN)["vms"][0]
    return f"/v1/vms/{vm['id']}/nics/{vm['nics'][0]['id']}"


def added_disk(api: Api) -> str:
    vm = f"/v1/vms/{a_vm(api)['vm']}"
    api.done(api.post(f"{vm}/disks", json={"size_mib": 8}))
    return f"{vm}/disks/{api.get(vm).json()['disks'][1]['id']}"


def detach(api: Api) -> Any:
    vm = api.appliance(WITH_VOLUME)["vms"][0]
    return api.post(f"/v1/volumes/{vm['volumes'][0]['id']}/detach", json={"vm": vm["id"]})


def send_image(api: Api, method: str = "POST") -> Any:
    wish = {"name": "fresh", "format": "vmdk", "datacenter": "main"}
    where = api.post("/v1/templates", params=wish).headers["location"]
    return api.call(method, where, content=IMAGE)


def create_datacenter(api: Api) -> Any:
    folder = cloud.settings.home / f"more-{uuid4()}"
    folder.mkdir()
    return api.post("/v1/datacenters", json={"name": "more", "repository": str(folder)})


def create_host(api: Api) -> Any:
    folder = cloud.settings.home / f"disks-{uuid4()}"
    folder.mkdir()
    where = {"family": "memory", "address": "memory", "datastores": [str(folder)]}
    return api.post("/v1/hosts", json={"datacenter": "main", "name": "fresh", **where})


def create_device(api: Api) -> Any:
    what = {"name": "fresh", "technology": "memory", "host": "127.0.0.1"}
    return api.post("/v1/storage-devices", json={"datacenter": "main", **what})


def create_pool(api: Api) -> Any:
    device = create_device(api).json()["id"]
    body = {"storage_device": device, "name": "fresh", "total_mib": 9}
    return api.post("/v1/storage-pools", json=body)


def create_datastore(api: Api) -> Any:
    folder = cloud.settings.home / f"disks-{uuid4()}"
    folder.mkdir()
    host = create_host(api).json()["id"]
    return api.post(f"/v1/hosts/{host}/datastores", json={"directory": str(folder)})


def change_datacenter(api: Api) -> Any:
    made = create_datacenter(api).json()
    path, body = f"/v1/datacenters/{made['id']}", {"repository": made["repository"]}
    return api.call("PATCH", path, json=body)


def a_datastore(api: Api) -> str:
    made = create_datastore(api)
    return f"{made.headers['location']}/datastores/{made.json()['id']}"


def of_main(noun: str, **values: Any) -> Callable[[Api], Any]:
    body = {"datacenter": "main", **values}
    return lambda api: api.post(f"/v1/{noun}", json=body)


def path_of(create: Callable[[Api], Any]) -> Callable[[Api], str]:
    return lambda api: str(create(api).headers["location"])


def changed(path: Callable[[Api], str], **values: Any) -> Callable[[Api], Any]:
    return lambda api: api.call("PATCH", path(api), json=values)


def deleted(path: Callable[[Api], str]) -> Callable[[Api], Any]:
    return lambda api: api.delete(path(api))


def create_vdc(api: Api) -> Any:
    return api.post("/v1/virtual-datacenters", json={"name": "lab", "datacenter": "main"})


def change_enterprise(api: Api) -> Any:
    (mine,) = api.get("/v1/enterprises").json()
    return api.call("PATCH", f"/v1/enterprises/{mine['id']}", json={"approval": True})


def set_limits(api: Api) -> Any:
    return api.call("PUT", f"/v1/limits/virtual-datacenter/{api.world.vdc}", json={})


def lift_limits(api: Api) -> Any:
    set_limits(api)
    return api.delete(f"/v1/limits/virtual-datacenter/{api.world.vdc}")


def maintain(api: Api) -> Any:
    path = f"/v1/datacenters/{api.world.datacenter}/maintenance"
    return api.post(path, json={"kind": "trim_history"})


def convert(api: Api) -> Any:
    path = f"/v1/templates/{api.world.template}/conversions"
    return api.post(path, json={"format": "qcow2"})


def persist_template(api: Api) -> Any:
    wish = {"name": "root", "virtual_datacenter": "demo"}
    return api.post(f"/v1/templates/{api.world.template}/persist", json=wish)


def capture_template(api: Api) -> Any:
    api.done(persist_template(api))
    (made,) = api.get("/v1/templates", params={"is_persistent": True}).json()
    return api.post(f"/v1/templates/{made['id']}/capture", json={"name": "kept"})


def blueprint(api: Api) -> Any:
    headers = {"Content-Type": "application/yaml"}
    return api.post("/v1/appliances", content=PLAIN, headers=headers)


def create_user(api: Api) -> Any:
    body = {"name": "ada", "password": PASSWORD, "role": "USER"}
    return api.post("/v1/users", json=body)


def create_role(api: Api) -> Any:
    return api.post("/v1/roles", json={"name": "viewer", "privileges": ["VDC_ENUMERATE"]})


def create_enterprise(api: Api) -> Any:
    return api.post("/v1/enterprises", json={"name": "others"})


def a_token(api: Api) -> str:
    return f"/v1/api-tokens/{api.post('/v1/api-tokens', json={'name': 'fresh'}).json()['id']}"


def log_in(api: Api) -> Any:
    create_user(api)
    body = {"name": "ada", "password": PASSWORD}
    return api.client.post("/v1/sessions", json=body, headers={"X-Request-ID": REQUEST})


def as_ada(api: Api) -> Api:
    return replace(api, token=log_in(api).json()["token"])


def create_repository(api: Api) -> Any:
    wish = {"name": "public", "url": "https://images.example", "datacenter": "main"}
    return api.post("/v1/template-repositories", json=wish)


LAN = {"name": "lan", "virtual_datacenter": "demo", "kind": "unmanaged"}


def a_network(api: Api) -> str:
    made = api.done(api.post("/v1/networks", json=LAN))
    return f"/v1/networks/{made['target']['id']}"


def buy(api: Api) -> Any:
    assert DHCP(api).status_code == 201
    net = {"name": "net", "datacenter": "main", "kind": "public", "range": "10.0.0.0/29"}
    api.done(api.post("/v1/networks", json=net))
    return api.post("/v1/addresses", json={"network": "net", "virtual_datacenter": "demo"})


def install(api: Api) -> Any:
    path = path_of(create_repository)(api)
    package = RemotePackage(url="https://images.example/shop.ovf", name="shop")
    repository = UUID(path.rpartition("/")[2])
    cloud.repositories.refresh(repository, uuid4(), [package])
    return api.post(f"{path}/packages/{package_id(repository, package.url)}/install")


DHCP = of_main("dhcp-servers", name="dhcp-1", kind="memory", address="memory")
RACK = of_main("racks", name="r1")
TIER = of_main("tiers", name="gold")
RULE = of_main("allocation-rules", kind="load", cpu_percent=100, ram_percent=100)
# Of these the caller is the user himself: they have a test of their own.
BY_THEMSELVES = {
    "POST /v1/sessions",
    "DELETE /v1/sessions/current",
    "POST /v1/me/password",
}
EVENTS: dict[str, tuple[str, Callable[[Api], Any]]] = {
    "PATCH /v1/enterprises/{enterprise_id}": ("enterprise.changed", change_enterprise),
    "POST /v1/enterprises": ("enterprise.created", create_enterprise),
    "DELETE /v1/enterprises/{enterprise_id}": (
        "enterprise.deleted",
        deleted(path_of(create_enterprise)),
    ),
    "POST /v1/users": ("user.created", create_user),
    "PATCH /v1/users/{user_id}": (
        "user.changed",
        changed(path_of(create_user), email="ada@example.org"),
    ),
    "DELETE /v1/users/{user_id}": ("user.deleted", deleted(path_of(create_user))),
    "POST /v1/roles": ("role.created", create_role),
    "PATCH /v1/roles/{role_id}": ("role.changed", changed(path_of(create_role), name="reader")),
    "DELETE /v1/roles/{role_id}": ("role.deleted", deleted(path_of(create_role))),
    "DELETE /v1/api-tokens/{token_id}": ("api-token.revoked", deleted(a_token)),
    "POST /v1/api-tokens": (
        "api-token.created",
        lambda api: api.post("/v1/api-tokens", json={"name": "fresh"}),
    ),
    "POST /v1/datacenters": ("datacenter.created", create_datacenter),
    "POST /v1/datacenters/{datacenter_id}/maintenance": ("operation.accepted", maintain),
    "POST /v1/datacenters/{datacenter_id}/rescan": (
        "operation.accepted",
        lambda api: api.post(f"/v1/datacenters/{api.world.datacenter}/rescan"),
    ),
    "POST /v1/hosts": ("host.created", create_host),
    "POST /v1/storage-devices": ("storage-device.created", create_device),
    "POST /v1/storage-pools": ("storage-pool.created", create_pool),
    "PATCH /v1/datacenters/{datacenter_id}": ("datacenter.changed", change_datacenter),
    "DELETE /v1/datacenters/{datacenter_id}": (
        "datacenter.deleted",
        deleted(path_of(create_datacenter)),
    ),
    "PATCH /v1/hosts/{host_id}": (
        "host.changed",
        changed(path_of(create_host), maintenance=True),
    ),
    "DELETE /v1/hosts/{host_id}": ("host.deleted", deleted(path_of(create_host))),
    "POST /v1/hosts/{host_id}/refresh": (
        "host.refresh",
        lambda api: api.post(f"{path_of(create_host)(api)}/refresh"),
    ),
    "POST /v1/hosts/{host_id}/datastores": ("host.datastores", create_datastore),
    "PATCH /v1/hosts/{host_id}/datastores/{datastore_id}": (
        "datastore.changed",
        changed(a_datastore, enabled=False),
    ),
    "DELETE /v1/hosts/{host_id}/datastores/{datastore_id}": (
        "datastore.deleted",
        deleted(a_datastore),
    ),
    "PATCH /v1/storage-devices/{device_id}": (
        "storage-device.changed",
        changed(path_of(create_device), name="other"),
    ),
    "DELETE /v1/storage-devices/{device_id}": (
        "storage-device.deleted",
        deleted(path_of(create_device)),
    ),
    "PATCH /v1/storage-pools/{pool_id}": (
        "storage-pool.changed",
        changed(path_of(create_pool), name="other"),
    ),
    "DELETE /v1/storage-pools/{pool_id}": ("storage-pool.deleted", deleted(path_of(create_pool))),
    "POST /v1/racks": ("rack.created", RACK),
    "PATCH /v1/racks/{rack_id}": ("rack.changed", changed(path_of(RACK), name="r2")),
    "DELETE /v1/racks/{rack_id}": ("rack.deleted", deleted(path_of(RACK))),
    "POST /v1/tiers": ("tier.created", TIER),
    "PATCH /v1/tiers/{tier_id}": ("tier.changed", changed(path_of(TIER), name="silver")),
    "DELETE /v1/tiers/{tier_id}": ("tier.deleted", deleted(path_of(TIER))),
    "POST /v1/allocation-rules": ("allocation-rule.created", RULE),
    "PATCH /v1/allocation-rules/{rule_id}": (
        "allocation-rule.changed",
        changed(path_of(RULE), cpu_percent=50),
    ),
    "DELETE /v1/allocation-rules/{rule_id}": (
        "allocation-rule.deleted",
        deleted(path_of(RULE)),
    ),
    "POST /v1/virtual-datacenters": ("virtual-datacenter.created", create_vdc),
    "PATCH /v1/virtual-datacenters/{virtual_datacenter_id}": (
        "virtual-datacenter.changed",
        changed(path_of(create_vdc), name="other"),
    ),
    "DELETE /v1/virtual-datacenters/{virtual_datacenter_id}": (
        "virtual-datacenter.deleted",
        deleted(path_of(create_vdc)),
    ),
    "PUT /v1/limits/{level}/{holder_id}": ("limits.changed", set_limits),
    "DELETE /v1/limits/{level}/{holder_id}": ("limits.lifted", lift_limits),
    # Says where the image may be sent; what is sent there is told of.
    "POST /v1/templates": ("operation.accepted", send_image),
    "POST /v1/templates/import": (
        "operation.accepted",
        lambda api: api.post(
            "/v1/templates/import",
            json={"name": "fresh", "url": "https://images.example/a.ova", "datacenter": "main"},
        ),
    ),
    "POST /v1/template-repositories": ("template-repository.created", create_repository),
    "PATCH /v1/template-repositories/{repository_id}": (
        "template-repository.changed",
        changed(path_of(create_repository), name="other"),
    ),
    "DELETE /v1/template-repositories/{repository_id}": (
        "template-repository.deleted",
        deleted(path_of(create_repository)),
    ),
    "POST /v1/template-repositories/{repository_id}/refresh": (
        "operation.accepted",
        lambda api: api.post(f"{path_of(create_repository)(api)}/refresh"),
    ),
    "POST /v1/template-repositories/{repository_id}/packages/{remote_package_id}/install": (
        "operation.accepted",
        install,
    ),
    "POST /gateway/uploads/{signed}": ("operation.accepted", send_image),
    "PUT /gateway/uploads/{signed}": (
        "operation.accepted",
        lambda api: send_image(api, "PUT"),
    ),
    "POST /v1/templates/{template_id}/conversions": ("operation.accepted", convert),
    "POST /v1/templates/{template_id}/adapt": (
        "operation.accepted",
        lambda api: api.post(f"/v1/templates/{api.world.template}/adapt", json={"name": "ready"}),
    ),
    "POST /v1/templates/{template_id}/export": (
        "operation.accepted",
        lambda api: api.post(f"/v1/templates/{api.world.template}/export"),
    ),
    "POST /v1/templates/{template_id}/persist": ("operation.accepted", persist_template),
    "POST /v1/templates/{template_id}/capture": ("operation.accepted", capture_template),
    "POST /v1/vms/{vm_id}/export": (
        "operation.accepted",
        lambda api: api.post(f"{switched_off(api)}/export"),
    ),
    "PATCH /v1/templates/{template_id}": (
        "template.changed",
        changed(lambda api: f"/v1/templates/{api.world.template}", category="systems"),
    ),
    "POST /v1/vms/{vm_id}/capture": (
        "operation.accepted",
        lambda api: api.post(f"{deployed(api)}/capture", json={"name": "captured"}),
    ),
    "DELETE /v1/templates/{template_id}": (
        "operation.accepted",
        lambda api: api.delete(f"/v1/templates/{api.world.template}"),
    ),
    "POST /v1/networks": (
        "operation.accepted",
        lambda api: api.post("/v1/networks", json=LAN),
    ),
    "PATCH /v1/networks/{network_id}": ("network.changed", changed(a_network, name="other")),
    "DELETE /v1/networks/{network_id}": ("operation.accepted", deleted(a_network)),
    "POST /v1/addresses": ("address.bought", buy),
    "DELETE /v1/addresses/{address_id}": ("address.released", deleted(path_of(buy))),
    "POST /v1/dhcp-servers": ("dhcp-server.created", DHCP),
    "PATCH /v1/dhcp-servers/{server_id}": (
        "dhcp-server.changed",
        changed(path_of(DHCP), name="other"),
    ),
    "DELETE /v1/dhcp-servers/{server_id}": ("dhcp-server.deleted", deleted(path_of(DHCP))),
    "POST /v1/volumes": (
        "operation.accepted",
        lambda api: api.post("/v1/volumes", json=VOLUME),
    ),
    "DELETE /v1/volumes/{volume_id}": (
        "operation.accepted",
        lambda api: api.delete(f"/v1/volumes/{api.volume()}"),
    ),
    "POST /v1/volumes/{volume_id}/resize": (
        "operation.accepted",
        lambda api: api.post(f"/v1/volumes/{api.volume()}/resize", json={"size_mib": 9}),
    ),
    "POST /v1/volumes/{volume_id}/capture": (
        "operation.accepted",
        lambda api: api.post(f"/v1/volumes/{api.volume()}/capture", json={"name": "captured"}),
    ),
    "POST /v1/volumes/{volume_id}/attach": (
        "operation.accepted",
        lambda api: api.post(f"/v1/volumes/{api.volume()}/attach", json=a_vm(api)),
    ),
    "POST /v1/volumes/{volume_id}/detach": ("operation.accepted", detach),
    "POST /v1/appliances": ("appliance.created", blueprint),
    "PATCH /v1/appliances/{appliance_id}": (
        "appliance.changed",
        lambda api: api.call("PATCH", shop(api), json={"approval": True}),
    ),
    "DELETE /v1/appliances/{appliance_id}": (
        "appliance.deleted",
        lambda api: api.delete(shop(api)),
    ),
    "POST /v1/appliances/{appliance_id}/deploy": (
        "operation.accepted",
        lambda api: api.post(f"{shop(api)}/deploy"),
    ),
    "POST /v1/appliances/{appliance_id}/undeploy": (
        "operation.accepted",
        lambda api: api.post(
            f"/v1/appliances/{api.get(deployed(api)).json()['appliance_id']}/undeploy"
        ),
    ),
    "PATCH /v1/vms/{vm_id}": (
        "vm.changed",
        lambda api: api.call("PATCH", f"/v1/vms/{a_vm(api)['vm']}", json={"protected": True}),
    ),
    "POST /v1/appliances/{appliance_id}/vms": (
        "appliance.vms-added",
        lambda api: api.post(f"{shop(api)}/vms", json={"name": "new", "template": "tiny"}),
    ),
    "POST /v1/appliances/{appliance_id}/copy": (
        "appliance.copied",
        lambda api: api.post(f"{shop(api)}/copy", json={"name": "copy"}),
    ),
    "POST /v1/appliances/{appliance_id}/move": (
        "appliance.moved",
        lambda api: api.post(f"{shop(api)}/move", json={"virtual_datacenter": "demo"}),
    ),
    "DELETE /v1/vms/{vm_id}": (
        "vm.deleted",
        lambda api: api.delete(f"/v1/vms/{a_vm(api)['vm']}"),
    ),
    "POST /v1/vms/{vm_id}/keep": ("vm.kept", keep),
    "POST /v1/vms/{vm_id}/deploy": (
        "operation.accepted",
        lambda api: api.post(f"/v1/vms/{a_vm(api)['vm']}/deploy"),
    ),
    "POST /v1/vms/{vm_id}/undeploy": (
        "operation.accepted",
        lambda api: api.post(f"{deployed(api)}/undeploy"),
    ),
    "POST /v1/vms/{vm_id}/power": (
        "operation.accepted",
        lambda api: api.post(f"{deployed(api)}/power", json={"power": "off"}),
    ),
    "POST /v1/vms/{vm_id}/reset": (
        "operation.accepted",
        lambda api: api.post(f"{deployed(api)}/reset"),
    ),
    "POST /v1/vms/{vm_id}/console": (
        "vm.console-opened",
        lambda api: api.post(f"{deployed(api)}/console", json={"kind": "serial"}),
    ),
    "POST /v1/vms/{vm_id}/resize": (
        "operation.accepted",
        lambda api: api.post(f"{switched_off(api)}/resize", json={"cpu": 2}),
    ),
    "POST /v1/vms/{vm_id}/disks": (
        "operation.accepted",
        lambda api: api.post(f"/v1/vms/{a_vm(api)['vm']}/disks", json={"size_mib": 8}),
    ),
    "DELETE /v1/vms/{vm_id}/disks/{disk_id}": (
        "operation.accepted",
        lambda api: api.delete(added_disk(api)),
    ),
    "POST /v1/vms/{vm_id}/nics": (
        "operation.accepted",
        lambda api: api.post(f"/v1/vms/{a_vm(api)['vm']}/nics", json={"network": "default"}),
    ),
    "DELETE /v1/vms/{vm_id}/nics/{nic_id}": (
        "operation.accepted",
        lambda api: api.delete(nic_of(api)),
    ),
    "POST /v1/vms/{vm_id}/redefine": (
        "operation.accepted",
        lambda api: api.post(f"{switched_off(api)}/redefine", json={"boot": ["network"]}),
    ),
    "POST /v1/vms/{vm_id}/persist": (
        "operation.accepted",
        lambda api: api.post(f"{switched_off(api)}/persist", json={}),
    ),
    "POST /v1/operations/{operation_id}/cancel": (
        "operation.cancel-asked",
        lambda api: api.post(f"{accepted(api)}/cancel"),
    ),
    "POST /v1/operations/{operation_id}/unwind": (
        "operation.unwind-asked",
        lambda api: api.post(f"{accepted(api)}/unwind"),
    ),
    "POST /v1/operations/{operation_id}/resume": (
        "operation.resumed",
        lambda api: api.post(f"{stuck(api)}/resume"),
    ),
    "POST /v1/operations/{operation_id}/abandon": (
        "operation.abandoned",
        lambda api: api.post(f"{stuck(api)}/abandon", json={"reason": "it burnt"}),
    ),
    "POST /v1/operations/{operation_id}/approve": (
        "operation.approved",
        lambda api: api.post(f"{waiting(api)}/approve"),
    ),
    "POST /v1/operations/{operation_id}/reject": (
        "operation.rejected",
        lambda api: api.post(f"{waiting(api)}/reject", json={"reason": "not now"}),
    ),
}


def one_of(api: Api, collection: str) -> str:
    """The path of something new of a kind; of a template, of the one that there is."""
    if collection == "templates":
        return f"/v1/templates/{api.world.template}"
    if collection == "vms":
        return f"/v1/vms/{a_vm(api)['vm']}"
    if collection == "volumes":
        return f"/v1/volumes/{api.volume()}"
    if collection == "networks":
        return a_network(api)
    return path_of(EVENTS[f"POST /v1/{collection}"][1])(api)


def labelled(collection: str) -> Callable[[Api], Any]:
    return lambda api: api.call("PUT", f"{one_of(api, collection)}/labels", json={"a": "b"})


for _collection, _kind in LABELLED.items():
    _noun = told.singular(_collection)
    EVENTS[f"PUT /v1/{_collection}/{{{_kind.parameter}}}/labels"] = (
        f"{_noun}.labels-changed",
        labelled(_collection),
    )


def test_every_route_that_changes_something_is_in_the_matrix(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, each in paths.items() for method in each}
    changing = {each for each in routes if not each.startswith("GET ")}
    assert changing == {*EVENTS, *BY_THEMSELVES}


def test_who_comes_and_goes_and_changes_his_password_is_told_of(api: Api) -> None:
    ada = as_ada(api)
    (begun,) = events(api, kind="session.begun")
    assert (begun["who"]["name"], begun["object"]["name"]) == ("ada", "ada")
    assert (begun["client"], begun["request"]) == ("127.0.0.1", REQUEST)
    new = {"current": PASSWORD, "password": f"{PASSWORD}!"}
    assert ada.post("/v1/me/password", json=new).status_code == 204
    assert ada.delete("/v1/sessions/current").status_code == 204
    for kind in ("user.password-changed", "session.ended"):
        (told,) = events(api, kind=kind)
        assert (told["who"]["name"], told["object"]["name"]) == ("ada", "ada")
    assert PASSWORD not in json.dumps(events(api))


@pytest.mark.parametrize("route", EVENTS)
def test_what_changes_something_leaves_an_event(api: Api, route: str) -> None:
    kind, ask = EVENTS[route]
    answer = ask(api)
    assert answer.status_code < 300, answer.text
    last = events(api, kind=kind)[0]
    assert last["who"]["name"] == "first"
    assert last["who"]["token"]
    assert last["client"] == "127.0.0.1"
    assert last["request"] == answer.headers["x-request-id"]
    assert last["object"]["id"]
    assert last["object"]["name"]
    assert {"id", "name"} == set(last["about"][last["object"]["kind"]])
    if kind.startswith("operation."):
        assert last["operation"] == answer.json()["id"]


def test_no_route_changes_or_removes_an_event(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    mine = [
        method for path, each in paths.items() if path.startswith("/v1/events") for method in each
    ]
    assert mine == ["get"] * 2


def test_what_is_refused_leaves_none(api: Api) -> None:
    create_vdc(api)
    before = kinds(api)
    refused(create_vdc(api), 409, "name-taken")
    refused(api.post("/v1/vms/nobody/deploy"), 422, "invalid-request")
    assert kinds(api) == before


def test_what_is_asked_again_with_its_key_is_told_once(api: Api) -> None:
    for _ in range(2):
        key = {"Idempotency-Key": "once"}
        assert api.post("/v1/api-tokens", json={"name": "t"}, headers=key).status_code == 201
    assert kinds(api, kind="api-token.created") == ["api-token.created"]


# --- what an event says -------------------------------------------------------------------------


def test_an_operation_tells_how_it_went_and_for_whom(api: Api) -> None:
    vm = api.appliance(WITH_VOLUME)["vms"][0]
    headers = {"X-Request-ID": REQUEST}
    ended = api.done(api.post(f"/v1/vms/{vm['id']}/deploy", headers=headers))
    found = events(api, operation_id=ended["id"], kind="operation", sort="at")
    assert [each["kind"].partition(".")[2] for each in found] == [
        "accepted",
        "started",
        "succeeded",
    ]
    for each in found:
        assert (each["who"]["name"], each["request"], each["client"]) == (
            "first",
            REQUEST,
            "127.0.0.1",
        )
        assert each["details"]["kind"] == "deploy_vm"
        assert list(each["about"])[:2] == ["vm", "appliance"]
        assert set(each["about"]) >= {"virtual_datacenter", "datacenter", "enterprise"}
        assert each["about"]["appliance"]["name"] == "shop"


def test_an_operation_that_fails_tells_why(api: Api) -> None:
    cloud.world.set_fate("storage.ensure_volume", "refuses")
    ended = api.run(api.post("/v1/volumes", json=VOLUME))
    found = events(api, operation_id=ended["id"], sort="at")
    assert [(each["kind"], each["severity"]) for each in found] == [
        ("operation.accepted", "info"),
        ("operation.started", "info"),
        ("operation.unwinding", "warning"),
        ("operation.failed", "error"),
    ]
    assert found[-1]["details"]["error"]["code"] == ended["error"]["code"]


def test_what_runs_by_itself_is_told_of_only_when_it_goes_wrong(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.operation import accept_maintenance

    trim_history(accept_maintenance(trim_history))
    assert kinds(api) == []

    def away(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cloud.history, "forget_keys", away)
    trim_history(accept_maintenance(trim_history))
    assert kinds(api) == ["operation.unwinding", "operation.failed"]


def test_what_is_gone_is_still_told_of_by_its_name(api: Api) -> None:
    path = shop(api)
    assert api.delete(path).status_code == 204
    gone = path.rpartition("/")[2]
    assert kinds(api, appliance_id=gone) == ["appliance.created", "appliance.deleted"]
    assert events(api, object_id=gone)[0]["about"]["appliance"]["name"] == "shop"


# --- reading ------------------------------------------------------------------------------------


def test_events_are_filtered(api: Api) -> None:
    create_vdc(api)
    ended = api.done(api.post("/v1/volumes", json=VOLUME))
    assert kinds(api, kind="virtual-datacenter") == ["virtual-datacenter.created"]
    assert kinds(api, kind="operation.succeeded") == ["operation.succeeded"]
    assert kinds(api, kind="operation.succ") == []
    assert len(kinds(api, kind="operation")) == 3
    assert kinds(api, severity="error") == []
    assert len(kinds(api, who="first")) == 4
    assert kinds(api, who="second") == []
    assert len(kinds(api, object_id=ended["target"]["id"])) == 3
    assert len(kinds(api, operation_id=ended["id"])) == 3
    (first, *others) = events(api, sort="at")
    at = datetime.fromisoformat(first["at"])
    assert len(events(api, since=(at + timedelta(microseconds=1)).isoformat())) == len(others)
    assert events(api, until=at.isoformat()) == []
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    refused(api.get("/v1/events", params={"kind": "a.b.c"}), 422, "invalid-request")
    refused(api.get("/v1/events", params={"sort": "kind"}), 422, "invalid-request")


@pytest.mark.parametrize("sort", ["at", "-at"])
def test_pages_follow_each_other(api: Api, sort: str) -> None:
    with cloud.database.write() as db:
        for number in range(7):  # in one transaction: of one time on some databases
            told.tell(db, "test.number", number=number)
    found, path = [], f"/v1/events?limit=3&sort={sort}"
    while path:
        answer = api.get(path)
        assert answer.status_code == 200, answer.text
        found += [each["details"]["number"] for each in answer.json()]
        path = answer.links.get("next", {}).get("url")
    assert found == (list(range(7)) if sort == "at" else list(range(7))[::-1])


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"severity": Severity.ERROR},
        {"who": "first"},
        {"kind": "operation.failed"},
        {"object_id": UUID(int=1)},
        {"appliance_id": UUID(int=1)},
        {"virtual_datacenter_id": UUID(int=1)},
        {"since": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
    ids=lambda wanted: next(iter(wanted), "all"),
)
def test_a_page_is_read_from_an_index_in_its_order(
    api: Api, wanted: dict[str, Any], tmp_path: Path
) -> None:
    """As SQLite says, which goes by what there could be; MariaDB rather sorts what is little."""
    caller = tokens.bearer(cloud.database, api.token)
    assert caller
    put_migrated(tmp_path / "empty.sqlite")
    database = Database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    row = told.EventRow
    query = router.Wanted(caller, **wanted).query().order_by(row.at.desc(), row.id.desc())
    text = str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    with database.read() as db:
        plan = [each[-1] for each in db.execute(sql(f"EXPLAIN QUERY PLAN {text}"))]
    database.engine.dispose()
    assert len(plan) == 1, plan  # nothing is sorted
    assert "USING INDEX ix_events" in plan[0]


def test_the_export_has_all_in_their_order(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_PAGE", "3")
    with cloud.database.write() as db:
        for number in range(8):
            told.tell(db, "test.number", number=number)
        told.tell(db, "other.number", number=9)
    query = {"kind": "test", "sort": "at"}
    answer = api.get("/v1/events", params=query, headers=LINES)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["details"]["number"] for line in lines] == list(range(8))
    assert lines == events(api, kind="test", sort="at")


def test_another_enterprise_sees_none_of_them(api: Api, stranger: Api) -> None:
    ended = api.done(api.post("/v1/volumes", json=VOLUME))
    mine = events(api)[0]
    assert events(stranger) == []
    assert events(stranger, operation_id=ended["id"]) == []
    assert events(stranger, enterprise_id=mine["about"]["enterprise"]["id"]) == []
    assert stranger.get("/v1/events", headers=LINES).text == ""
    made = stranger.post("/v1/virtual-datacenters", json={"name": "theirs", "datacenter": "main"})
    assert made.status_code == 201
    assert kinds(stranger) == ["virtual-datacenter.created"]
    assert "virtual-datacenter.created" not in kinds(api)


def test_old_events_are_forgotten_after_their_time(api: Api) -> None:
    create_vdc(api)
    with cloud.database.write() as db:
        told.tell(db, "test.old")
    with cloud.database.write() as db:
        db.query(told.EventRow).filter_by(kind="test.old").update({"at": utc_now(-366 * 86400)})
    ended = api.done(maintain(api))
    assert "test.old" not in kinds(api)
    assert "virtual-datacenter.created" in kinds(api)
    assert "1 forgotten" in [each["state"] for each in ended["report"]]


# --- following ----------------------------------------------------------------------------------


@contextmanager
def following(
    api: Api, url: str, last: int | None = None, **query: str
) -> Iterator[Iterator[Any]]:
    headers = {"Authorization": f"Bearer {api.token}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    with httpx.stream(
        "GET", f"{url}/v1/events/stream", headers=headers, params=query, timeout=90
    ) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        assert next(lines) == ": from here on"
        yield (json.loads(line[6:]) for line in lines if line.startswith("data: "))


@pytest.fixture
def url(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811 - the fixture
    import os

    workers.resting = True
    return os.environ["CLOUDLOOM_URL"]


def test_a_stream_tells_what_happens_and_goes_on_where_it_was(
    api: Api, stranger: Api, url: str
) -> None:
    create_device(api)
    with following(api, url) as heard:
        create_vdc(stranger)
        create_vdc(api)
        first = next(heard)
        assert first["kind"] == "virtual-datacenter.created"
        assert first["who"]["name"] == "first"
    create_host(api)
    create_datacenter(api)
    with following(api, url, last=first["id"]) as heard:
        assert [next(heard)["kind"] for _ in range(2)] == ["host.created", "datacenter.created"]
    with following(api, url, last=0, kind="datacenter") as heard:
        assert next(heard)["kind"] == "datacenter.created"
    with following(stranger, url, last=0) as heard:
        assert next(heard)["about"]["enterprise"]["name"] == "others"


def test_a_stream_ends_with_its_token(api: Api, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_HEARTBEAT_S", 0.05)
    guest = Api(api.client, api.world, tokens.mint(cloud.database, "guest"))
    with following(guest, url) as heard:
        tokens.revoke(cloud.database, UUID(guest.token.split("_")[1]))
        assert list(heard) == []
