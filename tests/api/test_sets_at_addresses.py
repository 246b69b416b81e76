"""A VMDK of several files that lies at an address comes whole, and from nowhere else."""

import hashlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from uuid import UUID

import pytest

from adapters.amounts import Amounts, Level
from adapters.database.schema import FIRST_ENTERPRISE
from adapters.images.base import ImageTool
from adapters.images.inspect import inspect
from adapters.images.memory import publish_source
from adapters.types import OperationState
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests.adapters.test_downloads import Handler, Server, breaking, moved, serving, whole
from tests.api.conftest import Api, dumped, refused
from tests.api.test_cli import Workers, run, workers
from tests.api.test_imports import LOGIN, die_at_the_first_error, left, over_http, secrets
from tests.worlds import vmdk_set

__all__ = ["over_http", "workers"]  # fixtures

FILES = vmdk_set("geheim")
DESCRIPTOR, ONE, TWO = FILES
FOLDER = "https://images.example/secret-folder"


def ask(api: Api, url: str = f"{FOLDER}/{DESCRIPTOR}?sig=1", **changes: Any) -> Any:
    query = changes.pop("query", {})
    wish = {"name": "fresh", "format": "vmdk", "datacenter": "main", "url": url, **changes}
    return api.post("/v1/templates/import", json=wish, params=query)


def put(files: dict[str, bytes], folder: str = FOLDER, sig: str = "?sig=1") -> None:
    for name, content in files.items():
        publish_source(cloud.world, f"{folder}/{name}{sig}", content)


@pytest.fixture
def there(api: Api) -> None:
    put(FILES)


def described(*extents: str, kind: str = "twoGbMaxExtentFlat") -> bytes:
    lines = "".join(f"{each}\n" for each in extents)
    return f'version=1\nCID=1\nparentCID=ffffffff\ncreateType="{kind}"\n{lines}'.encode()


def flat(name: str, sectors: int = 1) -> str:
    return f'RW {sectors} FLAT "{name}" 0'


def digest(*contents: bytes) -> str:
    lines = "".join(f"{hashlib.sha256(each).hexdigest()}\n" for each in contents)
    return hashlib.sha256(lines.encode()).hexdigest()


def sum_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def test_a_set_comes_with_the_files_that_its_descriptor_names(api: Api, there: None) -> None:
    before = left(api)
    ended = api.done(ask(api, login=LOGIN))
    template = api.get(f"/v1/templates/{ended['target']['id']}").json()
    (disk,) = template["disks"]
    assert disk["digest"] == digest(*FILES.values())
    folder = f"templates/{template['id']}"
    came = {folder, disk["path"], *(f"{folder}/{name}" for name in (ONE, TWO))}
    assert left(api) - before == came
    for secret in (b"secret-folder", b"images.example", b"geheim-2"):
        assert secret not in dumped()
    assert secrets() == 0


def test_it_is_charged_for_all_of_its_files(api: Api) -> None:
    used = used_mib(api)
    put({**FILES, TWO: FILES[TWO].ljust(3 * 2**20)})
    template = api.done(ask(api))["target"]["id"]
    assert used_mib(api) - used == 4  # of which the descriptor begins one
    api.done(api.delete(f"/v1/templates/{template}"))
    assert used_mib(api) == used


def used_mib(api: Api) -> int:
    return int(api.get("/v1/limits/usage").json()[0]["used"]["repository_mib"])


