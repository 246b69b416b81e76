"""Isolation: every route, tried by nobody, by another enterprise's administrator, and by a user
who may do everything but what the route needs.

A route that is not in the matrix fails, as does one of the matrix that is gone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.database import models
from adapters.database.packages import KeptPackage
from adapters.database.people import ApiToken, User
from adapters.database.repositories import package_id
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.packages import RemotePackage
from adapters.privileges import Privilege, Stock
from api.app import create_app
from api.routers.labels import KINDS as LABELLED
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.people import user
from tests.api.test_template_records import PICTURE
from tests.worlds import World, photograph

APP = """\
appliance: secret-shop
virtual_datacenter: demo
approval: true
vms:
  - {name: secret-db, template: tiny, volumes: [{name: secret-data, size_mib: 8}]}
"""
NEW_APP = APP.replace("secret-shop", "more").replace(
    ", volumes: [{name: secret-data, size_mib: 8}]", ""
)
SHARED_APP = """\
{appliance: their-shop, virtual_datacenter: demo, vms: [{name: their-vm, template: tiny}]}
"""
P = Privilege
PASSWORD = "correct horse battery"
YAML = {"headers": {"Content-Type": "application/yaml"}}


@dataclass
class Ours:
    """What the first enterprise has, and nobody else may hear of."""

    api: Api
    ids: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def ours(api: Api) -> Ours:
    shop = api.appliance(APP)
    (vm,) = shop["vms"]
    icon = {"icon": PICTURE}
    assert api.call("PATCH", f"/v1/templates/{api.world.template}", json=icon).status_code == 200
    operation = api.post(f"/v1/vms/{vm['id']}/deploy")
    assert operation.json()["state"] == "waiting"
    member = user(api, Stock.USER, name="secret-ada")
    with cloud.database.read() as db:
        token = db.query(ApiToken).filter_by(name="secret-ada").one().id
        person = db.query(User).filter_by(name="secret-ada").one().id
    role = api.post("/v1/roles", json={"name": "secret-role", "privileges": ["VDC_ENUMERATE"]})
    device = api.get("/v1/storage-devices").json()[0]["id"]
    (enterprise,) = api.get("/v1/enterprises?name=default").json()
    assert member
    rack = api.post("/v1/racks", json={"datacenter": "main", "name": "secret-rack"})
    load = {"kind": "load", "datacenter": "main", "cpu_percent": 100, "ram_percent": 100}
    rule = api.post("/v1/allocation-rules", json=load)
    world = api.world
    host = api.get(f"/v1/hosts/{world.hosts[0]}").json()
    ids = {
        "enterprise_id": enterprise["id"],
        "user_id": str(person),
        "role_id": role.json()["id"],
        "token_id": str(token),
        "datacenter_id": str(world.datacenter),
        "host_id": host["id"],
        "datastore_id": host["datastores"][0]["id"],
        "rack_id": rack.json()["id"],
        "rule_id": rule.json()["id"],
        "tier_id": api.get("/v1/tiers").json()[0]["id"],
        "level": "virtual-datacenter",
        "holder_id": str(world.vdc),
        "device_id": device,
        "pool_id": str(world.pool),
        "virtual_datacenter_id": str(world.vdc),
        "template_id": str(world.template),
        "package_id": str(kept_package(world)),
        **remote_package(api),
        "network_id": str(world.network),
        **public_address(api, enterprise["id"]),
        "appliance_id": shop["id"],
        "vm_id": vm["id"],
        "disk_id": vm["disks"][0]["id"],
        "nic_id": vm["nics"][0]["id"],
        "volume_id": vm["volumes"][0]["id"],
        "operation_id": operation.json()["id"],
    }
    return Ours(api, ids)


def kept_package(world: World) -> UUID:
    package = KeptPackage(
        id=uuid4(),
        enterprise_id=FIRST_ENTERPRISE,
        datacenter_id=world.datacenter,
        virtual_datacenter_id=world.vdc,
        name="secret-package",
        path="packages/x.ova",
        size_bytes=1,
        digest="0" * 64,
    )
    cloud.packages.enter(package)
    return package.id


def remote_package(api: Api) -> dict[str, str]:
    wish = {"name": "secret-source", "url": "https://images.example", "datacenter": "main"}
    made = UUID(api.post("/v1/template-repositories", json=wish).json()["id"])
    url = "https://images.example/secret.ovf"
    cloud.repositories.refresh(made, uuid4(), [RemotePackage(url=url, name="secret-shop")])
    return {"repository_id": str(made), "remote_package_id": str(package_id(made, url))}


def public_address(api: Api, enterprise: str) -> dict[str, str]:
    """One that was bought, of a network that is ours alone, and the server that knows it."""
    said = {"datacenter": "main", "name": "secret-dhcp", "kind": "memory", "address": "m"}
    server = api.post("/v1/dhcp-servers", json=said).json()["id"]
    where = {"datacenter": "main", "enterprise": enterprise, "kind": "public", "tag": 99}
    body = {"name": "secret-internet", "range": "10.0.0.0/28", **where}
    network = api.done(api.post("/v1/networks", json=body))["target"]["id"]
    wish = {"network": network, "virtual_datacenter": "demo"}
    address = api.post("/v1/addresses", json=wish).json()["id"]
    return {"server_id": server, "public_id": network, "address_id": address}


@dataclass
class Route:
    """What a route needs; how it is asked; whether the answer is about the caller's own only."""

    needs: tuple[P, ...] | None  # None: it is open
    ask: Callable[[dict[str, str]], dict[str, Any]] = lambda _ids: {}
    own: bool = False  # another enterprise may do so too, for itself


