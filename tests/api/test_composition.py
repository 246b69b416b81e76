"""Virtual datacenters, appliances and templates are changed, and go when nothing needs them."""

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select

from adapters.database import models
from adapters.database.conventions import Base
from adapters.database.ledger import ChargeRow, Limit
from adapters.privileges import Stock
from adapters.types import Format
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.people import user
from tests.worlds import photograph, require_ledger_exact

SHOP = """\
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}
  - {name: web, template: tiny, depends_on: [db]}
"""
LAB = {"name": "lab", "datacenter": "main", "family": "memory"}


def lab(api: Api) -> str:
    answer = api.post("/v1/virtual-datacenters", json=LAB)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


# --- virtual datacenters ------------------------------------------------------------------------


def test_a_virtual_datacenter_gets_another_name_that_no_other_has(api: Api) -> None:
    path = lab(api)
    refused(api.call("PATCH", path, json={"name": "demo"}), 409, "name-taken")
    refused(api.call("PATCH", path, json={"family": "kvm"}), 422, "invalid-request")
    assert api.call("PATCH", path, json={"name": "lab-2"}).json()["name"] == "lab-2"
    assert api.get(path).json()["name"] == "lab-2"


def test_an_empty_virtual_datacenter_goes_with_its_network_and_limits(api: Api) -> None:
    before = photograph()
    path = lab(api)
    limits = f"/v1/limits/virtual-datacenter/{path.rpartition('/')[2]}"
    assert api.call("PUT", limits, json={"hard": {"cpu": 1}}).status_code == 200
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "not-found")
    photo = photograph()
    del before["tables"]["api_tokens"], photo["tables"]["api_tokens"]
    assert photo == before
    with cloud.database.read() as db:
        assert not db.scalars(select(Limit)).all()


def test_a_virtual_datacenter_that_is_used_stays_and_says_by_what(api: Api) -> None:
    path = f"/v1/virtual-datacenters/{api.world.vdc}"
    shop = api.appliance(SHOP)
    users = refused(api.delete(path), 409, "in-use")["users"]
    assert [(each["kind"], each["name"]) for each in users] == [
        ("appliance", "shop"),
        ("volume", "data"),
    ]
    assert api.delete(f"/v1/appliances/{shop['id']}").status_code == 204
    (volume,) = api.get("/v1/volumes").json()
    api.done(api.delete(f"/v1/volumes/{volume['id']}"))
    making = {"name": "more", "size_mib": 8, "virtual_datacenter": "demo"}
    accepted = api.post("/v1/volumes", json=making)
    (going,) = refused(api.delete(path), 409, "in-use")["users"]
    assert (going["kind"], going["name"]) == ("operation", "create_iscsi_volume")
    ended = api.done(accepted)
    api.done(api.delete(f"/v1/volumes/{ended['target']['id']}"))
    assert api.delete(path).status_code == 204


# --- appliances ---------------------------------------------------------------------------------


def test_an_appliance_gets_another_name_that_no_other_has(api: Api) -> None:
    shop, other = (
        api.appliance(SHOP),
        api.appliance(
            "{appliance: other, virtual_datacenter: demo, vms: [{name: web, template: tiny}]}"
        ),
    )
    path = f"/v1/appliances/{shop['id']}"
    refused(api.call("PATCH", path, json={"name": "other"}), 409, "name-taken")
    refused(api.call("PATCH", path, json={"approval": None}), 422, "invalid-request")
    changed = api.call("PATCH", path, json={"name": "market"}).json()
    assert (changed["name"], changed["approval"]) == ("market", False)
    changed = api.call("PATCH", path, json={"approval": True}).json()
    assert (changed["name"], changed["approval"]) == ("market", True)
    assert api.get(f"/v1/appliances/{other['id']}").json()["name"] == "other"


def test_a_deployed_appliance_stays_and_says_what_is_deployed(api: Api) -> None:
    shop = api.appliance(SHOP)
    path = f"/v1/appliances/{shop['id']}"
    api.done(api.post(f"/v1/vms/{shop['vms'][1]['id']}/deploy"))
    users = refused(api.delete(path), 409, "wrong-state")["users"]
    assert [each["name"] for each in users] == ["web"]
    accepted = api.post(f"/v1/vms/{shop['vms'][1]['id']}/undeploy")
    refused(api.delete(path), 409, "locked")
    api.done(accepted)
    assert api.delete(path).status_code == 204


# --- VMs that come and go -----------------------------------------------------------------------


