"""A VM becomes a template, whether it is on or off; and stays as it is."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.database import models
from adapters.hypervisors.memory import MemoryHypervisor
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_plans import carry_out, outdated, planned

SHOP = """
appliance: shop
virtual_datacenter: demo
vms:
  - {name: web, template: tiny, cpu: 2, ram_mib: 96, networks: [default]}
"""


@pytest.fixture
def web(api: Api) -> str:
    """A VM that is on."""
    vm = f"/v1/vms/{api.appliance(SHOP)['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    return vm


def off(api: Api, vm: str) -> str:
    api.done(api.post(f"{vm}/power", json={"power": "off"}))
    return vm


def written(api: Api, vm: str, text: str) -> None:
    """Let the guest write to its boot disk."""
    record = cloud.inventory.vm(UUID(vm.rpartition("/")[2]))
    path = Path(cloud.hypervisor(record.host).disk_path(record.disk(record.disks[0])))
    path.write_text(json.dumps({**json.loads(path.read_text()), "content": text}))


def captured(api: Api, vm: str, name: str = "golden", **wish: Any) -> Any:
    before = api.get(vm).json()
    ended = api.done(api.post(f"{vm}/capture", json={"name": name, **wish}))
    assert ended["target"]["id"] == before["id"]
    assert api.get(vm).json() == before
    (made,) = api.get("/v1/templates", params={"name": name}).json()
    return made


def content(api: Api, template: Any, position: int = 0) -> str:
    path = api.world.home / "repository" / template["disks"][position]["path"]
    said: str = json.loads(path.read_text())["content"]
    return said


@pytest.mark.parametrize("power", ["on", "off", "paused"])
def test_what_a_guest_has_written_is_in_a_vm_of_its_capture(
    api: Api, web: str, power: str
) -> None:
    if power != "on":
        api.done(api.post(f"{web}/power", json={"power": power}))
    written(api, web, "by the guest")
    template = captured(api, web)
    assert template["state"] == "AVAILABLE"
    assert template["master_id"] == api.get(web).json()["template_id"]
    assert (template["cpu"], template["ram_mib"]) == (2, 96)
    written(api, web, "later")
    assert content(api, template) == "by the guest"
    again = api.appliance(SHOP.replace("shop", "again").replace("tiny", "golden"))
    vm = f"/v1/vms/{again['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    assert content(api, captured(api, vm, "third")) == "by the guest"


@pytest.mark.parametrize("said", [{"firmware": "efi", "bus": "sata"}, {"bus": "virtio"}, {}])
def test_a_vm_of_a_capture_is_what_the_captured_one_was(api: Api, said: dict[str, str]) -> None:
    """Whatever its template said: an installed guest starts by that firmware, from that bus."""
    wishes = {"system": "debian12_64Guest", "buses": ["lsisas"]}
    with cloud.database.write() as db:
        db.get_one(models.Template, api.world.template).hardware = wishes
    words = "".join(f"{key}: {value}, " for key, value in said.items())
    shop = api.appliance(SHOP.replace("cpu: 2, ", words))
    api.done(api.post(f"/v1/appliances/{shop['id']}/deploy"))
    vm = f"/v1/vms/{shop['vms'][0]['id']}"
    template = captured(api, vm)
    assert template["hardware"]["system"] == "debian12_64Guest"
    assert template["hardware"]["buses"] == [said.get("bus", "lsisas")]
    again = api.appliance(SHOP.replace("shop", "again").replace("tiny", "golden"))
    for key in ("firmware", "bus"):
        assert again["vms"][0][key] == api.get(vm).json()[key]


def test_disks_and_volumes_are_captured_that_are_asked_for(api: Api, web: str) -> None:
    disk = api.get(off(api, web)).json()["disks"][0]["id"]
    api.done(api.post(f"{web}/disks", json={"size_mib": 8}))
    api.done(
        api.post(f"/v1/volumes/{api.volume()}/attach", json={"vm": api.get(web).json()["id"]})
    )
    api.done(api.post(f"{web}/power", json={"power": "on"}))
    vm = api.get(web).json()
    assert len(captured(api, web)["disks"]) == 1
    more = vm["disks"][1]["id"]
    volume = vm["volumes"][0]["id"]
    sizes = [
        x["virtual_size_mib"] for x in captured(api, web, "two", disks=[volume, disk])["disks"]
    ]
    assert sizes == [16, 8]
    assert len(captured(api, web, "all", disks=[volume, more, disk])["disks"]) == 3
    foreign = api.post(f"{web}/capture", json={"name": "x", "disks": [str(api.volume("other"))]})
    refused(foreign, 404, "not-found")


def test_a_persistent_vm_is_captured_on_or_off(api: Api, web: str) -> None:
    written(api, off(api, web), "by the guest")
    api.done(api.post(f"{web}/persist", json={}))
    boot = api.get(web).json()["volumes"][0]["id"]
    template = captured(api, web)
    assert content(api, template) == "by the guest"
    assert cloud.world.find("volume", boot)["content"] == "by the guest"
    api.done(api.post(f"{web}/power", json={"power": "on"}))
    assert content(api, captured(api, web, "again")) == "by the guest"
    api.done(api.post(f"{web}/undeploy"))
    again = api.appliance(SHOP.replace("shop", "again").replace("tiny", "golden"))
    api.done(api.post(f"/v1/vms/{again['vms'][0]['id']}/deploy"))


def test_a_guests_agent_keeps_it_quiet(api: Api, web: str) -> None:
    vm = UUID(web.rpartition("/")[2])
    hypervisor = cloud.hypervisor(cloud.inventory.vm(vm).host)
    assert isinstance(hypervisor, MemoryHypervisor)
    for name, quiet in (("plain", False), ("quiet", True)):
        if quiet:
            hypervisor.guest_has_agent(vm)
        ended = api.done(api.post(f"{web}/capture", json={"name": name}))
        (told,) = ended["report"]
        assert (told["name"], told["state"]) == ("web", "quiet" if quiet else "sudden")
    assert not cloud.world.all("still")


def test_a_template_takes_of_the_limit_what_it_is_large(api: Api, web: str) -> None:
    used = api.get("/v1/limits/usage").json()
    captured(api, web)
    now = api.get("/v1/limits/usage").json()

    def mib(usage: Any) -> int:
        return int(next(x for x in usage if x["level"] == "enterprise")["used"]["repository_mib"])

    assert mib(now) == mib(used) + 1


def test_no_more_is_captured_than_the_limit_leaves_room_for(api: Api, web: str) -> None:
    enterprise = api.get("/v1/enterprises").json()[0]["id"]
    limits = {"soft": {"repository_mib": 4}, "hard": {"repository_mib": 10}}
    assert api.call("PUT", f"/v1/limits/enterprise/{enterprise}", json=limits).is_success
    ended = api.run(api.post(f"{web}/capture", json={"name": "golden"}))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "hard-limit")
    assert not api.get("/v1/templates", params={"name": "golden"}).json()


def test_a_name_that_is_taken_is_refused_and_so_is_what_is_not_deployed(
    api: Api, web: str
) -> None:
    refused(api.post(f"{web}/capture", json={"name": "tiny"}), 409, "name-taken")
    api.done(api.post(f"{web}/undeploy"))
    refused(api.post(f"{web}/capture", json={"name": "golden"}), 409, "wrong-state")


def test_what_a_host_cannot_do_is_refused_at_once(
    api: Api, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = MemoryHypervisor.capabilities
    monkeypatch.setattr(MemoryHypervisor, "capabilities", every - {"stills"})
    refused(api.post(f"{web}/capture", json={"name": "golden"}), 422, "unsupported")
    captured(api, off(api, web))
    monkeypatch.setattr(MemoryHypervisor, "capabilities", every - {"disk-files", "disk-stream"})
    refused(api.post(f"{web}/capture", json={"name": "other"}), 422, "unsupported")


def test_a_protected_vm_may_be_captured(api: Api, web: str) -> None:
    assert api.call("PATCH", web, json={"protected": True}).is_success
    captured(api, web)


def test_a_capture_is_planned(api: Api, web: str) -> None:
    plan = planned(api, f"{web}/capture", json={"name": "golden"})
    assert plan["bytes_to_copy"] >= 16 * 2**20
    other = carry_out(api, f"{web}/capture", plan, json={"name": "silver"})
    refused(other, 409, "plan-of-another-request")
    captured(api, web)
    told = outdated(carry_out(api, f"{web}/capture", plan, json={"name": "golden"}))
    assert told == "there is a template called golden"
    again = planned(api, f"{web}/capture", json={"name": "silver"})
    api.done(carry_out(api, f"{web}/capture", again, json={"name": "silver"}))


def test_a_vm_that_goes_off_meanwhile_leaves_nothing(api: Api, web: str) -> None:
    vm = UUID(web.rpartition("/")[2])
    accepted = api.post(f"{web}/capture", json={"name": "golden"})
    cloud.world.put("vm", vm, {**(cloud.world.find("vm", vm) or {}), "power": "off"})
    ended = api.run(accepted)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "vm-off")
    assert not ended["left_behind"]
    assert not api.get("/v1/templates", params={"name": "golden"}).json()
