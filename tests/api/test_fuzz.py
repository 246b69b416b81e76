"""Whatever is sent to the API, nothing breaks, and nothing is answered that it did not announce.

Schemathesis makes the requests from the OpenAPI document, fitting it and not, and checks the
answers. A third of them name things that are there, so that not everything ends as `not-found`.
"""

import json
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.privileges import Stock
from api import tokens
from flows.cloud import cloud
from tests.api.conftest import Api
from tests.api.people import user

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.config import SchemathesisConfig

# Everybody who may ask: what each of them may, and is refused, is in the document alike.
CALLERS = (*Stock, None)  # a token of each role; and one of no user, without a scope
FEW, MANY = 2, 300
SILENCE_S = 120  # nothing is timed here: a machine may stand still meanwhile
CHECKS = {
    # What fits the document may still name what there is not, or come at the wrong time.
    "positive_data_acceptance": {
        "expected-statuses": ["2xx", "307", 401, 403, 404, 409, 412, 422, 429]
    },
    # `If-Match` is looked at before anything else is.
    "negative_data_rejection": {
        "expected-statuses": [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429]
    },
}
ENDLESS = {"GET /v1/events/stream"}
SHOP = """\
appliance: shop
virtual_datacenter: demo
vms: [{name: web, template: tiny}]
"""


def everything(api: Api) -> dict[str, str]:
    """The parameters of paths, with something that is there."""
    shop = api.appliance(SHOP)
    volume = api.volume()
    (operation,) = api.get("/v1/operations").json()
    said = {"datacenter": "main", "name": "dhcp-1", "kind": "memory", "address": "memory"}
    server = api.post("/v1/dhcp-servers", json=said).json()["id"]
    public = {"name": "net", "datacenter": "main", "kind": "public", "range": "10.0.0.0/24"}
    network = api.done(api.post("/v1/networks", json=public))["target"]["id"]
    bought = {"network": network, "virtual_datacenter": "demo"}
    address = api.post("/v1/addresses", json=bought).json()["id"]
    (enterprise,) = api.get("/v1/enterprises").json()
    (device,) = api.get("/v1/storage-devices").json()
    return {
        "appliance_id": shop["id"],
        "vm_id": shop["vms"][0]["id"],
        "volume_id": str(volume),
        "operation_id": operation["id"],
        "server_id": server,
        "network_id": network,
        "address_id": address,
        "enterprise_id": enterprise["id"],
        "device_id": device["id"],
        "pool_id": str(api.world.pool),
        "host_id": str(api.world.hosts[0]),
        "template_id": str(api.world.template),
        "datacenter_id": str(api.world.datacenter),
        "virtual_datacenter_id": str(api.world.vdc),
    }


def is_still_unfit(case: Any) -> bool:
    """Not so once sent: in a query a number is a word where words are asked for."""
    said, unfit = case.query or {}, True
    for each in case.operation.query:
        asked = json.dumps(each.definition)
        if each.name in said and '"string"' in asked:
            unfit &= isinstance(said[each.name], str | list if '"array"' in asked else str)
    return unfit


def fuzz(api: Api, caller: Stock | None, examples: int) -> None:
    """Ask every operation so often."""
    token = user(api, caller).token if caller else tokens.mint(cloud.database, "scopeless")
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", api.client.app, config=SchemathesisConfig.from_dict({"checks": CHECKS})
    )
    there = everything(api)
    headers = {"Authorization": f"Bearer {token}"}
    asked = set()

    def named(case: Any) -> Any:
        asked_for = case.path_parameters or {}
        case.path_parameters = {name: there.get(name, made) for name, made in asked_for.items()}
        return case

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.label in ENDLESS:
            continue
        fitting, other = (
            operation.as_strategy(generation_mode=mode, headers=headers)
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        )

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.one_of(fitting.map(named), fitting, other.filter(is_still_unfit)))
        def ask(case: Any) -> None:
            case.call_and_validate(headers=headers, timeout=SILENCE_S)

        ask()
        asked.add(operation.label)
    assert len(asked) > 50


@pytest.mark.parametrize("caller", CALLERS)
def test_nothing_breaks_and_nothing_unannounced_is_answered(
    api: Api, caller: Stock | None
) -> None:
    fuzz(api, caller, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("caller", CALLERS)
def test_nothing_breaks_however_often_it_is_tried(api: Api, caller: Stock | None) -> None:
    fuzz(api, caller, MANY)
