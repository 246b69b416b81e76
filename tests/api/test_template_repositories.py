"""Remote repositories: read, browsed, installed from; and nobody's login goes elsewhere."""

import re
import tarfile
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.database import models
from adapters.images import index
from adapters.images.memory import publish_source
from adapters.types import OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from flows.downloads import source_of
from tests.adapters.test_downloads import breaking, serving, whole
from tests.api.conftest import Api, dumped, refused
from tests.api.test_cli import Workers, run, workers
from tests.api.test_imports import die_at_the_first_error, left, over_http, secrets
from tests.worlds import write_package

__all__ = ["over_http", "workers"]  # fixtures

URL = "https://images.example/ovfindex.xml"
LOGIN = {"user": "ada", "password": "geheim-2"}
DOCTYPE = '<!DOCTYPE x [<!ENTITY a "b">]>'
# As the original wrote it: prefixes that mean something else in the next file.
INDEX = """<?xml version='1.0' encoding='UTF-8'?>
<ns3:RepositorySpace xmlns:ns3="http://www.abiquo.com/appliancemanager/repositoryspace"
  xmlns:ns2="http://schemas.dmtf.org/ovf/envelope/1" ns3:RepositoryName="public"
  ns3:RepositoryURI="http://127.0.0.1">
 <ns3:OVFDescription ns3:DiskFormat="STREAM_OPTIMIZED" ns3:OVFFile="shop/shop.ovf"
   ns3:OVFCategories="Shops" ns3:DiskSize="256" ns2:instance="" ns2:class="">
  <ns2:Info>Sells &amp; ships.
    Quickly.</ns2:Info><ns2:Product>Shop 2</ns2:Product><ns2:Vendor>Example</ns2:Vendor>
  <ns2:Version>2.1</ns2:Version><ns2:Icon ns2:fileRef="icons/shop.png" ns2:mimeType="image/png"/>
 </ns3:OVFDescription>
 <ns3:OVFDescription ns3:OVFFile="https://elsewhere.example/tiny.ova" ns3:OVFCategories="OS"/>
 <ns3:OVFDescription ns3:OVFFile="disk.qcow2" ns3:OVFCategories="OS"/>
</ns3:RepositorySpace>
"""


def create(api: Api, **changes: Any) -> Any:
    wish = {"name": "public", "url": URL, "datacenter": "main", **changes}
    return api.post("/v1/template-repositories", json=wish)


@pytest.fixture
def path(api: Api) -> str:
    """A repository that has been refreshed."""
    publish_source(cloud.world, URL, INDEX.encode())
    where: str = create(api).headers["location"]
    api.done(api.post(f"{where}/refresh"))
    return where


def package(api: Api, path: str, name: str = "Shop 2") -> str:
    (found,) = api.get(f"{path}/packages", params={"name": name}).json()
    return f"{path}/packages/{found['id']}"


@pytest.fixture
def shop(api: Api, path: str, tmp_path: Path) -> str:
    """A package that lies where the index says, in several files."""
    write_shop(tmp_path, cpu=4)
    return package(api, path)


def test_a_repository_lists_what_its_index_says(api: Api, path: str) -> None:
    told = api.get(path).json()
    assert (told["name"], told["url"], told["datacenter_id"]) == (
        "public",
        URL,
        str(api.world.datacenter),
    )
    assert told["refreshed_at"]
    packages = api.get(f"{path}/packages").json()
    assert [each["name"] for each in packages] == ["Shop 2", "disk.qcow2", "tiny.ova"]
    shop = packages[0]
    assert shop == {
        "id": shop["id"],
        "name": "Shop 2",
        "description": "Sells & ships. Quickly.",
        "category": "Shops",
        "vendor": "Example",
        "version": "2.1",
        "disk_format": "STREAM_OPTIMIZED",
        "size_mib": 256,
        "url": "https://images.example/shop/shop.ovf",
        "icon": "https://images.example/icons/shop.png",
    }
    assert api.get(f"{path}/packages/{shop['id']}").json() == shop
    assert packages[2]["url"] == "https://elsewhere.example/tiny.ova"


