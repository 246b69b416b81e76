"""Limits through the API: set, kept within, forced, lowered; what is used of them."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.database import models
from adapters.database.ledger import ChargeRow
from adapters.database.schema import FIRST_ENTERPRISE
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_gateway import IMAGE
from tests.worlds import require_ledger_exact

APP = """
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, cpu: 2, ram_mib: 64, volumes: [{name: data, size_mib: 8}]}
  - {name: web, template: tiny, cpu: 1, ram_mib: 64}
"""
FORCE = {"force": True, "force_reason": "the fair is next week"}


def put(api: Api, level: str, holder: Any, **limits: Any) -> Any:
    return api.call("PUT", f"/v1/limits/{level}/{holder}", json=limits)


def limit_vdc(api: Api, **limits: Any) -> Any:
    response = put(api, "virtual-datacenter", api.world.vdc, **limits)
    assert response.status_code == 200, response.text
    return response.json()


def usage(api: Api) -> dict[str, dict[str, int]]:
    """What each level uses, without what it does not."""
    levels = api.get("/v1/limits/usage").json()
    return {x["level"]: {k: n for k, n in x["used"].items() if n} for x in levels}


def deploy(api: Api, appliance: Any, **how: Any) -> Any:
    return api.post(f"/v1/appliances/{appliance['id']}/deploy", json=how)


def test_every_level_counts_what_is_deployed_and_forgets_what_is_gone(api: Api) -> None:
    before = usage(api)
    assert before == {
        "enterprise": {"repository_mib": 1},
        "datacenter": {"repository_mib": 1},
        "virtual-datacenter": {},
    }
    shop = api.appliance(APP)
    assert usage(api) == before
    api.done(deploy(api, shop))
    used = {"cpu": 3, "ram_mib": 128, "disk_mib": 32, "storage_mib": 8}
    assert usage(api) == {level: used | was for level, was in before.items()}
    require_ledger_exact()
    api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    volume = {"storage_mib": 8}
    assert usage(api) == {level: volume | was for level, was in before.items()}
    assert api.delete(f"/v1/appliances/{shop['id']}").status_code == 204
    api.done(api.delete(f"/v1/volumes/{api.get('/v1/volumes').json()[0]['id']}"))
    assert usage(api) == before


def test_a_hard_limit_is_never_passed_and_says_which(api: Api) -> None:
    limit_vdc(api, hard={"cpu": 2})
    shop = api.appliance(APP)
    for how in ({}, FORCE):
        problem = refused(deploy(api, shop, **how), 409, "hard-limit")
        assert problem["exceeded"] == [
            {
                "level": "virtual-datacenter",
                "id": str(api.world.vdc),
                "resource": "cpu",
                "limit": 2,
                "used": 0,
                "asked": 3,
            }
        ]
    assert api.sent == []
    db = shop["vms"][0]["id"]
    api.done(api.post(f"/v1/vms/{db}/deploy"))
    refused(api.post(f"/v1/vms/{shop['vms'][1]['id']}/deploy"), 409, "hard-limit")
    api.done(api.post(f"/v1/vms/{db}/undeploy"))
    api.done(api.post(f"/v1/vms/{shop['vms'][1]['id']}/deploy"))


def test_a_soft_limit_is_passed_by_who_says_why(api: Api) -> None:
    limit_vdc(api, soft={"ram_mib": 100}, hard={"ram_mib": 128})
    shop = api.appliance(APP)
    assert refused(deploy(api, shop), 409, "soft-limit")["exceeded"][0]["asked"] == 128
    ended = api.done(deploy(api, shop, **FORCE))
    operation = cloud.operations.read(UUID(ended["id"]))
    assert operation.arguments["force"] == {"by": "first", "reason": FORCE["force_reason"]}
    with cloud.database.read() as db:
        forced = {x.kind: (x.forced_by, x.forced_because) for x in db.query(ChargeRow)}
    assert forced["vm"] == ("first", FORCE["force_reason"])
    assert forced["volume"] == (None, None)  # that one fitted
    (told,) = api.get("/v1/events", params={"kind": "limits.forced"}).json()
    assert (told["who"]["name"], told["severity"]) == ("first", "warning")
    assert told["details"]["reason"] == FORCE["force_reason"]
    assert told["about"]["virtual_datacenter"]["id"] == str(api.world.vdc)


@pytest.mark.parametrize("body", [{"force": True}, {"force_reason": "because"}])
def test_force_and_its_reason_come_together(api: Api, body: dict[str, Any]) -> None:
    shop = api.appliance(APP)
    refused(deploy(api, shop, **body), 422, "invalid-request")
    refused(api.post(f"/v1/vms/{shop['vms'][0]['id']}/deploy", json=body), 422, "invalid-request")
    query = {"name": "new", "format": "qcow2", "datacenter": "main", **body}
    refused(api.post("/v1/templates", params=query), 422, "invalid-request")


def test_the_step_has_the_last_word(api: Api) -> None:
    """Two that both fit when they were accepted: the second one is refused, and leaves nothing."""
    limit_vdc(api, hard={"storage_mib": 8})
    body = {"name": "a", "size_mib": 8, "virtual_datacenter": "demo"}
    first = api.post("/v1/volumes", json=body)
    second = api.post("/v1/volumes", json=body | {"name": "b"})
    assert (first.status_code, second.status_code) == (202, 202)
    api.done(first)
    ended = api.run(second)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "hard-limit")
    assert ended["error"]["exceeded"][0]["used"] == 8
    assert [x["name"] for x in api.get("/v1/volumes").json()] == ["a"]
    refused(api.post("/v1/volumes", json=body | {"name": "c"}), 409, "hard-limit")
    require_ledger_exact()


def test_volumes_that_a_deployment_carves_are_counted_with_its_vms(api: Api) -> None:
    limit_vdc(api, hard={"storage_mib": 7})
    shop = api.appliance(APP)
    assert refused(deploy(api, shop), 409, "hard-limit")["exceeded"][0]["resource"] == (
        "storage_mib"
    )


def test_a_persistent_vm_uses_storage_instead_of_its_disk(api: Api) -> None:
    shop = api.appliance(APP)
    web = shop["vms"][1]["id"]
    api.done(api.post(f"/v1/vms/{web}/deploy"))
    api.done(api.post(f"/v1/vms/{web}/power", json={"power": "off"}))
    limit_vdc(api, soft={"storage_mib": 8})
    refused(api.post(f"/v1/vms/{web}/persist", json={}), 409, "soft-limit")
    api.done(api.post(f"/v1/vms/{web}/persist", json=FORCE))
    assert usage(api)["virtual-datacenter"] == {"cpu": 1, "ram_mib": 64, "storage_mib": 16}
    require_ledger_exact()


def test_an_image_is_charged_to_the_repository(api: Api) -> None:
    where = api.world.datacenter
    asked = {"name": "new", "format": "vmdk", "datacenter": "main"}
    put(api, "datacenter", where, soft={"repository_mib": 1}, hard={"repository_mib": 2})
    refused(api.post("/v1/templates", params=asked), 409, "soft-limit")
    told = api.post("/v1/templates", params=asked | FORCE)
    assert told.status_code == 307, told.text
    big = IMAGE + b" " * 2**20
    refused(api.post(told.headers["Location"], content=big), 409, "hard-limit")
    assert not list(cloud.settings.home.glob("repository/incoming/*"))
    told = api.post("/v1/templates", params=asked | FORCE)
    api.done(api.post(told.headers["Location"], content=IMAGE))
    assert usage(api)["datacenter"] == {"repository_mib": 2}
    require_ledger_exact()


def test_limits_are_set_read_listed_and_lifted(api: Api) -> None:
    nothing = api.get(f"/v1/limits/enterprise/{FIRST_ENTERPRISE}").json()
    assert set(nothing["hard"].values()) == set(nothing["soft"].values()) == {0}
    said = put(api, "enterprise", FIRST_ENTERPRISE, hard={"cpu": 9}, soft={"cpu": 8}).json()
    assert (said["hard"]["cpu"], said["soft"]["cpu"], said["hard"]["ram_mib"]) == (9, 8, 0)
    assert api.get(f"/v1/limits/enterprise/{FIRST_ENTERPRISE}").json() == said
    limit_vdc(api, soft={"cpu": 1})
    put(api, "datacenter", api.world.datacenter, hard={"vlans": 2})
    page = api.get("/v1/limits?limit=2")
    rest = api.get(page.links["next"]["url"]).json()
    levels = [each["level"] for each in page.json() + rest]
    assert levels == ["datacenter", "enterprise", "virtual-datacenter"]
    only = api.get("/v1/limits?level=enterprise").json()
    assert only == [said]
    pages = api.get("/v1/limits/usage?limit=2&sort=-level")
    more = api.get(pages.links["next"]["url"]).json()
    assert [x["level"] for x in pages.json() + more] == levels[::-1]
    assert more[0]["hard"]["vlans"] == 2
    path = f"/v1/limits/enterprise/{FIRST_ENTERPRISE}"
    assert [api.delete(path).status_code for _ in "12"] == [204, 204]
    assert api.get(path).json() == nothing


def test_limits_that_make_no_sense_are_refused(api: Api) -> None:
    vdc = api.world.vdc
    both = {"soft": {"cpu": 9}, "hard": {"cpu": 8}}
    refused(put(api, "virtual-datacenter", vdc, **both), 422, "soft-above-hard")
    repository = {"hard": {"repository_mib": 1}}
    refused(put(api, "virtual-datacenter", vdc, **repository), 422, "not-at-this-level")
    for wrong in ({"hard": {"cpu": -1}}, {"hard": {"gpu": 1}}, {"hardest": {}}):
        refused(put(api, "virtual-datacenter", vdc, **wrong), 422, "invalid-request")
    refused(put(api, "galaxy", vdc), 422, "invalid-request")
    refused(put(api, "datacenter", vdc), 404, "not-found")


def test_a_limit_is_not_lowered_below_what_is_used(api: Api) -> None:
    shop = api.appliance(APP)
    limit_vdc(api, soft={"cpu": 2})
    api.done(deploy(api, shop, **FORCE))
    for lower in ({"hard": {"cpu": 2}}, {"soft": {"cpu": 1}}):
        problem = refused(
            put(api, "virtual-datacenter", api.world.vdc, **lower), 409, "limit-below-use"
        )
        assert problem["used"] == {"cpu": 3}
    limit_vdc(api, soft={"cpu": 2}, hard={"cpu": 3})  # what has been forced may stay
    api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    limit_vdc(api, hard={"cpu": 1})


def test_another_enterprise_sees_and_sets_only_its_own(api: Api, stranger: Api) -> None:
    put(api, "datacenter", api.world.datacenter, hard={"cpu": 1})
    limit_vdc(api, hard={"cpu": 2})
    assert stranger.get("/v1/limits").json() == []
    mine = stranger.get("/v1/limits/usage").json()
    assert [(each["level"], each["name"]) for each in mine] == [("enterprise", "others")]
    theirs = stranger.get(f"/v1/limits/datacenter/{api.world.datacenter}").json()
    assert theirs["hard"]["cpu"] == 0
    for level, holder in (
        ("virtual-datacenter", api.world.vdc),
        ("enterprise", FIRST_ENTERPRISE),
        ("enterprise", uuid4()),
    ):
        refused(stranger.get(f"/v1/limits/{level}/{holder}"), 404, "not-found")
    refused(put(stranger, "datacenter", api.world.datacenter), 403, "privilege-missing")
    lifted = stranger.delete(f"/v1/limits/datacenter/{api.world.datacenter}")
    refused(lifted, 403, "privilege-missing")


def test_anothers_use_does_not_count(api: Api) -> None:
    other = uuid4()
    api.world.add(models.Enterprise(id=other, name="others"))
    with cloud.database.write() as db:
        db.get_one(models.VirtualDatacenter, api.world.vdc).enterprise_id = other
    world = api.world
    volume = {"id": str(uuid4()), "name": "x", "virtual_datacenter_id": str(world.vdc)}
    volume |= {"pool_id": str(world.pool), "size_mib": 64}
    accepted = world.accept("create_iscsi_volume", uuid4(), volume=volume)
    assert FLOWS["create_iscsi_volume"](accepted.id).state == "succeeded"
    assert usage(api) == {
        "enterprise": {"repository_mib": 1},
        "datacenter": {"repository_mib": 1},
    }
