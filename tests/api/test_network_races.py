"""Addresses, ranges and networks that are wanted at the same time: each is one's alone."""

from functools import partial
from typing import Any
from uuid import UUID

from adapters.database import models
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.api.conftest import Api
from tests.api.test_composition_races import ROUNDS, at_once, crowd, succeeds
from tests.worlds import require_ledger_exact

__all__ = ["crowd"]  # a fixture
DHCP = {"datacenter": "main", "name": "dhcp-1", "kind": "memory", "address": "memory"}
LAN = {"name": "lan", "virtual_datacenter": "demo", "range": "10.0.0.0/28"}


def compose(api: Api, name: str) -> Any:
    text = f"{{appliance: {name}, virtual_datacenter: demo, vms: [{{name: web, template: tiny, "
    headers = {"Content-Type": "application/yaml"}
    return api.post("/v1/appliances", content=f"{text}networks: [lan, lan]}}]}}", headers=headers)


def lan(api: Api) -> str:
    return f"/v1/networks/{api.done(api.post('/v1/networks', json=LAN))['target']['id']}"


def test_nobody_has_anothers_address(crowd: Api) -> None:
    assert crowd.post("/v1/dhcp-servers", json=DHCP).status_code == 201
    path = lan(crowd)
    made = at_once(*(partial(compose, crowd, f"shop-{n}") for n in range(8)))
    assert sum(map(succeeds, made)) == 7, [each.text for each in made]
    had = [nic["address"] for each in crowd.get("/v1/vms").json() for nic in each["nics"]]
    assert sorted(had) == sorted(f"10.0.0.{n}" for n in range(1, 15))
    assert crowd.get(path).json()["addresses"]["reserved"] == len(had)


def test_no_card_is_put_into_a_network_that_goes(crowd: Api) -> None:
    assert crowd.post("/v1/dhcp-servers", json=DHCP).status_code == 201
    for number in range(ROUNDS):
        path = lan(crowd)
        gone, made = at_once(partial(crowd.delete, path), partial(compose, crowd, f"a-{number}"))
        assert succeeds(gone) != succeeds(made), (gone.text, made.text)
        if made.status_code == 201:
            crowd.delete(made.headers["location"])
            gone = crowd.delete(path)
        crowd.done(gone)
        require_ledger_exact()


def test_a_range_that_two_want_is_one_networks(crowd: Api) -> None:
    assert crowd.post("/v1/dhcp-servers", json=DHCP).status_code == 201
    asked = [crowd.post("/v1/networks", json={**LAN, "name": name}).json() for name in "ab"]
    ended = at_once(*(partial(FLOWS["create_network"], UUID(each["id"])) for each in asked))
    assert sorted(each.state for each in ended) == ["failed", "succeeded"]
    with cloud.database.read() as db:
        assert db.query(models.Network).filter_by(kind="private").count() == 1
    require_ledger_exact()


def test_relays_and_a_network_are_not_in_one_place(crowd: Api) -> None:
    assert crowd.post("/v1/dhcp-servers", json=DHCP).status_code == 201
    path = f"/v1/datacenters/{crowd.world.datacenter}"
    for _ in range(ROUNDS):
        asked = crowd.post("/v1/networks", json=LAN).json()
        ended, told = at_once(
            partial(FLOWS["create_network"], UUID(asked["id"])),
            partial(crowd.call, "PATCH", path, json={"relays": "10.0.0.0/20"}),
        )
        assert (ended.state == "succeeded") != succeeds(told), (ended, told.text)
        if ended.state == "succeeded":
            assert told.json()["code"] == "relays-overlap"
            crowd.done(crowd.delete(f"/v1/networks/{asked['target']['id']}"))
        assert succeeds(crowd.call("PATCH", path, json={"relays": None}))
        require_ledger_exact()
