"""Persistent templates: volumes that one VM at a time boots from; and templates of volumes."""

from typing import Any
from uuid import UUID

from adapters.privileges import Stock
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.people import user
from tests.worlds import require_ledger_exact

APP = """
appliance: {name}
virtual_datacenter: demo
vms: [{{name: db, template: {template}}}]
"""


def template_called(api: Api, name: str) -> Any:
    (found,) = api.get("/v1/templates", params={"name": name}).json()
    return found


def persisted(api: Api, name: str = "root", **how: Any) -> Any:
    source = template_called(api, "tiny")["id"]
    body = {"name": name, "virtual_datacenter": "demo", **how}
    api.done(api.post(f"/v1/templates/{source}/persist", json=body))
    return template_called(api, name)


def vm_of(api: Api, template: str, name: str = "shop") -> str:
    vm = api.appliance(APP.format(name=name, template=template))["vms"][0]["id"]
    return f"/v1/vms/{vm}"


def content(volume: str) -> Any:
    return cloud.world.find("volume", UUID(volume))


def guest_writes(vm: str) -> None:
    """What a guest has written is told from what it found there."""
    key = UUID(vm.rpartition("/")[2])
    cloud.hypervisor(cloud.inventory.vm(key).host).guest_writes(key)  # type: ignore[attr-defined]
    for volume in cloud.inventory.vm(key).volumes:
        found = cloud.world.find("volume", volume.id)
        cloud.world.put("volume", volume.id, {**found, "content": "a guest's"})


def test_a_persistent_template_is_an_instance_whose_disks_are_volumes(api: Api) -> None:
    master = template_called(api, "tiny")
    made = persisted(api)
    (disk,) = made["disks"]
    assert (made["state"], made["master_id"]) == ("AVAILABLE", master["id"])
    assert (made["cpu"], made["ram_mib"]) == (master["cpu"], master["ram_mib"])
    assert (disk["format"], disk["digest"], disk["path"]) == ("raw", "", "")
    volume = api.get(f"/v1/volumes/{disk['volume_id']}").json()
    assert (volume["name"], volume["size_mib"], volume["carved"]) == ("root", 16, True)
    assert content(volume["id"])["content"] == "tiny"
    assert not cloud.world.all("export")
    require_ledger_exact()
    only = api.get("/v1/templates", params={"is_persistent": True}).json()
    assert [each["name"] for each in only] == ["root"]
    others = api.get("/v1/templates", params={"is_persistent": False}).json()
    assert [each["name"] for each in others] == ["tiny"]


def test_what_a_vm_wrote_is_there_for_the_next_one(api: Api) -> None:
    made = persisted(api)
    volume, first = made["disks"][0]["volume_id"], vm_of(api, "root")
    api.done(api.post(f"{first}/deploy"))
    guest_writes(first)
    api.done(api.post(f"{first}/undeploy"))
    assert content(volume)["content"] == "a guest's"
    api.done(api.post(f"{first}/deploy"))
    assert [x["volume"] for x in cloud.world.all("connection").values()] == [volume]
    assert not cloud.world.all("disk")
    api.done(api.post(f"{first}/undeploy"))
    assert api.delete(f"/v1/appliances/{api.get(first).json()['appliance_id']}").is_success

    second = vm_of(api, "root", "other")
    api.done(api.post(f"{second}/deploy"))
    assert content(volume)["content"] == "a guest's"
    (disk,) = api.get(second).json()["disks"]
    assert (disk["position"], disk["volume_id"]) == (0, volume)


def test_a_second_vm_is_refused_and_told_who_has_it(api: Api) -> None:
    persisted(api)
    first = vm_of(api, "root")
    text = APP.format(name="other", template="root")
    yaml = {"Content-Type": "application/yaml"}
    answer = api.post("/v1/appliances", content=text, headers=yaml)
    users = refused(answer, 409, "in-use")["users"]
    assert [(each["kind"], each["name"]) for each in users] == [("vm", "db")]
    assert f"/v1/vms/{users[0]['id']}" == first
    twice = text.replace("template: root", "template: root, replicas: 2")
    assert api.delete(f"/v1/appliances/{api.get(first).json()['appliance_id']}").is_success
    refused(api.post("/v1/appliances", content=twice, headers=yaml), 409, "in-use")
    vm_of(api, "root", "other")


