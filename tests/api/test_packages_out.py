"""Templates and VMs leave as packages: made by an operation, and fetched at the gateway."""

import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from adapters.database.packages import PackageRow
from adapters.database.session import utc_now
from api import finding, tokens
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.adapters.test_packages import unpacked
from tests.api.conftest import Api, refused
from tests.api.test_package_uploads import SAID, files, imported, marks
from tests.worlds import write_package


def exported(api: Api, what: str) -> tuple[Any, bytes]:
    """The package that was made of something, and its content."""
    ended = api.done(api.post(f"/v1/{what}/export"))
    package = api.get(f"/v1/packages/{ended['id']}").json()
    return package, fetched(api, package).content


def address(api: Api, package: Any) -> str:
    told = api.get(f"/v1/packages/{package['id']}/content")
    assert told.status_code == 307, told.text
    location: str = told.headers["location"]
    assert location.startswith("/gateway/packages/")
    return location


def fetched(api: Api, package: Any, **headers: str) -> Any:
    return api.client.get(address(api, package), headers=headers)


@pytest.fixture
def template(api: Api, tmp_path: Path) -> Any:
    write_package(tmp_path / "in.ova", "system", "data", **SAID)
    return imported(api, (tmp_path / "in.ova").read_bytes())


def test_what_came_in_goes_out_alike(api: Api, template: Any, tmp_path: Path) -> None:
    before = files(api)
    package, content = exported(api, f"templates/{template['id']}")
    assert (package["name"], package["size_bytes"]) == ("shop", len(content))
    assert package["digest"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "out.ova").write_bytes(content)
    told, disks = unpacked(tmp_path / "out.ova", tmp_path / "out")
    assert (told.name, told.cpu, told.ram_mib) == ("shop", 2, 512)
    assert told.hardware == SAID["hardware"]
    assert told.about.model_dump() == SAID["about"]
    assert ['"system"' in disk.read_text() for disk in disks] == [True, False]
    new = {*files(api)} - {*before} - {*marks(api)}
    assert new == {api.world.home / "repository" / "packages" / f"{package['id']}.ova"}
    again = imported(api, content, name="again")
    assert again["hardware"] == template["hardware"]


def test_a_vm_that_is_off_leaves_with_what_its_guest_has_written(
    api: Api, template: Any, tmp_path: Path
) -> None:
    text = "{appliance: a, virtual_datacenter: demo, vms: [{name: db, template: shop}]}"
    appliance = api.appliance(text)
    vm = appliance["vms"][0]["id"]
    refused(api.post(f"/v1/vms/{vm}/export"), 409, "wrong-state")
    api.done(api.post(f"/v1/appliances/{appliance['id']}/deploy"))
    refused(api.post(f"/v1/vms/{vm}/export"), 409, "wrong-state")
    api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "off"}))
    package, content = exported(api, f"vms/{vm}")
    (tmp_path / "out.ova").write_bytes(content)
    told, disks = unpacked(tmp_path / "out.ova", tmp_path / "out")
    assert (package["name"], told.cpu, len(disks)) == ("db", 2, 2)
    api.done(api.post(f"/v1/vms/{vm}/power", json={"power": "on"}))


def test_a_fetch_that_broke_off_goes_on(api: Api) -> None:
    package, content = exported(api, f"templates/{api.world.template}")
    rest = fetched(api, package, Range="bytes=100-")
    assert (rest.status_code, rest.content) == (206, content[100:])
    where = address(api, package)
    assert [api.client.get(where).content for _ in range(2)] == [content] * 2
    assert (
        fetched(api, package).headers["content-disposition"] == 'attachment; filename="tiny.ova"'
    )


def test_only_whoever_may_fetches(api: Api, stranger: Api, monkeypatch: Any) -> None:
    package, _ = exported(api, f"templates/{api.world.template}")
    refused(stranger.get(f"/v1/packages/{package['id']}/content"), 404, "not-found")
    assert stranger.get("/v1/packages").json() == []
    assert [each["id"] for each in api.get("/v1/packages?name=tiny").json()] == [package["id"]]
    where = address(api, package)
    refused(api.client.get("/gateway/packages/nonsense"), 403, "handout-invalid")
    monkeypatch.setattr("api.handing_out._VALID_S", -1)
    refused(api.client.get(where), 403, "handout-invalid")
    monkeypatch.undo()
    tokens.revoke(cloud.database, UUID(api.token.split("_")[1]))
    refused(api.client.get(where), 403, "handout-invalid")


def test_who_may_not_see_a_virtual_datacenter_gets_nothing_of_its_vms(api: Api) -> None:
    package, _ = exported(api, f"templates/{api.world.template}")
    with cloud.database.write() as db:
        db.execute(update(PackageRow).values(virtual_datacenter_id=api.world.vdc))
    caller = tokens.holder(cloud.database, UUID(api.token.split("_")[1]))
    assert caller
    for bounds, count in ((frozenset({uuid4()}), 0), (frozenset({api.world.vdc}), 1)):
        bound = caller.model_copy(update={"virtual_datacenters": bounds})
        with cloud.database.read() as db:
            assert len(db.scalars(finding.packages(bound)).all()) == count
    assert package


def test_a_package_goes_by_itself(api: Api) -> None:
    package, _ = exported(api, f"templates/{api.world.template}")
    where = address(api, package)
    place = api.world.home / "repository" / "packages" / f"{package['id']}.ova"
    trim(api)
    assert place.exists()
    with cloud.database.write() as db:
        db.execute(update(PackageRow).values(created_at=utc_now(-86_401)))
    trim(api)
    assert not place.exists()
    refused(api.get(f"/v1/packages/{package['id']}"), 404, "not-found")
    refused(api.client.get(where), 404, "not-found")


def trim(api: Api) -> None:
    ended = FLOWS["trim_history"](api.world.accept("trim_history", api.world.datacenter).id)
    assert ended.state == "succeeded", ended.error


def test_a_template_that_was_changed_behind_our_back_is_not_packed(api: Api) -> None:
    (image,) = cloud.library.images(api.world.template)
    path = cloud.repository(api.world.datacenter).path(image.path)
    path.write_text(path.read_text() + " ")
    failed = api.run(api.post(f"/v1/templates/{api.world.template}/export"))
    assert failed["error"]["code"] == "image-changed"
    assert api.get("/v1/packages").json() == []
