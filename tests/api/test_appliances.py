"""An appliance's life through the API: blueprint, deploy, power, persist, undeploy, delete."""

import re
from typing import Any

import pytest

from adapters.errors import OutOfSpace
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.types import Vm as WantedVm
from tests.api.conftest import Api, refused
from tests.flows.scenarios import networked

APP = """
appliance: shop
virtual_datacenter: demo
vms:
  - name: db
    template: tiny
    cpu: 2
    ram_mib: 128
    volumes: [{name: data, size_mib: 8}]
  - name: web
    template: tiny
    replicas: 2
    depends_on: [db]
    volumes: [{name: cache, size_mib: 4}]
"""


def test_a_blueprint_becomes_vms(api: Api) -> None:
    appliance = api.appliance(APP)
    assert appliance["state"] == "NOT_DEPLOYED"
    db, first, second = appliance["vms"]
    assert (db["name"], db["cpu"], db["ram_mib"]) == ("db", 2, 128)
    assert (first["name"], first["cpu"], first["ram_mib"]) == ("web-1", 1, 64)
    assert second["depends_on"] == ["db"]
    assert [volume["name"] for volume in first["volumes"]] == ["cache-1"]
    assert [volume["position"] for volume in db["volumes"]] == [1]
    macs = {nic["mac"] for vm in appliance["vms"] for nic in vm["nics"]}
    assert len(macs) == 3
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac) for mac in macs)
    assert appliance == api.get(f"/v1/appliances/{appliance['id']}").json()


def test_json_says_the_same_as_yaml(api: Api) -> None:
    body = {
        "appliance": "shop",
        "virtual_datacenter": str(api.world.vdc),
        "vms": [{"name": "db", "template": str(api.world.template)}],
    }
    answer = api.post("/v1/appliances", json=body)
    assert answer.status_code == 201
    assert answer.json()["vms"][0]["template_id"] == str(api.world.template)
    assert answer.headers["location"] == f"/v1/appliances/{answer.json()['id']}"


def test_an_existing_volume_is_taken_when_it_fits(api: Api) -> None:
    volume = api.volume("data", size_mib=8)
    headers = {"Content-Type": "application/yaml"}
    larger = api.post(
        "/v1/appliances", content=APP.replace("size_mib: 8", "size_mib: 9"), headers=headers
    )
    refused(larger, 409, "volume-size-differs")
    appliance = api.appliance(APP.replace(", size_mib: 8", ""))
    assert [each["id"] for each in appliance["vms"][0]["volumes"]] == [volume]


def test_the_whole_life(api: Api) -> None:
    appliance = api.appliance(APP)
    path = f"/v1/appliances/{appliance['id']}"
    deployed = api.done(api.post(f"{path}/deploy"))
    assert {step["lane"] for step in deployed["steps"]} == {"", "db", "web-1", "web-2"}
    shown = api.get(path).json()
    assert shown["state"] == "DEPLOYED"
    assert {vm["state"] for vm in shown["vms"]} == {"ON"}
    assert all(vm["host"]["name"].startswith("host-") for vm in shown["vms"])

    web = f"/v1/vms/{shown['vms'][1]['id']}"
    for power, state in (("paused", "PAUSED"), ("on", "ON")):
        api.done(api.post(f"{web}/power", json={"power": power}))
        assert api.get(web).json()["state"] == state
    api.done(api.post(f"{web}/reset"))
    api.done(api.post(f"{web}/power", json={"power": "off"}))
    assert api.get(web).json()["state"] == "OFF"
    api.done(api.post(f"{web}/persist", json={"volume": "web-root"}))
    refused(api.post(f"{web}/persist", json={"volume": "other"}), 409, "already-persistent")
    (root,) = api.get("/v1/volumes", params={"name": "web-root"}).json()
    assert api.get(web).json()["disks"][0]["volume_id"] == root["id"]
    boots = api.post(f"/v1/volumes/{root['id']}/detach", json={"vm": shown["vms"][1]["id"]})
    refused(boots, 409, "volume-in-use")
    api.done(api.post(f"{web}/power", json={"power": "on"}))
    api.done(api.post(f"{web}/undeploy"))
    assert api.get(path).json()["state"] == "NEEDS_SYNC"
    api.done(api.post(f"{web}/deploy"))

    api.done(api.post(f"{path}/undeploy"))
    assert api.get(path).json()["state"] == "NOT_DEPLOYED"
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "not-found")
    assert api.get("/v1/vms").json() == []
    volumes = api.get("/v1/volumes").json()
    assert [each["name"] for each in volumes] == ["cache-1", "cache-2", "data", "web-root"]
    assert {each["state"] for each in volumes} == {"DETACHED"}
    for each in volumes:
        api.done(api.delete(f"/v1/volumes/{each['id']}"))