def test_it_is_of_one_virtual_datacenter(api: Api) -> None:
    persisted(api)
    new = {"name": "elsewhere", "datacenter": "main", "family": "memory"}
    assert api.post("/v1/virtual-datacenters", json=new).status_code == 201
    text = APP.format(name="shop", template="root").replace("demo", "elsewhere")
    yaml = {"Content-Type": "application/yaml"}
    text = text.replace("template: root", "template: root, networks: []")
    refused(api.post("/v1/appliances", content=text, headers=yaml), 409, "elsewhere")


def test_its_volume_is_nobody_elses(api: Api) -> None:
    volume = persisted(api)["disks"][0]["volume_id"]
    refused(api.delete(f"/v1/volumes/{volume}"), 409, "volume-in-use")
    vm = vm_of(api, "tiny")
    answer = api.post(f"/v1/volumes/{volume}/attach", json={"vm": vm.rpartition("/")[2]})
    refused(answer, 409, "volume-in-use")
    text = APP.format(name="other", template="tiny").replace(
        "template: tiny", "template: tiny, volumes: [{name: root}]"
    )
    yaml = {"Content-Type": "application/yaml"}
    refused(api.post("/v1/appliances", content=text, headers=yaml), 409, "volume-in-use")


def test_it_grows_with_its_volume(api: Api) -> None:
    volume = persisted(api)["disks"][0]["volume_id"]
    api.done(api.post(f"/v1/volumes/{volume}/resize", json={"size_mib": 24}))
    assert template_called(api, "root")["disks"][0]["virtual_size_mib"] == 24
    (disk,) = api.get(vm_of(api, "root")).json()["disks"]
    assert disk["size_mib"] == 24


def test_deleting_it_deletes_its_volume_unless_it_is_used(api: Api) -> None:
    made = persisted(api)
    vm = vm_of(api, "root")
    refused(api.delete(f"/v1/templates/{made['id']}"), 409, "in-use")
    refused(api.delete(f"/v1/templates/{template_called(api, 'tiny')['id']}"), 409, "in-use")
    assert api.delete(f"/v1/appliances/{api.get(vm).json()['appliance_id']}").is_success
    api.done(api.delete(f"/v1/templates/{made['id']}"))
    assert (api.get("/v1/volumes").json(), cloud.world.all("volume")) == ([], {})
    assert [each["name"] for each in api.get("/v1/templates").json()] == ["tiny"]
    require_ledger_exact()


def test_whoever_may_not_see_its_virtual_datacenter_does_nothing_to_it(api: Api) -> None:
    made = f"/v1/templates/{persisted(api)['id']}"
    new = {"name": "elsewhere", "datacenter": "main", "family": "memory"}
    elsewhere = api.post("/v1/virtual-datacenters", json=new).json()["id"]
    bounded = user(api, Stock.ENTERPRISE_ADMIN, virtual_datacenters=[UUID(elsewhere)])
    refused(bounded.delete(made), 404, "not-found")
    refused(bounded.post(f"{made}/capture", json={"name": "kept"}), 404, "not-found")
    body = {"name": "mine", "virtual_datacenter": "demo"}
    source = f"/v1/templates/{template_called(api, 'tiny')['id']}/persist"
    refused(bounded.post(source, json=body), 404, "unknown-virtual-datacenter")


def test_what_is_done_with_files_is_refused_of_it(api: Api) -> None:
    made = f"/v1/templates/{persisted(api)['id']}"
    body = {"name": "again", "virtual_datacenter": "demo"}
    refused(api.post(f"{made}/persist", json=body), 409, "template-persistent")
    refused(api.post(f"{made}/export"), 409, "template-persistent")
    refused(api.call("PATCH", made, json={"shared": True}), 409, "template-persistent")
    answer = api.post(f"{made}/conversions", json={"format": "vmdk"})
    refused(answer, 409, "template-persistent")


def test_names_are_given_once_and_the_tier_is_one_that_is_there(api: Api) -> None:
    source = f"/v1/templates/{template_called(api, 'tiny')['id']}/persist"
    body = {"name": "tiny", "virtual_datacenter": "demo"}
    refused(api.post(source, json=body), 409, "name-taken")
    api.volume("data")
    refused(api.post(source, json={**body, "name": "data"}), 409, "name-taken")
    refused(api.post(source, json={**body, "name": "x", "tier": "gold"}), 404, "unknown-tier")


