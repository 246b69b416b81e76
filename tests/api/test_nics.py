"""NICs that come to a VM, and go, with addresses of their networks."""

from typing import Any

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.hypervisors.base import Capability
from adapters.hypervisors.memory import MemoryHypervisor
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.flows.scenarios import networked

WEB = """\
appliance: shop
virtual_datacenter: demo
vms: [{name: web, template: tiny, networks: [default]}]
"""


def nics(api: Api, vm: str) -> list[dict[str, Any]]:
    return api.get(vm).json()["nics"]


def test_a_nic_comes_with_an_address_and_goes_with_it(api: Api) -> None:
    networked(api.world)
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    assert [nic["address"] for nic in nics(api, vm)] == ["10.0.0.2"]
    asked = {"network": "default", "address": "10.0.0.9"}
    api.done(api.post(f"{vm}/nics", json=asked))
    assert [nic["address"] for nic in nics(api, vm)] == ["10.0.0.2", "10.0.0.9"]
    assert [nic["is_default"] for nic in nics(api, vm)] == [True, False]
    taken = api.run(api.post(f"{vm}/nics", json=asked))
    assert taken["error"]["code"] == "address-taken"
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/power", json={"power": "paused"}))
    refused(api.post(f"{vm}/nics", json={"network": "default"}), 409, "wrong-state")
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    assert len(nics(api, vm)) == 3
    first, second, third = (f"{vm}/nics/{nic['id']}" for nic in nics(api, vm))
    refused(api.delete(first), 409, "default-nic")
    for path in (second, third, first):
        assert api.get(path).status_code == 200
        api.done(api.delete(path))
        assert api.get(path).status_code == 404
    api.done(api.post(f"{vm}/power", json={"power": "on"}))
    api.done(api.post(f"{vm}/undeploy"))


def test_a_nic_wants_a_network_of_its_vms_and_a_host_that_has_any(api: Api) -> None:
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    refused(api.post(f"{vm}/nics", json={"network": "nowhere"}), 404, "unknown-network")
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    networked(api.world)
    with cloud.database.write() as db:
        db.execute(update(models.Host).values(uplink=None))
    failed = api.run(api.post(f"{vm}/nics", json={"network": "default"}))
    assert failed["error"]["code"] == "link-unsupported"
    assert len(nics(api, vm)) == 1
    for _ in range(7):
        with cloud.database.write() as db:
            db.execute(update(models.Network).values(kind="restricted", range=None))
        api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    failed = api.run(api.post(f"{vm}/nics", json={"network": "default"}))
    assert failed["error"]["code"] == "too-many-nics"


def steps(operation: Any) -> list[str]:
    return [step["name"] for step in operation["steps"]]


def test_a_nic_comes_to_a_vm_that_is_on_and_goes(api: Api) -> None:
    networked(api.world)
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    came = api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    assert "plug-nic" in steps(came)
    assert "define-anew" not in steps(came)
    first, second = nics(api, vm)
    assert (first["is_default"], second["is_default"]) == (True, False)
    assert [first["address"], second["address"]] == ["10.0.0.2", "10.0.0.3"]
    refused(api.delete(f"{vm}/nics/{first['id']}"), 409, "default-nic")
    went = api.done(api.delete(f"{vm}/nics/{second['id']}"))
    assert "pull-nic" in steps(went)
    assert nics(api, vm) == [first]
    assert api.get(vm).json()["state"] == "ON"


def test_the_place_that_a_nic_leaves_is_the_next_ones(api: Api) -> None:
    networked(api.world)
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    for _ in range(2):
        api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    _, second, third = nics(api, vm)
    api.done(api.delete(f"{vm}/nics/{second['id']}"))
    api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    now = nics(api, vm)
    assert [nic["position"] for nic in now] == [0, 1, 2]
    assert now[2] == third


def test_what_a_vm_that_is_on_cannot_be_given_is_refused_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    networked(api.world)
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/nics", json={"network": "default"}))
    before = nics(api, vm)
    nic = f"{vm}/nics/{before[1]['id']}"
    with monkeypatch.context() as lacking:
        lacks = MemoryHypervisor.capabilities - {Capability.HOT_NIC}
        lacking.setattr(MemoryHypervisor, "capabilities", lacks)
        refused(api.post(f"{vm}/nics", json={"network": "default"}), 422, "nic-not-hot")
        refused(api.delete(nic), 422, "nic-not-hot")
    with cloud.database.write() as db:
        db.execute(update(models.Network).values(kind="restricted"))
    refused(api.post(f"{vm}/nics", json={"network": "default"}), 422, "nic-not-hot")
    refused(api.delete(nic), 422, "nic-not-hot")
    assert nics(api, vm) == before


def test_a_nic_is_planned_with_its_address_and_whether_its_guest_runs(api: Api) -> None:
    networked(api.world)
    vm = f"/v1/vms/{api.appliance(WEB)['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    asked, dry = {"network": "default"}, {"dry_run": "true"}
    before = nics(api, vm)
    plan = api.post(f"{vm}/nics", json=asked, params=dry).json()
    assert "plug-nic" in steps(plan)
    assert "define-anew" not in steps(plan)
    assert nics(api, vm) == before
    other = api.post(f"{vm}/nics", json=asked, params=dry).json()
    api.done(api.post(f"{vm}/nics", json=asked, params={"plan": plan["id"]}))
    assert [nic["address"] for nic in nics(api, vm)] == ["10.0.0.2", "10.0.0.3"]
    late = api.post(f"{vm}/nics", json=asked, params={"plan": other["id"]})
    refused(late, 409, "plan-outdated")
    assert "address is 10.0.0.4, was 10.0.0.3" in late.text
    nic = f"{vm}/nics/{nics(api, vm)[1]['id']}"
    gone = api.delete(nic, params=dry).json()
    assert "pull-nic" in steps(gone)
    api.done(api.delete(nic, params={"plan": gone["id"]}))
    assert nics(api, vm) == before
    taken = api.post(f"{vm}/nics", json={**asked, "address": "10.0.0.2"}, params=dry)
    refused(taken, 409, "address-taken")
