"""The image laws, run over the twins and the real tools."""

import errno
import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from adapters import programs
from adapters.errors import BadImage, Conflict, NotFound, OutOfSpace, Refused, Transient
from adapters.forms import Form
from adapters.images import repository as repositories
from adapters.images.base import ImageRepository, ImageTool
from adapters.images.memory import MemoryImageTool, MemoryRepository, write_image
from adapters.images.qemu_img import QemuImg
from adapters.images.repository import DirectoryRepository, initialise
from adapters.storage.base import BlockStorage
from adapters.storage.directory import DirectoryStorage
from adapters.storage.memory import MemoryStorage
from adapters.storage.tgt import Tgt
from adapters.types import Chap, Export, Format, Volume
from adapters.world import World
from deployments.lab.tgtd import Tgtd
from tests.labs import started

INITIATOR = "iqn.2026-11.test:filler"
OURS = uuid4()
SIZE_BYTES = 3 * 2**20 + 5 * 512


class Counterpart(Protocol):
    """A tool, images for it, and volumes to fill."""

    tool: ImageTool
    storage: BlockStorage

    def image(self, path: Path, format_: Format, seed: int = 1) -> None:
        """Make an image of `SIZE_BYTES`; those of the same seed are equal."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.tool = MemoryImageTool(self.world)
        self.storage = MemoryStorage(self.world, uuid4(), 64)

    def image(self, path: Path, format_: Format, seed: int = 1) -> None:
        write_image(path, format_, SIZE_BYTES, f"content {seed}")


class Qemu:
    def __init__(self, folder: Path, tgtd: Tgtd) -> None:
        folder.mkdir()
        self.tool = QemuImg()
        self.storage = DirectoryStorage(folder, Tgt(tgtd.control, "127.0.0.1", tgtd.port))

    def image(self, path: Path, format_: Format, seed: int = 1) -> None:
        raw = path.with_name(f"{path.name}.made")
        with raw.open("wb") as file:
            file.truncate(SIZE_BYTES)
            for offset in (0, 2**20, SIZE_BYTES - 1024):
                file.seek(offset)
                file.write(random.Random(seed).randbytes(1024))
        self.tool.convert(raw, Format.RAW, path, Form.of(format_), lambda percent: None)
        raw.unlink()


@pytest.fixture(scope="module")
def tgtd(tmp_path_factory):
    with started(Tgtd(tmp_path_factory.mktemp("tgtd"))) as daemon:
        yield daemon


@pytest.fixture(params=["memory", pytest.param("qemu_img", marks=pytest.mark.lab)])
def counterpart(request, tmp_path) -> Counterpart:
    if request.param == "memory":
        return Memory(tmp_path)
    return Qemu(tmp_path / "pool", request.getfixturevalue("tgtd"))


@pytest.fixture
def tool(counterpart) -> ImageTool:
    return counterpart.tool


class Percents(list):
    def __call__(self, percent):
        self.append(percent)


@pytest.fixture
def export(counterpart):
    """A volume larger than the image, open for its filler."""
    volume = Volume(id=uuid4(), size_mib=4, installation=OURS)
    counterpart.storage.ensure_volume(volume)
    counterpart.storage.open_for_filling(volume)
    right = Export(id=uuid4(), volume=volume.id, initiator=INITIATOR, installation=OURS)
    chap = Chap(user=right.account, password=SecretStr("a-secret-of-16"))
    target = counterpart.storage.ensure_export(right, chap)
    yield right, chap, target
    counterpart.storage.delete_export(right)


# --- the tool ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", Format)
def test_inspecting_says_what_it_is(counterpart, tool, tmp_path, format_):
    path = tmp_path / f"disk.{format_.extension}"
    counterpart.image(path, format_)
    info = tool.inspect(path, format_, max_virtual_mib=4)
    assert (info.format, info.virtual_size_bytes) == (format_, SIZE_BYTES)
    assert info.file_size_bytes == path.stat().st_size


def test_inspecting_refuses_another_format(counterpart, tool, tmp_path):
    path = tmp_path / "disk.qcow2"
    counterpart.image(path, Format.QCOW2)
    with pytest.raises(BadImage) as refusal:
        tool.inspect(path, Format.VMDK, max_virtual_mib=4)
    assert refusal.value.code == "image-format-mismatch"


def test_inspecting_refuses_what_nobody_knows(tool, tmp_path):
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"what is this?" * 1000)
    with pytest.raises(BadImage) as refusal:
        tool.inspect(path, Format.QCOW2, max_virtual_mib=4)
    assert refusal.value.code == "image-unknown-format"


def test_inspecting_refuses_too_large_a_disk(counterpart, tool, tmp_path):
    path = tmp_path / "disk.qcow2"
    counterpart.image(path, Format.QCOW2)
    with pytest.raises(BadImage) as refusal:
        tool.inspect(path, Format.QCOW2, max_virtual_mib=3)
    assert refusal.value.code == "image-too-large"


def test_inspecting_follows_no_link(counterpart, tool, tmp_path):
    counterpart.image(tmp_path / "disk.qcow2", Format.QCOW2)
    link = tmp_path / "link.qcow2"
    link.symlink_to("disk.qcow2")
    with pytest.raises(BadImage):
        tool.inspect(link, Format.QCOW2, max_virtual_mib=4)


@pytest.mark.parametrize("to", Form, ids=lambda form: form.value)
def test_a_conversion_keeps_size_and_content(counterpart, tool, tmp_path, to):
    source, percents = tmp_path / "a", Percents()
    target = tmp_path / ("set.vmdk" if to.is_set else "b, with: a name")
    counterpart.image(source, Format.QCOW2)
    tool.convert(source, Format.QCOW2, target, to, percents)
    assert tool.inspect(target, to.format, max_virtual_mib=4).virtual_size_bytes == SIZE_BYTES
    assert tool.equal(source, Format.QCOW2, target, to.format)
    assert percents[-1] == 100.0
    assert percents == sorted(percents)


def test_different_images_are_not_equal(counterpart, tool, tmp_path):
    counterpart.image(tmp_path / "a", Format.QCOW2)
    counterpart.image(tmp_path / "b", Format.RAW, seed=2)
    assert not tool.equal(tmp_path / "a", Format.QCOW2, tmp_path / "b", Format.RAW)


def test_a_failed_conversion_leaves_nothing(counterpart, tool, tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    counterpart.image(source, Format.QCOW2)
    with pytest.raises(Refused):
        tool.convert(source, Format.VDI, target, Form.RAW, Percents())
    assert not target.exists()
    with pytest.raises(NotFound):
        tool.convert(tmp_path / "none", Format.QCOW2, target, Form.RAW, Percents())


@pytest.mark.parametrize("to", [Form.RAW, *(form for form in Form if form.is_set)])
def test_an_interrupted_conversion_leaves_nothing(counterpart, tool, tmp_path, to):
    def interrupt(percent):
        if percent == 100.0:
            raise InterruptedError

    counterpart.image(tmp_path / "a", Format.QCOW2)
    with pytest.raises(InterruptedError):
        tool.convert(tmp_path / "a", Format.QCOW2, tmp_path / "b", to, interrupt)
    assert not [*tmp_path.glob("b*")]


@pytest.mark.parametrize("to", Form, ids=lambda form: form.value)
def test_a_conversion_needs_no_more_than_measured(counterpart, tool, tmp_path, to):
    source, target = tmp_path / "a", tmp_path / "b"
    counterpart.image(source, Format.QCOW2)
    needed = tool.measure(source, Format.QCOW2, to)
    tool.convert(source, Format.QCOW2, target, to, Percents())
    states = [path.stat() for path in tmp_path.glob("b*")]
    assert 0 < sum(min(x.st_size, x.st_blocks * 512) for x in states) <= needed


def test_a_filled_volume_equals_its_image(counterpart, tool, tmp_path, export):
    _, chap, target = export
    counterpart.image(tmp_path / "a,b", Format.QCOW2)
    counterpart.image(tmp_path / "c", Format.QCOW2, seed=2)
    args = (Format.QCOW2, target, INITIATOR, chap)
    assert not tool.equals_target(tmp_path / "a,b", *args)
    percents = Percents()
    tool.fill_target(tmp_path / "a,b", *args, percents)
    assert percents[-1] == 100.0
    assert tool.equals_target(tmp_path / "a,b", *args)
    assert not tool.equals_target(tmp_path / "c", *args)


@pytest.mark.parametrize("form", [Form.QCOW2, Form.RAW, Form.VMDK_STREAM], ids=lambda x: x.value)
def test_a_volume_is_read_whole_and_is_not_changed(counterpart, tool, tmp_path, export, form):
    right, chap, target = export
    counterpart.image(tmp_path / "a", Format.QCOW2)
    tool.fill_target(tmp_path / "a", Format.QCOW2, target, INITIATOR, chap, Percents())
    volume = Volume(id=right.volume, size_mib=4, installation=OURS)
    counterpart.storage.seal(volume)
    read, percents = tmp_path / "b,c", Percents()
    tool.read_target(target, INITIATOR, chap, read, form, percents)
    assert percents[-1] == 100.0
    assert tool.equals_target(read, form.format, target, INITIATOR, chap)
    assert tool.equal(tmp_path / "a", Format.QCOW2, read, form.format)
    size_bytes = tool.inspect(read, form.format, max_virtual_mib=4).virtual_size_bytes
    assert size_bytes == 4 * 2**20
    assert not counterpart.storage.written(volume)


def test_a_volume_that_nobody_has_written_is_read_as_nothing(counterpart, tool, tmp_path, export):
    _, chap, target = export
    tool.read_target(target, INITIATOR, chap, tmp_path / "b", Form.QCOW2, Percents())
    assert tool.equals_target(tmp_path / "b", Format.QCOW2, target, INITIATOR, chap)


@pytest.mark.parametrize("fate", ["gone", "another's", "interrupted"])
def test_a_volume_that_cannot_be_read_leaves_nothing(counterpart, tool, tmp_path, export, fate):
    right, chap, target = export

    def hear(percent):
        if fate == "interrupted" and percent == 100.0:
            raise InterruptedError

    if fate == "gone":
        counterpart.storage.delete_export(right)
    whose = f"{INITIATOR}-not" if fate == "another's" else INITIATOR
    with pytest.raises((Refused, Transient, InterruptedError)):
        tool.read_target(target, whose, chap, tmp_path / "b", Form.QCOW2, hear)
    assert not (tmp_path / "b").exists()


def test_filling_again_replaces_what_was_there(counterpart, tool, tmp_path, export):
    _, chap, target = export
    for seed in (1, 2):
        counterpart.image(tmp_path / f"{seed}", Format.QCOW2, seed=seed)
        tool.fill_target(tmp_path / f"{seed}", Format.QCOW2, target, INITIATOR, chap, Percents())
    assert tool.equals_target(tmp_path / "2", Format.QCOW2, target, INITIATOR, chap)


def test_a_target_that_is_gone_may_come_back(counterpart, tool, tmp_path, export):
    right, chap, target = export
    counterpart.image(tmp_path / "a", Format.QCOW2)
    counterpart.storage.delete_export(right)
    with pytest.raises(Transient):
        tool.fill_target(tmp_path / "a", Format.QCOW2, target, INITIATOR, chap, Percents())
    with pytest.raises(Transient):
        tool.equals_target(tmp_path / "a", Format.QCOW2, target, INITIATOR, chap)


def test_only_the_initiator_gets_in(counterpart, tool, tmp_path, export):
    _, chap, target = export
    counterpart.image(tmp_path / "a", Format.QCOW2)
    wrong = Chap(user=uuid4().hex, password=SecretStr("another"))
    with pytest.raises((Refused, Transient)):
        tool.fill_target(tmp_path / "a", Format.QCOW2, target, INITIATOR, wrong, Percents())
    with pytest.raises((Refused, Transient)):
        tool.fill_target(
            tmp_path / "a", Format.QCOW2, target, f"{INITIATOR}-not", chap, Percents()
        )


@pytest.mark.lab
def test_a_target_that_stops_answering_holds_nobody(tmp_path, tgtd):
    """Alone, qemu-img would wait for it for ever."""
    source = tmp_path / "a"
    source.write_bytes(random.Random(1).randbytes(2**20) * 64)
    storage = Qemu(tmp_path / "pool", tgtd).storage
    volume = Volume(id=uuid4(), size_mib=64, installation=OURS)
    right = Export(id=uuid4(), volume=volume.id, initiator=INITIATOR, installation=OURS)
    chap = Chap(user=right.account, password=SecretStr("a-secret-of-16"))
    storage.ensure_volume(volume)
    target = storage.ensure_export(right, chap)

    def freeze(percent):
        tgtd._process.send(signal.SIGSTOP)

    try:
        with pytest.raises(Transient, match="did nothing"):
            QemuImg(stalled_s=1.0).fill_target(source, Format.RAW, target, INITIATOR, chap, freeze)
    finally:
        tgtd._process.send(signal.SIGCONT)
    storage.delete_export(right)


@pytest.mark.lab
def test_the_password_is_on_no_command_line(tmp_path, tgtd, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    real, seen = programs.run, []

    def watch(program, *arguments, **options):
        seen.append([str(argument) for argument in arguments])
        return real(program, *arguments, **options)

    counterpart = Qemu(tmp_path / "pool", tgtd)
    counterpart.image(tmp_path / "a", Format.RAW)
    volume = Volume(id=uuid4(), size_mib=4, installation=OURS)
    right = Export(id=uuid4(), volume=volume.id, initiator=INITIATOR, installation=OURS)
    chap = Chap(user=right.account, password=SecretStr("never-to-be-seen"))
    counterpart.storage.ensure_volume(volume)
    target = counterpart.storage.ensure_export(right, chap)
    monkeypatch.setattr(programs, "run", watch)
    counterpart.tool.fill_target(tmp_path / "a", Format.RAW, target, INITIATOR, chap, Percents())
    assert counterpart.tool.equals_target(tmp_path / "a", Format.RAW, target, INITIATOR, chap)
    counterpart.storage.delete_export(right)
    assert {arguments[0] for arguments in seen} >= {"convert", "compare"}
    (convert,) = (arguments for arguments in seen if arguments[0] == "convert")
    assert "-t writeback" in " ".join(convert)  # qemu-img's default for it flushes nothing
    assert "never-to-be-seen" not in f"{seen} {caplog.text}"


# --- the repository ------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "directory"])
def repository(request, tmp_path) -> ImageRepository:
    root = tmp_path / "repository"
    marker = initialise(root)
    if request.param == "memory":
        return MemoryRepository(World(tmp_path / "world.sqlite"), root, marker)
    return DirectoryRepository(root, marker)


def put(repository, relative, content=b"content"):
    scratch = repository.scratch(f"put-{uuid4()}", 1)
    scratch.write_bytes(content)
    return repository.publish(scratch, relative)


def files(repository):
    return sorted(
        str(path.relative_to(repository.root))
        for path in repository.root.rglob("*")
        if path.is_file() and path.name != repositories.MARKER
    )


def test_a_repository_keeps_its_marker(repository):
    assert initialise(repository.root) == repository.marker


def test_entries_are_what_somebody_has_put_there_and_go_whole(repository):
    put(repository, "templates/one/disk-0.qcow2")
    put(repository, "conversions/ab/two.qcow2")
    (repository.scratch("upload-three", 1)).write_bytes(b"some")
    repository.leave_mark(uuid4(), "1")
    entries = repository.entries()
    assert set(entries) == {"templates/one", "conversions/ab/two.qcow2", "incoming/upload-three"}
    assert abs(min(entries.values()) / 1e9 - time.time()) < 60
    for entry in entries:
        repository.discard(entry)
        repository.discard(entry)
    assert repository.entries() == {}


@pytest.mark.parametrize("entry", ["templates", ".cloudloom-repository", "templates/a/b", "../x"])
def test_nothing_but_an_entry_is_discarded(repository, entry):
    with pytest.raises(Refused):
        repository.discard(entry)
    repository.verify()


def test_marks_tell_how_far_each_installation_was(repository):
    ours, theirs = uuid4(), uuid4()
    for installation, mark in ((ours, "2"), (ours, "1"), (ours, "2"), (theirs, "3")):
        repository.leave_mark(installation, mark)
    assert repository.marks() == {ours: ["1", "2"], theirs: ["3"]}
    repository.forget_marks(ours, before="2")
    assert repository.marks() == {ours: ["2"], theirs: ["3"]}


def test_a_mounted_repository_is_verified_and_left_as_it_was(repository):
    repository.verify()
    assert files(repository) == []
    assert 0 < repository.capacity().free_mib <= repository.capacity().total_mib


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.verify(),
        lambda r: r.capacity(),
        lambda r: r.scratch("a", 1),
        lambda r: r.has("a"),
        lambda r: r.identity("a"),
        lambda r: r.delete("a"),
        lambda r: r.clear("a"),
        lambda r: r.find_scratch("a"),
        lambda r: r.rename_scratch("a", "b"),
        lambda r: r.digest(r.root / "a"),
        lambda r: r.publish(r.root / "incoming" / "a", "a"),
    ],
)
@pytest.mark.parametrize("lost", ["marker", "everything", "another's"])
def test_without_its_marker_nothing_is_believed(repository, ask, lost):
    if lost == "another's":
        (repository.root / repositories.MARKER).write_text(str(UUID(int=0)))
    else:
        (repository.root / repositories.MARKER).unlink()
    if lost == "everything":
        repository.root.rename(repository.root.with_name("moved"))
    with pytest.raises(Transient):
        ask(repository)


def test_a_mount_that_hangs_hangs_nobody(repository, monkeypatch, tmp_path):
    """A pipe that nobody writes to stands for the dead mount: reading it blocks."""
    monkeypatch.setattr(repositories, "_PATIENCE_S", 0.2)
    marker = repository.root / repositories.MARKER
    text = marker.read_text()
    marker.unlink()
    os.mkfifo(marker)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(Transient):
            repository.verify()
    assert threading.active_count() == before + 1  # no thread for each who asked
    marker.write_text(text)  # let it go


@pytest.mark.parametrize(
    "relative", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/", "a\0b"]
)
def test_paths_stay_inside(repository, relative):
    with pytest.raises(Refused):
        repository.path(relative)


@pytest.mark.parametrize("ask", ["path", "has", "identity", "delete"])
def test_links_are_not_followed(repository, tmp_path, ask):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("keep")
    (repository.root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused):
        getattr(repository, ask)("link/a")
    assert (tmp_path / "outside" / "a").exists()


def test_scratch_is_fresh_and_has_room(repository):
    scratch = repository.scratch("op-1-2", 1000)
    assert not scratch.exists()
    scratch.write_text("old")
    assert not repository.scratch("op-1-2", 1000).exists()
    with pytest.raises(OutOfSpace):
        repository.scratch("op-1-2", 2**60)
    for name in ("", "a/b", "..", "*", ".hidden"):
        with pytest.raises(Refused):
            repository.scratch(name, 1)


def test_publishing_puts_it_in_place(repository):
    scratch = repository.scratch("op-1-1", 1)
    scratch.write_text("image")
    assert not repository.has("t/disk.qcow2")
    identity = repository.publish(scratch, "t/disk.qcow2")
    assert repository.has("t/disk.qcow2")
    assert files(repository) == ["t/disk.qcow2"]
    assert repository.identity("t/disk.qcow2") == identity
    assert repository.path("t/disk.qcow2").read_text() == "image"


def test_publishing_again_finds_it_there(repository):
    scratch = repository.scratch("op-1-1", 1)
    scratch.write_text("image")
    identity = repository.publish(scratch, "t/disk")
    assert repository.publish(scratch, "t/disk") == identity
    assert put(repository, "t/disk", b"image") == identity
    assert files(repository) == ["t/disk"]


def test_publishing_replaces_nothing(repository):
    put(repository, "t/disk", b"one")
    with pytest.raises(Conflict):
        put(repository, "t/disk", b"two")
    assert repository.path("t/disk").read_bytes() == b"one"


def test_publishing_needs_a_scratch_file(repository, tmp_path):
    (tmp_path / "elsewhere").write_text("secret")
    with pytest.raises(Refused):
        repository.publish(tmp_path / "elsewhere", "t/disk")
    link = repository.scratch("link", 1)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        repository.publish(link, "t/disk")
    with pytest.raises(NotFound):
        repository.publish(repository.scratch("nothing", 1), "t/disk")


DESCRIPTOR = (
    "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
    'createType="twoGbMaxExtentFlat"\n'
    'RW 1 FLAT "d-f001.vmdk" 0\nRW 1 FLAT "d-f002.vmdk" 0\n'
)


@pytest.fixture(params=["alone", "beside another"])
def neighbour(request, repository):
    """What is in the folder of a set before: nothing, then the folder moves as a whole."""
    if request.param == "alone":
        return []
    put(repository, "t/another")
    return ["t/another"]


def write_set(repository, name="op-1-1"):
    folder = repository.scratch(name, 1)
    folder.mkdir()
    (folder / "d.vmdk").write_text(DESCRIPTOR)
    (folder / "d-f001.vmdk").write_bytes(b"1" * 512)
    (folder / "d-f002.vmdk").write_bytes(b"2" * 512)
    return folder / "d.vmdk"


SET = ["t/d-f001.vmdk", "t/d-f002.vmdk", "t/d.vmdk"]


def test_a_set_of_files_is_published_and_deleted_as_one(repository, neighbour):
    scratch = write_set(repository)
    identity = repository.publish(scratch, "t/d.vmdk")
    assert files(repository) == sorted(neighbour + SET)
    assert repository.publish(write_set(repository), "t/d.vmdk") == identity
    assert identity.size_bytes == len(DESCRIPTOR) + 1024
    repository.path("t/d-f002.vmdk").write_bytes(b"3" * 512)
    os.utime(repository.path("t/d-f002.vmdk"), ns=(0, identity.modified_ns + 1))
    assert repository.identity("t/d.vmdk") != identity
    with pytest.raises(Conflict):
        repository.publish(write_set(repository), "t/d.vmdk")
    repository.delete("t/d.vmdk")
    repository.clear("op-")
    assert files(repository) == neighbour
    assert (repository.root / "t").exists() == bool(neighbour)


def test_a_set_alone_is_put_in_place_by_one_rename(repository, monkeypatch):
    """Also where an interrupted removal has left the empty folder."""
    real, moved = repositories._move, []
    monkeypatch.setattr(repositories, "_move", lambda *names: (moved.append(names), real(*names)))
    (repository.root / "t").mkdir()
    scratch = write_set(repository)
    repository.publish(scratch, "t/d.vmdk")
    assert moved == [(scratch.parent, repository.root / "t")]


@pytest.mark.parametrize("moves", range(4))
@pytest.mark.parametrize("then", ["again", "another attempt", "deleted"])
def test_a_set_is_seen_whole_or_not_at_all(repository, monkeypatch, moves, then):
    """Interrupted after each rename: nothing is seen; it can be finished, done anew, removed."""
    real, done = repositories._move, []

    def stop(source, target):
        if len(done) == moves:
            raise OSError(errno.EIO, "the power went")
        done.append(target)
        real(source, target)

    put(repository, "t/another")
    scratch = write_set(repository)
    monkeypatch.setattr(repositories, "_move", stop)
    with pytest.raises(Transient):
        repository.publish(scratch, "t/d.vmdk")
    monkeypatch.setattr(repositories, "_move", real)
    assert not repository.has("t/d.vmdk")
    if then == "deleted":
        repository.delete("t/d.vmdk")
        repository.clear("op-1-1")
        assert files(repository) == ["t/another"]
        return
    repository.publish(scratch if then == "again" else write_set(repository, "op-1-2"), "t/d.vmdk")
    repository.clear("op-1-")
    assert files(repository) == ["t/another", *SET]


def test_a_set_that_lacks_a_file_is_not_published(repository):
    scratch = write_set(repository)
    scratch.with_name("d-f002.vmdk").unlink()
    with pytest.raises(NotFound):
        repository.publish(scratch, "t/d.vmdk")
    repository.clear("op-")
    assert files(repository) == []


def test_identity_changes_with_the_file(repository):
    before = put(repository, "t/disk")
    path = repository.path("t/disk")
    os.utime(path, ns=(0, before.modified_ns + 1))
    assert repository.identity("t/disk") != before
    with pytest.raises(NotFound):
        repository.identity("t/none")


def test_a_digest_is_of_the_content(repository, tmp_path):
    put(repository, "t/disk", b"abc")
    digest = repository.digest(repository.path("t/disk"))
    assert digest.startswith("ba7816bf")
    assert len(digest) == 64
    with pytest.raises(Refused):
        repository.digest(tmp_path / "world.sqlite")


def test_a_digest_of_a_set_is_of_all_its_files(repository):
    """It is what finds a conversion again: two sets may have one descriptor."""
    scratch = write_set(repository)
    before = repository.digest(scratch)
    files = [DESCRIPTOR.encode(), b"1" * 512, b"2" * 512]
    listed = "".join(f"{hashlib.sha256(each).hexdigest()}\n" for each in files)
    assert before == hashlib.sha256(listed.encode()).hexdigest()
    scratch.with_name("d-f002.vmdk").write_bytes(b"3" * 512)
    assert repository.digest(scratch) != before


def test_a_raw_disk_that_reads_like_a_descriptor_is_one_file(repository):
    """A guest writes what it likes: its disk must not own the files beside it."""
    put(repository, "t/d-f001.vmdk", b"another's")
    put(repository, "t/d-f002.vmdk", b"another's")
    put(repository, "t/d.raw", DESCRIPTOR.encode())
    assert repository.identity("t/d.raw").size_bytes == len(DESCRIPTOR)
    digest = repository.digest(repository.path("t/d.raw"))
    assert digest == hashlib.sha256(DESCRIPTOR.encode()).hexdigest()
    repository.delete("t/d.raw")
    assert files(repository) == ["t/d-f001.vmdk", "t/d-f002.vmdk"]


def test_deleting_leaves_no_empty_folder(repository):
    put(repository, "t/one")
    put(repository, "t/two")
    repository.delete("t/one")
    assert files(repository) == ["t/two"]
    repository.delete("t/two")
    repository.delete("t/two")
    assert not (repository.root / "t").exists()
    assert repository.root.exists()


def test_clearing_removes_one_attempts_files_only(repository):
    for name in ("op-1-1", "op-1-2", "op-2-1"):
        repository.scratch(name, 1).write_text(name)
    (repository.scratch("op-1-3", 1)).mkdir()
    put(repository, "op-1")
    repository.clear("op-1-")
    repository.clear("op-1-")
    assert files(repository) == ["incoming/op-2-1", "op-1"]
    with pytest.raises(Refused):
        repository.clear("")


def test_scratch_files_are_found_and_renamed(repository):
    assert repository.find_scratch("up-") is None
    repository.scratch("up-1", 1).write_text("image")
    assert repository.find_scratch("up-") == repository.root / "incoming" / "up-1"
    repository.rename_scratch("up-1", "done-1")
    repository.rename_scratch("up-1", "done-1")
    assert files(repository) == ["incoming/done-1"]
    with pytest.raises(NotFound):
        repository.rename_scratch("up-2", "done-2")


# --- the twins' fates ----------------------------------------------------------------------------


def test_the_twins_meet_their_fates(tmp_path):
    world = World(tmp_path / "world.sqlite")
    root = tmp_path / "repository"
    repository, tool = MemoryRepository(world, root, initialise(root)), MemoryImageTool(world)
    source, target = tmp_path / "a", tmp_path / "b"
    write_image(source, Format.RAW, 512, "x")
    world.set_fate("images.convert", "commits-then-fails")
    with pytest.raises(Transient):
        tool.convert(source, Format.RAW, target, Form.QCOW2, Percents())
    assert target.exists()
    world.set_fate("repository.publish", "lies")
    scratch = repository.scratch("a", 1)
    scratch.write_text("x")
    repository.publish(scratch, "t/x")
    assert not repository.has("t/x")
    assert world.calls("images.convert") == ["b"]
    assert world.calls("repository.publish") == ["t/x"]
