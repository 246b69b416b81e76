"""User data: handed to the guest when it boots first, never told again, gone with its VM."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from adapters.database import models
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture

PLANTED = "planted-s3cret"
GIVEN = f"#cloud-config\npassword: {PLANTED}\n"
APP = f"""\
appliance: shop
virtual_datacenter: demo
vms:
  - name: web
    template: tiny
    replicas: 2
    user_data: |
      #cloud-config
      password: {PLANTED}
  - {{name: my_db, template: tiny}}
"""


@pytest.fixture
def shop(api: Api) -> Any:
    return api.appliance(APP)


def give(api: Api, vm: Any, given: str | None, **options: Any) -> Any:
    return api.call("PATCH", f"/v1/vms/{vm['id']}", json={"user_data": given}, **options)


def secrets() -> int:
    with cloud.database.read() as db:
        return db.scalar(select(func.count()).select_from(models.Secret)) or 0


def of(vm: Any) -> str:
    with cloud.database.read() as db:
        secret = db.get_one(models.VirtualMachine, UUID(vm["id"])).user_data_id
    assert secret
    return cloud.secrets.read(secret).password.get_secret_value()


def seeds() -> list[Path]:
    return sorted(cloud.settings.home.glob("datastore-*/seed-*"))


def test_who_gives_it_is_told_that_there_is_some(api: Api, shop: Any) -> None:
    assert [vm["has_user_data"] for vm in shop["vms"]] == [True, True, False]
    assert PLANTED not in json.dumps(shop)
    assert of(shop["vms"][0]) == GIVEN
    assert secrets() == 2  # replicas share none
    assert give(api, shop["vms"][2], "#!/bin/sh\n").json()["has_user_data"] is True
    assert of(shop["vms"][2]) == "#!/bin/sh\n"
    assert secrets() == 3


def test_it_is_replaced_and_taken_back(api: Api, shop: Any) -> None:
    web = shop["vms"][0]
    headers = {"If-Match": api.get(f"/v1/vms/{web['id']}").headers["etag"]}
    assert give(api, web, "other", headers=headers).json()["has_user_data"] is True
    assert (of(web), secrets()) == ("other", 2)
    kept = api.call("PATCH", f"/v1/vms/{web['id']}", json={"protected": True})
    assert kept.json()["has_user_data"] is True
    assert give(api, web, None).json()["has_user_data"] is False
    assert secrets() == 1


def test_a_guest_is_handed_it_and_it_goes_with_the_deployment(api: Api, shop: Any) -> None:
    app = f"/v1/appliances/{shop['id']}"
    give(api, shop["vms"][2], GIVEN)
    deployed = api.done(api.post(f"{app}/deploy"))
    assert [step["name"] for step in deployed["steps"]].count("make-seed") == 3
    content = [each.read_bytes() for each in seeds()]
    assert len(content) == 3
    assert all(GIVEN.encode() in each for each in content)
    assert sum(b'"local-hostname": "my-db"' in each for each in content) == 1
    refused(give(api, shop["vms"][0], "late"), 409, "wrong-state")
    undeployed = api.done(api.post(f"{app}/undeploy"))
    assert "remove-seed" in {step["name"] for step in undeployed["steps"]}
    assert seeds() == []
    receipt = api.get(f"/v1/operations/{undeployed['id']}/receipt").json()
    assert all(each["as_expected"] for each in receipt["questions"])
    assert give(api, shop["vms"][0], "another time").status_code == 200
    assert api.delete(app).status_code == 204
    assert secrets() == 0


def test_without_user_data_nothing_is_made_or_removed(api: Api, shop: Any) -> None:
    vm = f"/v1/vms/{shop['vms'][2]['id']}"
    for deed in ("deploy", "undeploy"):
        names = {step["name"] for step in api.done(api.post(f"{vm}/{deed}"))["steps"]}
        assert not {each for each in names if "seed" in each}


@pytest.mark.parametrize("given", ["", "x" * 65537, "\N{SNOWMAN}" * 30000, 7, ["x"], "\ud800"])
def test_what_is_no_user_data_is_refused_and_not_told(api: Api, shop: Any, given: Any) -> None:
    content = json.dumps({"user_data": given})
    path = f"/v1/vms/{shop['vms'][2]['id']}"
    answer = api.call("PATCH", path, content=content, headers={"Content-Type": "application/json"})
    refused(answer, 422, "invalid-request")
    assert len(answer.text) < 1000
    assert secrets() == 2


def test_as_much_as_is_allowed_is_kept(api: Api, shop: Any) -> None:
    given = "\N{SNOWMAN}" * (65536 // 3)
    assert give(api, shop["vms"][2], given).status_code == 200
    assert of(shop["vms"][2]) == given


def test_it_is_nowhere_but_where_it_is_meant_to_be(api: Api) -> None:
    headers = {"Content-Type": "application/yaml", "Idempotency-Key": "k"}
    made = api.post("/v1/appliances", content=APP, headers=headers)
    assert api.post("/v1/appliances", content=APP, headers=headers).json() == made.json()
    shop = made.json()
    give(api, shop["vms"][2], GIVEN)
    api.done(api.post(f"/v1/appliances/{shop['id']}/deploy"))
    with cloud.database.read() as db:
        tables = list(models.Base.metadata.tables)
        rows = [db.execute(text(f"SELECT * FROM {table}")).all() for table in tables]
    assert PLANTED not in str(rows)
    told = [api.get(f"/v1/{each}") for each in ("vms", "appliances", "events", "operations")]
    assert PLANTED not in "".join(each.text for each in told)
    assert PLANTED not in str(cloud.world.everything())


def test_what_is_kept_of_a_request_is_no_hash_of_it(api: Api) -> None:
    digests = []
    for number, given in enumerate(("one", "two")):
        body = {"name": "v", "template": "tiny", "user_data": given}
        sent = {"appliance": "x", "virtual_datacenter": "demo", "vms": [body]}
        headers = {"Idempotency-Key": f"k-{number}"}
        made = api.post("/v1/appliances", json=sent, headers=headers).json()
        assert api.delete(f"/v1/appliances/{made['id']}").status_code == 204
    with cloud.database.read() as db:
        digests = list(db.scalars(select(models.IdempotencyKey.body_digest)))
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_a_key_is_still_one_request_s(api: Api) -> None:
    headers = {"Content-Type": "application/yaml", "Idempotency-Key": "k"}
    api.post("/v1/appliances", content=APP, headers=headers)
    other = api.post("/v1/appliances", content=APP.replace("shop", "x"), headers=headers)
    refused(other, 409, "idempotency-key-reused")


def test_a_vm_that_is_added_has_its_own(api: Api, shop: Any) -> None:
    path = f"/v1/appliances/{shop['id']}/vms"
    body = {"name": "late", "template": "tiny", "user_data": GIVEN}
    headers = {"Idempotency-Key": "k"}
    made = api.post(path, json=body, headers=headers)
    assert api.post(path, json=body, headers=headers).json() == made.json()
    (late,) = [vm for vm in made.json()["vms"] if vm["name"] == "late"]
    assert (late["has_user_data"], of(late), secrets()) == (True, GIVEN, 3)
    assert api.delete(f"/v1/vms/{late['id']}").status_code == 204
    assert secrets() == 2


def test_a_copy_has_the_same_and_shares_nothing(api: Api, shop: Any) -> None:
    path = f"/v1/appliances/{shop['id']}"
    copied = api.post(f"{path}/copy", json={"name": "other", "virtual_datacenter": "demo"})
    assert copied.status_code == 201, copied.text
    assert [vm["has_user_data"] for vm in copied.json()["vms"]] == [True, True, False]
    assert secrets() == 4
    assert api.delete(path).status_code == 204
    assert secrets() == 2
    assert of(copied.json()["vms"][0]) == GIVEN


def test_reading_it_is_told_of(api: Api, shop: Any) -> None:
    api.done(api.post(f"/v1/vms/{shop['vms'][0]['id']}/deploy"))
    (told,) = api.get("/v1/events?kind=secret.read").json()
    assert told["details"]["step"] == f"make-seed[{shop['vms'][0]['id']}]"


def test_the_command_line_gives_it(workers: Workers, api: Api, tmp_path: Path) -> None:  # noqa: F811
    shop = api.appliance(APP)
    file = tmp_path / "cloud.yaml"
    file.write_text(GIVEN)
    assert "True" in run("user-data", "my_db", file).output
    assert of(shop["vms"][2]) == GIVEN
    assert "False" in run("user-data", "my_db", "--remove").output
    assert run("user-data", "my_db").exit_code == 2
    assert run("user-data", "my_db", "-", typed="typed").exit_code == 0
    assert of(shop["vms"][2]) == "typed"