def own(*needs: P, **body: Any) -> Route:
    """A route that names nothing of ours: others use it for what is theirs."""
    return Route(needs, lambda _ids: {"json": body} if body else {}, own=True)


def of(*needs: P, **body: Any) -> Route:
    """A route about an object; `{...}` in the body's texts is filled in."""
    return Route(needs, lambda ids: {"json": _filled(body, ids)} if body else {})


def _filled(body: Any, ids: dict[str, str]) -> Any:
    if isinstance(body, str):
        return body.format(**ids)
    if isinstance(body, dict):
        return {name: _filled(each, ids) for name, each in body.items()}
    return [_filled(each, ids) for each in body] if isinstance(body, list) else body


OPEN = Route(None)
HOST = {"name": "h", "family": "memory", "address": "m", "datastores": ["/x"]}
MATRIX: dict[str, Route] = {
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
    "GET /metrics": OPEN,
    "PUT /gateway/uploads/{signed}": OPEN,  # by a signed address, not by a token
    "POST /gateway/uploads/{signed}": OPEN,
    "GET /gateway/packages/{signed}": OPEN,
    "POST /v1/sessions": OPEN,
    "DELETE /v1/sessions/current": own(),
    "GET /v1/me": own(),
    "POST /v1/me/password": own(current=PASSWORD, password="too short"),
    "GET /v1/enterprises": own(P.ENTERPRISE_ENUMERATE),
    "POST /v1/enterprises": of(P.ENTERPRISE_ADMINISTER_ALL, name="new"),
    "GET /v1/enterprises/{enterprise_id}": of(P.ENTERPRISE_ENUMERATE),
    "PATCH /v1/enterprises/{enterprise_id}": of(P.USERS_MANAGE_ENTERPRISE, approval=True),
    "DELETE /v1/enterprises/{enterprise_id}": of(P.ENTERPRISE_ADMINISTER_ALL),
    "GET /v1/users": own(P.USERS_VIEW),
    "POST /v1/users": of(
        P.USERS_MANAGE_USERS,
        name="new",
        password=PASSWORD,
        role="{role_id}",
        virtual_datacenters=["{virtual_datacenter_id}"],
    ),
    "GET /v1/users/{user_id}": of(P.USERS_VIEW),
    "PATCH /v1/users/{user_id}": of(P.USERS_MANAGE_USERS, active=False),
    "DELETE /v1/users/{user_id}": of(P.USERS_MANAGE_USERS),
    "GET /v1/privileges": own(),
    "GET /v1/roles": own(P.USERS_VIEW_PRIVILEGES),
    "POST /v1/roles": of(
        P.USERS_MANAGE_ROLES, name="new", privileges=[], enterprise="{enterprise_id}"
    ),
    "GET /v1/roles/{role_id}": of(P.USERS_VIEW_PRIVILEGES),
    "PATCH /v1/roles/{role_id}": of(P.USERS_MANAGE_ROLES, privileges=[]),
    "DELETE /v1/roles/{role_id}": of(P.USERS_MANAGE_ROLES),
    "GET /v1/api-tokens": own(P.API_TOKENS_MANAGE),
    "POST /v1/api-tokens": own(P.API_TOKENS_MANAGE, name="new"),
    "GET /v1/api-tokens/{token_id}": of(P.API_TOKENS_MANAGE),
    "DELETE /v1/api-tokens/{token_id}": of(P.API_TOKENS_MANAGE),
    "GET /v1/datacenters": own(P.PHYS_DC_ENUMERATE),
    "POST /v1/datacenters": of(P.PHYS_DC_MANAGE, name="new", repository="/nowhere"),
    "GET /v1/datacenters/{datacenter_id}": own(P.PHYS_DC_ENUMERATE),
    "POST /v1/datacenters/{datacenter_id}/maintenance": of(
        P.PHYS_DC_MANAGE, kind="check_datacenters"
    ),
    "POST /v1/datacenters/{datacenter_id}/rescan": own(P.APPLIB_UPLOAD_IMAGE),
    "PATCH /v1/datacenters/{datacenter_id}": of(P.PHYS_DC_MANAGE, repository="/nowhere"),
    "DELETE /v1/datacenters/{datacenter_id}": of(P.PHYS_DC_MANAGE),
    "GET /v1/racks": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/racks": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS, datacenter="main", name="new"),
    "GET /v1/racks/{rack_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "PATCH /v1/racks/{rack_id}": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS, name="other"),
    "DELETE /v1/racks/{rack_id}": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS),
    "PATCH /v1/hosts/{host_id}": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS, maintenance=True),
    "DELETE /v1/hosts/{host_id}": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS),
    "POST /v1/hosts/{host_id}/refresh": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS),
    "POST /v1/hosts/{host_id}/datastores": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS, directory="/new"),
    "GET /v1/hosts/{host_id}/datastores/{datastore_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "PATCH /v1/hosts/{host_id}/datastores/{datastore_id}": of(
        P.PHYS_DC_ALLOW_MODIFY_SERVERS, enabled=True
    ),
    "DELETE /v1/hosts/{host_id}/datastores/{datastore_id}": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS),
    "PATCH /v1/storage-devices/{device_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE, name="other"),
    "DELETE /v1/storage-devices/{device_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE),
    "PATCH /v1/storage-pools/{pool_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE, name="other"),
    "DELETE /v1/storage-pools/{pool_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE),
    "GET /v1/tiers": own(P.PHYS_DC_ENUMERATE),
    "POST /v1/tiers": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE, datacenter="main", name="new"),
    "GET /v1/tiers/{tier_id}": own(P.PHYS_DC_ENUMERATE),
    "PATCH /v1/tiers/{tier_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE, description="other"),
    "DELETE /v1/tiers/{tier_id}": of(P.PHYS_DC_ALLOW_MODIFY_STORAGE),
    "GET /v1/allocation-rules": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/allocation-rules": of(
        P.PHYS_DC_ALLOW_MODIFY_ALLOCATION, kind="fit", policy="progressive"
    ),
    "GET /v1/allocation-rules/{rule_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "PATCH /v1/allocation-rules/{rule_id}": of(P.PHYS_DC_ALLOW_MODIFY_ALLOCATION, cpu_percent=50),
    "DELETE /v1/allocation-rules/{rule_id}": of(P.PHYS_DC_ALLOW_MODIFY_ALLOCATION),
    "GET /v1/limits": own(P.ENTERPRISE_RESOURCE_SUMMARY_ENT),
    "GET /v1/limits/usage": own(P.ENTERPRISE_RESOURCE_SUMMARY_ENT),
    "GET /v1/limits/{level}/{holder_id}": of(P.ENTERPRISE_RESOURCE_SUMMARY_ENT),
    "PUT /v1/limits/{level}/{holder_id}": of(P.VDC_MANAGE, hard={"cpu": 100}),
    "DELETE /v1/limits/{level}/{holder_id}": of(P.VDC_MANAGE),
    "GET /v1/events": own(P.EVENTLOG_VIEW_ENTERPRISE),
    "GET /v1/events/stream": own(P.EVENTLOG_VIEW_ENTERPRISE),
    "GET /v1/hosts": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/hosts": of(P.PHYS_DC_ALLOW_MODIFY_SERVERS, datacenter="main", **HOST),
    "GET /v1/hosts/{host_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "GET /v1/storage-devices": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/storage-devices": of(
        P.PHYS_DC_ALLOW_MODIFY_STORAGE,
        datacenter="main",
        name="new",
        technology="memory",
        host="127.0.0.1",
    ),
    "GET /v1/storage-devices/{device_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "GET /v1/storage-pools": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/storage-pools": of(
        P.PHYS_DC_ALLOW_MODIFY_STORAGE, storage_device="{device_id}", name="new", total_mib=1
    ),
    "GET /v1/storage-pools/{pool_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "GET /v1/virtual-datacenters": own(P.VDC_ENUMERATE),
    "POST /v1/virtual-datacenters": own(
        P.VDC_MANAGE, name="new", datacenter="main", family="memory"
    ),
    "GET /v1/virtual-datacenters/{virtual_datacenter_id}": of(P.VDC_ENUMERATE),
    "PATCH /v1/virtual-datacenters/{virtual_datacenter_id}": of(P.VDC_MANAGE, name="other"),
    "DELETE /v1/virtual-datacenters/{virtual_datacenter_id}": of(P.VDC_MANAGE),
    "GET /v1/templates": own(P.APPLIB_VIEW),
    "POST /v1/templates": Route(
        (P.APPLIB_UPLOAD_IMAGE,),
        lambda _: {"params": {"name": "new", "format": "raw", "datacenter": "main"}},
        own=True,
    ),
    "POST /v1/templates/import": own(
        P.APPLIB_UPLOAD_IMAGE,
        name="new",
        url="https://images.example/a.ova",
        datacenter="main",
    ),
    "GET /v1/templates/{template_id}": of(P.APPLIB_VIEW),
    "GET /v1/templates/{template_id}/icon": of(P.APPLIB_VIEW),
    "PATCH /v1/templates/{template_id}": of(P.APPLIB_ALLOW_MODIFY, category="other"),
    "DELETE /v1/templates/{template_id}": of(P.APPLIB_ALLOW_MODIFY),
    "POST /v1/templates/{template_id}/adapt": of(P.APPLIB_UPLOAD_IMAGE, name="ready"),
    "POST /v1/templates/{template_id}/conversions": of(P.APPLIB_ALLOW_MODIFY, format="raw"),
    "POST /v1/templates/{template_id}/export": of(P.APPLIB_ALLOW_MODIFY),
    "POST /v1/templates/{template_id}/persist": of(
        P.VAPP_CREATE_STATEFUL, name="new", virtual_datacenter="{virtual_datacenter_id}"
    ),
    "POST /v1/templates/{template_id}/capture": of(P.APPLIB_UPLOAD_IMAGE, name="new"),
    "POST /v1/vms/{vm_id}/export": of(P.VAPP_PERFORM_ACTIONS, P.APPLIB_ALLOW_MODIFY),
    "POST /v1/vms/{vm_id}/capture": of(P.VAPP_PERFORM_ACTIONS, P.APPLIB_ALLOW_MODIFY, name="new"),
    "GET /v1/packages": own(P.APPLIB_VIEW),
    "GET /v1/packages/{package_id}": of(P.APPLIB_VIEW),
    "GET /v1/packages/{package_id}/content": of(P.APPLIB_ALLOW_MODIFY),
    "GET /v1/template-repositories": own(P.APPLIB_VIEW),
    "POST /v1/template-repositories": own(
        P.APPLIB_ALLOW_MODIFY, name="new", url="https://images.example/", datacenter="main"
    ),
    "GET /v1/template-repositories/{repository_id}": of(P.APPLIB_VIEW),
    "PATCH /v1/template-repositories/{repository_id}": of(P.APPLIB_ALLOW_MODIFY, name="other"),
    "DELETE /v1/template-repositories/{repository_id}": of(P.APPLIB_ALLOW_MODIFY),
    "POST /v1/template-repositories/{repository_id}/refresh": of(P.APPLIB_ALLOW_MODIFY),
    "GET /v1/template-repositories/{repository_id}/packages": of(P.APPLIB_VIEW),
    "GET /v1/template-repositories/{repository_id}/packages/{remote_package_id}": of(
        P.APPLIB_VIEW
    ),
    "POST /v1/template-repositories/{repository_id}/packages/{remote_package_id}/install": of(
        P.APPLIB_UPLOAD_IMAGE, name="new"
    ),
    "GET /v1/networks": own(P.VDC_ENUMERATE),
    "POST /v1/networks": of(
        P.VDC_MANAGE_NETWORK,
        name="new",
        virtual_datacenter="{virtual_datacenter_id}",
        kind="unmanaged",
    ),
    "GET /v1/networks/{network_id}": of(P.VDC_ENUMERATE),
    "PATCH /v1/networks/{network_id}": of(P.VDC_MANAGE_NETWORK, suffix="new.example"),
    "DELETE /v1/networks/{network_id}": of(P.VDC_MANAGE_NETWORK),
    "GET /v1/addresses": own(P.VDC_ENUMERATE),
    "POST /v1/addresses": of(
        P.VDC_MANAGE_NETWORK,
        network="{public_id}",
        virtual_datacenter="{virtual_datacenter_id}",
    ),
    "GET /v1/addresses/{address_id}": of(P.VDC_ENUMERATE),
    "DELETE /v1/addresses/{address_id}": of(P.VDC_MANAGE_NETWORK),
    "GET /v1/dhcp-servers": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "POST /v1/dhcp-servers": of(
        P.PHYS_DC_ALLOW_MODIFY_NETWORK,
        datacenter="main",
        name="new",
        kind="memory",
        address="memory",
    ),
    "GET /v1/dhcp-servers/{server_id}": of(P.PHYS_DC_RETRIEVE_DETAILS),
    "PATCH /v1/dhcp-servers/{server_id}": of(P.PHYS_DC_ALLOW_MODIFY_NETWORK, name="other"),
    "DELETE /v1/dhcp-servers/{server_id}": of(P.PHYS_DC_ALLOW_MODIFY_NETWORK),
    "GET /v1/volumes": own(P.VDC_ENUMERATE),
    "POST /v1/volumes": of(
        P.VDC_MANAGE_STORAGE,
        name="new",
        size_mib=8,
        virtual_datacenter="{virtual_datacenter_id}",
    ),
    "GET /v1/volumes/{volume_id}": of(P.VDC_ENUMERATE),
    "DELETE /v1/volumes/{volume_id}": of(P.VDC_MANAGE_STORAGE),
    "POST /v1/volumes/{volume_id}/resize": of(P.VDC_MANAGE_STORAGE, size_mib=16),
    "POST /v1/volumes/{volume_id}/capture": of(P.APPLIB_UPLOAD_IMAGE, name="new"),
    "POST /v1/volumes/{volume_id}/attach": of(P.VAPP_ASSIGN_VOLUME, vm="{vm_id}"),
    "POST /v1/volumes/{volume_id}/detach": of(P.VAPP_ASSIGN_VOLUME, vm="{vm_id}"),
    "GET /v1/appliances": own(P.VDC_ENUMERATE),
    "POST /v1/appliances": Route((P.VDC_MANAGE_VAPP,), lambda _: {"content": NEW_APP, **YAML}),
    "GET /v1/appliances/{appliance_id}": of(P.VDC_ENUMERATE),
    "PATCH /v1/appliances/{appliance_id}": of(P.VDC_MANAGE_VAPP, approval=True),
    "DELETE /v1/appliances/{appliance_id}": of(P.VDC_MANAGE_VAPP),
    "POST /v1/appliances/{appliance_id}/deploy": of(P.VAPP_DEPLOY_UNDEPLOY),
    "POST /v1/appliances/{appliance_id}/undeploy": of(P.VAPP_DEPLOY_UNDEPLOY),
    "POST /v1/appliances/{appliance_id}/vms": of(P.VDC_MANAGE_VAPP, name="new", template="tiny"),
    "POST /v1/appliances/{appliance_id}/copy": of(P.VDC_MANAGE_VAPP, name="copy"),
    "POST /v1/appliances/{appliance_id}/move": of(
        P.VDC_MANAGE_VAPP, virtual_datacenter="{virtual_datacenter_id}"
    ),
    "DELETE /v1/vms/{vm_id}": of(P.VDC_MANAGE_VAPP),
    "POST /v1/vms/{vm_id}/keep": of(P.VDC_MANAGE_VAPP),
    "GET /v1/vms": own(P.VDC_ENUMERATE),
    "GET /v1/vms/{vm_id}": of(P.VDC_ENUMERATE),
    "PATCH /v1/vms/{vm_id}": of(P.VAPP_CUSTOMISE_SETTINGS, protected=True),
    "POST /v1/vms/{vm_id}/deploy": of(P.VAPP_DEPLOY_UNDEPLOY),
    "POST /v1/vms/{vm_id}/undeploy": of(P.VAPP_DEPLOY_UNDEPLOY),
    "POST /v1/vms/{vm_id}/power": of(P.VAPP_PERFORM_ACTIONS, power="off"),
    "POST /v1/vms/{vm_id}/reset": of(P.VAPP_PERFORM_ACTIONS),
    "POST /v1/vms/{vm_id}/console": of(P.VAPP_PERFORM_ACTIONS, kind="serial"),
    "POST /v1/vms/{vm_id}/resize": of(P.VAPP_CUSTOMISE_SETTINGS, cpu=2),
    "POST /v1/vms/{vm_id}/disks": of(P.VAPP_CUSTOMISE_SETTINGS, size_mib=8),
    "GET /v1/vms/{vm_id}/disks/{disk_id}": of(P.VDC_ENUMERATE),
    "DELETE /v1/vms/{vm_id}/disks/{disk_id}": of(P.VAPP_CUSTOMISE_SETTINGS),
    "POST /v1/vms/{vm_id}/nics": of(P.VAPP_CUSTOMISE_SETTINGS, network="default"),
    "GET /v1/vms/{vm_id}/nics/{nic_id}": of(P.VDC_ENUMERATE),
    "DELETE /v1/vms/{vm_id}/nics/{nic_id}": of(P.VAPP_CUSTOMISE_SETTINGS),
    "POST /v1/vms/{vm_id}/redefine": of(P.VAPP_CUSTOMISE_SETTINGS, boot=["disk"]),
    "POST /v1/vms/{vm_id}/persist": of(P.VAPP_CREATE_STATEFUL, volume="new"),
    "GET /v1/operations": own(P.OPERATION_VIEW),
    "GET /v1/operations/{operation_id}": of(P.OPERATION_VIEW),
    "GET /v1/operations/{operation_id}/steps": of(P.OPERATION_VIEW),
    "GET /v1/operations/{operation_id}/receipt": of(P.OPERATION_VIEW),
    "GET /v1/operations/{operation_id}/events": of(P.OPERATION_VIEW),
    "POST /v1/operations/{operation_id}/cancel": of(P.OPERATION_CONTROL),
    "POST /v1/operations/{operation_id}/unwind": of(P.OPERATION_CONTROL),
    "POST /v1/operations/{operation_id}/resume": of(P.OPERATION_CONTROL),
    "POST /v1/operations/{operation_id}/abandon": of(P.OPERATION_ABANDON, reason="because"),
    "POST /v1/operations/{operation_id}/approve": of(P.OPERATION_APPROVE),
    "POST /v1/operations/{operation_id}/reject": of(P.OPERATION_APPROVE),
}
for _collection, _kind in LABELLED.items():
    _path = f"/v1/{_collection}/{{{_kind.parameter}}}/labels"
    _reading = own if _kind.parameter in {"datacenter_id", "tier_id"} else of
    MATRIX[f"GET {_path}"] = _reading(_kind.read)
    MATRIX[f"PUT {_path}"] = of(_kind.change, key="value")
