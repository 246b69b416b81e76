"""What is said of templates: shown, changed, searched; who sees them; masters and instances."""

import struct
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.database import models
from adapters.errors import InUse
from adapters.packages import About
from adapters.png import MAX_BYTES
from adapters.privileges import Stock
from adapters.types import TemplateState
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.people import user
from tests.api.test_cli import Workers, run, workers  # noqa: F401 - a fixture
from tests.api.test_gateway import IMAGE, asked
from tests.worlds import write_package


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = 1, height: int = 1, extra: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + bytes(width) for _ in range(min(height, 1000)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


PICTURE = b64encode(png()).decode()
BAD = {
    "empty": b"",
    "text": b"<svg/>",
    "cut": png()[:-5],
    "trailing": png() + b"<script>",
    "wide": png(513),
    "nothing": png(0),
    "damaged": png().replace(b"IDAT", b"IDAX"),
    "no-picture": b"\x89PNG\r\n\x1a\n" + png()[8:33] + chunk(b"IEND", b""),
    "two-headers": png(extra=png()[8:33]),
    "long": png(extra=chunk(b"tEXt", bytes(MAX_BYTES))),
}


def tiny(api: Api) -> str:
    return f"/v1/templates/{api.world.template}"


def change(api: Api, **values: Any) -> Any:
    return api.call("PATCH", tiny(api), json=values)


def imported(api: Api, name: str, **wishes: Any) -> Any:
    ended = api.done(api.client.put(asked(api, name=name, **wishes), content=IMAGE))
    return api.get(f"/v1/templates/{ended['target']['id']}").json()


def names(api: Api, **wanted: Any) -> list[str]:
    return [each["name"] for each in api.get("/v1/templates", params=wanted).json()]


def test_a_record_is_changed_and_nothing_else_of_it(api: Api) -> None:
    before = api.get(tiny(api)).json()
    about = {"description": "A system\nin 16 MiB", "version": "1.2", "licence": "GPL-2.0"}
    said = {"name": "small", "category": "systems", "cpu": 2, "ram_mib": 96, "about": about}
    answer = change(api, **said)
    after = api.get(tiny(api)).json()
    assert answer.json() == after
    assert after["about"] == {"product": "", "vendor": "", **about}
    assert {key for key in after if after[key] != before[key]} == {*said}
    change(api, about={"version": "1.3"}, category=None)
    again = api.get(tiny(api)).json()
    assert again["about"] == {**after["about"], "version": "1.3"}
    assert (again["category"], again["name"]) == (None, "small")


def test_only_what_was_read_is_changed(api: Api) -> None:
    tag = {"If-Match": api.get(tiny(api)).headers["etag"]}
    change(api, icon=PICTURE)
    late = api.call("PATCH", tiny(api), json={"category": "x"}, headers=tag)
    refused(late, 412, "precondition-failed")


@pytest.mark.parametrize(
    "said",
    [
        {"category": ""},
        {"category": "a\nb"},
        {"about": {"version": "1\n2"}},
        {"about": {"hardware": "x"}},
        {"state": "AVAILABLE"},
        {"cpu": 0},
        {"name": "a b"},
    ],
)
def test_what_makes_no_sense_is_refused(api: Api, said: Any) -> None:
    refused(change(api, **said), 422, "invalid-request")


def test_a_name_is_one_templates(api: Api) -> None:
    imported(api, "fresh")
    refused(change(api, name="fresh"), 409, "name-taken")


def test_nothing_is_changed_under_an_operation(api: Api) -> None:
    api.post(f"{tiny(api)}/conversions", json={"format": "qcow2"})
    refused(change(api, category="x"), 409, "locked")


def test_an_icon_is_a_picture_and_served_as_nothing_else(api: Api) -> None:
    refused(api.get(f"{tiny(api)}/icon"), 404, "no-icon")
    told = change(api, icon=PICTURE).json()
    icon = api.get(f"{tiny(api)}/icon")
    assert icon.content == png()
    assert icon.headers["content-type"] == "image/png"
    assert icon.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in icon.headers["content-security-policy"]
    assert told["icon_digest"]
    assert change(api, icon=None).json()["icon_digest"] is None
    refused(api.get(f"{tiny(api)}/icon"), 404, "no-icon")


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_small_picture_is_no_icon(api: Api, what: str) -> None:
    answer = change(api, icon=b64encode(BAD[what]).decode())
    refused(answer, 422, "icon-invalid")
    refused(api.get(f"{tiny(api)}/icon"), 404, "no-icon")


def test_who_imports_a_template_owns_it_until_he_goes(api: Api) -> None:
    ada = user(api, Stock.ENTERPRISE_ADMIN, name="ada")
    made = imported(ada, "fresh", category="systems", version="7", licence="MIT", shared=True)
    (owner,) = [x["id"] for x in api.get("/v1/users").json() if x["name"] == "ada"]
    assert (made["owner_id"], made["category"], made["shared"]) == (owner, "systems", True)
    assert (made["about"]["version"], made["about"]["licence"]) == ("7", "MIT")
    assert api.delete(f"/v1/users/{owner}").status_code == 204
    assert api.get(f"/v1/templates/{made['id']}").json()["owner_id"] is None


def test_an_owner_is_one_of_the_enterprise(api: Api, stranger: Api) -> None:
    user(api, Stock.USER, name="bob")
    (bob,) = [x["id"] for x in api.get("/v1/users").json() if x["name"] == "bob"]
    assert change(api, owner_id=bob).json()["owner_id"] == bob
    others = cloud.library.enterprise_called("others")
    assert others
    user(api, Stock.USER, name="eve", enterprise=others)
    (eve,) = [x["id"] for x in stranger.get("/v1/users").json()]
    for each in (eve, str(uuid4())):
        refused(change(api, owner_id=each), 404, "unknown-user")
    assert change(api, owner_id=None).json()["owner_id"] is None


def test_what_a_package_says_is_known_unless_something_else_was_said(
    api: Api, tmp_path: Path
) -> None:
    about = About(product="Shop", vendor="We", version="1", licence="GPL", description="A shop")
    write_package(tmp_path / "shop.ova", "disk", about=about)
    where = asked(api, name="shop", format="ova", version="2", category="shops")
    ended = api.done(api.client.put(where, content=(tmp_path / "shop.ova").read_bytes()))
    made = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert made["about"] == {**about.model_dump(), "version": "2"}
    assert made["category"] == "shops"


def test_what_is_said_of_an_image_stays_when_its_guest_is_told_of(api: Api) -> None:
    made = imported(api, "new", firmware="efi", bus="sata", version="7", licence="MIT")
    assert (made["about"]["version"], made["about"]["licence"]) == ("7", "MIT")
    assert made["hardware"]["firmware"] == "efi"


def test_templates_are_found_by_what_is_said_of_them(api: Api) -> None:
    change(api, category="systems")
    imported(api, "shop", category="shops", shared=True)
    imported(api, "child", master="tiny")
    assert names(api, category="shops") == ["shop"]
    assert names(api, shared=True) == ["shop"]
    assert names(api, shared=False) == ["child", "tiny"]
    assert names(api, is_instance=True) == ["child"]
    assert names(api, is_instance=False) == ["shop", "tiny"]
    assert names(api, master_id=api.world.template) == ["child"]
    assert names(api, own=False) == []


def test_a_master_stays_for_as_long_as_it_has_instances(api: Api) -> None:
    child = imported(api, "child", master="tiny")
    assert child["master_id"] == str(api.world.template)
    assert api.get(tiny(api)).json()["instances"] == 1
    told = refused(api.delete(tiny(api)), 409, "in-use")
    assert told["users"] == [{"kind": "template", "id": child["id"], "name": "child"}]
    with pytest.raises(InUse) as refusal:
        cloud.library.retire(api.world.template)
    assert refusal.value.users == ("template child",)
    api.done(api.delete(f"/v1/templates/{child['id']}"))
    api.done(api.delete(tiny(api)))


def test_nothing_becomes_an_instance_of_what_is_going(api: Api) -> None:
    where = asked(api, name="child", master="tiny")
    sent = api.client.put(where, content=IMAGE)
    cloud.library.set_template_state(api.world.template, TemplateState.DELETING)
    ended = api.run(sent)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "template-not-available")
    assert names(api) == ["tiny"]


