"""ESXi hosts through the API: added with a login that nobody is told, used, and forgotten."""

import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from adapters.database import models
from adapters.images.packing import pack, package_of
from adapters.packages import Hardware
from adapters.types import Power
from api import tokens
from api.app import create_app
from api.dependencies import sender
from flows.cloud import cloud
from tests.api.conftest import Api, TestClient, refused
from tests.lab import real_world
from tests.lab.vsphere_world import things_on

pytestmark = pytest.mark.lab

BLUEPRINT = """
appliance: shop
virtual_datacenter: {vdc}
vms:
  - {{name: web, template: real, ram_mib: 32, replicas: 2, networks: [default]}}
  - {{name: db, template: real, ram_mib: 32, networks: [default],
      volumes: [{{name: {vdc}-data, size_mib: 8, tier: default}}]}}
"""


@pytest.fixture
def api(tmp_path, kvm_host, tgtd):
    world = real_world.build(tmp_path / "home", kvm_host, tgtd, power_off_timeout_s=0)
    app = create_app()
    token = tokens.first_token(cloud.database)
    assert token
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 1)) as client:
        made = Api(client, world, token)
        app.dependency_overrides[sender] = lambda: made.sent.append
        yield made
    real_world.clear(world)
    cloud.database.engine.dispose()


def host_of(vcsim, **changes):
    folder = vcsim.files() / "cloudloom"
    folder.mkdir(exist_ok=True)
    return {
        "datacenter": "main",
        "name": "esx-1",
        "family": "vsphere",
        "address": vcsim.address,
        "datastores": ["[LocalDS_0] cloudloom"],
        "login": {"user": vcsim.user, "password": vcsim.password},
        **changes,
    }


def test_a_host_is_added_with_a_login_that_is_never_told(api, vcenter, caplog):
    made = api.post("/v1/hosts", json=host_of(vcenter), headers={"Idempotency-Key": "one"})
    assert made.status_code == 201, made.text
    assert (made.json()["cpu"] > 0, made.json()["ram_mib"] > 0) == (True, True)
    again = api.post("/v1/hosts", json=host_of(vcenter), headers={"Idempotency-Key": "one"})
    assert again.json() == made.json()
    for told in (made, api.get("/v1/hosts"), api.get("/v1/events")):
        assert vcenter.password not in told.text
        assert "login" not in told.text
    assert vcenter.password not in caplog.text
    with cloud.database.read() as db:
        kept = db.get_one(models.Secret, UUID(made.json()["id"]))
        assert (kept.user, vcenter.password.encode() in kept.ciphertext) == (vcenter.user, False)
    assert cloud.hypervisor(UUID(made.json()["id"])).vms() == {}


def test_who_says_not_whom_to_ask_as_is_refused(api, vcenter):
    without = {k: v for k, v in host_of(vcenter).items() if k != "login"}
    refused(api.post("/v1/hosts", json=without), 403, "login-missing")
    wrong = {"user": vcenter.user, "password": "planted"}
    answer = api.post("/v1/hosts", json=host_of(vcenter, login=wrong))
    refused(answer, 403, "not-allowed")
    assert "planted" not in answer.text
    other = vcenter.address.rpartition("=")[0] + "=" + "00" * 32
    refused(api.post("/v1/hosts", json=host_of(vcenter, address=other)), 403, "other-certificate")
    lost = host_of(vcenter, datastores=["[LocalDS_0] nowhere"])
    refused(api.post("/v1/hosts", json=lost), 404, "not-found")
    kvm = host_of(vcenter, family="kvm", address="qemu:///system")
    refused(api.post("/v1/hosts", json=kvm), 422, "unsupported")
    with cloud.database.read() as db:
        assert db.scalar(select(func.count()).select_from(models.Secret)) == 0


def test_a_login_is_changed_once_it_lets_in_and_goes_with_its_host(api, vcenter):
    host = f"/v1/hosts/{api.post('/v1/hosts', json=host_of(vcenter)).json()['id']}"
    wrong = {"login": {"user": vcenter.user, "password": "planted"}}
    refused(api.call("PATCH", host, json=wrong), 403, "not-allowed")
    right = {"login": {"user": vcenter.user, "password": vcenter.password}}
    assert api.call("PATCH", host, json=right).status_code == 200
    assert api.post(f"{host}/refresh").status_code == 200
    assert api.delete(host).status_code == 204
    with cloud.database.read() as db:
        assert db.scalar(select(func.count()).select_from(models.Secret)) == 0