def test_what_it_lists_is_paged_and_filtered(api: Api, path: str) -> None:
    first = api.get(f"{path}/packages?limit=2")
    rest = api.get(first.links["next"]["url"])
    assert [each["name"] for each in rest.json()] == ["tiny.ova"]
    systems = api.get(f"{path}/packages?category=OS&sort=-name").json()
    assert [each["name"] for each in systems] == ["tiny.ova", "disk.qcow2"]


def test_a_refresh_keeps_what_stays_and_drops_what_has_gone(api: Api, path: str) -> None:
    stays = package(api, path)
    publish_source(cloud.world, URL, INDEX.replace("disk.qcow2", "new.ova").encode())
    api.done(api.post(f"{path}/refresh"))
    assert package(api, path) == stays
    names = [each["name"] for each in api.get(f"{path}/packages").json()]
    assert names == ["Shop 2", "new.ova", "tiny.ova"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<RepositorySpace", "index-invalid"),
        ("<Other/>", "index-invalid"),
        (
            '<!DOCTYPE x [<!ENTITY a "b">]><RepositorySpace>&a;</RepositorySpace>',
            "package-entities",
        ),
        ("<RepositorySpace><OVFDescription/></RepositorySpace>", "index-invalid"),
        (
            '<RepositorySpace><OVFDescription OVFFile="file:///etc/passwd"/></RepositorySpace>',
            "index-invalid",
        ),
        (
            '<RepositorySpace><OVFDescription OVFFile="//a:b@c/d.ovf"/></RepositorySpace>',
            "index-invalid",
        ),
        (
            '<RepositorySpace><OVFDescription OVFFile="//c:99999/d.ovf"/></RepositorySpace>',
            "index-invalid",
        ),
        (
            '<RepositorySpace><OVFDescription OVFFile="//c:0/d.ovf"/></RepositorySpace>',
            "index-invalid",
        ),
        (
            "<RepositorySpace>" + 10_001 * "<OVFDescription OVFFile='a'/>" + "</RepositorySpace>",
            "package-too-large",
        ),
        ("x" * (2**23 + 1), "source-too-large"),
    ],
    ids=[
        "cut-off",
        "another",
        "entities",
        "nowhere",
        "a-file",
        "a-user",
        "no-port",
        "port-0",
        "too-many",
        "too-long",
    ],
)
def test_an_index_that_makes_no_sense_changes_nothing(
    api: Api, path: str, text: str, code: str
) -> None:
    before, files = api.get(f"{path}/packages").json(), left(api)
    publish_source(cloud.world, URL, text.encode())
    ended = api.run(api.post(f"{path}/refresh"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", code)
    assert api.get(f"{path}/packages").json() == before
    assert (left(api), ended["left_behind"]) == (files, False)


def test_control_characters_and_long_texts_are_cut(api: Api) -> None:
    text = f'<RepositorySpace><OVFDescription OVFFile="a.ovf" DiskSize="-1"><Product>{"x" * 999}'
    text += "</Product></OVFDescription></RepositorySpace>"
    (read,) = index.read(text.encode(), URL)
    assert (len(read.name), read.size_mib) == (200, None)


def test_a_package_is_installed_with_what_lies_beside_it(api: Api, shop: str) -> None:
    before = left(api)
    ended = api.done(api.post(f"{shop}/install"))
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (template["name"], template["cpu"], len(template["disks"])) == ("Shop-2", 4, 2)
    assert template["category"] == "Shops"
    paths = {disk["path"] for disk in template["disks"]}
    assert left(api) - before == {f"templates/{template['id']}", *paths}
    assert secrets() == 0
    refused(api.post(f"{shop}/install"), 409, "name-taken")
    api.done(api.post(f"{shop}/install", json={"name": "again", "cpu": 1}))


def write_shop(folder: Path, **said: Any) -> None:
    """Let the package lie where the index says, with its manifest's file left out."""
    (folder / "a").unlink(missing_ok=True)
    write_package(folder / "a", "system", "data", **said)
    with tarfile.open(folder / "a") as archive:
        for name in archive.getnames():
            content = archive.extractfile(name)
            assert content
            lies = "shop.ovf" if name.endswith(".ovf") else name
            if not name.endswith(".mf"):
                publish_source(cloud.world, f"https://images.example/shop/{lies}", content.read())


def test_installing_is_planned_and_done_as_shown(api: Api, path: str, shop: str) -> None:
    api.call("PATCH", path, json={"login": LOGIN})
    before, dry = left(api), {"dry_run": "true"}
    answer = api.post(f"{shop}/install", params=dry, json={"ram_mib": 77})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["target"]["name"], plan["bytes_to_copy"] > 0) == ("Shop-2", True)
    assert [x["virtual_size_mib"] for x in plan["disks"]] == [1, 1]
    assert (left(api), secrets()) == (before, 1)  # the repository's login
    assert api.get("/v1/operations?kind=import_from_url").json() == []
    done = {"plan": plan["id"]}
    other = api.post(f"{shop}/install", params=done, json={"ram_mib": 78})
    refused(other, 409, "plan-of-another-request")
    elsewhere = f"{package(api, path, 'tiny.ova')}/install"
    publish_source(cloud.world, "https://elsewhere.example/tiny.ova", b"")
    refused(api.post(elsewhere, params=dry), 422, "package-invalid")
    ended = api.done(api.post(f"{shop}/install", params=done, json={"ram_mib": 77}))
    assert ended["id"] == plan["id"]
    assert {step["key"] for step in ended["steps"]} == {
        f"{step['name']}[{step['what']}]" for step in plan["steps"]
    }
    refused(api.post(f"{shop}/install", params=done, json={"ram_mib": 77}), 409, "plan-used")


def test_what_has_changed_since_it_was_shown_is_not_installed(
    api: Api, path: str, shop: str, tmp_path: Path
) -> None:
    def plan() -> Any:
        return api.post(f"{shop}/install", params={"dry_run": "true"}).json()

    def outdated(plan: Any) -> list[str]:
        answer = api.post(f"{shop}/install", params={"plan": plan["id"]})
        told: list[str] = refused(answer, 409, "plan-outdated")["changed"]
        return told

    shown = plan()
    write_shop(tmp_path, cpu=8)
    assert outdated(shown) == ["the package: cpu is 8, was 4"]
    shown = plan()
    moved = INDEX.replace("Shop 2", "Shop 3")
    publish_source(cloud.world, URL, moved.encode())
    api.done(api.post(f"{path}/refresh"))
    assert any("enter-template" in each for each in outdated(shown))
    shown = plan()
    publish_source(cloud.world, URL, INDEX.replace("shop/shop.ovf", "shop.ovf").encode())
    api.done(api.post(f"{path}/refresh"))
    refused(api.post(f"{shop}/install", params={"plan": shown["id"]}), 404, "not-found")
    assert api.get("/v1/operations?kind=import_from_url").json() == []


def test_a_plan_asks_as_whom_the_repository_is_asked(
    api: Api, over_http: None, tmp_path: Path
) -> None:
    write_package(tmp_path / "a", "system")
    listed = b'<RepositorySpace><OVFDescription OVFFile="shop.ova"/></RepositorySpace>'
    with serving(whole(listed), whole((tmp_path / "a").read_bytes())) as server:
        url = server.url.replace("/image", "")
        where = create(api, url=url, login=LOGIN).headers["location"]
        api.done(api.post(f"{where}/refresh"))
        install = f"{package(api, where, 'shop.ova')}/install"
        answer = api.post(install, params={"dry_run": "true"})
        assert answer.status_code == 200, answer.text
        api.done(api.post(install, params={"plan": answer.json()["id"]}))
    assert len(server.asked) == 4  # the index, two looks, and the package
    assert all(each["authorization"].startswith("Basic ") for each in server.asked)
    assert b"geheim" not in dumped()


def test_what_is_no_package_is_not_installed(api: Api, path: str) -> None:
    refused(api.post(f"{package(api, path, 'disk.qcow2')}/install"), 422, "package-unsupported")


def test_a_package_is_installed_once_at_a_time_and_holds_its_repository(
    api: Api, path: str, shop: str
) -> None:
    first = api.post(f"{shop}/install")
    refused(api.post(f"{shop}/install", json={"name": "other"}), 409, "locked")
    users = refused(api.delete(path), 409, "in-use")["users"]
    assert [(each["kind"], each["id"]) for each in users] == [("operation", first.json()["id"])]
    api.post(f"/v1/operations/{first.json()['id']}/cancel")
    assert FLOWS["import_from_url"](UUID(first.json()["id"])).state is OperationState.CANCELLED
    api.done(api.post(f"{shop}/install"))  # tried again
    refused(api.delete(path), 409, "in-use")  # until the cancelled one was looked at once more
    FLOWS["import_from_url"](UUID(first.json()["id"]))
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "not-found")
    assert api.get("/v1/templates?name=Shop-2").json()


