"""VMs changed through the API: they measure otherwise, at their host and in the ledger alike."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.database import models
from adapters.hypervisors.base import Capability
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.types import MOST_DISKS
from flows.cloud import cloud
from tests.api.conftest import Api, dumped, refused
from tests.worlds import require_ledger_exact

SHOP = """\
appliance: shop
virtual_datacenter: demo
vms: [{name: web, template: tiny, cpu: 2, ram_mib: 64, volumes: [{name: data, size_mib: 8}]}]
"""


@pytest.fixture
def web(api: Api) -> str:
    """A VM that is not deployed, by its path."""
    return f"/v1/vms/{api.appliance(SHOP)['vms'][0]['id']}"


@pytest.fixture
def off(api: Api, web: str) -> str:
    """It is deployed, and off."""
    api.done(api.post(f"{web}/deploy"))
    api.done(api.post(f"{web}/power", json={"power": "off"}))
    return web


def id_of(path: str) -> UUID:
    return UUID(path.rpartition("/")[2])


def resize(api: Api, vm: str, **size: Any) -> Any:
    return api.post(f"{vm}/resize", json=size)


def used(api: Api) -> dict[str, int]:
    (level,) = [
        x for x in api.get("/v1/limits/usage").json() if x["level"] == "virtual-datacenter"
    ]
    return {name: level["used"][name] for name in ("cpu", "ram_mib", "disk_mib")}


def reserved(api: Api) -> set[tuple[int, int]]:
    hosts = api.get("/v1/hosts").json()
    return {(each["cpu_reserved"], each["ram_reserved_mib"]) for each in hosts}


def require_defined_as_recorded(vm: str) -> None:
    """The hypervisor has the VM as our tables have it, with its volumes."""
    record = cloud.inventory.vm(id_of(vm))
    assert cloud.hypervisor(record.host).has_vm(record.definition())
    connected = cloud.world.all("connection").values()
    assert {x["volume"] for x in connected} == {str(x.id) for x in record.volumes}


# --- size --------------------------------------------------------------------------------------


def test_a_vm_that_is_not_deployed_has_its_new_size_when_it_is(api: Api, web: str) -> None:
    api.done(resize(api, web, cpu=3))
    api.done(resize(api, web, ram_mib=32))
    vm = api.get(web).json()
    assert (vm["cpu"], vm["ram_mib"]) == (3, 32)
    assert used(api)["cpu"] == 0
    api.done(api.post(f"{web}/deploy"))
    require_defined_as_recorded(web)
    assert used(api) == {"cpu": 3, "ram_mib": 32, "disk_mib": 16}


def test_a_vm_that_is_off_is_resized_where_it_is(api: Api, off: str) -> None:
    before = api.get(off).json()
    api.done(resize(api, off, cpu=4, ram_mib=32))
    after = api.get(off).json()
    assert after == before | {"cpu": 4, "ram_mib": 32}
    require_defined_as_recorded(off)
    assert used(api) == {"cpu": 4, "ram_mib": 32, "disk_mib": 16}
    assert reserved(api) == {(4, 32), (0, 0)}
    require_ledger_exact()


def test_a_vm_that_is_on_is_given_more_and_nothing_is_taken_from_it(api: Api, off: str) -> None:
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    refused(resize(api, off, cpu=3, ram_mib=32), 409, "wrong-state")
    api.done(resize(api, off, cpu=3, ram_mib=96))
    after = api.get(off).json()
    assert (after["cpu"], after["ram_mib"], after["state"]) == (3, 96, "ON")
    require_defined_as_recorded(off)
    assert used(api) == {"cpu": 3, "ram_mib": 96, "disk_mib": 16}
    assert reserved(api) == {(3, 96), (0, 0)}
    require_ledger_exact()


def test_a_vm_that_is_on_is_given_what_its_host_can_give(
    api: Api, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    can = MemoryHypervisor.capabilities - {Capability.HOT_RAM}
    monkeypatch.setattr(MemoryHypervisor, "capabilities", can)
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    refused(resize(api, off, ram_mib=96), 422, "unsupported")
    api.done(resize(api, off, cpu=3, ram_mib=64))


def test_the_size_that_it_has_changes_nothing(api: Api, off: str) -> None:
    ended = api.done(resize(api, off, cpu=2, ram_mib=64))
    assert [step["name"] for step in ended["steps"]] == ["survey-vm"]


def test_only_what_is_more_has_to_fit_the_limits(api: Api, off: str) -> None:
    limits = f"/v1/limits/virtual-datacenter/{api.world.vdc}"
    body = {"soft": {"cpu": 3}, "hard": {"cpu": 4, "ram_mib": 64}}
    assert api.call("PUT", limits, json=body).status_code == 200
    problem = refused(resize(api, off, cpu=5), 409, "hard-limit")
    assert (problem["exceeded"][0]["used"], problem["exceeded"][0]["asked"]) == (2, 3)
    refused(resize(api, off, cpu=4), 409, "soft-limit")
    refused(resize(api, off, cpu=1, ram_mib=65), 409, "hard-limit")
    force = {"force": True, "force_reason": "the fair is next week"}
    api.done(resize(api, off, cpu=4, **force))
    api.done(resize(api, off, cpu=4, ram_mib=63))  # beyond the soft limit, and not more so
    require_ledger_exact()


def test_a_host_gives_no_more_than_it_has(api: Api, off: str) -> None:
    problem = refused(resize(api, off, ram_mib=4097), 409, "no-room")
    (told,) = problem["hosts"].values()
    assert told == "4032 MiB RAM free, 4033 more needed"
    accepted = resize(api, off, ram_mib=4096)
    vm = cloud.inventory.vm(id_of(off))
    rule = {"kind": "load", "host": str(vm.host), "cpu_percent": 100, "ram_percent": 50}
    assert api.post("/v1/allocation-rules", json=rule).status_code == 201
    ended = api.run(accepted)  # the step has the last word
    assert (ended["state"], ended["error"]["code"]) == ("failed", "no-room")
    assert api.get(off).json()["ram_mib"] == 64
    require_defined_as_recorded(off)
    require_ledger_exact()


def test_what_fails_leaves_the_size_that_it_had(api: Api, off: str) -> None:
    before = api.get(off).json()
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses", times=1)
    ended = api.run(resize(api, off, cpu=8, ram_mib=32))
    assert (ended["state"], ended["left_behind"]) == ("failed", False)
    assert api.get(off).json() == before
    require_defined_as_recorded(off)
    require_ledger_exact()


@pytest.mark.parametrize("body", [{}, {"cpu": 0}, {"ram_mib": 2**24 + 1}, {"disk_mib": 1}])
def test_a_size_that_makes_no_sense_is_refused(api: Api, web: str, body: Any) -> None:
    refused(resize(api, web, **body), 422, "invalid-request")


# --- volumes -----------------------------------------------------------------------------------


def grow(api: Api, volume: Any, size_mib: int, **how: Any) -> Any:
    return api.post(f"/v1/volumes/{volume}/resize", json={"size_mib": size_mib, **how})


def pool_free_mib(api: Api) -> int:
    return cloud.storage(api.world.pool).capacity().free_mib


def test_a_volume_grows_and_is_charged_for_it(api: Api) -> None:
    volume, free_mib = api.volume(), pool_free_mib(api)
    api.done(grow(api, volume, 24))
    assert api.get(f"/v1/volumes/{volume}").json()["size_mib"] == 24
    assert pool_free_mib(api) == free_mib - 16
    require_ledger_exact()
    refused(grow(api, volume, 23), 409, "volume-only-grows")
    assert not api.done(grow(api, volume, 24))["steps"][1:]


def test_a_volume_that_is_only_written_down_is_carved_as_it_was_wished(api: Api, web: str) -> None:
    volume = api.get(web).json()["volumes"][0]["id"]
    api.done(grow(api, volume, 24))
    api.done(api.post(f"{web}/deploy"))
    assert cloud.world.all("volume")[volume]["size_mib"] == 24
    require_ledger_exact()


def test_a_volume_grows_while_its_vm_is_off_and_is_exported_anew(api: Api, off: str) -> None:
    (volume,) = api.get(off).json()["volumes"]
    exports = cloud.world.all("export")
    api.done(grow(api, volume["id"], 24))
    assert cloud.world.all("export") == exports
    assert len(cloud.world.calls("storage.delete_export")) == 1
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    problem = refused(grow(api, volume["id"], 25), 409, "wrong-state")
    assert problem["detail"] == "cannot grow a volume of VM web: it is ON"


def test_the_disk_that_is_a_volume_grows_with_it(api: Api, off: str) -> None:
    api.done(api.post(f"{off}/persist", json={}))
    (disk,) = api.get(off).json()["disks"]
    api.done(grow(api, disk["volume_id"], 24))
    (grown,) = api.get(off).json()["disks"]
    assert grown == disk | {"size_mib": 24}
    require_ledger_exact()


def test_a_volume_grows_within_its_pool_and_the_limits(api: Api) -> None:
    volume = api.volume()
    problem = refused(grow(api, volume, 4097), 409, "no-room")
    assert problem["detail"] == "its pool has 4088 MiB free, 4089 more needed"
    limits = f"/v1/limits/virtual-datacenter/{api.world.vdc}"
    assert api.call("PUT", limits, json={"hard": {"storage_mib": 16}}).status_code == 200
    refused(grow(api, volume, 17), 409, "hard-limit")
    api.done(grow(api, volume, 16))


# --- disks -------------------------------------------------------------------------------------


def add(api: Api, vm: str, size_mib: int, **how: Any) -> Any:
    return api.post(f"{vm}/disks", json={"size_mib": size_mib, **how})


def added(api: Api, vm: str) -> list[Any]:
    return [x for x in api.get(vm).json()["disks"] if x["template_disk_id"] is None]


def disk_files() -> set[str]:
    return set(cloud.world.all("disk"))


def test_a_disk_of_a_vm_that_is_not_deployed_is_made_when_it_is(api: Api, web: str) -> None:
    api.done(add(api, web, 8))
    (disk,) = added(api, web)
    assert (disk["position"], disk["size_mib"], disk["volume_id"]) == (2, 8, None)
    assert not disk_files()
    for _ in range(2):
        api.done(api.post(f"{web}/deploy"))
        assert disk["id"] in disk_files()
        require_defined_as_recorded(web)
        assert used(api)["disk_mib"] == 24
        api.done(api.post(f"{web}/undeploy"))
        assert not disk_files()
    api.done(api.delete(f"{web}/disks/{disk['id']}"))
    assert not added(api, web)


def test_a_vm_that_is_off_is_given_disks_and_gives_them_back(api: Api, off: str) -> None:
    before, files = api.get(off).json(), disk_files()
    api.done(add(api, off, 8))
    api.done(add(api, off, 16))
    disks = added(api, off)
    assert [(x["position"], x["size_mib"]) for x in disks] == [(2, 8), (3, 16)]
    assert disk_files() == files | {x["id"] for x in disks}
    assert used(api)["disk_mib"] == 40
    require_defined_as_recorded(off)
    require_ledger_exact()
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    refused(add(api, off, 8), 409, "wrong-state")
    refused(api.delete(f"{off}/disks/{disks[0]['id']}"), 409, "wrong-state")
    api.done(api.post(f"{off}/power", json={"power": "off"}))
    for disk in disks:
        assert api.get(f"{off}/disks/{disk['id']}").json() == disk
        api.done(api.delete(f"{off}/disks/{disk['id']}"))
        refused(api.get(f"{off}/disks/{disk['id']}"), 404, "not-found")
    assert (api.get(off).json(), disk_files()) == (before, files)
    require_defined_as_recorded(off)
    require_ledger_exact()


def test_a_disk_has_to_fit_its_datastore_and_the_limits(api: Api, off: str) -> None:
    vm = cloud.inventory.vm(id_of(off))
    cloud.world.put("datastore", vm.datastore, {"total_mib": 32})
    problem = refused(add(api, off, 17), 409, "no-room")
    assert [*problem["hosts"].values()] == ["16 MiB disk free, 17 more needed"]
    limits = f"/v1/limits/virtual-datacenter/{api.world.vdc}"
    assert api.call("PUT", limits, json={"hard": {"disk_mib": 24}}).status_code == 200
    refused(add(api, off, 9), 409, "hard-limit")
    accepted = add(api, off, 8)
    cloud.world.put("datastore", vm.datastore, {"total_mib": 20})
    ended = api.run(accepted)  # the step has the last word
    assert (ended["state"], ended["error"]["code"]) == ("failed", "no-room")
    assert not added(api, off)
    require_ledger_exact()


def test_a_disk_that_fails_to_come_leaves_nothing(api: Api, off: str) -> None:
    before, files = api.get(off).json(), disk_files()
    cloud.world.set_fate("hypervisors.ensure_vm", "refuses", times=1)
    ended = api.run(add(api, off, 8))
    assert (ended["state"], ended["left_behind"]) == ("failed", False)
    assert (api.get(off).json(), disk_files()) == (before, files)
    require_defined_as_recorded(off)
    require_ledger_exact()


def test_the_templates_disk_and_a_protected_vms_stay(api: Api, off: str) -> None:
    (disk,) = api.get(off).json()["disks"]
    refused(api.delete(f"{off}/disks/{disk['id']}"), 409, "disk-of-template")
    api.done(add(api, off, 8))
    assert api.call("PATCH", off, json={"protected": True}).status_code == 200
    refused(api.delete(f"{off}/disks/{added(api, off)[0]['id']}"), 409, "protected")


def test_a_disk_is_deleted_only_as_it_was_read_and_by_its_own_vm(api: Api, web: str) -> None:
    api.done(add(api, web, 8))
    path = f"{web}/disks/{added(api, web)[0]['id']}"
    refused(api.delete(path, headers={"If-Match": '"old"'}), 412, "precondition-failed")
    (other,) = api.appliance(SHOP.replace("shop", "more").replace("name: data", "name: other"))[
        "vms"
    ]
    refused(api.delete(path.replace(web, f"/v1/vms/{other['id']}")), 404, "not-found")
    tag = api.get(path).headers["etag"]
    api.done(api.delete(path, headers={"If-Match": tag}))


def test_a_vm_has_a_bounded_number_of_disks(api: Api, web: str) -> None:
    vm, template = id_of(web), UUID(api.get(web).json()["disks"][0]["template_disk_id"])
    for position in range(2, MOST_DISKS):
        api.world.add(
            models.VmDisk(
                id=uuid4(), vm_id=vm, position=position, template_disk_id=template, size_mib=1
            )
        )
    refused(add(api, web, 8), 409, "too-many-disks")
    volume = api.volume("one-more")
    attached = api.post(f"/v1/volumes/{volume}/attach", json={"vm": str(vm)})
    refused(attached, 409, "too-many-disks")
    api.done(api.post(f"{web}/deploy"))


def test_a_vm_with_a_disk_more_is_made_persistent(api: Api, off: str) -> None:
    api.done(add(api, off, 8))
    api.done(api.post(f"{off}/persist", json={}))
    api.done(api.post(f"{off}/undeploy"))
    api.done(api.post(f"{off}/deploy"))
    require_defined_as_recorded(off)
    require_ledger_exact()


# --- what it starts from, and its screen -------------------------------------------------------

PASSWORD = "s3sam0pn"


def redefine(api: Api, vm: str, **wish: Any) -> Any:
    return api.post(f"{vm}/redefine", json=wish)


def secrets(api: Api) -> dict[UUID, str]:
    """What is kept, but for exports' passwords."""
    with cloud.database.read() as db:
        kept = [row.id for row in db.query(models.Secret) if not row.user]
    return {each: cloud.secrets.read(each).password.get_secret_value() for each in kept}