def deployed(api: Api) -> str:
    shop = api.appliance(SHOP)
    path = f"/v1/appliances/{shop['id']}"
    api.done(api.post(f"{path}/deploy"))
    return path


def vms_of(api: Api, path: str) -> dict[str, Any]:
    return {vm["name"]: vm for vm in api.get(path).json()["vms"]}


def test_a_deployed_appliance_is_brought_in_line_and_the_rest_is_not_touched(api: Api) -> None:
    path = deployed(api)
    before = vms_of(api, path)
    new = {"name": "cache", "template": "tiny", "replicas": 2, "depends_on": ["db"]}
    added = api.post(f"{path}/vms", json=new)
    assert added.status_code == 201
    assert added.headers["location"] == path
    assert added.json() == api.get(path).json()
    assert added.json()["state"] == "NEEDS_SYNC"
    going = api.delete(f"/v1/vms/{before['web']['id']}")
    assert (going.status_code, going.json()["leaving"]) == (200, True)
    assert vms_of(api, path)["web"]["state"] == "ON"
    plan = api.post(f"{path}/deploy?dry_run=true").json()
    synced = api.done(api.post(f"{path}/deploy?plan={plan['id']}"))
    assert {each["name"] for each in plan["steps"]} == {each["name"] for each in synced["steps"]}
    assert synced["kind"] == "sync_appliance"
    assert {step["lane"] for step in synced["steps"]} == {"", "cache-1", "cache-2", "web"}
    lines = [str(line.arguments) for line in cloud.journal.lines(UUID(synced["id"]))]
    assert not [line for line in lines if before["db"]["id"] in line]
    after = vms_of(api, path)
    assert list(after) == ["db", "cache-1", "cache-2"]
    assert after["db"] == before["db"]
    assert {vm["state"] for vm in after.values()} == {"ON"}
    assert api.get(path).json()["state"] == "DEPLOYED"
    refused(api.get(f"/v1/vms/{before['web']['id']}"), 404, "not-found")
    refused(api.post(f"{path}/deploy"), 409, "wrong-state")
    require_ledger_exact()


def test_a_vm_that_was_to_leave_can_be_kept(api: Api) -> None:
    path = deployed(api)
    web = f"/v1/vms/{vms_of(api, path)['web']['id']}"
    refused(api.post(f"{web}/keep"), 409, "vm-not-leaving")
    assert api.get(path).json()["state"] == "DEPLOYED"
    for _ in "12":  # being told again, it leaves as before
        assert api.delete(web).json()["leaving"]
    assert api.get(path).json()["state"] == "NEEDS_SYNC"
    assert api.post(f"{web}/keep").json()["leaving"] is False
    assert api.get(path).json()["state"] == "DEPLOYED"


def test_a_vm_that_is_not_deployed_goes_at_once_and_is_waited_for_no_more(api: Api) -> None:
    shop = api.appliance(SHOP)
    db, web = shop["vms"]
    assert api.delete(f"/v1/vms/{db['id']}").status_code == 204
    (left,) = api.get(f"/v1/appliances/{shop['id']}").json()["vms"]
    assert (left["id"], left["depends_on"]) == (web["id"], [])
    (volume,) = api.get("/v1/volumes").json()
    assert (volume["name"], volume["state"]) == ("data", "DETACHED")
    web_path = f"/v1/vms/{web['id']}"
    accepted = api.post(f"{web_path}/deploy")
    refused(api.delete(web_path), 409, "locked")
    api.done(accepted)
    assert api.delete(web_path).json()["leaving"]
    api.done(api.post(f"{web_path}/undeploy"))
    refused(api.post(f"{web_path}/deploy"), 409, "vm-leaving")
    path = f"/v1/appliances/{shop['id']}"
    assert api.get(path).json()["state"] == "NOT_DEPLOYED"
    api.done(api.post(f"{path}/deploy"))
    assert api.get(path).json()["vms"] == []


def test_what_fails_before_anything_leaves_is_undone_and_all_is_as_before(api: Api) -> None:
    path = deployed(api)
    api.post(f"{path}/vms", json={"name": "new", "template": "tiny"})
    api.delete(f"/v1/vms/{vms_of(api, path)['web']['id']}")
    before = vms_of(api, path)
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses")
    assert api.run(api.post(f"{path}/deploy"))["state"] == "failed"
    assert vms_of(api, path) == before
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses")
    kept = api.run(api.post(f"{path}/deploy", json={"on_failure": "keep"}))
    assert kept["state"] == "failed"
    assert vms_of(api, path) == before
    api.done(api.post(f"{path}/deploy"))
    assert list(vms_of(api, path)) == ["db", "new"]


