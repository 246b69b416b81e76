"""Approval: a deployment waits until somebody who may decides, or nobody does in time."""

import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from adapters.database import models
from adapters.database.operations import LeaseLost, Operations
from adapters.database.runners import this_runner
from adapters.database.session import Database, utc_now
from api import tokens
from flows import dispatch
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.worlds import photograph

APP = """
appliance: shop
virtual_datacenter: demo
approval: true
vms:
  - {name: db, template: tiny, volumes: [{name: data, size_mib: 8}]}
"""


def waiting(api: Api, text: str = APP) -> tuple[str, Any]:
    """The path of an operation that waits, and what it was answered as."""
    appliance = api.appliance(text)
    answer = api.post(f"/v1/appliances/{appliance['id']}/deploy")
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "waiting"
    return answer.headers["location"], answer.json()


def late(operation: str) -> None:
    """Let the time for its approval be over."""
    row = models.Operation
    with cloud.database.write() as db:
        db.execute(update(row).where(row.id == UUID(operation)).values(due_at=utc_now(-1)))


def unlocked() -> bool:
    with cloud.database.read() as db:
        return db.scalar(select(func.count()).select_from(models.Lock)) == 0


def by(api: Api, *scopes: str) -> Api:
    """The API as a token with these scopes sees it."""
    made = api.post("/v1/api-tokens", json={"name": "other", "scopes": scopes})
    assert made.status_code == 201, made.text
    return Api(api.client, api.world, made.json()["token"], api.sent)


def test_it_waits_locked_and_unsent_until_it_is_approved(api: Api) -> None:
    path, told = waiting(api)
    assert told["waits_until"] > told["accepted_at"]
    assert (told["flow_run_url"], told["approval"], told["steps"]) == (None, None, [])
    again = api.post(f"/v1/appliances/{told['target']['id']}/deploy")
    assert refused(again, 409, "locked")["operation"] == told["id"]
    assert cloud.operations.due(api.world.datacenter) == []
    dispatch.send(api.sent.pop())  # there is no Prefect: it would be heard of
    with pytest.raises(LeaseLost):
        FLOWS["deploy_appliance"](UUID(told["id"]))
    approved = api.post(f"{path}/approve", json={"reason": "as planned"})
    assert approved.json()["state"] == "accepted"
    assert approved.json()["waits_until"] is None
    said = approved.json()["approval"]
    assert (said["decision"], said["by"], said["reason"]) == ("approved", "first", "as planned")
    assert [str(each.id) for each in api.sent] == [told["id"]]
    assert [str(x.id) for x in cloud.operations.due(api.world.datacenter)] == [told["id"]]
    refused(api.post(f"{path}/approve"), 409, "not-waiting")
    refused(api.post(f"{path}/reject"), 409, "not-waiting")
    ended = api.done(approved)
    assert ended["approval"] == said
    refused(api.post(f"{path}/approve"), 409, "not-waiting")


def test_rejected_it_has_done_nothing_and_says_by_whom_and_why(api: Api) -> None:
    path, told = waiting(api)
    before = photograph()
    key = {"Idempotency-Key": "once"}
    body = {"reason": "too dear"}
    ended = api.post(f"{path}/reject", json=body, headers=key)
    assert api.post(f"{path}/reject", json=body, headers=key).json() == ended.json()
    shown = ended.json()
    assert shown["state"] == "cancelled"
    assert shown["error"]["code"] == "approval-rejected"
    assert shown["error"]["detail"] == "rejected by first: too dear"
    assert (shown["approval"]["decision"], shown["approval"]["reason"]) == ("rejected", "too dear")
    assert shown["ended_at"]
    receipt = api.get(f"{path}/receipt").json()
    assert (receipt["questions"], receipt["provisional"], receipt["left_behind"]) == (
        [],
        False,
        False,
    )
    assert photograph() == before
    assert unlocked()
    dispatch.send(api.sent[-1])  # there is nothing to be sent
    assert api.post(f"/v1/appliances/{told['target']['id']}/deploy").json()["state"] == "waiting"


def test_in_time_or_not_at_all(api: Api) -> None:
    path, told = waiting(api)
    late(told["id"])
    (due,) = cloud.operations.due(api.world.datacenter)
    refused(api.post(f"{path}/approve"), 409, "approval-timeout")
    refused(api.post(f"{path}/reject"), 409, "approval-timeout")
    with pytest.raises(LeaseLost):
        FLOWS["deploy_appliance"](due.id)
    dispatch.send(due)
    shown = api.get(path).json()
    assert (shown["state"], shown["error"]["code"]) == ("cancelled", "approval-timeout")
    assert shown["approval"]["decision"] == "timed-out"
    assert unlocked()
    assert cloud.operations.due(api.world.datacenter) == []


def test_the_reconciler_finds_it_too(api: Api) -> None:
    path, told = waiting(api)
    late(told["id"])
    found = api.world.run("reconcile_operations", api.world.datacenter)
    assert api.get(path).json()["error"]["code"] == "approval-timeout"
    report = api.get(f"/v1/operations/{found.id}").json()["report"]
    assert [(x["name"], x["state"]) for x in report] == [(told["id"], "timed out")]


@pytest.mark.parametrize("wish", ["cancel", "unwind"])
def test_cancelled_while_it_waits_it_ends_at_once(api: Api, wish: str) -> None:
    path, _ = waiting(api)
    assert api.post(f"{path}/{wish}").json()["state"] == "cancelled"
    assert api.get(f"{path}/receipt").json()["questions"] == []
    assert unlocked()
    refused(api.post(f"{path}/approve"), 409, "not-waiting")
    refused(api.post(f"{path}/{wish}"), 409, "operation-ended")


