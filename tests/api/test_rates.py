"""Who asks too often is told when to ask again; and refusing asks nothing of the database."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from api import rates, tokens
from api.app import create_app
from api.errors import Problem
from api.rates import Rates, neighbourhood
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused

NOBODY = f"cl_{'0' * 32}_{'x' * 43}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked(buckets: Rates, key: str = "k") -> float:
    """How long to wait; 0 when it was let through."""
    try:
        buckets.take(key)
    except Problem as problem:
        return float((problem.headers or {})["Retry-After"])
    return 0


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 100, allow_subnormal=False), max_size=100),
)
def test_never_more_than_the_burst_and_what_has_come_back(per_s, burst, pauses):
    clock = Clock()
    buckets = Rates(per_s, burst, clock)
    through, began = 0, clock.now
    for pause in pauses:
        clock.now += pause
        wait_s = asked(buckets)
        through += not wait_s
        assert through <= burst + (clock.now - began) * per_s + 1e-6
        if wait_s:  # who waits as told is let through
            clock.now += wait_s + 1e-6
            assert not asked(buckets)
            through += 1


def test_a_burst_is_let_through_then_one_by_one():
    clock = Clock()
    buckets = Rates(2, 3, clock)
    assert [asked(buckets) for _ in range(4)] == [0, 0, 0, 1]
    assert asked(buckets, "other") == 0
    clock.now += 0.5
    assert [asked(buckets) for _ in range(2)] == [0, 1]
    clock.now += 1000
    assert [asked(buckets) for _ in range(4)] == [0, 0, 0, 1]


def test_nothing_is_limited_at_0():
    buckets = Rates(0, 1)
    assert not any(asked(buckets) for _ in range(1000))


def test_memory_has_a_bound(monkeypatch):
    monkeypatch.setattr(rates, "_MOST", 10)
    buckets = Rates(1, 1, Clock())
    for n in range(100):
        asked(buckets, str(n))
    assert sum(str(n) in buckets for n in range(100)) == 10
    assert asked(buckets, "99")
    assert not asked(buckets, "0")


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("testclient", "testclient"),
    ],
)
def test_of_ipv6_everybody_has_a_network(address, whose):
    assert neighbourhood(address) == whose


@pytest.fixture
def few(api: Api) -> TestClient:
    """The API where a token may ask five times, and an address three."""
    limits = {
        "rate_per_s": 0.001,
        "rate_burst": 5,
        "address_rate_per_s": 0.001,
        "address_rate_burst": 3,
    }
    cloud.settings = cloud.settings.model_copy(update=limits)
    return TestClient(create_app(), client=("127.0.0.1", 1))


def ask(client: TestClient, token: str, path: str = "/v1/vms"):
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def test_a_token_has_its_own_bucket(api, few):
    assert [ask(few, api.token).status_code for _ in range(5)] == [200] * 5
    answer = ask(few, api.token)
    refused(answer, 429, "rate-limited")
    assert int(answer.headers["retry-after"]) > 1
    other = tokens.mint(cloud.database, "other")
    assert ask(few, other).status_code == 200
    assert few.get("/health/live").status_code == 200


def test_guesses_lock_out_neither_the_token_nor_those_at_work(api, few):
    assert ask(few, api.token).status_code == 200
    near = api.token[:-1] + ("a" if api.token[-1] != "a" else "b")
    assert [ask(few, near).status_code for _ in range(4)] == [401, 401, 401, 429]
    assert [ask(few, api.token).status_code for _ in range(4)] == [200] * 4
    new = tokens.mint(cloud.database, "new")  # its address is used up, for all that are unknown
    refused(ask(few, new), 429, "rate-limited")
    elsewhere = TestClient(few.app, client=("127.0.0.2", 1))
    assert ask(elsewhere, new).status_code == 200


def test_many_who_come_at_once_with_a_good_token_are_not_taken_for_strangers(
    api, few, monkeypatch
):
    together = Barrier(5)

    def slow(database, token):
        together.wait(90)  # nobody is known yet
        return tokens.bearer(database, token)

    monkeypatch.setattr("api.admission.bearer", slow)
    with few, ThreadPoolExecutor(5) as pool:
        told = list(pool.map(lambda _: ask(few, api.token).status_code, range(5)))
    assert told == [200] * 5


def test_strangers_at_once_are_counted_all_the_same(few, monkeypatch):
    together = Barrier(5)

    def slow(_database, _token):
        together.wait(90)

    monkeypatch.setattr("api.admission.bearer", slow)
    with few, ThreadPoolExecutor(5) as pool:
        told = list(pool.map(lambda _: ask(few, NOBODY).status_code, range(5)))
    assert told == [401] * 5
    refused(ask(few, NOBODY), 429, "rate-limited")


def test_signed_addresses_are_guessed_no_faster(few):
    told = [few.put("/gateway/uploads/guess", content=b"x").status_code for _ in range(4)]
    assert told == [403, 403, 403, 429]
    assert all(few.get("/health/live").status_code == 200 for _ in range(9))


def test_a_token_that_was_good_is_none_once_revoked(api, few):
    lost = tokens.mint(cloud.database, "lost")
    assert ask(few, lost).status_code == 200
    tokens.revoke(cloud.database, UUID(lost.split("_")[1]))
    assert [ask(few, lost).status_code for _ in range(4)] == [401, 401, 401, 429]


def test_refusing_asks_nothing_of_the_database(api, few):
    begun: list[object] = []

    def begins(connection: object) -> None:
        begun.append(connection)

    event.listen(cloud.database.engine, "begin", begins)
    try:
        for _ in range(3):
            ask(few, NOBODY)
        assert len(begun) == 3
        refused(ask(few, NOBODY), 429, "rate-limited")
        assert len(begun) == 3
    finally:
        event.remove(cloud.database.engine, "begin", begins)
