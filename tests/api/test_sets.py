"""VMDKs of several files come in as one: the set that its descriptor names, or nothing."""

import hashlib
import os
import random
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from api import sending, tus
from flows.cloud import cloud
from tests.api.conftest import Api, refused
from tests.api.test_cli import Workers, run
from tests.api.test_cli import workers as workers  # noqa: PLC0414 - a fixture
from tests.api.test_gateway import DIGEST, IMAGE, asked, incoming, stream
from tests.api.test_tus import TUS, go_on, state
from tests.cutting import CuttingProxy

Files = list[tuple[str, bytes]]
FORM = {"Content-Type": "multipart/form-data; boundary=cut"}
ONE, TWO = ("d-f001.vmdk", b"1" * 512), ("d-f002.vmdk", b"2" * 1024)


def descriptor(*extents: str) -> tuple[str, bytes]:
    lines = "".join(f'RW 1 FLAT "{name}" 0\n' for name in extents)
    text = f'version=1\nCID=1\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n{lines}'
    return "d.vmdk", text.encode()


SET = descriptor("d-f001.vmdk", "d-f002.vmdk")


def form(files: Files, end: bytes = b"--cut--\r\n") -> bytes:
    """A body as it is on the wire, with names that no honest client would send."""
    parts = (
        b'--cut\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    )
    return b"".join(parts) + end


def send(api: Api, body: bytes, **wishes: Any) -> Any:
    return api.client.post(asked(api, **wishes), content=body, headers=FORM)


def digest(*contents: bytes) -> str:
    lines = "".join(f"{hashlib.sha256(each).hexdigest()}\n" for each in contents)
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("extents", [[ONE, TWO], [TWO, ONE]], ids=["in order", "in another"])
def test_a_set_is_one_upload(api: Api, extents: Files) -> None:
    whole = digest(SET[1], ONE[1], TWO[1])
    accepted = send(api, form([SET, *extents]), sha256=whole)
    assert accepted.status_code == 202, accepted.text
    (operation,) = api.sent
    assert operation.arguments["digest"] == whole
    (folder,) = incoming(api)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        "disk-0.vmdk": SET[1],
        **dict(extents),
    }


def test_a_set_of_another_digest_leaves_nothing(api: Api) -> None:
    body = form([SET, ONE, TWO])
    refused(send(api, body, sha256=digest(SET[1])), 422, "image-digest-mismatch")
    assert incoming(api) == []


def test_a_form_may_hold_a_single_image(api: Api) -> None:
    ended = api.done(send(api, form([("any name/at all", IMAGE)]), sha256=DIGEST))
    (disk,) = api.get(f"/v1/templates/{ended['target']['id']}").json()["disks"]
    assert disk["digest"] == DIGEST
    assert incoming(api) == []


HOSTILE: list[tuple[str, Files, str]] = [
    ("no file", [], "image-truncated"),
    ("an extent is missing", [SET, ONE], "image-truncated"),
    ("only the descriptor", [SET], "image-truncated"),
    ("one too many", [SET, ONE, TWO, ("d-f003.vmdk", b"3")], "image-surplus-file"),
    ("one twice", [SET, ONE, ONE, TWO], "image-surplus-file"),
    ("the descriptor twice", [SET, SET, ONE, TWO], "image-surplus-file"),
    ("its name in the library", [SET, ("disk-0.vmdk", b"")], "image-surplus-file"),
    ("the descriptor last", [ONE, TWO, SET], "image-surplus-file"),
    ("two images", [("a", IMAGE), ("b", IMAGE)], "image-surplus-file"),
    ("a path up", [SET, ("../d-f001.vmdk", b"")], "image-surplus-file"),
    ("an absolute path", [SET, ("/tmp/d-f001.vmdk", b"")], "image-surplus-file"),
    ("dots", [SET, ("..", b"")], "image-surplus-file"),
    ("a zero", [SET, ("d-f001.vmdk\0", b"")], "image-surplus-file"),
    ("a long name", [SET, ("d" * 3000, b"")], "image-surplus-file"),
    ("a header without end", [SET, ("d" * 10**6, b"")], "multipart-invalid"),
    ("a part that is no file", [SET, ("", b"")], "multipart-invalid"),
    ("an extent elsewhere", [descriptor("/etc/passwd")], "image-foreign-extent"),
    ("an extent above", [descriptor("../upload-1")], "image-foreign-extent"),
    ("an extent by protocol", [descriptor("nbd://somewhere")], "image-foreign-extent"),
    ("itself", [descriptor("disk-0.vmdk")], "image-foreign-extent"),
    ("itself, louder", [descriptor("DISK-0.vmdk")], "image-foreign-extent"),
    ("too many", [descriptor(*(f"d-{n}" for n in range(500)))], "image-too-large"),
    ("a broken descriptor", [descriptor("d-1", "d-1")], "image-corrupt"),
]


