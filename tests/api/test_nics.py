"""NICs that come to a VM, and go: with addresses of their networks, while it is off."""

from typing import Any

from sqlalchemy import update

from adapters.database import models
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