def test_a_repository_is_not_deleted_while_it_is_refreshed(api: Api, path: str) -> None:
    started = api.post(f"{path}/refresh")
    refused(api.delete(path), 409, "in-use")
    refused(api.post(f"{path}/refresh"), 409, "locked")
    api.done(started)
    assert api.delete(path).status_code == 204


def test_a_login_is_kept_and_goes_with_its_repository(api: Api) -> None:
    made = create(api, login=LOGIN)
    where = made.headers["location"]
    assert "login" not in made.json()
    assert secrets() == 1
    assert b"geheim" not in dumped()
    assert api.call("PATCH", where, json={"name": "x"}).status_code == 200
    assert secrets() == 1
    assert api.call("PATCH", where, json={"login": None}).status_code == 200
    assert secrets() == 0
    api.call("PATCH", where, json={"login": LOGIN})
    assert api.delete(where).status_code == 204
    assert secrets() == 0


def test_a_login_is_not_told_to_another_server(api: Api) -> None:
    """Who may change the address has not been told the password, and is not to be."""
    where = create(api, login=LOGIN).headers["location"]
    api.call("PATCH", where, json={"url": "https://images.example/moved"})
    assert secrets() == 1
    api.call("PATCH", where, json={"url": "https://elsewhere.example/moved"})
    assert secrets() == 0


