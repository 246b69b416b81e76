"""Volumes through the API, from request to receipt."""

import pytest

from flows.cloud import cloud
from tests.api.conftest import Api, refused

APP = """
appliance: shop
virtual_datacenter: demo
vms: [{name: db, template: tiny}]
"""


def test_a_volume_is_created_and_deleted(api: Api) -> None:
    body = {"name": "data", "size_mib": 64, "virtual_datacenter": "demo"}
    response = api.post("/v1/volumes", json=body)
    operation = response.json()
    assert response.headers["location"] == f"/v1/operations/{operation['id']}"
    assert [each.id.hex for each in api.sent] == [operation["id"].replace("-", "")]
    assert (operation["state"], operation["progress"]) == ("accepted", 0)

    ended = api.run(response)
    assert (ended["state"], ended["progress"]) == ("succeeded", 100)
    assert [step["name"] for step in ended["steps"]] == [
        "charge-volume",
        "enter-volume",
        "carve-volume",
        "record-carved",
    ]
    volume = api.get(f"/v1/volumes/{ended['target']['id']}").json()
    assert (volume["name"], volume["size_mib"], volume["carved"]) == ("data", 64, True)
    receipt = api.get(f"/v1/operations/{ended['id']}/receipt").json()
    assert receipt["questions"]
    assert all(each["as_expected"] for each in receipt["questions"])

    api.done(api.delete(f"/v1/volumes/{volume['id']}"))
    assert api.get("/v1/volumes").json() == []
    assert cloud.world.all("volume") == {}


def test_a_volume_goes_to_the_vm_and_back(api: Api) -> None:
    volume = api.volume()
    vm = api.appliance(APP)["vms"][0]["id"]
    api.done(api.post(f"/v1/volumes/{volume}/attach", json={"vm": vm}))
    attached = api.get(f"/v1/vms/{vm}").json()["volumes"]
    assert [(each["id"], each["position"]) for each in attached] == [(volume, 1)]

    refused(api.delete(f"/v1/volumes/{volume}"), 409, "volume-in-use")
    again = api.post(f"/v1/volumes/{volume}/attach", json={"vm": vm})
    refused(again, 409, "volume-in-use")

    second = api.volume("more")
    not_there = api.post(f"/v1/volumes/{second}/detach", json={"vm": vm})
    refused(not_there, 409, "volume-not-attached")
    api.done(api.post(f"/v1/volumes/{second}/attach", json={"vm": vm}))
    assert api.get(f"/v1/volumes/{second}").json()["position"] == 2
    api.done(api.post(f"/v1/volumes/{volume}/detach", json={"vm": vm}))
    assert api.get(f"/v1/volumes/{volume}").json()["state"] == "DETACHED"


def test_a_volume_comes_to_a_vm_that_is_on_and_goes(api: Api) -> None:
    vm, volume = api.appliance(APP)["vms"][0]["id"], api.volume()
    api.done(api.post(f"/v1/vms/{vm}/deploy"))
    for what, connected in (("attach", 1), ("detach", 0)):
        api.done(api.post(f"/v1/volumes/{volume}/{what}", json={"vm": vm}))
        assert len(cloud.world.all("connection")) == len(cloud.world.all("export")) == connected
    api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "paused"}))
    paused = api.post(f"/v1/volumes/{volume}/attach", json={"vm": vm})
    refused(paused, 409, "wrong-state")


def test_a_volume_that_finds_no_pool_is_refused(api: Api) -> None:
    body = {"name": "big", "size_mib": 5000, "virtual_datacenter": "demo"}
    problem = refused(api.post("/v1/volumes", json=body), 409, "no-room")
    assert problem["pools"] == {"pool": "4096 MiB free"}
    body |= {"tier": "gold"}
    refused(api.post("/v1/volumes", json=body), 404, "unknown-tier")
    body |= {"virtual_datacenter": "nowhere"}
    refused(api.post("/v1/volumes", json=body), 404, "unknown-virtual-datacenter")


def test_a_name_is_given_once(api: Api) -> None:
    api.volume("data")
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    refused(api.post("/v1/volumes", json=body), 409, "name-taken")


@pytest.mark.parametrize(
    "change",
    [{"size_mib": 0}, {"name": "../etc"}, {"name": ""}, {"colour": "red"}, {"size_mib": None}],
)
def test_what_a_volume_is_must_make_sense(api: Api, change: dict[str, object]) -> None:
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo", **change}
    problem = refused(api.post("/v1/volumes", json=body), 422, "invalid-request")
    assert next(iter(change)) in problem["errors"][0]["at"]