def asks_for_a_password(vm: str) -> bool:
    """What the VM's screen says to a viewer, which is on."""
    record = cloud.inventory.vm(id_of(vm))
    with cloud.hypervisor(record.host).display(record.id).line as line:
        line.sendall(line.recv(12))
        return line.recv(2) == bytes([1, 2])


def test_a_vm_that_is_not_deployed_is_set_up_at_once(api: Api, web: str) -> None:
    before = api.get(web).json()
    assert (before["boot"], before["has_vnc_password"]) == (["disk"], False)
    wish = {"boot": ["network", "disk"], "vnc_password": PASSWORD}
    changed = api.call("PATCH", web, json=wish)
    assert changed.json() == before | {"boot": ["network", "disk"], "has_vnc_password": True}
    assert PASSWORD not in changed.text + api.get("/v1/events").text
    refused(redefine(api, web, boot=["disk"]), 409, "wrong-state")
    api.done(api.post(f"{web}/deploy"))
    require_defined_as_recorded(web)
    assert asks_for_a_password(web)
    refused(api.call("PATCH", web, json={"boot": ["disk"]}), 409, "wrong-state")
    api.done(api.post(f"{web}/undeploy"))
    assert [*secrets(api).values()] == [PASSWORD]
    assert api.call("PATCH", web, json={"vnc_password": "another"}).status_code == 200
    assert [*secrets(api).values()] == ["another"]
    assert api.call("PATCH", web, json={"vnc_password": None}).status_code == 200
    assert not secrets(api)


