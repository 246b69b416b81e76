"""Protected VMs: what destroys is refused, by whatever way it comes, until they are so no more."""

from typing import Any

import pytest

from api.starting import Starter
from tests.api.conftest import Api, refused
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture

APP = """\
appliance: shop
virtual_datacenter: demo
vms:
  - {name: db, template: tiny, protected: true}
  - {name: web, template: tiny}
"""


@pytest.fixture
def shop(api: Api) -> Any:
    made = api.appliance(APP)
    assert [vm["protected"] for vm in made["vms"]] == [True, False]
    return made


def protect(api: Api, vm: Any, *, protected: bool, **options: Any) -> Any:
    return api.call("PATCH", f"/v1/vms/{vm['id']}", json={"protected": protected}, **options)


def destructive(shop: Any) -> list[tuple[str, str]]:
    """Everything that would destroy the protected VM, or its appliance with it, once deployed."""
    app, vm = f"/v1/appliances/{shop['id']}", f"/v1/vms/{shop['vms'][0]['id']}"
    return [("POST", f"{app}/undeploy"), ("POST", f"{vm}/undeploy"), ("POST", f"{vm}/reset")]


def test_what_destroys_a_protected_vm_is_refused(api: Api, shop: Any) -> None:
    app = f"/v1/appliances/{shop['id']}"
    assert refused(api.delete(app), 409, "protected")["vms"] == ["db"]
    api.done(api.post(f"{app}/deploy"))
    for method, path in destructive(shop):
        problem = refused(api.call(method, path), 409, "protected")
        assert problem["vms"] == ["db"]
        assert "db" in problem["detail"]
    assert {vm["state"] for vm in api.get(app).json()["vms"]} == {"ON"}
    assert len(api.get("/v1/operations").json()) == 1  # none of these was accepted


def test_what_destroys_nothing_is_not_refused(api: Api, shop: Any) -> None:
    db, web = (f"/v1/vms/{vm['id']}" for vm in shop["vms"])
    api.done(api.post(f"/v1/appliances/{shop['id']}/deploy"))
    api.done(api.post(f"{db}/power", json={"power": "off"}))
    api.done(api.post(f"{db}/persist", json={}))
    api.done(api.post(f"{db}/power", json={"power": "on"}))
    api.done(api.post(f"{web}/reset"))
    api.done(api.post(f"{web}/undeploy"))


def test_it_is_protected_until_somebody_says_otherwise(api: Api, shop: Any) -> None:
    app, (db, web) = f"/v1/appliances/{shop['id']}", shop["vms"]
    api.done(api.post(f"{app}/deploy"))
    assert protect(api, web, protected=True).json()["protected"] is True
    assert refused(api.post(f"{app}/undeploy"), 409, "protected")["vms"] == ["db", "web"]
    assert protect(api, db, protected=False).json()["protected"] is False
    assert refused(api.post(f"{app}/undeploy"), 409, "protected")["vms"] == ["web"]
    assert protect(api, web, protected=False).status_code == 200
    api.done(api.post(f"{app}/undeploy"))
    assert api.delete(app).status_code == 204


def test_what_an_operation_has_is_not_changed(api: Api, shop: Any) -> None:
    accepted = api.post(f"/v1/appliances/{shop['id']}/deploy")
    problem = refused(protect(api, shop["vms"][1], protected=True), 409, "locked")
    assert problem["operation"] == accepted.json()["id"]
    api.done(accepted)
    assert protect(api, shop["vms"][1], protected=True).status_code == 200


def test_a_change_of_what_was_not_read_is_refused(api: Api, shop: Any) -> None:
    web = shop["vms"][1]
    tag = api.get(f"/v1/vms/{web['id']}").headers["etag"]
    headers = {"If-Match": tag}
    assert protect(api, web, protected=True, headers=headers).status_code == 200
    refused(protect(api, web, protected=False, headers=headers), 412, "precondition-failed")
    nothing = api.call("PATCH", f"/v1/vms/{web['id']}", json={})
    assert nothing.json()["protected"] is True
    unknown = api.call("PATCH", f"/v1/vms/{web['id']}", json={"name": "other"})
    refused(unknown, 422, "invalid-request")


def test_who_protects_between_a_request_and_its_acceptance_is_heard(
    api: Api, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, start, answers = shop["vms"][1], Starter.start, []
    api.done(api.post(f"/v1/vms/{web['id']}/deploy"))

    def overtaken(starter: Starter, plan: Any, *_checks: Any) -> Any:
        def protecting() -> None:
            answers.append(protect(api, web, protected=True).status_code)

        return start(starter, plan, protecting)

    monkeypatch.setattr(Starter, "start", overtaken)
    refused(api.post(f"/v1/vms/{web['id']}/undeploy"), 409, "protected")
    assert answers == [200]
    shown = api.get(f"/v1/vms/{web['id']}").json()
    assert (shown["protected"], shown["locked_by"]) == (True, None)


def test_the_command_line_protects(workers: Workers, api: Api, shop: Any) -> None:  # noqa: F811
    assert "True" in run("protect", "web").output
    shown = run("undeploy", "shop")
    assert shown.exit_code == 1
    assert run("deploy", "shop").exit_code == 0
    refusal = run("undeploy", "shop").output
    assert "(protected)" in refusal
    assert "db, web" in refusal
    assert run("unprotect", "web").exit_code == run("unprotect", "db").exit_code == 0
    assert run("undeploy", "shop").exit_code == 0
