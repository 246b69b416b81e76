"""Every request that cannot be done is refused by a problem with a stable code."""

from uuid import uuid4

import pytest

from adapters.errors import Transient
from adapters.hypervisors.memory import MemoryHypervisor
from flows.cloud import cloud
from tests.api.conftest import Api, refused

YAML = {"Content-Type": "application/yaml"}
APP = """
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}
  - {name: web, template: tiny, replicas: 2, depends_on: [db]}
"""


def test_unknown_routes_methods_and_things(api: Api) -> None:
    refused(api.get("/v1/nonsense"), 404, "no-such-route")
    refused(api.call("PUT", "/v1/volumes"), 405, "method-not-allowed")
    refused(api.get(f"/v1/vms/{uuid4()}"), 404, "not-found")
    refused(api.get("/v1/vms/none"), 422, "invalid-request")


def test_json_that_is_none(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    refused(api.post("/v1/volumes", content="{", headers=headers), 400, "invalid-json")
    refused(api.post("/v1/appliances", content="{", headers=headers), 400, "invalid-json")


@pytest.mark.parametrize(
    "text",
    [
        "vms: [",
        "a: &x 1",
        "a: [&x {}, *x]",
        "[" * 50 + "]" * 50,
        "!!python/object/apply:os.system ['true']",
        b"\xff\xfe\xff",
        "a: 1\n---\nb: 2",
    ],
)
def test_yaml_that_is_none_or_not_plain(api: Api, text: str) -> None:
    answer = api.post("/v1/appliances", content=text, headers=YAML)
    refused(answer, 400, "invalid-yaml")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (("template: tiny", "template: huge"), 404, "unknown-template"),
        (("virtual_datacenter: demo", "virtual_datacenter: x"), 404, "unknown-virtual-datacenter"),
        (("depends_on: [db]", "depends_on: [cache]"), 422, "unknown-dependency"),
        (("depends_on: [db]", "depends_on: [web]"), 422, "dependency-circle"),
        (("depends_on: [db]", "networks: [dmz]"), 404, "unknown-network"),
        (("name: web", "name: db"), 422, "duplicate-name"),
        (("name: db", "name: web-1"), 422, "unknown-dependency"),
        (("replicas: 2", "replicas: 0"), 422, "invalid-request"),
        (("size_mib: 8", "tier: default"), 422, "volume-size-missing"),
        (("size_mib: 8", "size_mib: 8, tier: gold"), 404, "unknown-tier"),
        (("size_mib: 8", "size_mib: 5000"), 409, "no-room"),
        (("name: db,", "name: db, tier: gold,"), 404, "unknown-tier"),
        (("appliance: shop", "name: shop"), 422, "invalid-request"),
    ],
)
def test_blueprints_that_do_not_work_out(
    api: Api, change: tuple[str, str], status: int, code: str
) -> None:
    answer = api.post("/v1/appliances", content=APP.replace(*change), headers=YAML)
    refused(answer, status, code)
    assert api.get("/v1/appliances").json() == []
    assert api.get("/v1/vms").json() == []
    assert api.get("/v1/volumes").json() == []


def test_a_blueprint_of_another_kind(api: Api) -> None:
    answer = api.post("/v1/appliances", content=APP, headers={"Content-Type": "text/plain"})
    refused(answer, 415, "unsupported-media-type")


def test_no_room_says_why_of_each_host(api: Api) -> None:
    text = APP.replace("name: db,", "name: db, ram_mib: 9000,")
    appliance = api.appliance(text)
    for path in (
        f"/v1/appliances/{appliance['id']}/deploy",
        f"/v1/vms/{appliance['vms'][0]['id']}/deploy",
    ):
        problem = refused(api.post(path), 409, "no-room")
        assert set(problem["hosts"]) == {"host-0", "host-1"}
        assert "9000 needed" in problem["hosts"]["host-0"]
    assert api.get("/v1/operations").json() == []


def test_room_is_counted_for_all_vms_together(api: Api) -> None:
    text = APP.replace("replicas: 2", "replicas: 3, ram_mib: 3000")
    appliance = api.appliance(text)
    refused(api.post(f"/v1/appliances/{appliance['id']}/deploy"), 409, "no-room")