def test_what_is_being_asked_is_not_changed_meanwhile(api: Api, path: str) -> None:
    started = api.post(f"{path}/refresh")
    for change in ({"login": LOGIN}, {"url": "https://elsewhere.example/"}):
        refused(api.call("PATCH", path, json=change), 409, "in-use")
    assert api.call("PATCH", path, json={"name": "x"}).status_code == 200
    api.done(started)
    assert api.call("PATCH", path, json={"login": LOGIN}).status_code == 200


@pytest.mark.parametrize(("name", "goes"), [("Shop 2", True), ("tiny.ova", False)])
def test_a_login_goes_to_the_indexs_own_server_only(
    api: Api, path: str, name: str, goes: bool
) -> None:
    api.call("PATCH", path, json={"login": LOGIN})
    accepted = api.post(f"{package(api, path, name)}/install").json()
    with cloud.database.read() as db:
        wanted = db.get_one(models.Operation, UUID(accepted["id"])).arguments["wanted"]
    source = source_of(UUID(wanted["source"]), wanted["login"] and UUID(wanted["login"]))
    assert bool(source.login) is goes


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://images.example/"},
        {"url": "https://images.example/ovfindex.xml?right=geheim"},
        {"url": "https://ada:geheim@images.example/"},
        {"name": "a b"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(api: Api, changes: dict[str, Any]) -> None:
    refused(create(api, **changes), 422, "invalid-request")


def test_names_are_an_enterprises_own(api: Api, stranger: Api) -> None:
    assert create(api, url="https://images.example/a").json()["url"].endswith("/a/ovfindex.xml")
    refused(create(api), 409, "name-taken")
    assert create(stranger).status_code == 201
    assert len(api.get("/v1/template-repositories").json()) == 1


def test_it_keeps_its_datacenter(api: Api, path: str) -> None:
    answer = api.delete(f"/v1/datacenters/{api.world.datacenter}")
    users = refused(answer, 409, "in-use")["users"]
    assert "template-repository" in {each["kind"] for each in users}


def test_an_interrupted_installation_goes_on_where_it_was(
    api: Api, over_http: None, tmp_path: Path
) -> None:
    """Over real HTTP: the runner is killed in the middle of the archive."""
    write_package(tmp_path / "a", "system", "data")
    content = (tmp_path / "a").read_bytes()
    listed = b'<RepositorySpace><OVFDescription OVFFile="shop.ova"/></RepositorySpace>'
    half = len(content) // 2
    with serving(whole(listed), breaking(half, content), whole(content)) as server:
        where = create(api, url=server.url.replace("/image", "")).headers["location"]
        api.done(api.post(f"{where}/refresh"))
        accepted = api.post(f"{package(api, where, 'shop.ova')}/install").json()
        die_at_the_first_error(UUID(accepted["id"]))
        ended = FLOWS["import_from_url"](UUID(accepted["id"]))
        assert ended.state is OperationState.SUCCEEDED, ended.error
    assert server.asked[0]["path"] == "/ovfindex.xml"
    assert server.asked[-1]["range"] == f"bytes={half}-"


# --- the command line ---------------------------------------------------------------------------


def test_a_repository_is_used_from_the_command_line(shop: str, workers: Workers) -> None:
    added = run(
        *("repositories", "add", "name=more", f"url={URL}", "datacenter=main", "login=ada"),
        typed="geheim-2\n",
    )
    assert added.exit_code == 0, added.output
    assert "geheim" not in added.output
    refreshed = run("repositories", "refresh", "more")
    assert "refresh-repository more succeeded" in refreshed.output
    listed = run("repositories", "packages", "more", "--category", "Shops").output
    assert "Shop 2" in listed
    assert "tiny.ova" not in listed
    installing = ("repositories", "install", "more", "Shop 2", "--name", "mine")
    shown = run(*installing, "--dry-run").output
    assert "import-from-url mine, if it were done now" in shown
    (plan,) = re.findall(r"--plan ([0-9a-f-]{36})", shown)
    installed = run(*installing, "--plan", plan)
    assert "import-from-url mine succeeded" in installed.output
    assert run("repositories", "install", "more", "nothing").exit_code == 1
    assert "public" in run("repositories", "list").output
    assert run("repositories", "delete", "more").exit_code == 0


def test_an_address_is_imported_from_the_command_line(shop: str, workers: Workers) -> None:
    url = "https://images.example/shop/shop.ovf"
    said = ("--name", "got", "--category", "Shops", "--version", "7", "--shared")
    told = run("import", url, *said, "--user", "ada", typed="geheim-2\n")
    assert told.exit_code == 0, told.output
    assert "import-from-url got succeeded" in told.output
    assert "geheim" not in told.output
    assert "got (7) (shared)" in run("templates", "tree").output
    wrong = "sha256:" + "0" * 64
    refused_ = run("import", url, "--name", "other", "--checksum", wrong)
    assert refused_.exit_code == 1
    planned = run("import", url, "--name", "x", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "import-from-url x, if it were done now" in planned.output
    assert "download-source" in planned.output
    assert run("import", "/nowhere.ova", "--name", "x").exit_code == 2