def test_what_is_added_fits_the_appliance(api: Api) -> None:
    path = deployed(api)
    new = {"name": "new", "template": "tiny"}

    def add(**changes: Any) -> Any:
        return api.post(f"{path}/vms", json={**new, **changes})

    refused(add(name="web"), 409, "name-taken")
    refused(add(depends_on=["nobody"]), 422, "unknown-dependency")
    refused(add(depends_on=["new"]), 422, "dependency-circle")
    refused(add(replicas=999), 422, "too-many-vms")
    refused(add(networks=["other"]), 404, "unknown-network")
    refused(add(template="none"), 404, "unknown-template")
    refused(add(volumes=[{"name": "data"}]), 409, "volume-in-use")
    api.delete(f"/v1/vms/{vms_of(api, path)['web']['id']}")
    refused(add(depends_on=["web"]), 422, "unknown-dependency")
    refused(add(name="web"), 409, "name-taken")
    assert list(vms_of(api, path)) == ["db", "web"]
    accepted = api.post(f"{path}/deploy")
    refused(add(), 409, "locked")
    api.done(accepted)
    headers = {"Idempotency-Key": "once"}
    for _ in "12":
        made = api.post(f"{path}/vms", json={**new, "name": "web"}, headers=headers)
        assert [vm["name"] for vm in made.json()["vms"]] == ["db", "web"]


def test_a_protected_vm_does_not_leave(api: Api) -> None:
    path = deployed(api)
    web = f"/v1/vms/{vms_of(api, path)['web']['id']}"
    api.call("PATCH", web, json={"protected": True})
    refused(api.delete(web), 409, "protected")
    api.call("PATCH", web, json={"protected": False})
    assert api.delete(web).json()["leaving"]
    api.call("PATCH", web, json={"protected": True})
    refused(api.post(f"{path}/deploy"), 409, "protected")


# --- copies, and moving -------------------------------------------------------------------------


def copy(api: Api, path: str, name: str = "shop-2", where: str | None = None) -> Any:
    return api.post(f"{path}/copy", json={"name": name, "virtual_datacenter": where})


def move(api: Api, path: str, where: str, **force: Any) -> Any:
    return api.post(f"{path}/move", json={"virtual_datacenter": where, **force})


def ids_in(appliance: Any) -> set[str]:
    return {
        each
        for vm in appliance["vms"]
        for each in (
            vm["id"],
            *(x[key] for x in vm["nics"] for key in ("id", "mac")),
            *(x["id"] for kind in ("disks", "volumes") for x in vm[kind]),
        )
    }


def test_a_copy_is_the_same_with_nothing_in_common(api: Api) -> None:
    path = deployed(api)
    api.call("PUT", f"{path}/labels", json={"stage": "test"})
    api.call("PATCH", path, json={"approval": True})
    source = api.get(path).json()
    api.delete(f"/v1/vms/{source['vms'][1]['id']}")
    api.post(f"{path}/vms", json={"name": "web-2", "template": "tiny", "depends_on": ["db"]})
    answer = copy(api, path)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/appliances/{made['id']}"
    assert (made["name"], made["state"], made["approval"]) == ("shop-2", "NOT_DEPLOYED", True)
    assert made["labels"] == source["labels"] == {"stage": "test"}
    told = {vm["name"]: (vm["cpu"], vm["ram_mib"], vm["depends_on"]) for vm in made["vms"]}
    assert told == {"db": (1, 64, []), "web-2": (1, 64, ["db"])}  # what leaves is not copied
    assert not ids_in(made) & ids_in(api.get(path).json())
    (volume,) = made["vms"][0]["volumes"]
    assert (volume["name"], volume["carved"], volume["size_mib"]) == ("shop-2-data", False, 8)
    assert api.get(path).json()["vms"][0] == source["vms"][0]
    api.call("PATCH", answer.headers["location"], json={"approval": False})
    api.done(api.post(f"{answer.headers['location']}/deploy"))
    require_ledger_exact()
    refused(copy(api, path), 409, "name-taken")