def test_limits_are_for_the_whole_set(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither file is too large alone."""
    before, used = left(api), used_mib(api)
    half = 700 * 2**10
    put({**FILES, ONE: FILES[ONE].ljust(half), TWO: FILES[TWO].ljust(half)})
    with monkeypatch.context() as patched:
        patched.setattr(cloud.settings, "max_upload_mib", 1)
        ended = api.run(ask(api))
        refused(ask(api, query={"dry_run": "true"}), 422, "source-too-large")
    assert ended["error"]["code"] == "source-too-large"
    hard = Amounts(repository_mib=used + 1)
    whose = (Level.ENTERPRISE, FIRST_ENTERPRISE)
    cloud.ledger.set_limits(FIRST_ENTERPRISE, whose, Amounts(), hard, lambda *_: None)
    ended = api.run(ask(api))
    assert ended["error"]["code"] == "hard-limit"
    assert (left(api), secrets(), used_mib(api)) == (before, 0, used)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_each_file_is_compared_with_its_checksum(api: Api, there: None, algorithm: str) -> None:
    before = left(api)
    right = {name: sum_of(content, algorithm) for name, content in FILES.items()}
    checksum = right.pop(DESCRIPTOR)
    for wrong in (
        {"checksum": sum_of(b"another")},
        {"checksums": {**right, TWO: sum_of(b"another")}},
        {"checksums": {**right, "d-f003.vmdk": checksum}},
        {"checksums": {**right, DESCRIPTOR: checksum}},
    ):
        ended = api.run(ask(api, **wrong))
        assert (ended["state"], ended["error"]["code"]) == ("failed", "image-digest-mismatch")
        assert (left(api), secrets()) == (before, 0)
    api.done(ask(api, checksum=checksum, checksums=right))


def test_checksums_are_of_files_beside_something(api: Api, there: None) -> None:
    one = {ONE: sum_of(FILES[ONE])}
    refused(ask(api, format="qcow2", checksums=one), 422, "invalid-request")
    refused(ask(api, checksums={ONE: "md5:1"}), 422, "invalid-request")
    refused(ask(api, checksums={f"{n}": sum_of(b"") for n in range(501)}), 422, "invalid-request")
    publish_source(cloud.world, f"{FOLDER}/one.vmdk", FILES[ONE] + FILES[TWO])
    ended = api.run(ask(api, f"{FOLDER}/one.vmdk", checksums=one))  # it has no files beside it
    assert ended["error"]["code"] == "image-digest-mismatch"


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a path up": (described(flat("../d-f001.vmdk")), "image-foreign-extent"),
    "a path up, as Windows has it": (described(flat(r"..\d-f001.vmdk")), "image-foreign-extent"),
    "dots": (described(flat("..")), "image-foreign-extent"),
    "a folder": (described(flat("more/d-f001.vmdk")), "image-foreign-extent"),
    "an encoded path": (described(flat("..%2fd-f001.vmdk")), "image-foreign-extent"),
    "an absolute path": (described(flat("/etc/passwd")), "image-foreign-extent"),
    "another host": (described(flat("https://else.example/a")), "image-foreign-extent"),
    "another host, in short": (described(flat("//else.example/a")), "image-foreign-extent"),
    "a protocol of qemu's": (described(flat("nbd:127.0.0.1:1")), "image-foreign-extent"),
    "a query": (described(flat("a?sig=2")), "image-foreign-extent"),
    "a fragment": (described(flat("a#b")), "image-foreign-extent"),
    "no name": (described(flat("")), "image-foreign-extent"),
    "a hidden one": (described(flat(".cloudloom-repository")), "image-foreign-extent"),
    "a long one": (described(flat("d" * 300)), "image-foreign-extent"),
    "itself": (described(flat("disk-0.vmdk")), "image-foreign-extent"),
    "itself, louder": (described(flat("DISK-0.vmdk")), "image-foreign-extent"),
    "one twice": (described(flat(ONE), flat(ONE)), "image-corrupt"),
    "one twice, louder": (described(flat(ONE), flat(ONE.upper())), "image-corrupt"),
    "too many": (described(*(flat(f"d-{n}") for n in range(500))), "image-too-large"),
    "a huge disk": (described(flat(ONE, 2**45)), "image-too-large"),
    "no disk": (described(flat(ONE, 0)), "image-corrupt"),
    "a device": (described(flat(ONE), kind="fullDevice"), "image-unknown-format"),
    "a device's line": (described('RW 1 FLAT "/dev/sda" 0'), "image-foreign-extent"),
    "a partition's line": (described('RW 1 FLAT "disk" partitionUUID 0'), "image-corrupt"),
    "another kind": (described(f'RW 1 SPARSE "{ONE}"'), "image-corrupt"),
    "zeros": (described('RW 1 ZERO "a"'), "image-corrupt"),
    "what no one may write": (described(f'RDONLY 1 FLAT "{ONE}" 0'), "image-corrupt"),
    "a difference": (described(flat(ONE), "parentCID=12345678"), "image-backing-file"),
    "a parent": (described(flat(ONE), 'parentFileNameHint="/etc/passwd"'), "image-backing-file"),
    "none": (described(), "image-corrupt"),
    "a long text": (described(flat(ONE)) + b"# \n" * 2**19, "image-corrupt"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_descriptor_has_nothing_more_asked_for(api: Api, name: str) -> None:
    """Nor planned; nothing of it is left."""
    text, code = HOSTILE[name]
    before = left(api)
    put({DESCRIPTOR: text, ONE: b"1" * 512})
    refused(ask(api, query={"dry_run": "true"}), 422, code)
    ended = api.run(ask(api))
    assert (ended["state"], ended["error"]["code"]) == ("failed", code)
    assert (left(api), secrets(), ended["left_behind"]) == (before, 0, False)
    assert cloud.world.calls("downloads.fetch") == ["disk-0.vmdk"]


def test_names_may_be_those_of_our_notes(api: Api) -> None:
    """A file that looks like the note of another one is a file like any."""
    names = ("file-1", "file-1.note", "disk-0.vmdk.note")
    text = described(*(flat(each, 700) for each in names))
    content = b"".join(FILES[each] for each in (ONE, TWO))
    put({DESCRIPTOR: text, names[0]: content[:9], names[1]: b"", names[2]: content[9:]})
    ended = api.done(ask(api))
    (disk,) = api.get(f"/v1/templates/{ended['target']['id']}").json()["disks"]
    assert disk["digest"] == digest(text, content[:9], b"", content[9:])


def test_as_many_files_as_are_allowed(api: Api) -> None:
    names = [f"d-{n}" for n in range(499)]
    put({DESCRIPTOR: described(*map(flat, names)), **dict.fromkeys(names, b"")})
    put({names[-1]: FILES[ONE] + FILES[TWO]})
    api.done(ask(api))


def test_what_is_missing_beside_it_is_named(api: Api) -> None:
    before = left(api)
    put({name: FILES[name] for name in (DESCRIPTOR, ONE)})
    problem = refused(ask(api, query={"dry_run": "true"}), 404, "source-not-found")
    ended = api.run(ask(api))
    assert ended["error"]["code"] == "source-not-found"
    for told in (problem, ended["error"]):
        assert TWO in told["detail"]
        assert "secret-folder" not in str(told)
    assert (left(api), secrets()) == (before, 0)


# --- plans --------------------------------------------------------------------------------------


def test_a_set_is_planned_and_imported_as_shown(api: Api) -> None:
    put({**FILES, TWO: FILES[TWO].ljust(2**20)})
    before = left(api)
    answer = ask(api, query={"dry_run": "true"})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["bytes_to_copy"] == 2 * 2**20
    (disk,) = plan["disks"]
    assert (disk["format"], disk["virtual_size_mib"]) == ("vmdk", 1)
    assert (left(api), secrets(), api.get("/v1/operations").json()) == (before, 0, [])
    ended = api.done(ask(api, query={"plan": plan["id"]}))
    assert ended["id"] == plan["id"]
    assert {step["key"] for step in ended["steps"]} == {
        f"{step['name']}[{step['what']}]" for step in plan["steps"]
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({TWO: b" " * 2**20 + FILES[TWO]}, "repository_mib 2, not 1"),
        ({DESCRIPTOR: described(flat(ONE, 4096), flat(TWO))}, "bytes is 2097664, was 1048576"),
        ({DESCRIPTOR: FILES[DESCRIPTOR].replace(b"Flat", b"FLAT")}, "form is twoGbMaxExtentFLAT"),
        ({DESCRIPTOR: FILES[DESCRIPTOR] + b"# \n"}, "the disk: descriptor is"),
    ],
    ids=["more", "larger", "another kind", "another word"],
)
def test_another_set_than_was_shown_is_not_imported(
    api: Api, there: None, changed: dict[str, bytes], told: str
) -> None:
    plan = ask(api, query={"dry_run": "true"}).json()
    put(changed)
    answer = ask(api, query={"plan": plan["id"]})
    assert told in "; ".join(refused(answer, 409, "plan-outdated")["changed"])
    other = ask(api, query={"plan": plan["id"]}, checksums={ONE: sum_of(b"")})
    refused(other, 409, "plan-of-another-request")


# --- over HTTP ----------------------------------------------------------------------------------

SIZE = 3 * 2**19  # of each extent
BIG = {
    "big.vmdk": described(flat("big one.vmdk", SIZE // 512), flat("big+2.vmdk", SIZE // 512)),
    "big one.vmdk": b"1" * SIZE,
    "big+2.vmdk": b"2" * SIZE,
}
Answer = Callable[[Handler], None]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is looked at for real."""
    tool = cast(ImageTool, SimpleNamespace(inspect=inspect))
    monkeypatch.setitem(cloud.__dict__, "images", tool)


@pytest.fixture
def server(api: Api, over_http: None, looking: None) -> Iterator[Server]:
    with serving(whole()) as found:
        found.answers = [by_name({name: whole(content) for name, content in BIG.items()})]
        yield found


def by_name(answers: dict[str, Answer]) -> Answer:
    def answer(on: Handler) -> None:
        name = unquote(urlsplit(on.path).path).rpartition("/")[2]
        answers.get(name, lambda on: on.say(404, Content_Length=0))(on)

    return answer


def url_of(server: Server) -> str:
    return server.url.replace("/image", "/there/big.vmdk?right=geheim-5")


def asked_of(server: Server) -> list[str]:
    return [each["path"] for each in server.asked]


def test_names_are_asked_for_in_the_descriptors_folder(api: Api, server: Server) -> None:
    ended = api.done(ask(api, url_of(server), login=LOGIN))
    assert asked_of(server) == [
        "/there/big.vmdk?right=geheim-5",
        "/there/big%20one.vmdk?right=geheim-5",
        "/there/big%2B2.vmdk?right=geheim-5",
    ]
    assert all(each["authorization"].startswith("Basic ") for each in server.asked)
    (disk,) = api.get(f"/v1/templates/{ended['target']['id']}").json()["disks"]
    assert disk["digest"] == digest(*BIG.values())
    assert disk["virtual_size_mib"] == 3
    assert b"geheim" not in dumped()


def test_an_interrupted_set_goes_on_within_the_file_where_it_was(api: Api, server: Server) -> None:
    """The runner is killed in the second extent: what is whole is not asked for again."""
    name, content = [*BIG.items()][-1]
    begun = {**{each: whole(BIG[each]) for each in BIG}, name: breaking(700_000, content)}
    server.answers = [by_name(begun)]
    accepted = UUID(ask(api, url_of(server)).json()["id"])
    die_at_the_first_error(accepted)
    asked = len(server.asked)
    server.answers = [by_name({name: whole(content)})]  # the others are not even there any more
    ended = FLOWS["import_from_url"](accepted)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert [each["range"] for each in server.asked[asked:]] == ["bytes=700000-"]


def test_an_extent_that_lies_elsewhere_is_looked_at_as_any_address(
    api: Api, server: Server
) -> None:
    """Where its server leads on to what is closed, it is not followed; nothing is left."""
    before = left(api)
    answers = {each: whole(BIG[each]) for each in BIG}
    with serving(whole(BIG["big+2.vmdk"]), host="127.0.0.1") as other:
        for onward, code in (
            ("http://169.254.169.254/latest", "source-forbidden"),
            ("http://[::1]/", "source-forbidden"),
            ("file:///etc/passwd", "source-invalid"),
        ):
            server.answers = [by_name({**answers, "big+2.vmdk": moved(onward)})]
            ended = api.run(ask(api, url_of(server)))
            assert (ended["state"], ended["error"]["code"]) == ("failed", code)
            assert (left(api), secrets()) == (before, 0)
        server.answers = [by_name({**answers, "big+2.vmdk": moved(other.url)})]
        api.done(ask(api, url_of(server), login=LOGIN))  # to what is allowed; not the login
        assert ["authorization" in each for each in other.asked] == [False]


def test_an_extent_without_an_end_is_cut_off(
    api: Api, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(on: Handler) -> None:
        on.say(200, Transfer_Encoding="chunked")
        while True:
            on.wfile.write(b"10000\r\n%s\r\n" % (b"x" * 2**16))

    before = left(api)
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 4)
    answers = {each: whole(BIG[each]) for each in BIG}
    server.answers = [by_name({**answers, "big+2.vmdk": endless})]
    ended = api.run(ask(api, url_of(server)))
    assert ended["error"]["code"] == "source-too-large"
    assert left(api) == before
    answer = ask(api, url_of(server), query={"dry_run": "true"})
    refused(answer, 422, "source-unsized")


def test_a_file_that_is_too_short_for_its_disk_is_refused(api: Api, server: Server) -> None:
    before = left(api)
    answers = {each: whole(BIG[each]) for each in BIG}
    server.answers = [by_name({**answers, "big+2.vmdk": whole(b"2" * 512)})]
    ended = api.run(ask(api, url_of(server)))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "image-truncated")
    assert left(api) == before


# --- the command line ---------------------------------------------------------------------------


def test_a_set_is_imported_from_the_command_line(there: None, workers: Workers) -> None:
    words = ("import", f"{FOLDER}/{DESCRIPTOR}?sig=1", "--name", "x", "--format", "vmdk")
    shown = run(*words, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "disk-0.vmdk: vmdk, 1 MiB" in shown.output
    wrong = run(*words, "--file-checksum", f"{ONE}={sum_of(b'')}")
    assert wrong.exit_code == 1
    assert "image-digest-mismatch" in wrong.output
    assert run(*words, "--file-checksum", "sha256").exit_code == 2
    for name in (ONE, TWO):
        words += ("--file-checksum", f"{name}={sum_of(FILES[name])}")
    assert run(*words).exit_code == 0
