"""The infrastructure is changed and taken away at once: never from under who uses it."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.database import models
from adapters.forms import Form
from flows.cloud import cloud
from tests.api.conftest import Api, refused

APP = "{appliance: shop, virtual_datacenter: demo, vms: [{name: db, template: tiny}]}"
TWO = "{appliance: shop, virtual_datacenter: demo, vms: [{name: v, template: tiny, replicas: 2}]}"


def made(api: Api, what: str, /, **body: Any) -> Any:
    answer = api.post(f"/v1/{what}", json=body)
    assert answer.status_code == 201, answer.text
    assert api.get(answer.headers["location"]).json() == answer.json()
    return answer.json()


def changed(api: Api, path: str, **body: Any) -> Any:
    answer = api.call("PATCH", path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def only(api: Api, what: str, /, **query: Any) -> Any:
    (found,) = api.get(f"/v1/{what}", params=query).json()
    return found


def deployed(api: Api, text: str = APP) -> Any:
    appliance = api.appliance(text)
    api.done(api.post(f"/v1/appliances/{appliance['id']}/deploy"))
    return api.get(f"/v1/appliances/{appliance['id']}").json()


def users(answer: Any) -> set[tuple[str, str]]:
    told = refused(answer, 409, "in-use")["users"]
    assert all(UUID(each["id"]) for each in told)
    return {(each["kind"], each["name"]) for each in told}


# --- racks -------------------------------------------------------------------------------------


def test_a_racks_life(api: Api) -> None:
    rack = made(
        api, "racks", datacenter="main", name="r1", vlan_max=200, vlans_avoided=[3, "20-10"]
    )
    assert (rack["vlans_avoided"], rack["vlans_usable"]) == (["3", "20-10"], 187)
    path = f"/v1/racks/{rack['id']}"
    assert changed(api, path, name="r2", vlans_avoided=[])["vlans_usable"] == 199
    assert only(api, "racks", name="r2") == api.get(path).json()
    assert api.get("/v1/racks", params={"name": "r1"}).json() == []
    host = only(api, "hosts", name="host-0")
    assert changed(api, f"/v1/hosts/{host['id']}", rack="r2")["rack_id"] == rack["id"]
    assert only(api, "hosts", rack_id=rack["id"])["name"] == "host-0"
    assert users(api.delete(path)) == {("host", "host-0")}
    changed(api, f"/v1/hosts/{host['id']}", rack=None)
    made(api, "allocation-rules", kind="load", rack="r2", cpu_percent=100, ram_percent=100)
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "not-found")
    assert api.get("/v1/allocation-rules").json() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"vlan_min": 300, "vlan_max": 200}, "invalid-vlans"),
        ({"vlan_min": 1}, "invalid-request"),
        ({"vlan_max": 4095}, "invalid-request"),
        ({"vlans_avoided": ["20-1"]}, "invalid-vlans"),
        ({"vlans_avoided": ["9999"]}, "invalid-vlans"),
        ({"vlans_avoided": ["ten"]}, "invalid-request"),
        ({"vlan_max": 20, "vlans_avoided": ["15-30"]}, "invalid-vlans"),
        ({"vlan_max": 20, "vlans_avoided": ["2-20"], "vlans_reserved": 0}, "invalid-vlans"),
        ({"vlan_max": 8, "vlans_reserved": 8}, "invalid-vlans"),
    ],
)
def test_vlans_that_are_no_range(api: Api, fields: dict[str, Any], code: str) -> None:
    body = {"datacenter": "main", "name": "r", **fields}
    refused(api.post("/v1/racks", json=body), 422, code)
    assert api.get("/v1/racks").json() == []


def test_no_vlan_is_two_racks(api: Api) -> None:
    first = made(api, "racks", datacenter="main", name="a", vlan_max=100)
    overlapping = {"datacenter": "main", "name": "b", "vlan_min": 90, "vlan_max": 200}
    problem = refused(api.post("/v1/racks", json=overlapping), 409, "vlans-overlap")
    assert (problem["rack"], problem["vlans"]) == (first["id"], [90, 100])
    second = made(api, "racks", **{**overlapping, "vlans_avoided": ["90-100"]})
    path = f"/v1/racks/{second['id']}"
    refused(api.call("PATCH", path, json={"vlans_avoided": []}), 409, "vlans-overlap")
    refused(api.call("PATCH", path, json={"name": "a"}), 409, "name-taken")
    assert api.get(path).json() == second


# --- hosts -------------------------------------------------------------------------------------


def test_a_host_in_use_stays_and_says_by_whom(api: Api) -> None:
    shop = deployed(api)
    host = f"/v1/hosts/{shop['vms'][0]['host']['id']}"
    assert users(api.delete(host)) >= {("vm", "db")}
    shown = api.get(host).json()
    assert (shown["cpu_reserved"], shown["ram_reserved_mib"]) == (1, 64)
    store = f"{host}/datastores/{shown['datastores'][0]['id']}"
    assert users(api.delete(store)) >= {("vm", "db")}
    api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    assert api.delete(host).status_code == 204
    refused(api.get(host), 404, "not-found")
    refused(api.delete(host), 404, "not-found")
    assert len(api.get("/v1/hosts").json()) == 1


def test_a_host_with_an_operation_that_is_not_settled_stays(api: Api) -> None:
    """Its receipt would have to be asked of that host."""
    shop = deployed(api)
    host = shop["vms"][0]["host"]["id"]
    api.post(f"/v1/vms/{shop['vms'][0]['id']}/power", json={"power": "off"})
    with cloud.database.write() as db:  # nobody has the VM's row any more, but the operation
        vm = db.get_one(models.VirtualMachine, UUID(shop["vms"][0]["id"]))
        vm.host_id = vm.datastore_id = None
        operation = db.query(models.Operation).filter_by(kind="change_power").one()
        operation.arguments = {**operation.arguments, "host": host}
    assert users(api.delete(f"/v1/hosts/{host}")) == {("operation", "change_power")}


def test_a_hosts_capacity_is_what_it_says(api: Api) -> None:
    host = only(api, "hosts", name="host-0")
    assert (host["cpu"], host["ram_mib"]) == (16, 4096)  # as it was once
    path = f"/v1/hosts/{host['id']}"
    asked = api.post(f"{path}/refresh", headers={"Idempotency-Key": "k"})
    assert (asked.json()["cpu"], asked.json()["ram_mib"]) == (64, 256 * 1024)
    again = api.post(f"{path}/refresh", headers={"Idempotency-Key": "k"})
    assert (again.json(), again.headers["idempotency-replayed"]) == (asked.json(), "true")
    assert api.get(path).json() == asked.json()
    refused(api.call("PATCH", path, json={"cpu": 1}), 422, "invalid-request")
    refused(api.call("PATCH", path, json={"name": "host-1"}), 409, "name-taken")
    refused(api.call("PATCH", path, json={"rack": "nowhere"}), 404, "unknown-rack")
    refused(api.call("PATCH", path, json={"name": None}), 422, "invalid-request")


def test_an_address_changes_once_the_host_has_been_asked_there(api: Api) -> None:
    shop = deployed(api)
    host = f"/v1/hosts/{shop['vms'][0]['host']['id']}"
    cloud.world.set_fate("hypervisors.datastore", "fails")
    refused(api.call("PATCH", host, json={"address": "memory:2"}), 503, "transient")
    cloud.world.forget_fates()
    assert changed(api, host, address="memory:2")["address"] == "memory:2"
    cloud.world.remove("vm", shop["vms"][0]["id"])  # it is another machine that answers there
    refused(api.call("PATCH", host, json={"address": "memory:3"}), 409, "other-host")
    assert api.get(host).json()["address"] == "memory:2"


def test_maintenance_takes_no_new_vms(api: Api) -> None:
    for host in api.get("/v1/hosts").json():
        changed(api, f"/v1/hosts/{host['id']}", maintenance=True)
    appliance = api.appliance(APP)
    problem = refused(api.post(f"/v1/appliances/{appliance['id']}/deploy"), 409, "no-room")
    assert problem["hosts"] == {f"host-{n}": "is in maintenance" for n in (0, 1)}
    changed(api, f"/v1/hosts/{host['id']}", maintenance=False)
    api.done(api.post(f"/v1/appliances/{appliance['id']}/deploy"))
    shown = api.get(f"/v1/appliances/{appliance['id']}").json()
    assert shown["vms"][0]["host"]["id"] == host["id"]


def test_who_reserves_a_host_is_alone_there(api: Api, stranger: Api) -> None:
    shop = deployed(api)
    used = f"/v1/hosts/{shop['vms'][0]['host']['id']}"
    problem = refused(api.call("PATCH", used, json={"reserved_for": "others"}), 409, "in-use")
    assert [each["name"] for each in problem["users"]] == ["db"]
    assert changed(api, used, reserved_for="default")["reserved_for_id"]
    (other,) = [each for each in api.get("/v1/hosts").json() if each["id"] not in used]
    changed(api, f"/v1/hosts/{other['id']}", reserved_for="others")
    deployed(api, APP.replace("shop", "second"))
    assert api.get(used).json()["cpu_reserved"] == 2
    changed(api, used, maintenance=True)
    third = api.appliance(APP.replace("shop", "third"))
    problem = refused(api.post(f"/v1/appliances/{third['id']}/deploy"), 409, "no-room")
    assert problem["hosts"][other["name"]] == "is reserved for another enterprise"
    assert only(api, "hosts", reserved_for_id=changed(api, used)["reserved_for_id"])["maintenance"]


def test_a_host_may_come_into_a_rack_with_a_shared_datastore(api: Api, tmp_path: Path) -> None:
    rack = made(api, "racks", datacenter="main", name="r")
    shared = only(api, "hosts", name="host-0")["datastores"][0]["uuid"]
    host = made(
        api,
        "hosts",
        datacenter="main",
        rack="r",
        name="new",
        family="memory",
        address="memory",
        reserved_for="default",
        maintenance=True,
        datastores=["/plain", {"directory": "/nfs", "uuid": shared, "tier": "default"}],
    )
    assert (host["rack_id"], host["maintenance"]) == (rack["id"], True)
    nfs, plain = host["datastores"]
    assert (nfs["uuid"], plain["uuid"] != shared) == (shared, True)
    assert (bool(nfs["tier_id"]), plain["tier_id"]) == (True, None)


def test_datastores_come_and_go(api: Api) -> None:
    host = only(api, "hosts", name="host-0")
    path = f"/v1/hosts/{host['id']}/datastores"
    added = api.post(path, json={"directory": "/more"})
    assert added.status_code == 201
    refused(api.post(path, json={"directory": "/more"}), 409, "name-taken")
    cloud.world.put("datastore", "/not-there", {"total_mib": 0})
    refused(api.post(path, json={"directory": "/not-there"}), 404, "not-found")
    shown = api.get(f"/v1/hosts/{host['id']}").json()["datastores"]
    assert shown[0]["directory"] == "/more"
    more = f"{path}/{added.json()['id']}"
    assert changed(api, more, enabled=False, tier="default")["enabled"] is False
    assert users(api.delete(f"/v1/tiers/{only(api, 'tiers')['id']}")) == {
        ("datastore", "/more"),
        ("storage-pool", "pool"),
    }
    assert changed(api, more, tier=None) == {**added.json(), "enabled": False}
    elsewhere = only(api, "hosts", name="host-1")["id"]
    refused(api.delete(f"/v1/hosts/{elsewhere}/datastores/{added.json()['id']}"), 404, "not-found")
    assert api.delete(more).status_code == 204
    assert len(api.get(f"/v1/hosts/{host['id']}").json()["datastores"]) == 1


def test_a_disabled_datastore_gets_no_disks(api: Api) -> None:
    for host in api.get("/v1/hosts").json():
        (store,) = host["datastores"]
        changed(api, f"/v1/hosts/{host['id']}/datastores/{store['id']}", enabled=False)
    appliance = api.appliance(APP)
    problem = refused(api.post(f"/v1/appliances/{appliance['id']}/deploy"), 409, "no-room")
    assert {*problem["hosts"].values()} == {"has no datastore"}


# --- storage -----------------------------------------------------------------------------------


def test_pools_and_devices_in_use_stay(api: Api) -> None:
    volume = api.volume()
    pool, device = only(api, "storage-pools"), only(api, "storage-devices")
    pools, devices = f"/v1/storage-pools/{pool['id']}", f"/v1/storage-devices/{device['id']}"
    assert users(api.delete(pools)) == {("volume", "data")}
    assert users(api.delete(devices)) == {("storage-pool", "pool")}
    refused(api.call("PATCH", pools, json={"total_mib": 7}), 409, "pool-too-small")
    assert changed(api, pools, total_mib=8)["total_mib"] == 8
    api.done(api.delete(f"/v1/volumes/{volume}"))
    assert api.delete(pools).status_code == 204
    assert api.delete(devices).status_code == 204
    assert api.get("/v1/storage-devices").json() == []


def test_a_pool_that_a_volume_is_asked_of_stays(api: Api) -> None:
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    asked = api.post("/v1/volumes", json=body)
    pool = f"/v1/storage-pools/{only(api, 'storage-pools')['id']}"
    assert users(api.delete(pool)) == {("operation", "create_iscsi_volume")}
    api.done(asked)
    assert users(api.delete(pool)) == {("volume", "data")}


def test_where_a_device_is_stays_while_it_exports(api: Api) -> None:
    text = APP.replace("template: tiny", "template: tiny, volumes: [{name: data, size_mib: 8}]")
    deployed(api, text)
    device = f"/v1/storage-devices/{only(api, 'storage-devices')['id']}"
    assert changed(api, device, name="san-2")["name"] == "san-2"
    assert users(api.call("PATCH", device, json={"port": 3261})) == {("export", "data")}
    refused(api.call("PATCH", device, json={"technology": "memory"}), 422, "invalid-request")


def test_tiers_choose_pools(api: Api) -> None:
    gold = made(api, "tiers", datacenter="main", name="gold", description="mirrored")
    refused(api.post("/v1/tiers", json={"datacenter": "main", "name": "gold"}), 409, "name-taken")
    body = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo", "tier": "gold"}
    refused(api.post("/v1/volumes", json=body), 404, "unknown-tier")
    pool = only(api, "storage-pools")
    path = f"/v1/storage-pools/{pool['id']}"
    assert changed(api, path, tier="gold")["tier"] == "gold"
    assert only(api, "storage-pools", tier="gold")["id"] == pool["id"]
    api.volume(tier="gold")
    tier = f"/v1/tiers/{gold['id']}"
    assert users(api.delete(tier)) == {("storage-pool", "pool")}
    assert changed(api, tier, name="silver", enabled=False)["enabled"] is False
    assert only(api, "tiers", enabled=False)["name"] == "silver"
    refused(
        api.post("/v1/volumes", json={**body, "tier": "silver", "name": "more"}),
        404,
        "unknown-tier",
    )
    refused(api.call("PATCH", path, json={"tier": "gold"}), 404, "unknown-tier")
    changed(api, path, tier="default")
    assert api.delete(tier).status_code == 204


def test_vms_ask_for_a_tier_of_datastores(api: Api) -> None:
    gold = made(api, "tiers", datacenter="main", name="gold")
    appliance = api.appliance(APP.replace("template: tiny", "template: tiny, tier: gold"))
    assert appliance["vms"][0]["tier_id"] == gold["id"]
    deploy = f"/v1/appliances/{appliance['id']}/deploy"
    problem = refused(api.post(deploy), 409, "no-room")
    assert {*problem["hosts"].values()} == {"has no datastore of tier gold"}
    host = only(api, "hosts", name="host-1")
    path = f"/v1/hosts/{host['id']}/datastores"
    changed(api, f"{path}/{host['datastores'][0]['id']}", tier="gold")
    api.done(api.post(deploy))
    assert api.get(f"/v1/vms/{appliance['vms'][0]['id']}").json()["host"]["name"] == "host-1"
    assert ("vm", "db") in users(api.delete(f"/v1/tiers/{gold['id']}"))


@pytest.mark.parametrize(
    ("policy", "word", "hosts"),
    [("progressive", "anti_affinity", 2), ("performance", "affinity", 1)],
)
def test_vms_ask_to_be_apart_or_near(api: Api, policy: str, word: str, hosts: int) -> None:
    made(api, "allocation-rules", kind="fit", policy=policy)
    shop = deployed(api, TWO.replace("template: tiny", f"template: tiny, {word}: web"))
    assert {vm[word] for vm in shop["vms"]} == {"web"}
    assert len({vm["host"]["name"] for vm in shop["vms"]}) == hosts


# --- datacenters -------------------------------------------------------------------------------


def test_a_datacenter_goes_with_its_history_once_it_is_empty(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    second = made(api, "datacenters", name="second", repository=str(folder))
    path = f"/v1/datacenters/{second['id']}"
    cloud.ways.remember(UUID(second["id"]), Form.RAW, Form.QCOW2, "")
    made(api, "racks", datacenter="second", name="r")
    assert users(api.delete(path)) == {("rack", "r")}
    assert api.delete(f"/v1/racks/{only(api, 'racks')['id']}").status_code == 204
    asked = api.post(f"{path}/maintenance", json={"kind": "trim_history"})
    assert users(api.delete(path)) == {("operation", "trim_history")}
    api.done(asked)
    made(api, "allocation-rules", kind="fit", datacenter="second", policy="progressive")
    assert api.delete(path).status_code == 204
    assert [each["name"] for each in api.get("/v1/datacenters").json()] == ["main"]
    assert api.get("/v1/operations").json() == []
    assert (folder / ".cloudloom-repository").exists()  # nothing but rows has gone
    main = f"/v1/datacenters/{only(api, 'datacenters')['id']}"
    assert {kind for kind, _ in users(api.delete(main))} == {
        *("host", "storage-device", "template", "virtual-datacenter")
    }


def test_a_repository_moves_only_to_itself(api: Api, tmp_path: Path) -> None:
    main = only(api, "datacenters", name="main")
    path = f"/v1/datacenters/{main['id']}"
    refused(api.call("PATCH", path, json={"repository": str(tmp_path)}), 409, "other-repository")
    assert not list(tmp_path.iterdir())
    moved = tmp_path / "moved"
    moved.symlink_to(main["repository"])
    assert changed(api, path, repository=str(moved))["repository"] == str(moved)
    refused(api.call("PATCH", path, json={"name": "x"}), 422, "invalid-request")


def test_a_repository_is_shared_with_hosts_that_take_cifs(api: Api) -> None:
    """In the notation that they have."""
    main = only(api, "datacenters", name="main")
    path = f"/v1/datacenters/{main['id']}"
    assert main["repository_share"] is None
    shared = changed(api, path, repository_share="//nas/images/main")
    assert shared["repository_share"] == r"\\nas\images\main"
    assert shared["repository"] == main["repository"]
    refused(api.call("PATCH", path, json={"repository_share": "/srv"}), 422, "no-share")
    assert changed(api, path, repository=main["repository"]) == shared
    assert changed(api, path, repository_share=None) == main


# --- rules -------------------------------------------------------------------------------------


def test_load_rules_say_how_much_is_given_away(api: Api) -> None:
    appliance = api.appliance(APP)
    deploy = f"/v1/appliances/{appliance['id']}/deploy"
    closed = made(
        api, "allocation-rules", kind="load", datacenter="main", cpu_percent=0, ram_percent=0
    )
    problem = refused(api.post(deploy), 409, "no-room")
    assert {*problem["hosts"].values()} == {"takes no new VMs, by a load rule"}
    one = {"kind": "load", "host": "host-1", "cpu_percent": 100, "ram_percent": 1}
    own = made(api, "allocation-rules", **one)
    refused(api.post("/v1/allocation-rules", json=one), 409, "name-taken")
    assert "40 MiB RAM free" in refused(api.post(deploy), 409, "no-room")["hosts"]["host-1"]
    changed(api, f"/v1/allocation-rules/{own['id']}", ram_percent=2)
    api.done(api.post(deploy))
    assert api.get(f"/v1/vms/{appliance['vms'][0]['id']}").json()["host"]["name"] == "host-1"
    assert only(api, "allocation-rules", kind="load", host_id=own["host_id"])["id"] == own["id"]
    assert api.delete(f"/v1/allocation-rules/{closed['id']}").status_code == 204
    deployed(api, APP.replace("shop", "second"))


def test_a_fit_of_a_datacenter_goes_before_that_of_all(api: Api) -> None:
    rule = made(api, "allocation-rules", kind="fit", policy="progressive")
    shop = deployed(api, TWO)
    assert len({vm["host"]["name"] for vm in shop["vms"]}) == 1
    api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    made(api, "allocation-rules", kind="fit", policy="performance", datacenter="main")
    hosts = {vm["host"]["name"] for vm in deployed(api, TWO.replace("shop", "b"))["vms"]}
    assert len(hosts) == 2
    path = f"/v1/allocation-rules/{rule['id']}"
    assert changed(api, path, policy="performance")["policy"] == "performance"
    refused(api.call("PATCH", path, json={"cpu_percent": 1}), 422, "not-of-this-rule")


def test_enterprises_that_exclude_each_other_never_share_a_host(api: Api, stranger: Api) -> None:
    pair = {"kind": "exclusion", "enterprises": ["default", "others"]}
    made(api, "allocation-rules", **pair)
    again = {**pair, "enterprises": ["others", "default"]}
    refused(api.post("/v1/allocation-rules", json=again), 409, "name-taken")
    for host in api.get("/v1/hosts").json()[1:]:
        changed(api, f"/v1/hosts/{host['id']}", maintenance=True)
    deployed(api)
    vdc = {"name": "theirs", "datacenter": "main", "family": "memory"}
    assert stranger.post("/v1/virtual-datacenters", json=vdc).status_code == 201
    with cloud.database.write() as db:  # a template of theirs: the same image
        row = db.get_one(models.Template, api.world.template)
        row.enterprise_id = UUID(only(stranger, "enterprises")["id"])
    theirs = stranger.appliance(APP.replace("demo", "theirs"))
    problem = refused(stranger.post(f"/v1/appliances/{theirs['id']}/deploy"), 409, "no-room")
    assert problem["hosts"]["host-0"] == "has VMs that the enterprise must not share a host with"
    assert "default" not in str(problem)  # whose they are is not theirs to know


def test_a_restricted_enterprise_uses_what_is_reserved_for_it(api: Api) -> None:
    made(api, "allocation-rules", kind="restriction", enterprise="default")
    appliance = api.appliance(APP)
    deploy = f"/v1/appliances/{appliance['id']}/deploy"
    assert "not reserved" in refused(api.post(deploy), 409, "no-room")["hosts"]["host-0"]
    host = only(api, "hosts", name="host-1")
    changed(api, f"/v1/hosts/{host['id']}", reserved_for="default")
    api.done(api.post(deploy))
    assert api.get(f"/v1/vms/{appliance['vms'][0]['id']}").json()["host"]["name"] == "host-1"


@pytest.mark.parametrize(
    ("rule", "status", "code"),
    [
        ({"kind": "load", "cpu_percent": 1, "ram_percent": 1}, 422, "invalid-request"),
        ({"kind": "load", "host": "host-0", "cpu_percent": 1}, 422, "invalid-request"),
        (
            {"kind": "load", "host": "a", "rack": "b", "cpu_percent": 1, "ram_percent": 1},
            422,
            "invalid-request",
        ),
        ({"kind": "load", "host": "a", "cpu_percent": 1, "ram_percent": 1}, 404, "unknown-host"),
        ({"kind": "fit", "policy": "tight"}, 422, "invalid-request"),
        ({"kind": "exclusion", "enterprises": ["default"]}, 422, "invalid-request"),
        ({"kind": "exclusion", "enterprises": ["default"] * 2}, 422, "same-enterprise"),
        ({"kind": "restriction", "enterprise": "nobody"}, 404, "unknown-enterprise"),
        ({"kind": "magic"}, 422, "invalid-request"),
    ],
)
def test_rules_that_are_none(api: Api, rule: dict[str, Any], status: int, code: str) -> None:
    refused(api.post("/v1/allocation-rules", json=rule), status, code)
    assert api.get("/v1/allocation-rules").json() == []


def test_what_is_not_there_is_not_found(api: Api) -> None:
    for kind in ("datacenters", "racks", "hosts", "storage-devices", "storage-pools", "tiers"):
        path = f"/v1/{kind}/{uuid4()}"
        refused(api.get(path), 404, "not-found")
        refused(api.delete(path), 404, "not-found")
    body = {"name": "x"}
    for kind in ("racks", "hosts", "storage-devices", "storage-pools", "tiers"):
        refused(api.call("PATCH", f"/v1/{kind}/{uuid4()}", json=body), 404, "not-found")