PATHS = create_app().openapi()["paths"]
TOLD = {
    f"{method.upper()} {path}": how for path, ways in PATHS.items() for method, how in ways.items()
}
_RULING = ("/v1/users", "/v1/roles/", "/v1/api-tokens/")  # over people: not over mightier ones
EVERYBODYS = {"datacenter_id", "tier_id", "level"}
ENDLESS = "GET /v1/events/stream"
GUARDED = sorted(name for name, route in MATRIX.items() if route.needs is not None)


def asked(ours: Ours, by: Api | None, name: str, ids: dict[str, str]) -> Any:
    """Ask as somebody, or as nobody."""
    method, _, path = name.partition(" ")
    how = MATRIX[name].ask(ids)
    if by is None:
        return ours.api.client.request(method, path.format(**ids), follow_redirects=False, **how)
    return by.call(method, path.format(**ids), **how)


def test_every_route_is_in_the_matrix() -> None:
    assert sorted(TOLD) == sorted(MATRIX)


def test_every_route_says_what_it_needs() -> None:
    told = {name: how.get("security") for name, how in TOLD.items()}
    wanted = {name: route.needs for name, route in MATRIX.items()}
    assert told == {
        name: None if needs is None else [{"HTTPBearer": list(needs)}]
        for name, needs in wanted.items()
    }


