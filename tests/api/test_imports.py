"""What lies at an address becomes a template; the address is told to nobody."""

import hashlib
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from adapters.amounts import Amounts, Level
from adapters.database import models
from adapters.errors import AdapterError
from adapters.images.addresses import networks
from adapters.images.downloads import HttpDownloads, Route
from adapters.images.memory import publish_source
from adapters.images.packing import pack, package_of
from adapters.images.partial import Pen
from adapters.images.repository import DirectoryRepository
from adapters.settings import Settings
from adapters.types import Capacity, OperationState
from deployments.lab.process import wait_for
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.adapters.test_downloads import breaking, serving, whole
from tests.api.conftest import Api, dumped, refused
from tests.api.test_gateway import IMAGE
from tests.worlds import write_package

URL = "https://images.example/secret-folder/image.vmdk?right=geheim-1"
WISH = {"name": "fresh", "format": "vmdk", "datacenter": "main", "url": URL}
LOGIN = {"user": "ada", "password": "geheim-2"}


def ask(api: Api, **changes: Any) -> Any:
    return api.post("/v1/templates/import", json={**WISH, **changes})


@pytest.fixture
def there(api: Api) -> None:
    publish_source(cloud.world, URL, IMAGE)


def left(api: Api) -> set[str]:
    root = api.world.home / "repository"
    return {str(x.relative_to(root)) for x in root.rglob("*") if ".cloudloom-marks" not in str(x)}


def secrets() -> int:
    with cloud.database.read() as db:
        return len(db.scalars(select(models.Secret)).all())


def test_an_image_at_an_address_becomes_a_template(api: Api, there: None) -> None:
    before = left(api)
    ended = api.done(ask(api, cpu=2))
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (template["name"], template["state"], template["cpu"]) == ("fresh", "AVAILABLE", 2)
    (disk,) = template["disks"]
    assert disk["digest"] == hashlib.sha256(IMAGE).hexdigest()
    folder = f"templates/{template['id']}"
    assert left(api) - before == {folder, disk["path"]}


def test_what_is_downloaded_has_a_record_as_what_is_sent(api: Api, there: None) -> None:
    said = {"category": "systems", "shared": True, "master": "tiny", "firmware": "efi"}
    about = {"version": "7", "licence": "MIT", "description": "A system"}
    ended = api.done(ask(api, **said, **about))
    made = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert made["about"] == {"product": "", "vendor": "", **about}
    assert (made["category"], made["shared"], made["hardware"]["firmware"]) == (
        "systems",
        True,
        "efi",
    )
    assert made["master_id"] == str(api.world.template)
    assert ask(api, name="other", master="nobody").json()["code"] == "unknown-template"


def test_the_address_is_told_to_nobody(api: Api, there: None) -> None:
    api.done(ask(api, login=LOGIN))
    told = dumped() + api.get("/v1/events").content + api.get("/v1/operations").content
    for secret in (b"geheim", b"secret-folder", b"images.example"):
        assert secret not in told
    assert secrets() == 0


def test_a_package_at_an_address_becomes_a_template_of_its_disks(api: Api, tmp_path: Path) -> None:
    write_package(tmp_path / "a", "system", "data", cpu=4)
    publish_source(cloud.world, "http://images.example/shop.OVA", (tmp_path / "a").read_bytes())
    ended = api.done(ask(api, url="http://images.example/shop.OVA", format=None))
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (len(template["disks"]), template["cpu"]) == (2, 4)


@pytest.fixture
def descriptor(api: Api, tmp_path: Path) -> str:
    """The address of an OVF whose disks and manifest lie beside it."""
    write_package(tmp_path / "a", "system", "data", cpu=4)
    return published(tmp_path / "a")


def published(package: Path) -> str:
    """The address of its descriptor; the rest lies beside that."""
    with tarfile.open(package) as archive:
        for name in archive.getnames():
            content = archive.extractfile(name)
            assert content
            publish_source(cloud.world, f"https://images.example/{name}?sig=1", content.read())
        return f"https://images.example/{archive.getnames()[0]}?sig=1"


