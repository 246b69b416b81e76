"""Users, roles, sessions and tokens: who comes in, who does not, and what nobody can give away."""

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import event, select, update

from adapters.database import models
from adapters.database.people import ApiToken, LoginAttempts, User
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.database.session import utc_now
from adapters.privileges import STOCK, Privilege, Stock
from api import logins, passwords, tokens
from flows.cloud import cloud
from tests.api.conftest import Api, dumped, refused
from tests.api.people import user

PASSWORD = "correct horse battery"


def ada(api: Api, **changes: Any) -> Any:
    body = {"name": "ada", "password": PASSWORD, "role": "USER", **changes}
    return api.post("/v1/users", json=body)


def log_in(api: Api, **changes: Any) -> Any:
    """Log in; without any token."""
    body = {"name": "ada", "password": PASSWORD, **changes}
    return api.client.post("/v1/sessions", json=body)


def by(api: Api, answer: Any) -> Api:
    """The API as whoever got this token sees it."""
    assert answer.status_code == 201, answer.text
    return Api(api.client, api.world, answer.json()["token"], api.sent)


# --- logging in -------------------------------------------------------------------------------


def test_a_user_logs_in_works_and_logs_out(api: Api) -> None:
    made = ada(api)
    assert made.status_code == 201
    assert "password" not in made.text
    session = log_in(api)
    assert session.json()["user_id"] == made.json()["id"]
    me = by(api, session)
    told = me.get("/v1/me").json()
    assert (told["name"], told["role"], told["session"]) == ("ada", "USER", True)
    assert set(told["privileges"]) == STOCK[Stock.USER]
    assert me.get("/v1/vms").status_code == 200
    refused(me.get("/v1/hosts"), 403, "privilege-missing")
    assert me.delete("/v1/sessions/current").status_code == 204
    refused(me.get("/v1/me"), 401, "unauthenticated")
    refused(api.delete("/v1/sessions/current"), 409, "not-a-session")


def test_what_is_done_is_said_to_be_a_users(api: Api) -> None:
    ada(api, role="ENTERPRISE_ADMIN")
    new = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    assert by(api, log_in(api)).post("/v1/volumes", json=new).json()["requested_by"] == "ada"


def said(answer: Any) -> str:
    """An answer without what tells it from all others."""
    return str(answer.text).replace(answer.headers["x-request-id"], "")


def test_all_rejections_look_alike(api: Api) -> None:
    ada(api)
    gone = ada(api, name="gone").json()["id"]
    api.call("PATCH", f"/v1/users/{gone}", json={"active": False})
    wrong = [
        log_in(api, password="wrong"),
        log_in(api, name="nobody"),
        log_in(api, enterprise="nowhere"),
        log_in(api, name="gone"),
    ]
    for answer in wrong:
        refused(answer, 401, "login-refused")
    assert len({said(answer) for answer in wrong}) == 1
    assert log_in(api).status_code == 201


@pytest.mark.parametrize("changes", [{}, {"password": "wrong"}, {"name": "nobody"}])
def test_all_rejections_cost_alike(api: Api, changes: Any, monkeypatch: Any) -> None:
    """One Argon2 check, and as many writes, whether or not there is such a user."""
    ada(api)
    with cloud.database.write() as db:
        db.execute(update(User).values(active=False))
    checks, writes = [], []
    plain = passwords.is_right
    monkeypatch.setattr(passwords, "is_right", lambda *each: checks.append(1) or plain(*each))

    def told(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("UPDATE", "INSERT", "DELETE")):
            writes.append(statement.partition(" SET ")[0].split("(")[0])

    event.listen(cloud.database.engine, "before_cursor_execute", told)
    try:
        refused(log_in(api, **changes), 401, "login-refused")
    finally:
        event.remove(cloud.database.engine, "before_cursor_execute", told)
    assert checks == [1]
    assert writes == ["INSERT INTO login_attempts ", "UPDATE login_attempts"]


def locked_for_ever() -> None:
    with cloud.database.write() as db:
        db.execute(update(LoginAttempts).values(locked_until=utc_now(3600)))


def test_after_too_many_wrong_passwords_none_is_right_for_a_while(api: Api) -> None:
    ada(api)
    answers = [log_in(api, password=f"wrong-{n}") for n in range(5)]
    late = log_in(api)
    refused(late, 401, "login-refused")
    assert {said(late)} == {said(answer) for answer in answers}
    with cloud.database.write() as db:  # the while is over
        (row,) = db.scalars(select(LoginAttempts))
        assert row.locked_until
        assert row.failures == 5  # who is locked out does not make it longer
        row.locked_until = None
    assert log_in(api).status_code == 201
    with cloud.database.read() as db:
        assert db.scalars(select(LoginAttempts.failures)).all() == [0]