def test_nobody_is_answered(ours: Ours, subtests: pytest.Subtests) -> None:
    for name in GUARDED:
        with subtests.test(name):
            refused(asked(ours, None, name, ours.ids), 401, "unauthenticated")


def test_another_enterprise_neither_gets_nor_learns_anything(
    ours: Ours, subtests: pytest.Subtests
) -> None:
    enterprise = uuid4()
    ours.api.world.add(models.Enterprise(id=enterprise, name="others"))
    hidden = [each for key, each in ours.ids.items() if key not in EVERYBODYS]
    before = photograph()
    for name in GUARDED:
        if name == ENDLESS:  # tests of events tell what it tells
            continue
        other = user(ours.api, Stock.ENTERPRISE_ADMIN, enterprise=enterprise)
        with subtests.test(name):
            answer = asked(ours, other, name, ours.ids)
            if MATRIX[name].own:
                assert answer.status_code < 500, answer.text
                assert not [each for each in [*hidden, "secret-"] if each in answer.text]
                continue
            assert answer.status_code in {403, 404}, answer.text
            absent = _absent(ours.ids)
            said = asked(ours, other, name, absent).text
            said = said.replace(json.loads(said)["request_id"], answer.json()["request_id"])
            for key, each in absent.items():
                said = said.replace(each, ours.ids[key])
            assert said == answer.text
    assert _of_ours(photograph(), enterprise) == _of_ours(before, enterprise)