def test_ones_own_template_comes_before_one_that_is_shared(api: Api, stranger: Api) -> None:
    theirs = imported(stranger, "fresh", shared=True)

    def made_of(name: str) -> Any:
        text = (
            f"{{appliance: {name}, virtual_datacenter: demo, vms: [{{name: v, template: fresh}}]}}"
        )
        return api.appliance(text)["vms"][0]["template_id"]

    assert made_of("a") == theirs["id"]
    mine = imported(api, "fresh")
    assert made_of("b") == mine["id"]


def test_a_name_that_several_share_names_none(api: Api, stranger: Api) -> None:
    imported(stranger, "fresh", shared=True)
    enterprise = uuid4()
    api.world.add(models.Enterprise(id=enterprise, name="third"))
    imported(user(api, Stock.ENTERPRISE_ADMIN, enterprise=enterprise), "fresh", shared=True)
    text = "{appliance: a, virtual_datacenter: demo, vms: [{name: v, template: fresh}]}"
    headers = {"Content-Type": "application/yaml"}
    refused(api.post("/v1/appliances", content=text, headers=headers), 409, "name-ambiguous")


def test_an_instance_of_another_enterprises_keeps_its_master_and_its_name_to_itself(
    api: Api, stranger: Api
) -> None:
    change(api, shared=True)
    child = imported(stranger, "their-child", master="tiny")
    assert child["master_id"] == str(api.world.template)
    assert api.get(tiny(api)).json()["instances"] == 0
    told = refused(api.delete(tiny(api)), 409, "in-use")
    assert told["users"] == []
    with pytest.raises(InUse) as refusal:
        cloud.library.retire(api.world.template)
    assert refusal.value.users == ("a template of another enterprise",)
    change(api, shared=False)
    assert stranger.get(f"/v1/templates/{child['id']}").json()["master_id"] is None


