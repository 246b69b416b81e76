"""What is there already is enrolled, after it has shown itself."""

from pathlib import Path
from uuid import UUID

from flows.catalog import FLOWS
from tests.api.conftest import Api, refused


def test_a_datacenter_from_nothing_to_a_running_vm(api: Api, tmp_path: Path) -> None:
    repository, disks = tmp_path / "images", tmp_path / "disks"
    repository.mkdir()
    disks.mkdir()
    body = {"name": "second", "repository": str(repository)}
    datacenter = api.post("/v1/datacenters", json=body)
    assert datacenter.status_code == 201
    assert api.get(datacenter.headers["location"]).json() == datacenter.json()
    assert (repository / ".cloudloom-repository").exists()

    host = {
        "datacenter": "second",
        "name": "alpha",
        "family": "memory",
        "address": "memory",
        "datastores": [str(disks)],
    }
    made = api.post("/v1/hosts", json=host).json()
    assert (made["cpu"], made["datastores"][0]["directory"]) == (64, str(disks))
    device = {"datacenter": "second", "name": "san", "technology": "memory", "host": "127.0.0.1"}
    assert api.post("/v1/storage-devices", json=device).status_code == 201
    device_id = api.get("/v1/storage-devices", params={"name": "san"}).json()[-1]["id"]
    pool = {"storage_device": device_id, "name": "p", "total_mib": 100}
    assert api.post("/v1/storage-pools", json=pool).status_code == 201

    refused(api.post("/v1/datacenters", json=body), 409, "name-taken")
    refused(api.post("/v1/hosts", json=host), 409, "name-taken")
    refused(api.post("/v1/storage-devices", json=device), 409, "name-taken")
    refused(api.post("/v1/storage-pools", json=pool), 409, "name-taken")


def test_a_repository_is_a_directory(api: Api, tmp_path: Path) -> None:
    missing = {"name": "x", "repository": str(tmp_path / "nowhere")}
    refused(api.post("/v1/datacenters", json=missing), 422, "no-such-directory")
    relative = {"name": "x", "repository": "images"}
    refused(api.post("/v1/datacenters", json=relative), 422, "path-not-absolute")
    unknown = {
        "datacenter": "nowhere",
        "name": "a",
        "family": "memory",
        "address": "m",
        "datastores": ["/x"],
    }
    refused(api.post("/v1/hosts", json=unknown), 404, "unknown-datacenter")


def test_a_virtual_datacenter_has_a_network(api: Api) -> None:
    body = {"name": "lab", "datacenter": "main", "family": "memory"}
    assert api.post("/v1/virtual-datacenters", json=body).status_code == 201
    refused(api.post("/v1/virtual-datacenters", json=body), 409, "name-taken")
    text = "{appliance: a, virtual_datacenter: lab, vms: [{name: v, template: tiny}]}"
    assert len(api.appliance(text)["vms"][0]["nics"]) == 1


def test_maintenance_is_run_when_asked_and_reports(api: Api) -> None:
    (datacenter,) = api.get("/v1/datacenters").json()
    url = f"/v1/datacenters/{datacenter['id']}/maintenance"
    asked = api.post(url, json={"kind": "sweep_orphans"})
    assert asked.status_code == 202
    FLOWS["sweep_orphans"](UUID(asked.json()["id"]))
    ended = api.get(asked.headers["location"]).json()
    assert ended["state"] == "succeeded"
    assert ended["report"][0]["what"] == "sweep"
    refused(api.post(url, json={"kind": "delete_iscsi_volume"}), 422, "invalid-request")
    nowhere = f"/v1/datacenters/{UUID(int=1)}/maintenance"
    refused(api.post(nowhere, json={"kind": "trim_history"}), 404, "not-found")