def _absent(ids: dict[str, str]) -> dict[str, str]:
    return {key: each if key == "level" else str(uuid4()) for key, each in ids.items()}


def _of_ours(photo: Any, enterprise: UUID) -> Any:
    """What there is but for the other enterprise's people and virtual datacenters."""
    theirs = (
        *("users", "api_tokens", "login_attempts", "virtual_datacenters", "networks"),
        *("secrets", "template_repositories"),
    )
    tables = {name: rows for name, rows in photo["tables"].items() if name not in theirs}
    for name in ("users", "virtual_datacenters", "template_repositories"):
        tables[name] = [row for row in photo["tables"][name] if str(enterprise) not in row]
    return {**photo, "tables": tables}


def test_who_lacks_the_privilege_is_told_so_whatever_there_is(
    ours: Ours, subtests: pytest.Subtests
) -> None:
    absent = _absent(ours.ids)
    by = {each: user(ours.api, set(P) - {each}) for each in P}
    before = photograph()
    for name in GUARDED:
        for needs in MATRIX[name].needs or ():
            with subtests.test(name):
                for ids in (ours.ids, absent):
                    answer = asked(ours, by[needs], name, ids)
                    assert refused(answer, 403, "privilege-missing")["privilege"] == needs
    photo = photograph()
    del before["tables"]["api_tokens"], photo["tables"]["api_tokens"]  # they were used
    assert photo == before


