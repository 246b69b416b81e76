"""The node-access laws, run over every adapter that claims the port."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from adapters.errors import NotFound, Refused
from adapters.images.repository import initialise
from adapters.nodes.base import Node
from adapters.nodes.local import LocalNode
from adapters.nodes.memory import MemoryNode
from adapters.types import Base, Format
from adapters.world import World

CONTENT = b"image" * 1000 + bytes(3 * 2**20) + b"tail"


class Counterpart(Protocol):
    """A host's files."""

    node: Node
    datastore: str

    def photograph(self) -> object:
        """All that is in the datastore."""


class Memory:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.node = MemoryNode(self.world, uuid4())
        self.datastore = str(folder / "datastore")
        self.world.put("datastore", f"{self.datastore}/missing", {"total_mib": 0})

    def photograph(self) -> object:
        return self.world.everything()


class Local:
    def __init__(self, folder: Path) -> None:
        self.node = LocalNode()
        self.folder = folder / "datastore"
        self.folder.mkdir()
        self.datastore = str(self.folder)

    def photograph(self) -> object:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture(params=[Memory, Local])
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Counterpart:
    return request.param(tmp_path)


@pytest.fixture
def node(counterpart: Counterpart) -> Node:
    return counterpart.node


@pytest.fixture
def source(tmp_path: Path) -> str:
    image = tmp_path / "image.raw"
    image.write_bytes(CONTENT)
    return str(image)


@pytest.fixture
def copy(counterpart: Counterpart) -> Base:
    return copy_of(CONTENT, counterpart.datastore)


def copy_of(content: bytes, datastore: str) -> Base:
    digest = hashlib.sha256(content).hexdigest()
    return Base(path=f"{datastore}/base-{digest}.raw", format=Format.RAW, digest=digest)


# --- both --------------------------------------------------------------------------------------


def test_a_repository_is_seen_by_its_marker(node, tmp_path):
    repository = tmp_path / "library"
    marker = initialise(repository)
    assert node.sees(str(repository), marker)
    assert not node.sees(str(repository), uuid4())
    assert not node.sees(str(tmp_path / "elsewhere"), marker)


def test_a_datastore_has_room(counterpart, node):
    capacity = node.capacity(counterpart.datastore)
    assert 0 < capacity.free_mib <= capacity.total_mib


def test_a_missing_datastore_is_not_found(counterpart, node):
    with pytest.raises(NotFound):
        node.capacity(f"{counterpart.datastore}/missing")


def test_a_copy_is_there_once_made_and_not_before(node, source, copy):
    assert not node.has_copy(copy)
    node.ensure_copy(source, copy)
    assert node.has_copy(copy)


def test_copying_again_changes_nothing(counterpart, node, source, copy):
    node.ensure_copy(source, copy)
    before = counterpart.photograph()
    node.ensure_copy(source, copy)
    assert counterpart.photograph() == before


def test_an_image_with_another_digest_is_not_copied(counterpart, node, source):
    before = counterpart.photograph()
    other = copy_of(b"another image", counterpart.datastore)
    with pytest.raises(Refused) as refusal:
        node.ensure_copy(source, other)
    assert refusal.value.code == "image-digest-mismatch"
    assert counterpart.photograph() == before


def test_a_missing_image_is_not_found(counterpart, node, source, copy):
    before = counterpart.photograph()
    with pytest.raises(NotFound):
        node.ensure_copy(f"{source}.missing", copy)
    assert counterpart.photograph() == before


def test_a_deleted_copy_is_gone_and_may_be_deleted_again(counterpart, node, source, copy):
    before = counterpart.photograph()
    node.ensure_copy(source, copy)
    node.delete_copy(copy)
    node.delete_copy(copy)
    assert not node.has_copy(copy)
    assert counterpart.photograph() == before


def test_only_copies_are_made_and_deleted(node, source, copy):
    library = Base(path=source, format=Format.RAW, digest=copy.digest)
    with pytest.raises(Refused):
        node.ensure_copy(source, library)
    with pytest.raises(Refused):
        node.delete_copy(library)
    assert Path(source).read_bytes() == CONTENT


def test_lists_the_copies_of_an_installation_only(counterpart, node, source):
    digest = hashlib.sha256(CONTENT).hexdigest()
    ours, theirs = uuid4(), uuid4()
    mine, another = (
        Base.copied_to(counterpart.datastore, digest, Format.VPC, each) for each in (ours, theirs)
    )
    for copy in (mine, another):
        node.ensure_copy(source, copy)
    assert mine.is_copy
    assert node.copies(counterpart.datastore, ours) == [mine]
    assert node.copies(counterpart.datastore, theirs) == [another]
    node.delete_copy(mine)
    assert node.copies(counterpart.datastore, ours) == []
    assert node.has_copy(another)


def test_lanes_may_want_the_same_copy_at_once(counterpart, node, source, copy):
    lanes = [threading.Thread(target=node.ensure_copy, args=(source, copy)) for _ in range(8)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert node.has_copy(copy)
    assert len(counterpart.photograph()) == (1 if isinstance(counterpart, Local) else 2)


# --- this machine's ----------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


@pytest.mark.parametrize(
    "content", [CONTENT, b"", bytes(2**21), b"x" * (2**20 + 1)], ids=["mixed", "none", "0", "odd"]
)
def test_a_copy_has_every_byte(local, tmp_path, content):
    (tmp_path / "image").write_bytes(content)
    copy = copy_of(content, local.datastore)
    local.node.ensure_copy(str(tmp_path / "image"), copy)
    assert Path(copy.path).read_bytes() == content


def test_holes_stay_holes(local, tmp_path):
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 64 * 2**20)
    copy = copy_of(bytes(64 * 2**20), local.datastore)
    local.node.ensure_copy(str(image), copy)
    assert Path(copy.path).stat().st_blocks * 512 < 2**20


def test_what_a_killed_attempt_left_is_overwritten(local, source):
    copy = copy_of(CONTENT, local.datastore)
    Path(f"{copy.path}.part").write_bytes(b"half a copy, and longer than the image" * 2**17)
    assert not local.node.has_copy(copy)
    local.node.ensure_copy(source, copy)
    assert local.photograph() == {Path(copy.path).name: CONTENT}


def test_what_a_killed_attempt_left_is_deleted(local):
    copy = copy_of(CONTENT, local.datastore)
    Path(f"{copy.path}.part").write_bytes(b"half a copy")
    local.node.delete_copy(copy)
    assert local.photograph() == {}