def test_a_copy_elsewhere_has_volumes_of_the_same_names(api: Api) -> None:
    there = lab(api)
    source = api.appliance(SHOP)
    path = f"/v1/appliances/{source['id']}"
    made = copy(api, path, "shop", "lab").json()
    assert made["virtual_datacenter_id"] == there.rpartition("/")[2]
    (volume,) = made["vms"][0]["volumes"]
    assert (volume["name"], volume["virtual_datacenter_id"]) == (
        "data",
        made["virtual_datacenter_id"],
    )
    networks = {nic["network_id"] for vm in made["vms"] for nic in vm["nics"]}
    assert str(api.world.network) not in networks
    again = copy(api, path, "shop-2", "lab").json()
    assert again["vms"][0]["volumes"][0]["name"] == "shop-2-data"
    refused(copy(api, path, "x" * 60), 409, "name-too-long")


def test_what_cannot_be_copied_is_refused_with_the_reason(api: Api) -> None:
    other = api.post("/v1/virtual-datacenters", json={**LAB, "family": "kvm", "name": "other"})
    lab(api)
    path = f"/v1/appliances/{api.appliance(SHOP)['id']}"
    for ask in (lambda where: copy(api, path, "x", where), lambda where: move(api, path, where)):
        refused(ask("nowhere"), 404, "unknown-virtual-datacenter")
        refused(ask("other"), 409, "other-family")
        refused(ask(elsewhere(api)), 409, "other-datacenter")
        with cloud.database.write() as db:
            db.get_one(models.Network, api.world.network).name = "office"
        told = refused(ask("lab"), 409, "networks-differ")
        assert told["networks"] == ["office"]
        with cloud.database.write() as db:
            db.get_one(models.Network, api.world.network).name = "default"
    assert other.status_code == 201
    web = api.get(path).json()["vms"][1]["id"]
    api.done(api.post(f"/v1/vms/{web}/deploy"))
    api.done(api.post(f"/v1/vms/{web}/power", json={"power": "off"}))
    refused(move(api, path, "lab"), 409, "wrong-state")
    accepted = api.post(f"/v1/vms/{web}/persist", json={"volume": "root"})
    refused(copy(api, path), 409, "locked")
    api.done(accepted)
    assert refused(copy(api, path), 409, "persistent-vm")["vms"] == ["web"]
    api.done(api.post(f"/v1/vms/{web}/undeploy"))
    moved = move(api, path, "lab").json()  # a volume moves, whoever boots from it
    assert {each["virtual_datacenter_id"] for each in api.get("/v1/volumes").json()} == {
        moved["virtual_datacenter_id"]
    }
    require_ledger_exact()


def elsewhere(api: Api) -> str:
    """A virtual datacenter of another datacenter, by its id."""
    folder = cloud.settings.home / f"more-{uuid4()}"
    folder.mkdir()
    name = f"dc-{uuid4().hex[:8]}"
    body = {"name": name, "repository": str(folder)}
    assert api.post("/v1/datacenters", json=body).status_code == 201
    body = {"name": f"vdc-{name}", "datacenter": name, "family": "memory"}
    return str(api.post("/v1/virtual-datacenters", json=body).json()["id"])


def test_who_may_make_no_volumes_copies_none(api: Api) -> None:
    path = f"/v1/appliances/{api.appliance(SHOP)['id']}"
    able = user(api, Stock.USER)
    refused(copy(able, path), 403, "privilege-missing")
    db = api.get(path).json()["vms"][0]["id"]
    api.delete(f"/v1/vms/{db}")
    assert copy(able, path).status_code == 201


def test_an_appliance_moves_with_its_volumes_and_what_they_are_charged(api: Api) -> None:
    there = lab(api).rpartition("/")[2]
    volume = api.volume("data")
    path = f"/v1/appliances/{api.appliance(SHOP)['id']}"
    limits = f"/v1/limits/virtual-datacenter/{there}"
    api.call("PUT", limits, json={"hard": {"storage_mib": 7}})
    before = photograph()
    refused(move(api, path, "lab"), 409, "hard-limit")
    api.call("PUT", limits, json={"soft": {"storage_mib": 7}})
    refused(move(api, path, "lab"), 409, "soft-limit")
    assert photograph()["tables"]["charges"] == before["tables"]["charges"]
    assert api.get(path).json()["virtual_datacenter_id"] == str(api.world.vdc)
    moved = move(api, path, "lab", force=True, force_reason="for a while")
    assert moved.status_code == 200, moved.text
    assert moved.json() == api.get(path).json()
    assert moved.json()["virtual_datacenter_id"] == there
    assert api.get(f"/v1/volumes/{volume}").json()["virtual_datacenter_id"] == there
    require_ledger_exact()
    api.call("PUT", limits, json={})
    api.done(api.post(f"{path}/deploy"))
    require_ledger_exact()
    assert api.delete(f"/v1/virtual-datacenters/{api.world.vdc}").status_code == 204