def test_who_has_just_that_privilege_gets_through(ours: Ours, subtests: pytest.Subtests) -> None:
    """So that the matrix tells what is needed, and not more than that."""
    last = ("DELETE", "PATCH")  # what is asked about is there for as long as possible
    for name in sorted(GUARDED, key=lambda name: name.startswith(last)):
        if (
            name.endswith("/{operation_id}/events") or name == ENDLESS
        ):  # a stream does not end before its operation
            continue
        with subtests.test(name):
            able = user(ours.api, MATRIX[name].needs or ())
            answer = asked(ours, able, name, ours.ids)
            code = answer.json().get("code") if answer.status_code in {401, 403} else None
            mightier = name.partition(" ")[2].startswith(_RULING)
            assert code is None or (mightier and "privileges" in answer.json()), answer.text


LISTS = ["virtual-datacenters", "appliances", "vms", "volumes", "operations"]
INSIDE = [
    "GET /v1/virtual-datacenters/{virtual_datacenter_id}",
    "PATCH /v1/virtual-datacenters/{virtual_datacenter_id}",
    "DELETE /v1/virtual-datacenters/{virtual_datacenter_id}",
    "GET /v1/appliances/{appliance_id}",
    "POST /v1/appliances",
    "POST /v1/appliances/{appliance_id}/deploy",
    "POST /v1/appliances/{appliance_id}/vms",
    "POST /v1/appliances/{appliance_id}/copy",
    "POST /v1/appliances/{appliance_id}/move",
    "GET /v1/vms/{vm_id}",
    "DELETE /v1/vms/{vm_id}",
    "POST /v1/vms/{vm_id}/keep",
    "POST /v1/vms/{vm_id}/power",
    "POST /v1/volumes",
    "GET /v1/networks/{network_id}",
    "POST /v1/networks",
    "DELETE /v1/networks/{network_id}",
    "GET /v1/addresses/{address_id}",
    "DELETE /v1/addresses/{address_id}",
    "GET /v1/volumes/{volume_id}",
    "DELETE /v1/volumes/{volume_id}",
    "POST /v1/volumes/{volume_id}/capture",
    "GET /v1/operations/{operation_id}",
    "GET /v1/operations/{operation_id}/events",
    "GET /v1/operations/{operation_id}/receipt",
    "POST /v1/operations/{operation_id}/cancel",
    "POST /v1/operations/{operation_id}/approve",
]