def test_what_lies_beside_a_descriptor_comes_with_it(api: Api, descriptor: str) -> None:
    before = left(api)
    ended = api.done(ask(api, url=descriptor, format=None))
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    assert (len(template["disks"]), template["cpu"]) == (2, 4)
    paths = {disk["path"] for disk in template["disks"]}
    assert left(api) - before == {f"templates/{template['id']}", *paths}


def test_what_lies_beside_it_has_to_be_what_its_manifest_says(api: Api, descriptor: str) -> None:
    before = left(api)
    disk = next(url for url in cloud.world.all("source") if "disk1" in url)
    content = bytes.fromhex(cloud.world.all("source")[disk]["content"])
    publish_source(cloud.world, disk, content.replace(b"system", b"sYstem"))
    ended = api.run(ask(api, url=descriptor, format=None))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "package-digest-mismatch")
    assert left(api) == before


def test_what_lies_beside_it_may_have_checksums_of_its_own(api: Api, descriptor: str) -> None:
    before = left(api)
    disk = next(url for url in cloud.world.all("source") if "disk1" in url)
    content = bytes.fromhex(cloud.world.all("source")[disk]["content"])
    name = disk.rpartition("/")[2].partition("?")[0]
    right, wrong = (f"sha256:{hashlib.sha256(x).hexdigest()}" for x in (content, b"another"))
    for sums in ({name: wrong}, {name: right, "more.vmdk": wrong}):
        ended = api.run(ask(api, url=descriptor, format=None, checksums=sums))
        assert (ended["state"], ended["error"]["code"]) == ("failed", "image-digest-mismatch")
        assert left(api) == before
    api.done(ask(api, url=descriptor, format=None, checksums={name: right}))