def test_what_came_up_is_kept_and_only_the_others_are_deployed_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance = api.appliance(APP)
    path = f"/v1/appliances/{appliance['id']}"
    _, first, _ = appliance["vms"]
    define = MemoryHypervisor.ensure_vm

    def refuse(self: MemoryHypervisor, vm: WantedVm, *more: Any) -> None:
        if str(vm.id) == first["id"]:
            raise OutOfSpace("no memory left")
        define(self, vm, *more)

    monkeypatch.setattr(MemoryHypervisor, "ensure_vm", refuse)
    odd = api.post(f"{path}/deploy", json={"on_failure": "perhaps"})
    refused(odd, 422, "invalid-request")
    refused(api.post(f"{path}/deploy", json={"wait_for": "godot"}), 422, "invalid-request")
    ended = api.run(api.post(f"{path}/deploy", json={"on_failure": "keep", "wait_for": "lease"}))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "partly-deployed")
    lost = {"name": "web-1", "code": "out-of-space", "detail": "no memory left"}
    assert ended["error"]["vms"] == [lost]
    assert not ended["left_behind"]
    shown = api.get(path).json()
    assert shown["state"] == "NEEDS_SYNC"
    assert [vm["state"] for vm in shown["vms"]] == ["ON", "NOT_ALLOCATED", "ON"]
    assert shown["vms"][1]["host"] is None
    monkeypatch.undo()
    again = api.done(api.post(f"{path}/deploy"))
    assert {step["lane"] for step in again["steps"]} == {"", "web-1"}
    assert api.get(path).json()["state"] == "DEPLOYED"
    api.done(api.post(f"{path}/undeploy"))


def test_a_blueprint_says_what_deployments_wait_for(api: Api) -> None:
    networked(api.world)
    text = APP.replace("vms:", "wait_for: lease\nvms:", 1)
    appliance = api.appliance(text.replace("name: db", "name: db\n    wait_for: nothing"))
    assert appliance["wait_for"] == "lease"
    assert [vm["wait_for"] for vm in appliance["vms"]] == ["nothing", None, None]
    path, vm = f"/v1/appliances/{appliance['id']}", f"/v1/vms/{appliance['vms'][0]['id']}"
    copied = api.post(f"{path}/copy", json={"name": "copy"}).json()
    for each in (copied, *copied["vms"]):
        each["id"] = each["appliance_id"] = None
    assert [x["wait_for"] for x in (copied, *copied["vms"])] == ["lease", "nothing", None, None]
    ended = api.done(api.post(f"{path}/deploy"))
    waited = {step["lane"] for step in ended["steps"] if step["name"] == "await-leases"}
    assert waited == {"web-1", "web-2"}
    api.done(api.post(f"{path}/undeploy"))
    assert api.call("PATCH", path, json={"wait_for": None}).json()["wait_for"] is None
    assert api.call("PATCH", vm, json={"wait_for": "lease"}).json()["wait_for"] == "lease"
    refused(api.call("PATCH", vm, json={"wait_for": "godot"}), 422, "invalid-request")
    odd = text.replace("wait_for: lease", "wait_for: godot")
    headers = {"Content-Type": "application/yaml"}
    refused(api.post("/v1/appliances", content=odd, headers=headers), 422, "invalid-request")
    ended = api.done(api.post(f"{path}/deploy"))
    assert [x["lane"] for x in ended["steps"] if x["name"] == "await-leases"] == ["db"]


def test_lists_come_in_pages(api: Api) -> None:
    api.appliance(APP)
    answer = api.get("/v1/vms", params={"limit": 2, "sort": "-name"})
    names = [vm["name"] for vm in answer.json()]
    following = answer.links["next"]["url"]
    rest = api.get(following)
    assert names + [vm["name"] for vm in rest.json()] == ["web-2", "web-1", "db"]
    assert "next" not in rest.links
    refused(api.get("/v1/vms", params={"cursor": "nonsense"}), 422, "invalid-cursor")
    other = following.replace("-name", "name")
    refused(api.get(other), 422, "invalid-cursor")
    refused(api.get("/v1/vms", params={"sort": "host_id"}), 422, "invalid-request")
    by_time = api.get("/v1/appliances", params={"sort": "created_at", "limit": 1})
    assert len(by_time.json()) == 1
