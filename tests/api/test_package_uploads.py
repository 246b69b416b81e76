"""Packages come in by the gateway as images do, and become templates of several disks."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.errors import Unsupported
from adapters.guests import Firmware
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.images.memory import MemoryGuestTool
from adapters.packages import Hardware, WishedNic
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_gateway import IMAGE, WISH
from tests.worlds import write_package

SAID: dict[str, Any] = {
    "cpu": 2,
    "ram_mib": 512,
    "hardware": Hardware(
        firmware="efi",
        buses=("scsi", "sata"),
        nics=(WishedNic(network="front", model="vmxnet3"),),
        system="debian12_64Guest",
    ),
    "about": {
        "product": "Shop",
        "vendor": "Example",
        "version": "1.2",
        "licence": "Do no harm.",
        "description": "It sells.",
    },
}


@pytest.fixture
def package(tmp_path: Path) -> bytes:
    write_package(tmp_path / "shop.ova", "system", "data", **SAID)
    return (tmp_path / "shop.ova").read_bytes()


def sent(api: Api, content: bytes, **more: Any) -> Any:
    wish = {"name": "shop", "format": "ova", "datacenter": "main", **more}
    asked = api.post("/v1/templates", params=wish)
    assert asked.status_code == 307, asked.text
    return api.client.put(asked.headers["location"], content=content)


def imported(api: Api, content: bytes, **more: Any) -> Any:
    ended = api.done(sent(api, content, **more))
    return api.get(f"/v1/templates/{ended['target']['id']}").json()


def files(api: Api) -> list[Path]:
    return sorted(each for each in (api.world.home / "repository").rglob("*") if each.is_file())


def test_a_package_becomes_a_template_with_its_disks_and_wishes(api: Api, package: bytes) -> None:
    before = files(api)
    template = imported(api, package)
    assert (template["state"], template["cpu"], template["ram_mib"]) == ("AVAILABLE", 2, 512)
    assert template["hardware"] == {
        "firmware": "efi",
        "buses": ["scsi", "sata"],
        "nics": [{"network": "front", "model": "vmxnet3"}],
        "system": "debian12_64Guest",
    }
    assert template["about"] == SAID["about"]
    disks = template["disks"]
    assert [(disk["position"], disk["format"]) for disk in disks] == [(0, "vmdk"), (1, "vmdk")]
    places = [api.world.home / "repository" / disk["path"] for disk in disks]
    assert ['"system"' in place.read_text() for place in places] == [True, False]
    assert {*files(api)} - {*before} - {*places} == {*marks(api)} - {*before}


def marks(api: Api) -> list[Path]:
    return sorted((api.world.home / "repository" / ".cloudloom-marks").rglob("*"))


def test_what_is_asked_for_wins_over_what_the_package_says(api: Api, package: bytes) -> None:
    template = imported(api, package, cpu=8)
    assert (template["cpu"], template["ram_mib"]) == (8, 512)


def test_an_image_alone_says_nothing_of_its_hardware(api: Api) -> None:
    template = api.get(f"/v1/templates/{api.world.template}").json()
    assert (template["hardware"], template["about"]) == (None, None)


def test_its_vms_have_all_its_disks(api: Api, package: bytes) -> None:
    imported(api, package)
    text = "{appliance: a, virtual_datacenter: demo, vms: [{name: db, template: shop, volumes: "
    appliance = UUID(api.appliance(text + "[{name: data, size_mib: 8}]}]}")["id"])
    api.done(api.post(f"/v1/appliances/{appliance}/deploy"))
    (vm,) = cloud.inventory.vms_of(appliance)
    assert [disk.position for disk in vm.local_disks] == [0, 1]
    assert [volume.position for volume in vm.volumes] == [2]
    made = cloud.world.find("vm", vm.id)
    assert made
    assert len(made["disks"]) == 2
    api.done(api.post(f"/v1/appliances/{appliance}/undeploy"))
    assert api.delete(f"/v1/appliances/{appliance}").status_code == 204
    before = len(files(api))
    shop = api.get("/v1/templates", params={"name": "shop"}).json()[0]["id"]
    api.done(api.delete(f"/v1/templates/{shop}"))
    assert len(files(api)) <= before - 4  # two disks and their conversions


def test_a_refused_package_leaves_nothing(api: Api, package: bytes) -> None:
    before = files(api)
    for content, code in (
        (package[:-8_000], "package-truncated"),
        (package.replace(b'"content": "data"', b'"content": "DATA"'), "package-digest-mismatch"),
        (b"nothing of the kind", "package-invalid"),
    ):
        failed = api.run(sent(api, content))
        assert (failed["state"], failed["error"]["code"]) == ("failed", code)
        assert {*files(api)} - {*before} <= {*marks(api)}
        assert api.get("/v1/templates", params={"name": "shop"}).json() == []


def test_only_those_who_are_trusted_may_have_signed(
    api: Api, package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.settings, "package_certificates", tmp_path / "none.pem")
    assert api.run(sent(api, package))["error"]["code"] == "refused"
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.adapters.test_packages import certificate

    vendor = certificate("vendor", rsa.generate_private_key(65537, 2048))
    pem = vendor.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "none.pem").write_bytes(pem)
    assert api.run(sent(api, package))["error"]["code"] == "package-signature-invalid"


def test_a_package_is_one_file(api: Api, package: bytes) -> None:
    wish = {"name": "shop", "format": "ova", "datacenter": "main"}
    where = api.post("/v1/templates", params=wish).headers["location"]
    two = [("file", ("shop.ova", package)), ("file", ("more.ova", package))]
    refused(api.client.post(where, files=two), 422, "image-surplus-file")
    where = api.post("/v1/templates", params=wish).headers["location"]
    one = [("file", ("shop.ova", package))]
    api.done(api.client.post(where, files=one))


def test_a_vm_has_the_network_cards_that_its_guest_expects(api: Api, package: bytes) -> None:
    imported(api, package)
    text = "appliance: a\nvirtual_datacenter: demo\nvms:\n- name: db\n  template: {}\n"
    models = {}
    for template in ("shop", "tiny"):
        made = api.appliance(
            text.format(template).replace("appliance: a", f"appliance: {template}")
            + "  networks: [default, default]\n"
        )
        (vm,) = api.get("/v1/vms", params={"appliance_id": made["id"]}).json()
        models[template] = [nic["model"] for nic in vm["nics"]]
    assert models == {"shop": ["vmxnet3", "vmxnet3"], "tiny": [None, None]}
    (record,) = cloud.inventory.vms_of(UUID(made["id"]))
    assert [nic.model for nic in record.nics] == ["", ""]


YAML = {"Content-Type": "application/yaml"}
VM = "{{appliance: {}, virtual_datacenter: demo, vms: [{{name: db, template: {}{}}}]}}"


def expected(api: Api, template: str, said: str = "") -> Any:
    """What a VM's guest would find; `said` is the blueprint's word."""
    made = api.appliance(VM.format(f"a{len(said)}{template}", template, said))
    (vm,) = api.get("/v1/vms", params={"appliance_id": made["id"]}).json()
    (record,) = cloud.inventory.vms_of(UUID(made["id"]))
    assert (record.settings.firmware, record.settings.bus) == (vm["firmware"], vm["bus"])
    return vm["firmware"], vm["bus"], record.settings.system


def test_a_vm_has_the_firmware_and_the_bus_that_its_guest_expects(
    api: Api, package: bytes
) -> None:
    imported(api, package)
    assert expected(api, "shop") == ("efi", "sata", "debian12_64Guest")  # there is no LSI Logic's
    assert expected(api, "tiny") == ("bios", None, "")
    assert expected(api, "shop", ", firmware: bios, bus: ide")[:2] == ("bios", "ide")
    assert expected(api, "tiny", ", firmware: efi, bus: virtio")[:2] == ("efi", None)
    text = VM.format("b", "tiny", ", bus: floppy")
    refused(api.post("/v1/appliances", content=text, headers=YAML), 422, "invalid-request")


def test_a_guest_goes_where_its_firmware_is(
    api: Api, package: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(api, package)
    made = api.appliance(VM.format("a", "shop", ""))
    bios = frozenset({Firmware.BIOS})
    monkeypatch.setattr(MemoryHypervisor, "firmwares", lambda _self: bios)
    no = refused(api.post(f"/v1/appliances/{made['id']}/deploy"), 409, "no-room")
    assert {*no["hosts"].values()} == {"starts no VM by efi"}
    monkeypatch.undo()
    api.done(api.post(f"/v1/appliances/{made['id']}/deploy"))


def test_a_running_guest_takes_no_volume_but_on_virtio(api: Api, package: bytes) -> None:
    imported(api, package)
    made = api.appliance(VM.format("a", "shop", ""))
    api.done(api.post(f"/v1/appliances/{made['id']}/deploy"))
    (vm,) = api.get("/v1/vms", params={"appliance_id": made["id"]}).json()
    wish = {"virtual_datacenter": "demo", "name": "data", "size_mib": 8, "tier": "default"}
    volume = api.done(api.post("/v1/volumes", json=wish))["target"]["id"]
    where = f"/v1/volumes/{volume}"
    refused(api.post(f"{where}/attach", json={"vm": vm["id"]}), 422, "unsupported")
    api.done(api.post(f"/v1/vms/{vm['id']}/power", json={"power": "off"}))
    api.done(api.post(f"{where}/attach", json={"vm": vm["id"]}))
    (connection,) = cloud.world.all("connection").values()
    assert connection["bus"] == "sata"
    api.done(api.post(f"{where}/detach", json={"vm": vm["id"]}))


def test_whoever_imports_may_say_what_the_guest_expects(api: Api, package: bytes) -> None:
    template = imported(api, package, firmware="bios", bus="ide")
    hardware = template["hardware"]
    assert (hardware["firmware"], hardware["buses"]) == ("bios", ["ide", "ide"])
    assert hardware["nics"]  # as the package says
    wish = {**WISH, "name": "old", "bus": "ide"}
    where = api.post("/v1/templates", params=wish).headers["location"]
    api.done(api.client.put(where, content=IMAGE))
    assert expected(api, "old") == ("bios", "ide", "")
    old = api.get("/v1/templates", params={"name": "old"}).json()[0]["id"]
    change = {"firmware": "efi", "bus": "lsisas"}
    changed = api.call("PATCH", f"/v1/templates/{old}", json=change).json()
    assert (changed["hardware"]["firmware"], changed["hardware"]["buses"]) == ("efi", ["lsisas"])


def test_a_guest_is_adapted_into_a_template_of_its_own(api: Api, package: bytes) -> None:
    source = imported(api, package)
    where = f"/v1/templates/{source['id']}/adapt"
    refused(api.post(where, json={"name": "shop"}), 409, "name-taken")
    ended = api.done(api.post(where, json={"name": "ready"}))
    ready = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert ready["hardware"] == {
        **source["hardware"],
        "buses": ["virtio", "virtio"],
        "nics": [{"network": "front", "model": "virtio"}],
    }
    assert [disk["format"] for disk in ready["disks"]] == ["qcow2", "qcow2"]
    assert (ready["cpu"], ready["ram_mib"]) == (source["cpu"], source["ram_mib"])
    assert api.get(f"/v1/templates/{source['id']}").json()["disks"] == source["disks"]


def test_without_the_tool_no_guest_is_adapted(
    api: Api, package: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = imported(api, package)
    before = files(api)

    def missing(_self: MemoryGuestTool) -> None:
        raise Unsupported("virt-v2v is not installed")

    monkeypatch.setattr(MemoryGuestTool, "require", missing)
    where = f"/v1/templates/{source['id']}/adapt"
    failed = api.run(api.post(where, json={"name": "ready"}))
    assert (failed["state"], failed["error"]["code"]) == ("failed", "unsupported")
    assert failed["steps"] == []
    assert files(api) == before