def test_what_is_in_a_virtual_datacenter_that_he_may_not_see_is_not_there(ours: Ours) -> None:
    api = ours.api
    body = {"name": "other", "datacenter": "main", "family": "memory"}
    made = api.post("/v1/virtual-datacenters", json=body).json()["id"]
    bounded = user(api, Stock.ENTERPRISE_ADMIN, virtual_datacenters=[UUID(made)])
    for name in INSIDE:
        answer = asked(ours, bounded, name, ours.ids)
        assert answer.status_code == 404, (name, answer.text)
    seen = {each: bounded.get(f"/v1/{each}").json() for each in LISTS}
    assert [each["id"] for each in seen.pop("virtual-datacenters")] == [made]
    assert seen == {"appliances": [], "vms": [], "volumes": [], "operations": []}
    here = bounded.post(
        "/v1/volumes", json={"name": "mine", "size_mib": 8, "virtual_datacenter": made}
    )
    ended = bounded.done(here)
    bounded.done(bounded.delete(f"/v1/volumes/{ended['target']['id']}"))
    told = bounded.get("/v1/operations").json()  # also of what is gone
    assert [each["kind"] for each in told] == ["delete_iscsi_volume", "create_iscsi_volume"]
    both = user(api, Stock.USER, virtual_datacenters=[UUID(made), api.world.vdc])
    assert len(both.get("/v1/virtual-datacenters").json()) == 2
    assert both.get(f"/v1/vms/{ours.ids['vm_id']}").status_code == 200