def test_a_descriptor_is_no_longer_than_one_may_be(api: Api) -> None:
    publish_source(cloud.world, "https://images.example/a.ovf", b"x" * (2**20 + 1))
    ended = api.run(ask(api, url="https://images.example/a.ovf", format=None))
    assert ended["error"]["code"] == "source-too-large"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_comes_has_to_be_what_was_declared(api: Api, there: None, algorithm: str) -> None:
    before = left(api)
    right = hashlib.new(algorithm, IMAGE).hexdigest()
    wrong = hashlib.new(algorithm, b"another").hexdigest()
    ended = api.run(ask(api, checksum=f"{algorithm}:{wrong}"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "image-digest-mismatch")
    assert (left(api), secrets(), ended["left_behind"]) == (before, 0, False)
    api.done(ask(api, checksum=f"{algorithm}:{right}"))


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://images.example/a.ova"},
        {"url": "file:///etc/passwd"},
        {"url": "https://ada:geheim-3@images.example/a.ova"},
        {"url": "https:///a.ova"},
        {"url": "https://images.example/ a.ova"},
        {"url": "https://images.example/image", "format": None},
        {"checksum": "md5:d41d8cd98f00b204e9800998ecf8427e"},
        {"checksum": "sha256:abc"},
        {"login": {"user": "a:b", "password": "x"}},
        {"more": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(api: Api, changes: dict[str, Any]) -> None:
    problem = refused(ask(api, **changes), 422, "invalid-request")
    assert "geheim" not in str(problem)
    assert secrets() == 0


def test_a_name_that_is_taken_is_refused_before_anything_is_fetched(api: Api) -> None:
    refused(ask(api, name="tiny"), 409, "name-taken")
    refused(ask(api, datacenter="nowhere"), 404, "unknown-datacenter")
    assert secrets() == 0


def test_asked_twice_with_one_key_it_is_done_once(api: Api, there: None) -> None:
    key = {"headers": {"Idempotency-Key": "one"}}
    first = api.post("/v1/templates/import", json=WISH, **key)
    api.done(first)
    again = api.post("/v1/templates/import", json=WISH, **key)
    assert again.json()["id"] == first.json()["id"]
    other = {**WISH, "url": "https://elsewhere.example/image.vmdk"}
    again = api.post("/v1/templates/import", json=other, **key)
    refused(again, 409, "idempotency-key-reused")
    assert secrets() == 0


def limit(mib: int) -> None:
    from adapters.database.schema import FIRST_ENTERPRISE

    hard = Amounts(repository_mib=mib)
    whose = (Level.ENTERPRISE, FIRST_ENTERPRISE)
    cloud.ledger.set_limits(FIRST_ENTERPRISE, whose, Amounts(), hard, lambda *_: None)


def test_limits_hold_before_a_byte_is_written(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(Pen, "write", lambda _self, piece: written.append(piece))
    before = left(api)
    publish_source(cloud.world, URL, IMAGE + b" " * 3 * 2**20)
    limit(3)  # 1 MiB is used, and as much has to be there before anybody looks
    ended = api.run(ask(api))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "hard-limit")
    assert (left(api), secrets(), written) == (before, 0, [])
    limit(1)
    refused(ask(api), 409, "hard-limit")


def test_it_is_charged_what_it_takes_and_refunded_when_it_goes(api: Api) -> None:
    publish_source(cloud.world, URL, IMAGE + b" " * 3 * 2**20)
    template = api.done(ask(api))["target"]["id"]
    assert used(api) == 1 + 4
    api.done(api.delete(f"/v1/templates/{template}"))
    assert used(api) == 1


def test_what_lies_beside_a_descriptor_is_charged_once(api: Api, tmp_path: Path) -> None:
    """Though for a moment there are two of each file: as it came, and in its archive."""
    disk = tmp_path / "disk"
    disk.write_bytes(IMAGE + b" " * 3 * 2**20)
    pack(package_of("packed", [(disk, 2**24)]), [disk], tmp_path / "a")
    limit(1 + 4)
    api.done(ask(api, url=published(tmp_path / "a"), format=None))
    assert used(api) == 1 + 4


def test_there_has_to_be_room_for_it_and_for_its_archive(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").write_bytes(IMAGE.ljust(3 * 2**20))
    pack(package_of("packed", [(tmp_path / "disk", 2**24)]), [tmp_path / "disk"], tmp_path / "a")
    before, where = left(api), published(tmp_path / "a")
    room = Capacity(total_mib=9, free_mib=3)  # for the disk, and for not a byte more than that
    monkeypatch.setattr(DirectoryRepository, "capacity", lambda _self: room)
    ended = api.run(ask(api, url=where, format=None))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "out-of-space")
    assert left(api) == before


def used(api: Api) -> int:
    return int(api.get("/v1/limits/usage").json()[0]["used"]["repository_mib"])


def test_cancelled_before_it_began_it_leaves_nothing(api: Api, there: None) -> None:
    before = left(api)
    accepted = ask(api).json()
    assert secrets() == 1
    answer = api.post(f"/v1/operations/{accepted['id']}/cancel")
    assert answer.status_code == 202, answer.text
    ended = FLOWS["import_from_url"](UUID(accepted["id"]))
    assert ended.state is OperationState.CANCELLED
    assert (left(api), secrets()) == (before, 0)


def die_at_the_first_error(operation: UUID) -> None:
    """Run it until something goes wrong, and kill its runner there; its lease lapses."""

    class Killed(BaseException):
        pass

    def once(_saga: Any, fn: Any, *_more: Any, **_named: Any) -> Any:
        try:
            return fn()
        except AdapterError as error:
            raise Killed from error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.saga.Saga._persevere", once)
        with pytest.raises(Killed):
            FLOWS["import_from_url"](operation)
    with cloud.database.write() as db:
        db.execute(update(models.Operation).values(due_at=models.Operation.accepted_at))


# --- over HTTP ----------------------------------------------------------------------------------


@pytest.fixture
def over_http(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    route = Route(2, 2, None, networks(["127.0.0.0/8"]))
    monkeypatch.setitem(cloud.__dict__, "downloads", HttpDownloads(route))


LONG = IMAGE.ljust(2**20, b" ")


def test_a_killed_download_is_gone_on_with_by_another_runner(api: Api, over_http: None) -> None:
    """What the first runner had is not asked for again; its login is still there."""
    with serving(breaking(700_000, LONG), whole(LONG)) as server:
        accepted = ask(api, url=f"{server.url}?right=geheim", login=LOGIN)
        identity = UUID(accepted.json()["id"])
        die_at_the_first_error(identity)
        ended = FLOWS["import_from_url"](identity)
        assert ended.state is OperationState.SUCCEEDED, ended.error
    assert server.asked[-1]["range"] == "bytes=700000-"
    assert all(each["authorization"].startswith("Basic ") for each in server.asked)
    assert secrets() == 0
    assert b"geheim" not in dumped()


def test_cancelled_under_way_it_leaves_nothing(api: Api, over_http: None) -> None:
    """The server has sent a part, and is silent: nobody waits for it."""
    before, gone = left(api), threading.Event()

    def silent(on: Any) -> None:
        on.say(200, Content_Length=len(LONG), ETag='"one"')
        on.wfile.write(LONG[:300_000])
        gone.wait(120)

    with serving(silent) as server:
        accepted = ask(api, url=server.url).json()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(FLOWS["import_from_url"], UUID(accepted["id"]))
            wait_for(lambda: server.asked, 60, "the download")
            answer = api.post(f"/v1/operations/{accepted['id']}/cancel")
            assert answer.status_code == 202, answer.text
            ended = running.result(timeout=90)
        gone.set()
    assert (ended.state, ended.left_behind) == (OperationState.CANCELLED, False)
    assert (left(api), secrets(), used(api)) == (before, 0, 1)


def test_nor_is_it_told_when_something_goes_wrong(api: Api, over_http: None) -> None:
    with serving(lambda on: on.say(404, Content_Length=0)) as server:
        url = server.url.replace("/image", "/geheim-4/image.vmdk?right=geheim-5")
        ended = api.run(ask(api, url=url))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "source-not-found")
    assert b"geheim" not in dumped()
    assert "geheim" not in str(ended)


def test_what_is_missing_beside_a_descriptor_is_named(api: Api, descriptor: str) -> None:
    disk = next(url for url in cloud.world.all("source") if "disk1" in url)
    cloud.world.remove("source", disk)
    ended = api.run(ask(api, url=descriptor, format=None))
    assert ended["error"]["code"] == "source-not-found"
    assert "packed-disk1.vmdk" in ended["error"]["detail"]


@pytest.mark.parametrize(
    "wrong",
    [{"download_networks": "10.0.0.0/8, here"}, {"download_proxy": "socks5://proxy:1080"}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(api: Api, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]


def test_what_is_not_public_is_not_downloaded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cloud.__dict__, "downloads", HttpDownloads(Route(2, 2)))
    before = left(api)
    with serving(whole(LONG)) as server:
        ended = api.run(ask(api, url=server.url))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "source-forbidden")
    assert "image" not in ended["error"]["detail"]
    assert server.asked == []
    assert (left(api), secrets()) == (before, 0)


def test_the_settings_say_how_downloads_get_out(api: Api) -> None:
    changed = {"image_tool": "qemu-img", "download_networks": "10.0.0.0/8, fd00::/8"}
    more = {"download_proxy": SecretStr("http://ada:geheim@proxy:3128")}
    cloud.become(cloud.settings.model_copy(update=changed | more))
    made = cloud.downloads
    assert isinstance(made, HttpDownloads)
    assert [str(each) for each in made._route.allowed] == ["10.0.0.0/8", "fd00::/8"]
    assert "geheim" not in repr(made._route)