def test_a_locked_vm_names_the_operation_that_has_it(api: Api) -> None:
    appliance = api.appliance(APP)
    vm, volume = appliance["vms"][0]["id"], appliance["vms"][0]["volumes"][0]["id"]
    holder = api.post(f"/v1/appliances/{appliance['id']}/deploy").json()["id"]
    for answer in (
        api.post(f"/v1/vms/{vm}/deploy"),
        api.post(f"/v1/vms/{vm}/power", json={"power": "on"}),
        api.post(f"/v1/appliances/{appliance['id']}/undeploy"),
        api.post(f"/v1/volumes/{volume}/detach", json={"vm": vm}),
        api.delete(f"/v1/volumes/{volume}"),
        api.delete(f"/v1/appliances/{appliance['id']}"),
    ):
        assert refused(answer, 409, "locked")["operation"] == holder
    shown = api.get(f"/v1/vms/{vm}").json()
    assert (shown["state"], shown["locked_by"]) == ("LOCKED", holder)
    assert api.get(f"/v1/appliances/{appliance['id']}").json()["state"] == "LOCKED"
    assert len(api.get("/v1/operations").json()) == 1


def test_what_the_state_forbids(api: Api) -> None:
    appliance = api.appliance(APP)
    vm = appliance["vms"][0]["id"]
    for path, body in (
        (f"/v1/vms/{vm}/undeploy", None),
        (f"/v1/vms/{vm}/power", {"power": "on"}),
        (f"/v1/vms/{vm}/power", {"power": "paused"}),
        (f"/v1/vms/{vm}/reset", None),
        (f"/v1/vms/{vm}/persist", {}),
        (f"/v1/appliances/{appliance['id']}/undeploy", None),
    ):
        refused(api.post(path, json=body), 409, "wrong-state")
    api.done(api.post(f"/v1/appliances/{appliance['id']}/deploy"))
    refused(api.post(f"/v1/appliances/{appliance['id']}/deploy"), 409, "wrong-state")
    refused(api.delete(f"/v1/appliances/{appliance['id']}"), 409, "wrong-state")
    refused(api.post(f"/v1/vms/{vm}/power", json={"power": "asleep"}), 422, "invalid-request")


def test_what_a_host_cannot_do(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance = api.appliance(APP)
    vm = f"/v1/vms/{appliance['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    monkeypatch.setattr(MemoryHypervisor, "capabilities", frozenset())
    refused(api.post(f"{vm}/power", json={"power": "paused"}), 422, "unsupported")
    refused(api.post(f"{vm}/reset"), 422, "unsupported")
    attached, fresh = appliance["vms"][0]["volumes"][0]["id"], api.volume("more")
    here = {"vm": appliance["vms"][0]["id"]}
    refused(api.post(f"/v1/volumes/{fresh}/attach", json=here), 422, "unsupported")
    refused(api.post(f"/v1/volumes/{attached}/detach", json=here), 422, "unsupported")
    assert len(api.get("/v1/operations").json()) == 2


def test_a_volume_in_use_is_nobody_elses(api: Api) -> None:
    api.appliance(APP)
    second = APP.replace("appliance: shop", "appliance: two")
    refused(api.post("/v1/appliances", content=second, headers=YAML), 409, "volume-in-use")
    refused(
        api.post("/v1/appliances", content=APP.replace("name: data", "name: more"), headers=YAML),
        409,
        "name-taken",
    )


def test_a_backend_that_is_away_is_503_and_a_defect_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.world.set_fate("storage.capacity", "fails")
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    answer = api.post("/v1/volumes", json=body)
    refused(answer, 503, Transient.code)
    assert int(answer.headers["retry-after"]) > 0

    def defect(*_: object) -> None:
        raise ZeroDivisionError("the secret is forty-two")

    monkeypatch.setattr(cloud.inventory, "situation", defect)
    appliance = api.appliance(APP)
    answer = api.post(f"/v1/appliances/{appliance['id']}/deploy")
    refused(answer, 500, "internal-error")
    assert "forty-two" not in answer.text
