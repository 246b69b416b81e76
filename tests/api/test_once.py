"""The same key and the same request: the same answer, and nothing done twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.conftest import Api, refused

BODY = {"name": "data", "size_mib": 8, "virtual_datacenter": "demo"}
KEY = {"Idempotency-Key": "k-1"}


def test_an_equal_request_is_answered_alike(api: Api) -> None:
    first = api.post("/v1/volumes", json=BODY, headers=KEY)
    ended = api.done(first)
    again = api.post("/v1/volumes", json=BODY, headers=KEY)
    assert again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert [each["id"] for each in api.get("/v1/operations").json()] == [ended["id"]]
    assert len(api.sent) == 1


def test_another_body_is_refused_and_another_route_or_token_is_free(
    api: Api, stranger: Api
) -> None:
    api.done(api.post("/v1/volumes", json=BODY, headers=KEY))
    other = api.post("/v1/volumes", json={**BODY, "size_mib": 9}, headers=KEY)
    refused(other, 409, "idempotency-key-reused")
    vdc = {"name": "second", "datacenter": "main", "family": "memory"}
    assert api.post("/v1/virtual-datacenters", json=vdc, headers=KEY).status_code == 201
    assert stranger.post("/v1/virtual-datacenters", json=vdc, headers=KEY).status_code == 201


def test_a_refusal_is_not_kept(api: Api) -> None:
    body = {**BODY, "virtual_datacenter": "later"}
    refused(api.post("/v1/volumes", json=body, headers=KEY), 404, "unknown-virtual-datacenter")
    vdc = {"name": "later", "datacenter": "main", "family": "memory"}
    assert api.post("/v1/virtual-datacenters", json=vdc).status_code == 201
    api.done(api.post("/v1/volumes", json=body, headers=KEY))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/volumes", BODY),
        ("/v1/virtual-datacenters", {"name": "x", "datacenter": "main", "family": "memory"}),
        (
            "/v1/storage-devices",
            {"name": "x", "datacenter": "main", "technology": "memory", "host": "127.0.0.1"},
        ),
        (
            "/v1/appliances",
            {
                "appliance": "shop",
                "virtual_datacenter": "demo",
                "vms": [{"name": "a", "template": "tiny"}],
            },
        ),
    ],
)
def test_equal_requests_that_race_act_once(api: Api, path: str, body: object) -> None:
    with ThreadPoolExecutor(8) as pool:
        racing = [pool.submit(api.post, path, json=body, headers=KEY) for _ in range(8)]
    answers = [each.result() for each in racing]
    assert {each.status_code for each in answers} <= {201, 202}, [x.text for x in answers]
    assert len({each.json()["id"] for each in answers}) == 1
    assert len(api.get("/v1/operations").json()) == (path == "/v1/volumes")