@pytest.mark.parametrize(
    ("files", "code"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE]
)
def test_a_hostile_set_is_refused_and_leaves_nothing(api: Api, files: Files, code: str) -> None:
    refused(send(api, form(files)), 422, code)
    assert incoming(api) == []
    assert api.get("/v1/operations").json() == []


def test_as_many_files_as_are_allowed(api: Api) -> None:
    names = [f"d-{n}" for n in range(499)]
    files = [descriptor(*names), *((name, b"") for name in names)]
    assert send(api, form(files)).status_code == 202


def test_a_descriptor_is_one_by_its_declared_format(api: Api) -> None:
    """What is no VMDK names no files, whatever it looks like."""
    refused(send(api, form([SET, ONE, TWO]), format="raw"), 422, "image-surplus-file")
    assert incoming(api) == []


@pytest.mark.parametrize("end", [b"", b"--cut", b"--cut\r\n", b"--cuts--\r\n"])
def test_a_form_that_ends_early_leaves_nothing(api: Api, end: bytes) -> None:
    refused(send(api, form([SET, ONE, TWO], end)), 422, "multipart-invalid")
    assert incoming(api) == []


@pytest.mark.parametrize("kind", ["", "; boundary=", f"; boundary={'x' * 500}"])
def test_a_form_that_says_not_where_its_parts_end(api: Api, kind: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{kind}"}
    body = form([SET, ONE, TWO])
    refused(api.client.put(asked(api), content=body, headers=headers), 422, "multipart-invalid")
    assert incoming(api) == []


def test_a_set_is_no_larger_than_a_file_may_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.settings, "max_upload_mib", 1)
    half = bytes(2**19)
    refused(send(api, form([SET, (ONE[0], half), (TWO[0], half)])), 413, "upload-too-large")
    assert incoming(api) == []


def test_who_hangs_up_within_a_set_leaves_nothing(api: Api) -> None:
    seen: list[list[str]] = []

    def messages() -> Iterator[dict[str, Any]]:
        yield {"type": "http.request", "body": form([SET, ONE], b""), "more_body": True}
        yield {"type": "http.request", "body": bytes(2**20), "more_body": True}
        seen.extend(sorted(each.name for each in folder.iterdir()) for folder in incoming(api))
        yield {"type": "http.disconnect"}

    stream(api, asked(api), messages(), FORM["Content-Type"])
    assert seen == [["d-f001.vmdk", "disk-0.vmdk"]]
    assert incoming(api) == []
    assert api.get("/v1/operations").json() == []


def test_a_set_is_never_whole_in_memory(api: Api) -> None:
    """What has been sent is on the disk before more is asked for."""
    on_disk: list[int] = []

    def messages() -> Iterator[dict[str, Any]]:
        begun = form([SET, (ONE[0], b"")], b"").removesuffix(b"\r\n")
        yield {"type": "http.request", "body": begun, "more_body": True}
        for piece in range(8):
            files = [each for folder in incoming(api) for each in folder.iterdir()]
            on_disk.append(sum(each.stat().st_size for each in files))
            yield {"type": "http.request", "body": bytes(2**20), "more_body": piece < 7}

    stream(api, asked(api), messages(), FORM["Content-Type"])
    assert on_disk == [0, *(len(SET[1]) + piece * 2**20 for piece in range(1, 8))]
    assert incoming(api) == []


# --- in several goes ---------------------------------------------------------------------------


ALL = SET[1] + ONE[1] + TWO[1]
SIZES = (len(SET[1]), len(ONE[1]), len(TWO[1]))