def test_a_vm_that_is_off_is_defined_with_what_it_is_to_be(api: Api, off: str) -> None:
    before = api.get(off).json()
    ended = api.done(redefine(api, off, boot=["network"], vnc_password=PASSWORD))
    assert api.get(off).json() == before | {"boot": ["network"], "has_vnc_password": True}
    require_defined_as_recorded(off)
    api.done(redefine(api, off, vnc_password="another"))
    assert [*secrets(api).values()] == ["another"]
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    assert asks_for_a_password(off)
    refused(redefine(api, off, boot=["disk"]), 409, "wrong-state")
    api.done(api.post(f"{off}/power", json={"power": "off"}))
    api.done(redefine(api, off, boot=["disk"], vnc_password=None))
    assert (api.get(off).json(), secrets(api)) == (before, {})
    require_defined_as_recorded(off)
    api.done(api.post(f"{off}/power", json={"power": "on"}))
    assert not asks_for_a_password(off)
    steps = cloud.journal.lines(UUID(ended["id"]))
    assert PASSWORD not in str(steps) + api.get("/v1/events").text


def test_what_it_is_already_is_not_done_again(api: Api, off: str) -> None:
    ended = api.done(redefine(api, off, boot=["disk"]))
    assert [step["name"] for step in ended["steps"]] == ["survey-vm"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_password_that_came_to_nothing_is_forgotten(api: Api, off: str, begun: bool) -> None:
    api.done(redefine(api, off, vnc_password=PASSWORD))
    before = api.get(off).json()
    accepted = redefine(api, off, boot=["network"], vnc_password="another")
    if begun:
        cloud.world.set_fate("hypervisors.ensure_vm", "refuses", times=1)
    else:
        assert api.post(f"/v1/operations/{accepted.json()['id']}/cancel").status_code == 202
    ended = api.run(accepted)
    assert (ended["state"], ended["left_behind"]) == (
        "failed" if begun else "cancelled",
        False,
    )
    assert api.get(off).json() == before
    assert [*secrets(api).values()] == [PASSWORD]
    require_defined_as_recorded(off)


def test_a_password_goes_with_its_vm_and_a_resize_keeps_it(api: Api, off: str) -> None:
    api.done(redefine(api, off, boot=["network"], vnc_password=PASSWORD))
    api.done(resize(api, off, cpu=1))
    require_defined_as_recorded(off)
    api.done(api.post(f"{off}/undeploy"))
    appliance = api.get(off).json()["appliance_id"]
    assert api.delete(f"/v1/appliances/{appliance}").status_code == 204
    assert not secrets(api)


def test_an_idempotency_key_knows_no_password(api: Api, off: str) -> None:
    headers = {"Idempotency-Key": "k"}
    first = api.post(f"{off}/redefine", json={"vnc_password": PASSWORD}, headers=headers)
    again = api.post(f"{off}/redefine", json={"vnc_password": "another"}, headers=headers)
    assert again.json() == first.json()
    assert [*secrets(api).values()] == [PASSWORD]


@pytest.mark.parametrize(
    "wish",
    [
        {"boot": []},
        {"boot": ["disk", "disk"]},
        {"boot": ["floppy"]},
        {"vnc_password": "123456789"},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_and_not_repeated(
    api: Api, off: str, wish: Any
) -> None:
    for answer in (api.post(f"{off}/redefine", json=wish), api.call("PATCH", off, json=wish)):
        refused(answer, 422, "invalid-request")
        assert "123456789" not in answer.text


def test_a_copy_starts_the_same_and_shares_no_password(api: Api, web: str) -> None:
    wish = {"boot": ["network"], "vnc_password": PASSWORD}
    assert api.call("PATCH", web, json=wish).status_code == 200
    api.done(add(api, web, 8))
    appliance = api.get(web).json()["appliance_id"]
    answer = api.post(
        f"/v1/appliances/{appliance}/copy", json={"virtual_datacenter": "demo", "name": "copy"}
    )
    (vm,) = answer.json()["vms"]
    assert (vm["boot"], vm["has_vnc_password"]) == (["network"], False)
    copied = f"/v1/vms/{vm['id']}"
    assert [x["size_mib"] for x in added(api, copied)] == [8]
    assert not {x["id"] for x in added(api, copied)} & {x["id"] for x in added(api, web)}
    api.done(api.post(f"{copied}/deploy"))
    require_defined_as_recorded(copied)


FITTED = """\
appliance: fitted
virtual_datacenter: demo
vms:
  - name: web
    template: tiny
    disks: [{{size_mib: 8}}, {{size_mib: {last}}}]
    volumes: [{{name: more, size_mib: 8}}]
    boot: [network, disk]
    vnc_password: {password}
"""


def test_a_blueprint_says_all_of_it(api: Api) -> None:
    text = FITTED.format(last=16, password=PASSWORD)
    key = {"Content-Type": "application/yaml", "Idempotency-Key": "fitted"}
    made = api.post("/v1/appliances", content=text, headers=key)
    assert made.status_code == 201, made.text
    vm = f"/v1/vms/{made.json()['vms'][0]['id']}"
    api.done(api.post(f"{vm}/deploy"))
    require_defined_as_recorded(vm)
    told = api.get(vm).json()
    assert (told["boot"], told["has_vnc_password"]) == (["network", "disk"], True)
    sizes = [(x["position"], x["size_mib"]) for x in told["disks"]]
    assert sizes == [(0, sizes[0][1]), (1, 8), (2, 16)]
    assert [x["position"] for x in told["volumes"]] == [3]
    assert PASSWORD not in made.text + str(told) + dumped().decode(errors="replace")
    require_ledger_exact()


def test_a_blueprint_has_a_bounded_number_of_disks(api: Api) -> None:
    vm = {"name": "web", "template": "tiny", "disks": [{"size_mib": 8}] * 10}
    vm["volumes"] = [{"name": f"v{x}", "size_mib": 8} for x in range(5)]
    body = {"appliance": "large", "virtual_datacenter": "demo", "vms": [vm]}
    refused(api.post("/v1/appliances", json=body), 409, "too-many-disks")
    assert api.get("/v1/appliances", params={"name": "large"}).json() == []