def test_a_persistent_template_becomes_an_ordinary_one_and_stays(api: Api) -> None:
    made = persisted(api)
    vm = vm_of(api, "root")
    api.done(api.post(f"{vm}/deploy"))
    guest_writes(vm)
    on = api.post(f"/v1/templates/{made['id']}/capture", json={"name": "kept"})
    refused(on, 409, "wrong-state")
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    asked = api.post(f"/v1/templates/{made['id']}/capture", json={"name": "kept"})
    refused(api.post(f"{vm}/power", json={"power": "on"}), 409, "locked")
    api.done(asked)
    kept = template_called(api, "kept")
    (disk,) = kept["disks"]
    assert (kept["master_id"], disk["format"]) == (made["master_id"], "qcow2")
    assert (disk["virtual_size_mib"], disk["volume_id"]) == (16, None)
    path = cloud.repository(api.world.datacenter).path(disk["path"])
    assert "a guest's" in path.read_text()
    assert content(made["disks"][0]["volume_id"])["content"] == "a guest's"
    require_ledger_exact()

    copy = vm_of(api, "kept", "copy")
    api.done(api.post(f"{copy}/deploy"))
    ordinary = api.post(f"/v1/templates/{kept['id']}/capture", json={"name": "more"})
    refused(ordinary, 409, "template-not-persistent")
    api.done(api.post(f"{vm}/undeploy"))
    assert api.delete(f"/v1/appliances/{api.get(vm).json()['appliance_id']}").is_success
    api.done(api.delete(f"/v1/templates/{made['id']}"))  # what was made of it needs it no more
    assert template_called(api, "kept")["master_id"] == made["master_id"]


def test_the_volume_that_a_persistent_vm_boots_from_becomes_a_template(api: Api) -> None:
    vm = vm_of(api, "tiny")
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    api.done(api.post(f"{vm}/persist", json={"volume": "boot"}))
    (volume,) = api.get("/v1/volumes").json()
    api.done(api.post(f"/v1/volumes/{volume['id']}/capture", json={"name": "kept"}))
    kept, master = template_called(api, "kept"), template_called(api, "tiny")
    assert kept["master_id"] == master["id"]
    assert [kept[x] for x in ("cpu", "ram_mib")] == [master[x] for x in ("cpu", "ram_mib")]
    again = api.post(f"/v1/volumes/{volume['id']}/capture", json={"name": "kept"})
    refused(again, 409, "name-taken")


def test_a_volume_of_nothing_known_becomes_a_template_of_no_master(api: Api) -> None:
    api.done(api.post(f"/v1/volumes/{api.volume()}/capture", json={"name": "blank"}))
    blank = template_called(api, "blank")
    assert (blank["master_id"], blank["disks"][0]["virtual_size_mib"]) == (None, 8)


def test_a_volume_that_is_only_written_down_is_not_captured(api: Api) -> None:
    text = APP.format(name="shop", template="tiny").replace(
        "template: tiny", "template: tiny, volumes: [{name: data, size_mib: 8}]"
    )
    api.appliance(text)
    (volume,) = api.get("/v1/volumes").json()
    answer = api.post(f"/v1/volumes/{volume['id']}/capture", json={"name": "no"})
    refused(answer, 409, "volume-not-carved")


def test_limits_are_asked_before_anything_is_copied(api: Api) -> None:
    holder = f"/v1/limits/enterprise/{api.get('/v1/enterprises').json()[0]['id']}"
    volume = api.volume()
    api.call("PUT", holder, json={"hard": {"repository_mib": 5, "storage_mib": 12}})
    answer = api.post(f"/v1/volumes/{volume}/capture", json={"name": "no"})
    refused(answer, 409, "hard-limit")
    source = f"/v1/templates/{template_called(api, 'tiny')['id']}/persist"
    body = {"name": "no", "virtual_datacenter": "demo"}
    refused(api.post(source, json=body), 409, "hard-limit")


def test_both_are_planned_and_carried_out_as_shown(api: Api) -> None:
    source = f"/v1/templates/{template_called(api, 'tiny')['id']}/persist"
    body = {"name": "root", "virtual_datacenter": "demo"}
    plan = api.post(f"{source}?dry_run=true", json=body).json()
    assert plan["bytes_to_copy"] == 16 * 2**20
    api.done(api.post(f"{source}?plan={plan['id']}", json=body))
    made = template_called(api, "root")
    carved = [step["what"] for step in plan["steps"] if step["name"] == "carve-volume"]
    assert carved == [made["disks"][0]["volume_id"]]
    away = f"/v1/templates/{made['id']}/capture"
    plan = api.post(f"{away}?dry_run=true", json={"name": "kept"}).json()
    (limit,) = [x for x in plan["limits"] if x["level"] == "enterprise"]
    assert limit["after"]["repository_mib"] - limit["used"]["repository_mib"] == 18  # at most
    api.done(api.post(f"{away}?plan={plan['id']}", json={"name": "kept"}))
    assert template_called(api, "kept")["disks"][0]["digest"]