def begin(api: Api, *sizes: int | str, length: int | None = None, **wishes: Any) -> Any:
    said = b64encode(" ".join(map(str, sizes)).encode()).decode()
    total = length or sum(size for size in sizes if isinstance(size, int))
    headers = {
        **TUS,
        "Upload-Length": str(total),
        "Upload-Metadata": f"filename eA==,sizes {said}",
    }
    return api.client.post(asked(api, **wishes), headers=headers)


def begun_set(api: Api, *sizes: int, **wishes: Any) -> str:
    answer = begin(api, *sizes, **wishes)
    assert answer.status_code == 201, answer.text
    where: str = answer.headers["Location"]
    return where


@pytest.mark.parametrize("forgets", [False, True], ids=["one process", "a new one each time"])
@pytest.mark.parametrize("go", [1, 100, 511, 512, 10_000])
def test_a_set_comes_in_as_many_goes_as_it_takes(
    api: Api, go: int, forgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if go == 1:  # around where a file ends
        cuts = [0, *(end + by for end in (SIZES[0], sum(SIZES[:2])) for by in (-1, 0, 1))]
    else:
        cuts = list(range(0, len(ALL), go))
    where = begun_set(api, *SIZES, sha256=digest(SET[1], ONE[1], TWO[1]))
    for start, end in pairwise([*cuts, len(ALL)]):
        if forgets:
            monkeypatch.setattr(tus, "_seen", type(tus._seen)())
        assert state(api, where) == (start, None)
        answer = go_on(api, where, start, ALL[start:end])
        assert answer.status_code == 204, answer.text
    (operation,) = api.sent
    assert answer.headers["Location"] == f"/v1/operations/{operation.id}"
    assert state(api, where) == (len(ALL), answer.headers["Location"])
    (folder,) = incoming(api)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        "disk-0.vmdk": SET[1],
        **dict([ONE, TWO]),
    }