CHANGING = {
    "PATCH /v1/templates/{template_id}",
    "DELETE /v1/templates/{template_id}",
    "POST /v1/templates/{template_id}/conversions",
    "POST /v1/templates/{template_id}/export",
    "POST /v1/templates/{template_id}/capture",
    "POST /v1/templates/{template_id}/adapt",
    "GET /v1/templates/{template_id}/labels",
    "PUT /v1/templates/{template_id}/labels",
}


def test_a_shared_template_is_seen_and_used_and_nothing_else_of_ours(
    ours: Ours, subtests: pytest.Subtests
) -> None:
    api, template = ours.api, ours.ids["template_id"]
    path = f"/v1/templates/{template}"
    api.call("PUT", f"{path}/labels", json={"secret-key": "x"})
    said = {"shared": True, "owner_id": ours.ids["user_id"], "icon": PICTURE}
    assert api.call("PATCH", path, json=said).status_code == 200
    enterprise = uuid4()
    api.world.add(models.Enterprise(id=enterprise, name="others"))
    other = user(api, Stock.ENTERPRISE_ADMIN, enterprise=enterprise)
    seen = other.get(path).json()
    assert other.get("/v1/templates").json() == [seen]
    assert other.get("/v1/templates?label=secret-key").json() == []
    assert (seen["own"], seen["shared"]) == (False, True)
    assert (seen["owner_id"], seen["labels"]) == (None, {})
    assert other.get(f"{path}/icon").status_code == 200
    hidden = [each for key, each in ours.ids.items() if key not in {*EVERYBODYS, "template_id"}]
    before = photograph()
    for name in sorted(name for name in GUARDED if "{template_id}" in name):
        with subtests.test(name):
            answer = asked(ours, other, name, ours.ids)
            if name in CHANGING:
                refused(answer, 403, "shared-by-others")
            elif name.endswith("/persist"):  # what is asked names a virtual datacenter of ours
                refused(answer, 404, "unknown-virtual-datacenter")
                continue
            else:
                assert answer.status_code == 200
            assert not [each for each in [*hidden, "secret-"] if each in answer.text]
    assert photograph() == before

    body = {"name": "demo", "datacenter": "main", "family": "memory"}
    assert other.post("/v1/virtual-datacenters", json=body).status_code == 201
    theirs = other.appliance(SHARED_APP)
    other.done(other.post(f"/v1/appliances/{theirs['id']}/deploy"))
    for list_ in ("operations", "events", "vms", "appliances"):
        assert "their-shop" not in api.get(f"/v1/{list_}").text
        assert "secret-" not in other.get(f"/v1/{list_}").text
    told = refused(api.delete(path), 409, "in-use")
    assert "their" not in json.dumps(told)

    api.call("PATCH", path, json={"shared": False})
    refused(other.get(path), 404, "not-found")
    copying = other.post(f"/v1/appliances/{theirs['id']}/copy", json={"name": "more"})
    refused(copying, 409, "template-not-available")
    more = other.post(f"/v1/appliances/{theirs['id']}/vms", json={"name": "a", "template": "tiny"})
    refused(more, 404, "unknown-template")
    other.done(other.post(f"/v1/appliances/{theirs['id']}/undeploy"))


def test_who_makes_a_virtual_datacenter_may_look_into_it(ours: Ours) -> None:
    bounded = user(ours.api, Stock.ENTERPRISE_ADMIN, virtual_datacenters=[ours.api.world.vdc])
    body = {"name": "other", "datacenter": "main", "family": "memory"}
    made = bounded.post("/v1/virtual-datacenters", json=body).json()["id"]
    assert bounded.get(f"/v1/virtual-datacenters/{made}").status_code == 200


def test_a_deleted_virtual_datacenter_frees_nobody_of_his_bounds(ours: Ours) -> None:
    bounded = user(ours.api, Stock.USER, virtual_datacenters=[uuid4()])
    assert bounded.get("/v1/vms").json() == []
    refused(bounded.get(f"/v1/vms/{ours.ids['vm_id']}"), 404, "not-found")


def test_an_operator_finds_everybodys_operations_and_lists_his_own(
    ours: Ours, stranger: Api
) -> None:
    body = {"name": "v", "datacenter": "main", "family": "memory"}
    vdc = stranger.post("/v1/virtual-datacenters", json=body).json()["id"]
    new = {"name": "theirs", "size_mib": 8, "virtual_datacenter": vdc}
    operation = stranger.post("/v1/volumes", json=new).json()["id"]
    operator = user(ours.api, Stock.CLOUD_ADMIN)
    assert operator.get(f"/v1/operations/{operation}").json()["id"] == operation
    assert operator.get("/v1/operations").json() == ours.api.get("/v1/operations").json()
    refused(operator.get(f"/v1/virtual-datacenters/{vdc}"), 404, "not-found")