def test_one_blueprint_runs_on_qemu_and_on_esxi(api, vcenter):
    esx = UUID(api.post("/v1/hosts", json=host_of(vcenter)).json()["id"])
    vdc = {"name": "virtual", "datacenter": "main", "family": "vsphere"}
    assert api.post("/v1/virtual-datacenters", json=vdc).status_code == 201
    before = things_on(esx, vcenter.files())
    shops = {vdc: api.appliance(BLUEPRINT.format(vdc=vdc)) for vdc in ("demo", "virtual")}
    for shop in shops.values():
        api.done(api.post(f"/v1/appliances/{shop['id']}/deploy"))
        shown = api.get(f"/v1/appliances/{shop['id']}").json()
        assert {vm["state"] for vm in shown["vms"]} == {"ON"}
    hypervisor = cloud.hypervisor(esx)
    assert hypervisor.vms() == {UUID(vm["id"]): Power.ON for vm in shops["virtual"]["vms"]}

    (base,) = (path for path in (vcenter.files() / "cloudloom").glob("base-*.vmdk")
               if "-flat" not in path.name)  # fmt: skip
    assert equals_template(api, base)

    for shop in shops.values():
        api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    assert things_on(esx, vcenter.files()) == before


def test_an_ova_of_streamed_disks_runs_on_qemu_and_on_esxi(api, vcenter, tmp_path):
    raw, disk, ova = (tmp_path / name for name in ("raw", "disk.vmdk", "shop.ova"))
    raw.write_bytes(b"what the guest has\n".ljust(3 * 2**20, b"\1"))
    options = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run(["qemu-img", "convert", *options, "--", raw, disk], check=True)
    wants = Hardware(firmware="efi", buses=("lsisas",), system="debian12_64Guest")
    pack(package_of("shop", [(disk, 3 * 2**20)], hardware=wants, ram_mib=32), [disk], ova)
    wish = {"name": "packed", "format": "ova", "datacenter": "main"}
    where = api.post("/v1/templates", params=wish).headers["location"]
    api.done(api.client.put(where, content=ova.read_bytes()))

    esx = UUID(api.post("/v1/hosts", json=host_of(vcenter)).json()["id"])
    vdc = {"name": "virtual", "datacenter": "main", "family": "vsphere"}
    assert api.post("/v1/virtual-datacenters", json=vdc).status_code == 201
    before = things_on(esx, vcenter.files())
    text = "{{appliance: shop, virtual_datacenter: {}, vms: [{{name: db, template: packed}}]}}"
    shops = [api.appliance(text.format(vdc)) for vdc in ("demo", "virtual")]
    for shop in shops:
        api.done(api.post(f"/v1/appliances/{shop['id']}/deploy"))
        (vm,) = api.get("/v1/vms", params={"appliance_id": shop["id"]}).json()
        assert (vm["state"], vm["firmware"], vm["bus"]) == ("ON", "efi", "lsisas")
    (base,) = (path for path in (vcenter.files() / "cloudloom").glob("base-*.vmdk")
               if "-flat" not in path.name)  # fmt: skip
    command = ["qemu-img", "compare", "-q", "-f", "vmdk", "-F", "raw", "--", base, raw]
    subprocess.run(command, check=True)
    (record,) = cloud.inventory.vms_of(UUID(shops[0]["id"]))
    (image,) = (disk.base for disk in record.local_disks)
    command = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", "--", image.path, raw]
    subprocess.run(command, check=True)
    for shop in shops:
        api.done(api.post(f"/v1/appliances/{shop['id']}/undeploy"))
    assert things_on(esx, vcenter.files()) == before


def equals_template(api, disk: Path) -> bool:
    repository = cloud.repository(api.world.datacenter)
    image = repository.path(f"templates/{api.world.template}/disk-0.qcow2")
    formats = ["-f", "vmdk", "-F", "qcow2"]
    command = ["qemu-img", "compare", "-q", *formats, "--", disk, image]
    return subprocess.run(command, check=False).returncode == 0