def test_what_was_seen_of_a_set_is_not_taken_for_another_of_its_files(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has not seen the first file, and as much of the third as the second has."""
    text = descriptor("d-1", "d-2")[1]
    content = text + b"1" * 64 + b"2" * 128
    where = begun_set(api, len(text), 64, 128)
    go_on(api, where, 0, content[:10])
    monkeypatch.setattr(tus, "_seen", type(tus._seen)())
    go_on(api, where, 10, content[10 : len(text) + 128])
    assert go_on(api, where, len(text) + 128, content[len(text) + 128 :]).is_success
    (operation,) = api.sent
    assert operation.arguments["digest"] == digest(text, b"1" * 64, b"2" * 128)


@pytest.mark.parametrize(
    ("extents", "sizes", "code"),
    [
        (["d-1"], (1, 1), "image-surplus-file"),
        (["d-1", "d-2"], (1,), "image-truncated"),
        (["../up"], (1,), "image-foreign-extent"),
        (["disk-0.vmdk"], (1,), "image-foreign-extent"),
        (["d-1", "d-1"], (1, 1), "image-corrupt"),
    ],
)
def test_a_set_that_is_not_what_its_descriptor_says_ends_at_once(
    api: Api, extents: list[str], sizes: tuple[int, ...], code: str
) -> None:
    text = descriptor(*extents)[1]
    where = begun_set(api, len(text), *sizes)
    refused(go_on(api, where, 0, text + b"x" * sum(sizes)), 422, code)
    assert incoming(api) == []
    assert api.client.head(where, headers=TUS).status_code == 404
    assert api.get("/v1/operations").json() == []


def test_sizes_that_make_no_sense_are_refused(api: Api) -> None:
    for sizes in ((5,), (5, -1), ("x", "y"), (), [1] * 501):
        refused(begin(api, *sizes, length=5), 400, "invalid-header")
    refused(begin(api, 2, 2, length=5), 400, "invalid-header")
    refused(begin(api, 0, 5), 400, "invalid-header")
    refused(begin(api, 2, 3, format="raw"), 400, "invalid-header")
    assert incoming(api) == []


def test_a_set_that_is_given_up_goes(api: Api) -> None:
    where = begun_set(api, *SIZES)
    go_on(api, where, 0, ALL[: SIZES[0] + 5])
    assert api.client.delete(where, headers=TUS).status_code == 204
    assert incoming(api) == []


def test_the_command_line_goes_on_with_a_set(
    workers: Workers, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.resting = True
    large = ("d-f002.vmdk", random.Random(1).randbytes(600_000))
    for name, content in (SET, ONE, large):
        (tmp_path / name).write_bytes(content)
    port = int(os.environ["CLOUDLOOM_URL"].rpartition(":")[2])
    monkeypatch.setattr(sending, "_PAUSE_S", 0.01)
    with CuttingProxy(port, [300_000, 400_000], None) as proxy:
        monkeypatch.setenv("CLOUDLOOM_URL", proxy.url)
        words = ("--name", "new", "--format", "vmdk", "--no-wait")
        sent = run("import", tmp_path / "d.vmdk", *words)
        assert proxy.cuts == []
    assert sent.exit_code == 0, sent.output
    (folder,) = incoming(api)
    assert (folder / large[0]).read_bytes() == large[1]


# --- the command line, and real tools ------------------------------------------------------------


def test_the_command_line_sends_what_a_descriptor_names(
    workers: Workers, api: Api, tmp_path: Path
) -> None:
    workers.resting = True
    for name, content in (SET, ONE, TWO):
        (tmp_path / name).write_bytes(content)
    sent = run("import", tmp_path / "d.vmdk", "--name", "new", "--format", "vmdk", "--no-wait")
    assert sent.exit_code == 0, sent.output
    (folder,) = incoming(api)
    assert {each.name for each in folder.iterdir()} == {"disk-0.vmdk", ONE[0], TWO[0]}


def test_the_command_line_sends_no_part_of_a_set(
    workers: Workers, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "d.vmdk").write_bytes(SET[1])
    (tmp_path / ONE[0]).write_bytes(ONE[1])
    words = ("import", tmp_path / "d.vmdk", "--name", "new", "--format", "vmdk")
    assert "(image-truncated)" in run(*words).output
    (tmp_path / "private").write_text("private")
    (tmp_path / TWO[0]).symlink_to("private")
    refusal = run(*words)
    assert "(image-foreign-extent)" in refusal.output
    assert refusal.exit_code == 1
    assert incoming(api) == []


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.PIPE)


def by_qemu(subformat: str, size: int, raw: Path) -> Path:
    made = raw.with_name("machine.vmdk")
    with raw.open("wb") as file:
        file.truncate(size)
        for at in (0, size // 2, size - 4096):
            file.seek(at)
            file.write(random.Random(at).randbytes(4096))
    options = ("-O", "vmdk", "-o", f"subformat={subformat}")
    qemu_img("convert", "-f", "raw", *options, raw, made)
    return made


def by_hand(size: int, raw: Path) -> Path:
    """A flat disk in two extents, of which the second begins within its file."""
    made, content = by_qemu("monolithicFlat", size, raw), raw.read_bytes()
    half = size // 1024
    text = made.read_text().partition("\0")[0]
    (flat,) = (line for line in text.splitlines() if line.startswith("RW"))
    extents = f'RW {half} FLAT "one (1).vmdk" 0\nRW {size // 512 - half} FLAT "two.vmdk" 3'
    made.write_text(text.replace(flat, extents).replace("monolithicFlat", "twoGbMaxExtentFlat"))
    raw.with_name("one (1).vmdk").write_bytes(content[: half * 512])
    raw.with_name("two.vmdk").write_bytes(bytes(3 * 512) + content[half * 512 :])
    raw.with_name("machine-flat.vmdk").unlink()
    return made


GIB, MIB = 2**30, 2**20
MADE = {
    "monolithicFlat": lambda raw: by_qemu("monolithicFlat", 5 * MIB, raw),
    "twoGbMaxExtentFlat": lambda raw: by_qemu("twoGbMaxExtentFlat", 5 * MIB, raw),
    "twoGbMaxExtentSparse": lambda raw: by_qemu("twoGbMaxExtentSparse", 5 * GIB, raw),
    "two flat extents": lambda raw: by_hand(5 * MIB, raw),
}
SLOW = {"two of 2 GB": lambda raw: by_qemu("twoGbMaxExtentFlat", 2 * GIB + 5 * MIB, raw)}


@pytest.fixture
def real(api: Api) -> Api:
    """The API, with the real image tool behind it."""
    cloud.become(cloud.settings.model_copy(update={"image_tool": "qemu-img"}))
    return api


@pytest.mark.lab
@pytest.mark.parametrize(
    "make",
    [*MADE.values(), *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW.values())],
    ids=[*MADE, *SLOW],
)
def test_a_real_set_is_imported_and_converted(
    real: Api, workers: Workers, make: Any, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    made = make(raw)
    extents = {each.name for each in tmp_path.glob("*.vmdk")} - {made.name}
    imported = run("import", made, "--name", "new", "--format", "vmdk")
    assert imported.exit_code == 0, imported.output
    converted = run("convert", "new", "qcow2")
    assert converted.exit_code == 0, converted.output
    (template,) = real.get("/v1/templates", params={"name": "new"}).json()
    (disk,) = template["disks"]
    (conversion,) = disk["conversions"]
    library = cloud.repository(real.world.datacenter).root
    kept = library / disk["path"]
    assert {each.name for each in kept.parent.iterdir()} == {kept.name, *extents}
    assert disk["size_bytes"] == sum(each.stat().st_size for each in kept.parent.iterdir())
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, library / conversion["path"])
    qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, kept)
    assert incoming(real) == []


@pytest.mark.lab
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_an_image_becomes_a_set_that_comes_and_goes_as_one(
    real: Api, workers: Workers, tmp_path: Path, subformat: str
) -> None:
    raw = tmp_path / "raw"
    made = by_qemu("streamOptimized", 5 * MIB, raw)
    library = cloud.repository(real.world.datacenter).root
    assert run("import", made, "--name", "new", "--format", "vmdk").exit_code == 0
    for _ in range(2):  # what is there is not made again
        converted = run("convert", "new", "vmdk", "--subformat", subformat)
        assert converted.exit_code == 0, converted.output
    (template,) = real.get("/v1/templates", params={"name": "new"}).json()
    (conversion,) = template["disks"][0]["conversions"]
    assert (conversion["format"], conversion["subformat"]) == ("vmdk", subformat)
    place = library / conversion["path"]
    qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, place)
    assert len([*place.parent.iterdir()]) == 2
    assert [*place.parent.parent.iterdir()] == [place.parent]
    assert incoming(real) == []
    deleting = real.delete(f"/v1/templates/{template['id']}")
    assert real.get(f"{deleting.headers['location']}?wait=30").json()["state"] == "succeeded"
    assert not (library / conversion["path"]).parent.exists()


def test_a_kind_that_a_format_has_not_is_refused(api: Api) -> None:
    wanted = {"format": "qcow2", "subformat": "streamOptimized"}
    asked_for = api.post(f"/v1/templates/{api.world.template}/conversions", json=wanted)
    refused(asked_for, 422, "unsupported")
    for wanted in ({}, {"format": "raw", "family": "kvm"}):
        asked_for = api.post(f"/v1/templates/{api.world.template}/conversions", json=wanted)
        refused(asked_for, 422, "invalid-request")


def test_a_template_is_made_ready_for_a_family(api: Api, workers: Workers) -> None:
    done = run("convert", "tiny", "--for", "vsphere")
    assert done.exit_code == 0, done.output
    (template,) = api.get("/v1/templates", params={"name": "tiny"}).json()
    (conversion,) = template["disks"][0]["conversions"]
    assert (conversion["format"], conversion["subformat"]) == ("vmdk", "streamOptimized")


@pytest.mark.lab
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_real_set_that_ends_early_leaves_nothing(
    real: Api, workers: Workers, tmp_path: Path, subformat: str
) -> None:
    library = cloud.repository(real.world.datacenter).root
    before = sorted(library.rglob("*"))
    made = by_qemu(subformat, 5 * MIB, tmp_path / "raw")
    (extent,) = (each for each in tmp_path.glob("*.vmdk") if each != made)
    os.truncate(extent, extent.stat().st_size - 512)
    failed = run("import", made, "--name", "new", "--format", "vmdk")
    assert failed.exit_code == 1
    assert "(image-truncated)" in failed.output
    assert sorted(library.rglob("*")) == before