def test_a_new_password_by_an_administrator_opens_again(api: Api) -> None:
    made = ada(api).json()
    log_in(api, password="wrong")
    locked_for_ever()
    refused(log_in(api), 401, "login-refused")
    body = {"password": "another one entirely"}
    assert api.call("PATCH", f"/v1/users/{made['id']}", json=body).status_code == 200
    assert log_in(api, **body).status_code == 201


def test_many_guesses_at_once_are_no_more_guesses(api: Api, monkeypatch: Any) -> None:
    """An attempt is counted before it is checked: none slips through while others are checked."""
    ada(api)
    free: list[bool] = []
    begin = logins._begin_attempt

    def counted(*each: Any) -> bool:
        free.append(begin(*each))
        return free[-1]

    monkeypatch.setattr(logins, "_begin_attempt", counted)
    guess = SecretStr("wrong")
    threads = [
        threading.Thread(target=logins.log_in, args=(cloud.database, None, "ada", guess, 60.0))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(free) == 5


def test_a_session_ends_when_it_is_not_used_and_in_any_case(api: Api) -> None:
    ada(api)
    idle, old = by(api, log_in(api)), by(api, log_in(api))
    for each, column, seconds in ((idle, "last_used_at", -1801), (old, "expires_at", -1)):
        assert each.get("/v1/me").status_code == 200
        with cloud.database.write() as db:
            row = db.get_one(ApiToken, UUID(each.token.split("_")[1]))
            setattr(row, column, utc_now(seconds))
        refused(each.get("/v1/me"), 401, "unauthenticated")


@pytest.mark.parametrize("password", ["short", "x" * 129, ""])
def test_a_password_is_neither_short_nor_endless(api: Api, password: str) -> None:
    problem = refused(ada(api, password=password), 422, "invalid-request")
    assert password == "" or password not in str(problem)
    refused(log_in(api, password="x" * 129), 422, "invalid-request")


def test_who_changes_his_password_ends_his_other_sessions(api: Api) -> None:
    ada(api)
    here, there = by(api, log_in(api)), by(api, log_in(api))
    body = {"current": PASSWORD, "password": "another one entirely"}
    refused(here.post("/v1/me/password", json={**body, "current": "x"}), 403, "wrong-password")
    assert here.post("/v1/me/password", json=body).status_code == 204
    assert here.get("/v1/me").status_code == 200
    refused(there.get("/v1/me"), 401, "unauthenticated")
    refused(log_in(api), 401, "login-refused")
    assert log_in(api, password=body["password"]).status_code == 201
    refused(api.post("/v1/me/password", json=body), 409, "no-user")


def test_no_password_is_kept_or_told(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"name": "ada", "password": PASSWORD, "role": "USER"}
    made = api.post("/v1/users", json=body, headers=key)
    again = api.post("/v1/users", json={**body, "password": "something else"}, headers=key)
    assert again.json() == made.json()  # the key's digest knows nothing of the password
    log_in(api)
    dump = dumped().decode()
    assert PASSWORD not in dump
    assert "something else" not in dump
    assert "$argon2id$" in dump


# --- whose a token is ----------------------------------------------------------------------------


def test_the_first_token_makes_the_first_administrator_and_is_his(api: Api) -> None:
    assert api.get("/v1/me").json()["user_id"] is None
    ada(api, name="helper")
    assert api.get("/v1/me").json()["user_id"] is None
    first = ada(api, role="CLOUD_ADMIN").json()["id"]
    assert api.get("/v1/me").json()["user_id"] == first
    second = ada(api, name="grace", role="CLOUD_ADMIN").json()["id"]
    assert api.get("/v1/me").json()["user_id"] == first
    grace = by(api, log_in(api, name="grace"))
    assert grace.call("PATCH", f"/v1/users/{first}", json={"active": False}).status_code == 200
    refused(api.get("/v1/me"), 401, "unauthenticated")
    assert grace.get("/v1/me").json()["user_id"] == second


def test_a_token_can_do_what_its_user_can_and_its_scopes_let_it(api: Api) -> None:
    ada(api, role="ENTERPRISE_ADMIN")
    session = by(api, log_in(api))
    plain = by(api, session.post("/v1/api-tokens", json={"name": "plain"}))
    able = by(
        api, session.post("/v1/api-tokens", json={"name": "able", "scopes": ["admin", "approve"]})
    )
    seeing = by(api, session.post("/v1/api-tokens", json={"name": "see", "read_only": True}))
    assert plain.get("/v1/users").status_code == 200
    problem = refused(plain.post("/v1/users", json={}), 403, "scope-missing")
    assert problem["scope"] == "admin"
    refused(able.get("/v1/hosts"), 403, "privilege-missing")
    new = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
    refused(seeing.post("/v1/volumes", json=new), 403, "privilege-missing")
    assert seeing.get("/v1/volumes").status_code == 200
    assert plain.post("/v1/volumes", json=new).status_code == 202
    me = session.get("/v1/me").json()
    assert me["user_id"]
    body = {"role": "USER"}
    assert api.call("PATCH", f"/v1/users/{me['user_id']}", json=body).status_code == 200
    refused(plain.post("/v1/volumes", json=new), 403, "privilege-missing")  # from now on


def test_tokens_are_listed_without_their_secrets_and_revoked(api: Api) -> None:
    ada(api)
    mine = by(api, log_in(api))
    made = mine.post("/v1/api-tokens", json={"name": "ci"}).json()
    secret = made["token"].split("_", 2)[2]
    ci = Api(api.client, api.world, made["token"])
    assert mine.get("/v1/api-tokens").json()[0]["last_used_at"] is None
    assert ci.get("/v1/vms").status_code == 200
    listed = mine.get("/v1/api-tokens")
    (row,) = listed.json()  # no sessions, and nobody else's
    assert secret not in listed.text
    assert made["token"].startswith(row["prefix"])
    assert row["last_used_at"]
    assert {each["name"] for each in api.get("/v1/api-tokens").json()} == {"first", "ci"}
    refused(mine.delete(f"/v1/api-tokens/{api.token.split('_')[1]}"), 404, "not-found")
    assert mine.delete(f"/v1/api-tokens/{row['id']}").status_code == 204
    refused(ci.get("/v1/vms"), 401, "unauthenticated")
    assert mine.delete(f"/v1/api-tokens/{row['id']}").status_code == 204
    assert mine.get("/v1/api-tokens").json()[0]["revoked_at"]


def test_that_a_token_is_used_is_written_once_a_minute(api: Api) -> None:
    api.get("/v1/me")
    writes: list[str] = []

    def told(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("SELECT"):
            writes.append(statement)

    event.listen(cloud.database.engine, "before_cursor_execute", told)
    try:
        for _ in range(3):
            api.get("/v1/me")
        assert writes == []
        with cloud.database.write() as db:
            db.execute(update(ApiToken).values(last_used_at=utc_now(-61)))
        writes.clear()
        for _ in range(3):
            api.get("/v1/me")
        assert len(writes) == 1
    finally:
        event.remove(cloud.database.engine, "before_cursor_execute", told)


def test_a_deleted_users_tokens_are_nobodys_but_gone(api: Api) -> None:
    made = ada(api).json()["id"]
    mine = by(api, log_in(api))
    ci = by(
        api, mine.post("/v1/api-tokens", json={"name": "ci"}, headers={"Idempotency-Key": "k"})
    )
    assert api.delete(f"/v1/users/{made}").status_code == 204
    for each in (mine, ci):
        refused(each.get("/v1/me"), 401, "unauthenticated")
    with cloud.database.read() as db:
        assert [row.name for row in db.scalars(select(ApiToken))] == ["first"]
    refused(api.get(f"/v1/users/{made}"), 404, "not-found")


def test_sessions_that_are_long_over_are_forgotten(api: Api) -> None:
    ada(api)
    by(api, log_in(api))
    assert cloud.history.forget_sessions(7) == 0
    with cloud.database.write() as db:
        db.execute(update(ApiToken).where(ApiToken.session).values(expires_at=utc_now(-8 * 86400)))
    assert cloud.history.forget_sessions(7) == 1


# --- nobody gives away what he has not -----------------------------------------------------------


def test_nobody_makes_anybody_mightier_than_himself(api: Api) -> None:
    admin = user(api, Stock.ENTERPRISE_ADMIN)
    chief = ada(api, role="CLOUD_ADMIN").json()["id"]
    problem = refused(ada(admin, name="x", role="CLOUD_ADMIN"), 403, "privilege-missing")
    assert "PHYS_DC_MANAGE" in problem["privileges"]
    role = {"name": "mighty", "privileges": ["PHYS_DC_MANAGE"]}
    refused(admin.post("/v1/roles", json=role), 403, "privilege-missing")
    made = admin.post("/v1/roles", json={**role, "privileges": ["VDC_ENUMERATE"]}).json()["id"]
    change = {"privileges": ["PHYS_DC_MANAGE"]}
    refused(admin.call("PATCH", f"/v1/roles/{made}", json=change), 403, "privilege-missing")
    # nor does he rule over one: a password of his choice would be as good as the role
    mighty = {"password": "one of my own choice"}
    refused(admin.call("PATCH", f"/v1/users/{chief}", json=mighty), 403, "privilege-missing")
    refused(admin.delete(f"/v1/users/{chief}"), 403, "privilege-missing")
    first = UUID(api.token.split("_")[1])
    refused(admin.delete(f"/v1/api-tokens/{first}"), 403, "privilege-missing")
    poor = ada(admin, name="poor").json()["id"]
    body = {"role": "CLOUD_ADMIN"}
    refused(admin.call("PATCH", f"/v1/users/{poor}", json=body), 403, "privilege-missing")
    assert ada(admin, name="equal", role="ENTERPRISE_ADMIN").status_code == 201


def test_nobody_lets_anybody_look_into_more_than_he_may(api: Api) -> None:
    bounded = user(api, Stock.ENTERPRISE_ADMIN, virtual_datacenters=[api.world.vdc])
    body = {"name": "other", "datacenter": "main", "family": "memory"}
    other = api.post("/v1/virtual-datacenters", json=body).json()["id"]
    refused(ada(bounded), 403, "privilege-missing")
    unknown = ada(bounded, virtual_datacenters=[other])
    refused(unknown, 404, "unknown-virtual-datacenter")
    assert ada(bounded, virtual_datacenters=[str(api.world.vdc)]).status_code == 201


def test_nobody_shuts_himself_out(api: Api) -> None:
    admin = user(api, Stock.CLOUD_ADMIN)
    mine = f"/v1/users/{admin.get('/v1/me').json()['user_id']}"
    refused(admin.call("PATCH", mine, json={"active": False}), 409, "own-user")
    refused(admin.call("PATCH", mine, json={"role": "USER"}), 409, "own-user")
    refused(admin.delete(mine), 409, "own-user")
    assert admin.call("PATCH", mine, json={"role": "CLOUD_ADMIN"}).status_code == 200


# --- roles ---------------------------------------------------------------------------------------


def test_a_role_of_an_enterprises_own(api: Api) -> None:
    body = {"name": "switcher", "privileges": ["VDC_ENUMERATE", "VAPP_PERFORM_ACTIONS"]}
    made = api.post("/v1/roles", json=body).json()
    names = [each["name"] for each in api.get("/v1/roles").json()]
    assert names == ["CLOUD_ADMIN", "ENTERPRISE_ADMIN", "USER", "switcher"]
    ada(api, role="switcher")
    mine = by(api, log_in(api))
    assert mine.get("/v1/vms").status_code == 200
    refused(mine.get("/v1/templates"), 403, "privilege-missing")
    path = f"/v1/roles/{made['id']}"
    changed = api.call("PATCH", path, json={"privileges": ["APPLIB_VIEW"]})
    assert changed.json()["privileges"] == ["APPLIB_VIEW"]
    assert mine.get("/v1/templates").status_code == 200  # at once
    refused(mine.get("/v1/vms"), 403, "privilege-missing")
    assert refused(api.delete(path), 409, "in-use")["users"] == ["ada"]
    refused(api.post("/v1/roles", json=body), 409, "name-taken")
    refused(api.post("/v1/roles", json={**body, "name": "USER"}), 409, "name-taken")
    other = {**body, "name": "other"}
    refused(api.post("/v1/roles", json={**other, "privileges": ["ODD"]}), 422, "invalid-request")
    who = api.get("/v1/users").json()[0]["id"]
    assert api.call("PATCH", f"/v1/users/{who}", json={"role": "USER"}).status_code == 200
    assert api.delete(path).status_code == 204


@pytest.mark.parametrize("stock", Stock)
def test_stock_roles_stay_as_they_are(api: Api, stock: Stock) -> None:
    path = f"/v1/roles/{stock.id}"
    assert set(api.get(path).json()["privileges"]) == STOCK[stock]
    refused(api.call("PATCH", path, json={"privileges": []}), 409, "role-blocked")
    refused(api.delete(path), 409, "role-blocked")


def test_every_privilege_has_a_meaning(api: Api) -> None:
    told = api.get("/v1/privileges").json()
    assert [each["name"] for each in told] == list(Privilege)
    assert all(each["meaning"] for each in told)


# --- enterprises ---------------------------------------------------------------------------------


def test_an_enterprise_comes_and_goes(api: Api) -> None:
    made = api.post("/v1/enterprises", json={"name": "acme"}).json()["id"]
    refused(api.post("/v1/enterprises", json={"name": "acme"}), 409, "name-taken")
    assert ada(api, enterprise="acme", role="ENTERPRISE_ADMIN").status_code == 201
    assert ada(api).status_code == 201  # another one: names are an enterprise's own
    refused(log_in(api, enterprise="nowhere"), 401, "login-refused")
    theirs = by(api, log_in(api, enterprise="acme"))
    assert [each["name"] for each in theirs.get("/v1/enterprises").json()] == ["acme"]
    refused(
        theirs.call("PATCH", f"/v1/enterprises/{made}", json={"name": "x"}),
        403,
        "privilege-missing",
    )
    body = {"name": "v", "datacenter": "main", "family": "memory"}
    vdc = theirs.post("/v1/virtual-datacenters", json=body).json()["id"]
    problem = refused(api.delete(f"/v1/enterprises/{made}"), 409, "in-use")
    assert problem["users"] == ["virtual datacenter v"]
    with cloud.database.write() as db:
        for row in db.scalars(select(models.Network).filter_by(virtual_datacenter_id=UUID(vdc))):
            db.delete(row)
        db.flush()
        db.delete(db.get_one(models.VirtualDatacenter, UUID(vdc)))
    changed = api.call("PATCH", f"/v1/enterprises/{made}", json={"name": "roadrunner"})
    assert changed.json()["name"] == "roadrunner"
    assert api.delete(f"/v1/enterprises/{made}").status_code == 204
    refused(api.get(f"/v1/enterprises/{made}"), 404, "not-found")
    refused(theirs.get("/v1/me"), 401, "unauthenticated")
    refused(api.delete(f"/v1/enterprises/{FIRST_ENTERPRISE}"), 409, "own-enterprise")


def test_an_enterprise_with_an_operation_under_way_stays(api: Api) -> None:
    made = uuid4()
    api.world.add(models.Enterprise(id=made, name="acme"))
    theirs = Api(api.client, api.world, tokens.mint(cloud.database, "t", made), api.sent)
    body = {"name": "v", "datacenter": "main", "family": "memory"}
    theirs.post("/v1/virtual-datacenters", json=body)
    new = {"name": "data", "size_mib": 8, "virtual_datacenter": "v"}
    operation = theirs.post("/v1/volumes", json=new)
    users = refused(api.delete(f"/v1/enterprises/{made}"), 409, "in-use")["users"]
    assert f"operation {operation.json()['id']}" in users


def test_an_operator_acts_for_every_enterprise_and_others_for_their_own(api: Api) -> None:
    made = api.post("/v1/enterprises", json={"name": "acme"}).json()["id"]
    theirs = ada(api, enterprise=made).json()
    assert theirs["enterprise_id"] == made
    listed = api.get("/v1/users", params={"enterprise_id": made}).json()
    assert [each["id"] for each in listed] == [theirs["id"]]
    assert api.get("/v1/users").json() == []
    admin = user(api, Stock.ENTERPRISE_ADMIN)
    assert admin.get("/v1/users", params={"enterprise_id": made}).json() == []
    refused(ada(admin, enterprise="acme"), 404, "unknown-enterprise")
    role = {"name": "r", "privileges": [], "enterprise": "acme"}
    assert api.post("/v1/roles", json=role).json()["enterprise_id"] == made
    refused(ada(api, name="x", role="r"), 404, "unknown-role")  # of another enterprise
    assert ada(api, name="x", role="r", enterprise="acme").status_code == 201


def test_too_many_at_the_door_come_again(api: Api) -> None:
    class Crowd:
        tasks_waiting = 64

    turns = api.client.app.state.logins  # type: ignore[attr-defined]

    class Busy:
        def statistics(self) -> Crowd:
            return Crowd()

    api.client.app.state.logins = Busy()  # type: ignore[attr-defined]
    try:
        answer = log_in(api)
    finally:
        api.client.app.state.logins = turns  # type: ignore[attr-defined]
    refused(answer, 503, "too-many-logins")
    assert answer.headers["retry-after"]