def test_what_is_shared_is_charged_to_whom_it_belongs(api: Api, stranger: Api) -> None:
    before = stranger.get("/v1/limits/usage").json()
    imported(api, "fresh", shared=True)
    assert stranger.get("/v1/limits/usage").json() == before


def test_the_command_line_edits_and_draws(
    api: Api,
    workers: Workers,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "icon.png").write_bytes(png())
    (tmp_path / "disk.vmdk").write_bytes(IMAGE)
    wish = ("--name", "child", "--format", "vmdk", "--master", "tiny", "--version", "2")
    assert run("import", tmp_path / "disk.vmdk", *wish).exit_code == 0
    run(
        *("templates", "set", "tiny", "--category", "systems", "--version", "1.2", "--shared"),
        *("--icon", str(tmp_path / "icon.png")),
    )
    tree = run("templates", "tree").stdout
    told = [line.strip(" │├└─") for line in tree.splitlines() if line.strip()]
    assert told == ["templates", "systems", "tiny (1.2) (shared)", "child (2)"]
    assert api.get(tiny(api)).json()["icon_digest"]
    run("templates", "set", "tiny", "--category", "", "--no-icon", "--not-shared")
    run("templates", "set", "tiny", "--firmware", "efi")
    record = api.get(tiny(api)).json()
    assert (record["hardware"]["firmware"], record["about"]["version"]) == ("efi", "1.2")
    assert (record["category"], record["icon_digest"], record["shared"]) == (None, None, False)