def test_it_waits_through_restarts(api: Api) -> None:
    path, told = waiting(api)
    url = str(cloud.database.engine.url)
    cloud.database.engine.dispose()
    cloud.become(cloud.settings)
    fresh = Operations(Database(url), lease_s=1)
    assert fresh.read(UUID(told["id"])).state == "waiting"
    assert fresh.due(api.world.datacenter) == []
    fresh.bury(lambda _runner: True)
    with pytest.raises(LeaseLost):
        fresh.claim(UUID(told["id"]), this_runner())
    api.done(api.post(f"{path}/approve"))


def test_one_vm_of_it_waits_too(api: Api) -> None:
    vm = api.appliance(APP)["vms"][0]["id"]
    deploy = api.post(f"/v1/vms/{vm}/deploy")
    assert deploy.json()["state"] == "waiting"
    api.done(api.post(f"{deploy.headers['location']}/approve"))
    assert api.post(f"/v1/vms/{vm}/undeploy").json()["state"] == "accepted"


def test_an_enterprise_asks_for_approval_of_everything(api: Api) -> None:
    (mine,) = api.get("/v1/enterprises").json()
    path = f"/v1/enterprises/{mine['id']}"
    assert not mine["approval"]
    refused(by(api, "approve").call("PATCH", path, json={"approval": True}), 403, "scope-missing")
    assert api.call("PATCH", path, json={"approval": True}).json()["approval"]
    waiting(api, APP.replace("approval: true\n", ""))
    assert api.call("PATCH", path, json={"approval": False}).status_code == 200
    other = (
        APP.replace("approval: true\n", "")
        .replace("shop", "two")
        .replace("name: data", "name: more")
    )
    free = api.appliance(other)
    assert api.post(f"/v1/appliances/{free['id']}/deploy").json()["state"] == "accepted"


def test_a_strangers_enterprise_and_operation_are_not_there(api: Api, stranger: Api) -> None:
    path, _ = waiting(api)
    (mine,) = api.get("/v1/enterprises?name=default").json()
    refused(stranger.post(f"{path}/approve"), 403, "scope-missing")
    enterprise = tokens.bearer(cloud.database, stranger.token).enterprise_id  # type: ignore[union-attr]
    token = tokens.mint(cloud.database, "able", enterprise, scopes=list(tokens.Scope))
    able = Api(api.client, api.world, token, api.sent)
    refused(able.post(f"{path}/approve"), 404, "not-found")
    change = able.call("PATCH", f"/v1/enterprises/{mine['id']}", json={"approval": True})
    refused(change, 404, "not-found")
    assert [each["id"] for each in able.get("/v1/enterprises").json()] == [str(enterprise)]


def test_who_asks_less_of_an_appliance_needs_the_scope(api: Api) -> None:
    appliance = api.appliance(APP)
    assert appliance["approval"]
    path = f"/v1/appliances/{appliance['id']}"
    plain = by(api)
    refused(plain.call("PATCH", path, json={"approval": False}), 403, "scope-missing")
    assert not by(api, "approve").call("PATCH", path, json={"approval": False}).json()["approval"]
    assert plain.call("PATCH", path, json={"approval": True}).json()["approval"]


def test_approving_needs_its_scope_and_a_sane_reason(api: Api) -> None:
    path, _ = waiting(api)
    problem = refused(by(api, "admin").post(f"{path}/approve"), 403, "scope-missing")
    assert problem["scope"] == "approve"
    refused(api.post(f"{path}/approve", json={"reason": "x" * 1001}), 422, "invalid-request")
    refused(api.post(f"{path}/approve", json={"why": "x"}), 422, "invalid-request")
    assert by(api, "approve").post(f"{path}/approve").status_code == 202


def test_a_token_gives_no_scope_that_it_has_not(api: Api) -> None:
    admin = by(api, "admin")
    body = {"name": "more", "scopes": ["approve"]}
    refused(admin.post("/v1/api-tokens", json=body), 403, "scope-missing")
    refused(by(api).post("/v1/api-tokens", json={"name": "x"}), 403, "scope-missing")
    refused(api.post("/v1/api-tokens", json={**body, "scopes": ["odd"]}), 422, "invalid-request")
    past = {**body, "expires_at": "2020-01-01T00:00:00Z"}
    refused(api.post("/v1/api-tokens", json=past), 422, "invalid-request")


def test_a_tokens_secret_is_told_once(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"name": "more", "scopes": ["approve"], "expires_at": "2126-01-01T00:00:00Z"}
    made = api.post("/v1/api-tokens", json=body, headers=key).json()
    again = api.post("/v1/api-tokens", json=body, headers=key).json()
    assert again == {**made, "token": None}
    caller = tokens.bearer(cloud.database, made["token"])
    assert caller
    assert (str(caller.token_id), caller.scopes) == (made["id"], {"approve"})
    with cloud.database.read() as db:
        kept = str([row.answer for row in db.scalars(select(models.IdempotencyKey))])
    assert made["token"] not in kept


def test_of_those_who_decide_at_once_one_does(api: Api) -> None:
    path, _ = waiting(api)
    answers: list[Any] = []

    def decide(verdict: str) -> None:
        answers.append(api.post(f"{path}/{verdict}"))

    verdicts = ["approve", "reject", "cancel"] * 2
    threads = [threading.Thread(target=decide, args=(each,)) for each in verdicts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [each for each in answers if each.status_code == 202]
    decided = [each for each in won if each.request.url.path.split("/")[-1] != "cancel"]
    codes = {each.json()["code"] for each in answers if each not in won}
    assert codes <= {"not-waiting", "operation-ended"}
    approved = any(each.request.url.path.endswith("approve") for each in won)
    assert len(decided) == 1 if approved else len(won) == 1
