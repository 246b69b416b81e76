"""Plans: what would be done is shown, and then done as shown, or refused with what has changed."""

import re
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from adapters.database import models
from adapters.database.plans import PlanRow
from adapters.database.session import utc_now
from adapters.images.memory import publish_source
from adapters.images.ova import descriptor_of
from flows.cloud import cloud
from flows.trim_history import trim_history
from tests.api.conftest import Api, refused
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture
from tests.api.test_gateway import DIGEST, IMAGE, WISH
from tests.flows.scenarios import rows
from tests.worlds import photograph, write_package

SHOP = """\
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}
  - {name: web, template: tiny, depends_on: [db]}
"""


@pytest.fixture
def shop(api: Api) -> Any:
    return api.appliance(SHOP)


def planned(api: Api, path: str, **options: Any) -> Any:
    answer = api.post(path, params={"dry_run": "true"}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def carry_out(api: Api, path: str, plan: Any, **options: Any) -> Any:
    return api.post(path, params={"plan": plan["id"]}, **options)


def outdated(answer: Any) -> str:
    return "; ".join(refused(answer, 409, "plan-outdated")["changed"])


def deploy_of(thing: Any) -> str:
    return f"/v1/appliances/{thing['id']}/deploy"


def test_a_plan_shows_steps_placement_bytes_and_limits_after(api: Api, shop: Any) -> None:
    limits = {"hard": {"cpu": 10}, "soft": {"storage_mib": 100}}
    api.call("PUT", f"/v1/limits/virtual-datacenter/{api.world.vdc}", json=limits)
    plan = planned(api, deploy_of(shop))
    assert plan["kind"] == "deploy_appliance"
    assert plan["target"] == {"kind": "appliance", "id": shop["id"], "name": "shop"}
    assert plan["valid_until"]
    assert not plan["needs_approval"]
    names = [step["name"] for step in plan["steps"] if not step["lane"]]
    assert names[:3] == ["charge-vms", "reserve-hosts", "survey-vms"]
    lanes = list(dict.fromkeys(step["lane"] for step in plan["steps"]))
    assert lanes == ["", "db", "web"]
    assert [x["name"] for x in plan["steps"] if x["lane"] == "web"][-1] == "record-state"
    assert {x["vm"]["name"]: x["host"]["name"] for x in plan["placement"]} == {
        "db": "host-0",
        "web": "host-1",
    }
    assert all("room for" in each["because"] for each in plan["placement"])
    assert plan["placement"][0]["others"]["host-1"].startswith("room for")
    assert plan["bytes_to_copy"] == sum(each["size_bytes"] for each in plan["copies"])
    (vdc,) = [x for x in plan["limits"] if x["level"] == "virtual-datacenter"]
    assert (vdc["used"]["cpu"], vdc["after"]["cpu"], vdc["hard"]["cpu"]) == (0, 2, 10)
    assert (vdc["used"]["storage_mib"], vdc["after"]["storage_mib"]) == (0, 8)


def test_a_plan_leaves_nothing_but_itself(api: Api, shop: Any) -> None:
    before, world = rows(), photograph()["world"]
    for path in (deploy_of(shop), f"/v1/vms/{shop['vms'][0]['id']}/deploy"):
        planned(api, path)
    after = rows()
    assert len(after.pop("plans")) == 2
    before.pop("plans")
    for table in before:
        strip = {"last_used_at"}
        kept = [
            [{k: v for k, v in row.items() if k not in strip} for row in each[table]]
            for each in (before, after)
        ]
        assert kept[0] == kept[1], table
    assert photograph()["world"] == world
    assert api.sent == []


def test_a_plan_is_carried_out_as_shown_and_once(api: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    accepted = carry_out(api, deploy_of(shop), plan)
    assert accepted.json()["id"] == plan["id"]
    ended = api.done(accepted)
    taken = {(x["key"], x["lane"]) for x in ended["steps"]}
    shown = {
        (f"{x['name']}[{x['what']}]" if x["what"] else x["name"], x["lane"]) for x in plan["steps"]
    }
    assert taken == shown
    vms = {vm["name"]: vm["host"] for vm in api.get(f"/v1/appliances/{shop['id']}").json()["vms"]}
    assert vms == {each["vm"]["name"]: each["host"] for each in plan["placement"]}
    refused(carry_out(api, deploy_of(shop), plan), 409, "plan-used")


def test_a_plan_is_sent_again_with_its_key(api: Api, shop: Any) -> None:
    key = {"Idempotency-Key": "one"}
    plan = planned(api, deploy_of(shop), headers=key)
    assert planned(api, deploy_of(shop), headers=key) == plan
    key = {"Idempotency-Key": "two"}
    first = carry_out(api, deploy_of(shop), plan, headers=key)
    again = carry_out(api, deploy_of(shop), plan, headers=key)
    assert first.status_code == 202
    assert again.json()["id"] == first.json()["id"]


def test_what_is_refused_is_not_planned(api: Api, shop: Any) -> None:
    limits = {"hard": {"cpu": 1}, "soft": {}}
    api.call("PUT", f"/v1/limits/virtual-datacenter/{api.world.vdc}", json=limits)
    answer = api.post(deploy_of(shop), params={"dry_run": "true"})
    refused(answer, 409, "hard-limit")
    api.delete(f"/v1/limits/virtual-datacenter/{api.world.vdc}")
    for host in api.world.hosts:
        api.call("PATCH", f"/v1/hosts/{host}", json={"maintenance": True})
    answer = api.post(deploy_of(shop), params={"dry_run": "true"})
    assert refused(answer, 409, "no-room")["hosts"]["host-0"] == "is in maintenance"


def test_a_plan_is_for_its_own_request_alone(api: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    code = "plan-of-another-request"
    vm = f"/v1/vms/{shop['vms'][0]['id']}/deploy"
    refused(carry_out(api, vm, plan), 409, code)
    refused(carry_out(api, deploy_of(shop), plan, json={"on_failure": "keep"}), 409, code)
    same = carry_out(api, deploy_of(shop), plan, json={"on_failure": "undo"})
    assert same.status_code == 202
    both = api.post(deploy_of(shop), params={"dry_run": "true", "plan": str(uuid4())})
    refused(both, 422, "invalid-request")


def test_others_have_no_such_plan(api: Api, stranger: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    none = carry_out(api, deploy_of(shop), {"id": str(uuid4())})
    theirs = carry_out(stranger, deploy_of(shop), plan)
    refused(none, 404, "not-found")
    refused(theirs, 404, "not-found")


def test_a_plan_expires_and_is_forgotten(api: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    late(plan, 1.0)
    refused(carry_out(api, deploy_of(shop), plan), 409, "plan-expired")
    late(plan, timedelta(days=8).total_seconds())
    trim_history(api.world.accept("trim_history", api.world.datacenter).id)
    refused(carry_out(api, deploy_of(shop), plan), 404, "not-found")


def late(plan: Any, by_s: float) -> None:
    with cloud.database.write() as db:
        mine = update(PlanRow).where(PlanRow.id == UUID(plan["id"]))
        db.execute(mine.values(valid_until=utc_now(-by_s)))


def test_a_host_without_room_makes_a_plan_outdated(api: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    api.call("PATCH", f"/v1/hosts/{api.world.hosts[1]}", json={"maintenance": True})
    assert outdated(carry_out(api, deploy_of(shop), plan)) == "host-1: is in maintenance"
    assert api.sent == []
    api.call("PATCH", f"/v1/hosts/{api.world.hosts[1]}", json={"maintenance": False})
    api.done(carry_out(api, deploy_of(shop), plan))


def test_a_limit_makes_a_plan_outdated(api: Api, shop: Any) -> None:
    plan = planned(api, deploy_of(shop))
    limits = {"hard": {"cpu": 1}, "soft": {}}
    api.call("PUT", f"/v1/limits/virtual-datacenter/{api.world.vdc}", json=limits)
    assert "cpu of the virtual-datacenter: limit 1" in outdated(
        carry_out(api, deploy_of(shop), plan)
    )


def test_another_vm_or_size_makes_a_plan_outdated(api: Api, shop: Any) -> None:
    vm = UUID(shop["vms"][0]["id"])
    plan = planned(api, deploy_of(shop))
    with cloud.database.write() as db:
        db.get_one(models.VirtualMachine, vm).cpu = 2
    told = outdated(carry_out(api, deploy_of(shop), plan))
    assert told == f"vm db: cpu is 2, was 1; vm {vm} would be charged cpu 2, not 1"
    api.done(api.post(f"/v1/vms/{vm}/deploy"))
    told = outdated(carry_out(api, deploy_of(shop), plan))
    assert "db would not be placed any more" in told
    web = shop["vms"][1]["id"]
    plan = planned(api, f"/v1/vms/{web}/deploy")
    api.done(api.post(f"/v1/vms/{web}/deploy"))
    told = outdated(carry_out(api, f"/v1/vms/{web}/deploy", plan))
    assert told == "cannot deploy VM web: it is ON"


def test_what_changes_between_two_looks_is_seen(
    api: Api, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the flow was looked ahead, and before its objects are locked."""
    from api import planning

    plan, look = planned(api, deploy_of(shop)), planning.look_ahead

    def meanwhile(*asked: Any) -> Any:
        outlook = look(*asked)
        with cloud.database.write() as db:
            db.get_one(models.VirtualMachine, UUID(shop["vms"][0]["id"])).ram_mib = 65
        return outlook

    monkeypatch.setattr(planning, "look_ahead", meanwhile)
    refused(carry_out(api, deploy_of(shop), plan), 409, "changed-meanwhile")


def test_undeploying_is_planned_with_what_is_free_afterwards(api: Api, shop: Any) -> None:
    api.done(api.post(deploy_of(shop)))
    one = f"/v1/vms/{shop['vms'][1]['id']}/undeploy"
    whole = f"/v1/appliances/{shop['id']}/undeploy"
    plan, of_all = planned(api, one), planned(api, whole)
    cpu = {each["level"]: (each["used"]["cpu"], each["after"]["cpu"]) for each in plan["limits"]}
    assert set(cpu.values()) == {(2, 1)}
    assert {each["after"]["cpu"] for each in of_all["limits"]} == {0}
    assert (of_all["placement"], of_all["bytes_to_copy"]) == ([], 0)
    lanes = list(dict.fromkeys(step["lane"] for step in of_all["steps"]))
    assert lanes == ["", "web", "db"]
    api.done(carry_out(api, one, plan))
    told = outdated(carry_out(api, whole, of_all))
    assert f"vm {shop['vms'][1]['id']} would not be refunded" in told


def switched_off(api: Api, shop: Any) -> str:
    vm = f"/v1/vms/{shop['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    return vm


def test_persisting_is_planned_to_its_very_volume_and_pool(api: Api, shop: Any) -> None:
    vm, wish = switched_off(api, shop), {"volume": "boot"}
    plan = planned(api, f"{vm}/persist", json=wish)
    assert plan["bytes_to_copy"] == 16 * 2**20
    (vdc,) = [x for x in plan["limits"] if x["level"] == "virtual-datacenter"]
    moved = {k: vdc["after"][k] - vdc["used"][k] for k in ("storage_mib", "disk_mib", "cpu")}
    assert moved == {"storage_mib": 16, "disk_mib": -16, "cpu": 0}
    (carved,) = [step["what"] for step in plan["steps"] if step["name"] == "carve-volume"]
    other = carry_out(api, f"{vm}/persist", plan, json={"volume": "root"})
    refused(other, 409, "plan-of-another-request")
    api.volume("boot")
    told = outdated(carry_out(api, f"{vm}/persist", plan, json=wish))
    assert told == "there is a volume called boot"
    (taken,) = [x for x in api.get("/v1/volumes").json() if x["name"] == "boot"]
    api.done(api.delete(f"/v1/volumes/{taken['id']}"))
    api.done(carry_out(api, f"{vm}/persist", plan, json=wish))
    (made,) = [x for x in api.get("/v1/volumes").json() if x["name"] == "boot"]
    assert made["id"] == carved


def test_a_volume_is_carved_in_the_pool_that_was_planned(api: Api, shop: Any) -> None:
    vm = switched_off(api, shop)
    plan = planned(api, f"{vm}/persist", json={})
    device = api.get("/v1/storage-devices").json()[0]["id"]
    body = {"storage_device": device, "name": "roomier", "total_mib": 99999}
    assert api.post("/v1/storage-pools", json=body).status_code == 201
    api.done(carry_out(api, f"{vm}/persist", plan, json={}))
    (made,) = [x for x in api.get("/v1/volumes").json() if x["name"].endswith("-boot")]
    assert made["pool_id"] == str(api.world.pool)


def test_resizing_is_planned(api: Api, shop: Any) -> None:
    vm = switched_off(api, shop)
    plan = planned(api, f"{vm}/resize", json={"cpu": 3})
    cpu = {(each["used"]["cpu"], each["after"]["cpu"]) for each in plan["limits"]}
    assert cpu == {(1, 3)}
    too_many = api.post(f"{vm}/resize", params={"dry_run": "true"}, json={"cpu": 1000})
    refused(too_many, 409, "no-room")
    volume = f"/v1/volumes/{shop['vms'][0]['volumes'][0]['id']}/resize"
    larger = planned(api, volume, json={"size_mib": 12})
    assert {x["after"]["storage_mib"] - x["used"]["storage_mib"] for x in larger["limits"]} == {4}
    api.done(carry_out(api, f"{vm}/resize", plan, json={"cpu": 3}))
    assert api.get(vm).json()["cpu"] == 3
    api.done(carry_out(api, volume, larger, json={"size_mib": 12}))
    less = planned(api, f"{vm}/resize", json={"cpu": 1})
    assert {(x["used"]["cpu"], x["after"]["cpu"]) for x in less["limits"]} == {(3, 1)}
    api.done(api.post(f"{vm}/resize", json={"cpu": 2}))
    told = outdated(carry_out(api, f"{vm}/resize", less, json={"cpu": 1}))
    assert told == "vm db: cpu is 2, was 3"


def test_an_import_is_planned_and_then_sent(api: Api) -> None:
    wish = {**WISH, "size_bytes": len(IMAGE), "sha256": DIGEST}
    limits = {"hard": {"repository_mib": 100}, "soft": {}}
    enterprise = api.get("/v1/enterprises").json()[0]["id"]
    api.call("PUT", f"/v1/limits/enterprise/{enterprise}", json=limits)
    answer = api.post("/v1/templates", params={**wish, "dry_run": "true"})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    names = [step["name"] for step in plan["steps"]]
    assert names[:3] == ["take-upload", "measure-upload", "charge-template"]
    assert plan["bytes_to_copy"] == 2**20
    assert {
        x["after"]["repository_mib"] - x["used"]["repository_mib"] for x in plan["limits"]
    } == {1}
    carried = {**wish, "plan": plan["id"]}
    other = api.post("/v1/templates", params={**carried, "name": "another"})
    refused(other, 409, "plan-of-another-request")
    where = api.post("/v1/templates", params=carried).headers["location"]
    larger = b" " * 2**20 + IMAGE
    refused(api.client.put(where, content=larger), 422, "image-digest-mismatch")
    where = api.post("/v1/templates", params=carried).headers["location"]
    late = api.post("/v1/templates", params=carried).headers["location"]
    ended = api.done(api.client.put(where, content=IMAGE))
    assert ended["id"] == plan["id"]
    shown = {f"{step['name']}[{step['what']}]" for step in plan["steps"]}
    assert {step["key"] for step in ended["steps"]} == shown
    refused(api.client.put(late, content=IMAGE), 409, "plan-used")
    refused(api.post("/v1/templates", params=carried), 409, "plan-used")


def test_what_is_sent_is_as_large_as_was_planned(api: Api) -> None:
    wish = {**WISH, "size_bytes": 5}
    plan = api.post("/v1/templates", params={**wish, "dry_run": "true"}).json()
    where = api.post("/v1/templates", params={**wish, "plan": plan["id"]}).headers["location"]
    told = outdated(api.client.put(where, content=b" " * 2**20 + IMAGE))
    assert "repository_mib 2, not 1" in told
    assert api.get("/v1/operations").json() == []


URL = "https://images.example/fresh.vmdk?right=geheim"


def ask_for(api: Api, url: str = URL, **query: Any) -> Any:
    wish = {"name": "fresh", "datacenter": "main", "url": url}
    wish |= {"format": "vmdk"} if url == URL else {}
    return api.post("/v1/templates/import", params=query, json=wish)


def test_an_import_from_an_address_is_planned_and_then_made(api: Api) -> None:
    publish_source(cloud.world, URL, b" " * 2**20 + IMAGE)
    before = photograph()
    answer = ask_for(api, dry_run="true")
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["bytes_to_copy"] == 2 * 2**20
    names = [step["name"] for step in plan["steps"]]
    assert names[:4] == ["take-source", "charge-template", "enter-template", "download-source"]
    more = [x["after"]["repository_mib"] - x["used"]["repository_mib"] for x in plan["limits"]]
    assert set(more) <= {2}
    assert {**photograph(), "tables": before["tables"]} == before
    assert "geheim" not in answer.text
    publish_source(cloud.world, URL, IMAGE)
    assert "repository_mib 1, not 2" in outdated(ask_for(api, plan=plan["id"]))
    plan = ask_for(api, dry_run="true").json()
    other = {"name": "fresh", "datacenter": "main", "url": URL, "format": "qcow2"}
    elsewhere = api.post("/v1/templates/import", params={"plan": plan["id"]}, json=other)
    refused(elsewhere, 409, "plan-of-another-request")
    ended = api.done(ask_for(api, plan=plan["id"]))
    assert ended["id"] == plan["id"]
    assert {step["key"] for step in ended["steps"]} == {
        f"{step['name']}[{step['what']}]" for step in plan["steps"]
    }


def test_a_package_at_an_address_is_planned_by_what_its_descriptor_says(
    api: Api, tmp_path: Path
) -> None:
    write_package(tmp_path / "shop.ova", "system", "data")
    publish_source(cloud.world, "https://x.example/shop.ova", (tmp_path / "shop.ova").read_bytes())
    with tarfile.open(tmp_path / "shop.ova") as archive:
        ovf = next(name for name in archive.getnames() if name.endswith(".ovf"))
        for name in archive.getnames():
            content = archive.extractfile(name)
            assert content
            publish_source(cloud.world, f"https://x.example/{name}", content.read())
    for url in ("https://x.example/shop.ova", f"https://x.example/{ovf}"):
        plan = ask_for(api, url, dry_run="true").json()
        assert [x["virtual_size_mib"] for x in plan["disks"]] == [1, 1]
        assert len([x for x in plan["steps"] if x["name"] == "publish-disk"]) == 2
    ended = api.done(ask_for(api, url, plan=plan["id"]))
    assert {step["key"] for step in ended["steps"]} == {
        f"{step['name']}[{step['what']}]" for step in plan["steps"]
    }


def test_what_is_not_at_an_address_cannot_be_planned(api: Api) -> None:
    refused(ask_for(api, dry_run="true"), 404, "source-not-found")
    publish_source(cloud.world, "https://x.example/a.ova", b"no package")
    refused(ask_for(api, "https://x.example/a.ova", dry_run="true"), 422, "package-invalid")
    assert api.get("/v1/operations").json() == []


def test_a_plan_needs_to_know_what_will_be_sent(api: Api) -> None:
    package = {**WISH, "size_bytes": 5, "format": "ova"}
    for wish in (WISH, package):
        answer = api.post("/v1/templates", params={**wish, "dry_run": "true"})
        refused(answer, 422, "invalid-request")
    for said, status, code in (
        (b"<what/>", 422, "package-invalid"),
        (b" " * (2**20 + 1), 413, "body-too-large"),
    ):
        answer = api.post("/v1/templates", params={**package, "dry_run": "true"}, content=said)
        refused(answer, status, code)


def test_a_package_is_planned_by_its_descriptor_and_then_sent(api: Api, tmp_path: Path) -> None:
    ova, other = tmp_path / "shop.ova", tmp_path / "other.ova"
    write_package(ova, "system", "data")
    write_package(other, "system", "data", ram_mib=77)
    wish = {**WISH, "format": "ova", "size_bytes": ova.stat().st_size}
    asking = {**wish, "dry_run": "true"}
    answer = api.post("/v1/templates", params=asking, content=descriptor_of(ova))
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert [(x["format"], x["virtual_size_mib"], x["becomes"]) for x in plan["disks"]] == [
        ("vmdk", 1, {"memory": "qcow2"})
    ] * 2
    assert [x["name"] for x in plan["steps"]].count("publish-disk") == 2
    assert plan["bytes_to_copy"] > 2**20  # what arrives, and what comes out of it
    assert {
        x["after"]["repository_mib"] - x["used"]["repository_mib"] for x in plan["limits"]
    } <= {1}
    carried = {**wish, "plan": plan["id"]}
    where = api.post("/v1/templates", params=carried).headers["location"]
    told = outdated(api.client.put(where, content=other.read_bytes()))
    assert told == "the package: ram_mib is 77, was 128"
    where = api.post("/v1/templates", params=carried).headers["location"]
    ended = api.done(api.client.put(where, content=ova.read_bytes()))
    assert ended["id"] == plan["id"]
    assert len(ended["steps"]) == len(plan["steps"])


def test_a_plan_may_wait_for_approval(api: Api, shop: Any) -> None:
    api.call("PATCH", f"/v1/appliances/{shop['id']}", json={"approval": True})
    plan = planned(api, deploy_of(shop))
    assert plan["needs_approval"]
    assert carry_out(api, deploy_of(shop), plan).json()["state"] == "waiting"


def test_the_command_line_shows_a_plan_and_carries_it_out(
    workers: Workers,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    blueprint = tmp_path / "shop.yaml"
    blueprint.write_text(SHOP)
    shown = run("deploy", blueprint, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"web +record-state", shown.output)
    assert re.search(r"db +host-0 +room for", shown.output)
    assert re.search(r"virtual-datacenter +cpu +0 +2", shown.output)
    (plan,) = re.findall(r"--plan ([0-9a-f-]{36})", shown.output)
    assert run("deploy", "shop", "--plan", plan).exit_code == 0
    assert "(plan-used)" in run("deploy", "shop", "--plan", plan).output
    away = run("undeploy", "web", "--vm", "--dry-run").output
    assert re.search(r"virtual-datacenter +cpu +2 +1", away)
    assert run("power", "web", "off").exit_code == 0
    capture = ("capture", "web", "golden", "--all")
    attach = ("attach-nic", "web", "default")
    for words in (("persist", "web"), ("resize", "web", "--cpu", "2"), attach, capture):
        shown = run(*words, "--dry-run")
        assert shown.exit_code == 0, shown.output
        (plan,) = re.findall(r"--plan ([0-9a-f-]{36})", shown.output)
        done = run(*words, "--plan", plan)
        assert done.exit_code == 0, done.output
    image = tmp_path / "disk.vmdk"
    image.write_bytes(IMAGE)
    sending = ("import", image, "--name", "fresh", "--format", "vmdk")
    (plan,) = re.findall(r"--plan ([0-9a-f-]{36})", run(*sending, "--dry-run").output)
    assert "(plan-of-another-request)" in run(*sending, "--cpu", "2", "--plan", plan).output
    assert run(*sending, "--plan", plan).exit_code == 0
    write_package(tmp_path / "shop.ova", "system")
    sending = ("import", tmp_path / "shop.ova", "--name", "packed")
    shown = run(*sending, "--dry-run").output
    assert re.search(r"vmdk, 1 MiB; qcow2 on memory", shown)
    (plan,) = re.findall(r"--plan ([0-9a-f-]{36})", shown)
    assert run(*sending, "--plan", plan).exit_code == 0
