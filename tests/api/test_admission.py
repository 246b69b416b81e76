"""Nobody is let in without a token that is good; and what is refused looks the same."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Semaphore
from uuid import UUID

import pytest
from sqlalchemy import event, select

from adapters.database import people
from adapters.database.schema import migrate
from adapters.database.session import Database
from api import tokens
from flows.cloud import cloud
from tests.api.conftest import Api, refused

GOOD_SHAPE = f"cl_{'b7' * 16}_{'x' * 43}"  # the same in every process: it is in a test's name


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic Zm9vOmJhcg==",
        f"Bearer {GOOD_SHAPE}",
        "Bearer cl_" + "0" * 32 + "_",
    ],
)
def test_without_a_good_token_nothing_answers(api: Api, header: str | None) -> None:
    headers = {"X-Request-Id": "the-same-for-both"}
    plain = api.client.get("/v1/volumes", headers=headers).json()
    headers |= {} if header is None else {"Authorization": header}
    answer = api.client.get("/v1/volumes", headers=headers)
    problem = refused(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert problem == plain


def test_a_wrong_secret_an_expired_and_a_revoked_token_look_alike(api: Api) -> None:
    wrong = api.token[:-1] + ("a" if api.token[-1] != "a" else "b")
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired = tokens.mint(cloud.database, "old", expires_at=past)
    revoked = tokens.mint(cloud.database, "lost")
    tokens.revoke(cloud.database, UUID(revoked.split("_")[1]))
    answers = [
        api.client.get(
            "/v1/vms", headers={"Authorization": f"Bearer {token}", "X-Request-Id": "the-same"}
        )
        for token in (wrong, expired, revoked)
    ]
    for answer in answers:
        refused(answer, 401, "unauthenticated")
    assert len({answer.content for answer in answers}) == 1


def test_the_first_token_is_told_once_and_kept_as_a_digest(api: Api) -> None:
    assert tokens.first_token(cloud.database) is None
    secret = api.token.split("_", 2)[2]
    with cloud.database.read() as db:
        (row,) = db.scalars(select(people.ApiToken))
        assert secret not in str(vars(row))
        assert len(row.digest) == 64


def test_of_homes_that_begin_at_once_one_is_told_the_first_token(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.sqlite'}")
    migrate(database, tmp_path)
    read = Semaphore(0)
    event.listen(database.engine, "commit", lambda _connection: read.release())
    with ThreadPoolExecutor(2) as homes:
        with database.write():  # neither can write before both have seen that there is none
            beginning = [homes.submit(tokens.first_token, database) for _ in range(2)]
            assert all(read.acquire(timeout=90) for _ in beginning)
        told = [each.result() for each in beginning]
    database.engine.dispose()
    assert told.count(None) == 1


def test_a_stranger_is_refused_before_a_byte_is_read(api: Api) -> None:
    answer = api.client.post("/v1/volumes", content=b"{not json")
    refused(answer, 401, "unauthenticated")


def test_what_is_anothers_is_not_found(api: Api, stranger: Api) -> None:
    volume = api.volume()
    operation = api.get("/v1/operations").json()[0]["id"]
    for path in (
        f"/v1/volumes/{volume}",
        f"/v1/operations/{operation}",
        f"/v1/operations/{operation}/receipt",
        f"/v1/operations/{operation}/events",
        f"/v1/templates/{api.world.template}",
        f"/v1/virtual-datacenters/{api.world.vdc}",
    ):
        assert api.get(path, params={"wait": 0}).status_code == 200, path
        refused(stranger.get(path), 404, "not-found")
    for path in ("volumes", "operations", "templates", "virtual-datacenters", "vms"):
        assert stranger.get(f"/v1/{path}").json() == []
    refused(stranger.delete(f"/v1/volumes/{volume}"), 404, "not-found")
    refused(stranger.post(f"/v1/operations/{operation}/cancel"), 404, "not-found")


def test_health_and_documentation_need_no_token(api: Api) -> None:
    assert api.client.get("/health/live").json() == {"status": "live"}
    assert api.client.get("/health/ready").json() == {
        "status": "ready",
        "database": True,
        "prefect": False,
    }
    schema = api.client.get("/openapi.json").json()
    assert schema["info"]["title"] == "Cloudloom"
    assert "WantedVm" in schema["components"]["schemas"]
    assert api.client.get("/docs").status_code == 200


def test_a_body_has_its_limit(api: Api) -> None:
    answer = api.post("/v1/volumes", content=b"x" * (2**20 + 1))
    refused(answer, 413, "body-too-large")