def test_nothing_moves_to_where_its_name_is_taken(api: Api) -> None:
    lab(api)
    shop = api.appliance(SHOP)
    path = f"/v1/appliances/{shop['id']}"
    api.appliance(SHOP.replace("demo", "lab").replace("name: data", "name: other"))
    refused(move(api, path, "lab"), 409, "name-taken")
    api.call("PATCH", path, json={"name": "market"})
    api.volume("data", virtual_datacenter="lab")
    refused(move(api, path, "lab"), 409, "name-taken")
    assert api.get(path).json()["vms"] == shop["vms"]


def test_what_a_vm_has_is_struck_and_copied_with_it() -> None:
    """A new table about VMs has to be in `strike` and in `copy_vm`: then add it here."""
    vms = models.VirtualMachine.__table__
    about = {
        table.name
        for table in Base.metadata.sorted_tables
        if any(key.column.table is vms for key in table.foreign_keys)
    }
    assert about == {"disks", "nics", "volumes"}


# --- templates ----------------------------------------------------------------------------------


def test_a_template_goes_with_its_conversions_its_charge_and_its_name(api: Api) -> None:
    before = photograph()
    made = api.world.image("foreign", Format.VMDK)
    path = f"/v1/templates/{made}"
    api.done(api.post(f"{path}/conversions", json={"format": "qcow2"}))
    assert charged("template", made)
    accepted = api.delete(path, headers={"If-Match": api.get(path).headers["etag"]})
    refused(api.delete(path), 409, "locked")
    api.done(accepted)
    refused(api.get(path), 404, "not-found")
    photo = photograph()
    del before["tables"]["api_tokens"], photo["tables"]["api_tokens"]
    assert photo == before


def test_a_conversion_that_another_template_has_stays(api: Api) -> None:
    one, other = (api.world.image(name, Format.VMDK, "same") for name in "ab")
    api.done(api.post(f"/v1/templates/{one}/conversions", json={"format": "qcow2"}))
    api.done(api.delete(f"/v1/templates/{one}"))
    (disk,) = api.get(f"/v1/templates/{other}").json()["disks"]
    (kept,) = disk["conversions"]
    assert kept["state"] == "FINISHED"
    assert cloud.repository(api.world.datacenter).has(kept["path"])
    api.done(api.delete(f"/v1/templates/{other}"))
    assert not cloud.repository(api.world.datacenter).has(kept["path"])


def test_a_template_that_vms_are_made_of_stays_and_says_of_which(api: Api) -> None:
    shop, path = api.appliance(SHOP), f"/v1/templates/{api.world.template}"
    users = refused(api.delete(path), 409, "in-use")["users"]
    assert [each["name"] for each in users] == ["db", "web"]
    bounded = user(api, {"APPLIB_VIEW", "APPLIB_ALLOW_MODIFY"}, virtual_datacenters=[UUID(int=1)])
    told = refused(bounded.delete(path), 409, "in-use")
    assert (told["users"], "shop" in told["detail"]) == ([], False)
    api.delete(f"/v1/appliances/{shop['id']}")
    api.done(api.delete(path))


def test_no_vm_is_made_of_a_template_that_is_about_to_go(api: Api) -> None:
    path = f"/v1/templates/{api.world.template}"
    accepted = api.delete(path)
    shop = api.appliance(SHOP)  # until it has begun
    ended = api.run(accepted)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "in-use")
    assert ended["error"]["users"] == ["vm db", "vm web"]
    assert api.get(path).json()["state"] == "AVAILABLE"
    api.delete(f"/v1/appliances/{shop['id']}")
    cloud.world.set_fate("repository.delete", "refuses")
    stuck = api.run(api.delete(path))
    assert stuck["state"] == "stuck"
    assert api.get(path).json()["state"] == "DELETING"
    headers = {"Content-Type": "application/yaml"}
    late = api.post("/v1/appliances", content=SHOP, headers=headers)
    refused(late, 409, "template-not-available")
    api.run(api.post(f"/v1/operations/{stuck['id']}/resume"))
    refused(api.get(path), 404, "not-found")


def charged(kind: str, what: UUID) -> bool:
    with cloud.database.read() as db:
        found = select(func.count()).where(ChargeRow.kind == kind, ChargeRow.id == what)
        return bool(db.scalar(found))
