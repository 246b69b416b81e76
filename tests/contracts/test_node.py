"""The node-access laws, run over every adapter that claims the port."""

import hashlib
import os
import subprocess
import threading
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from pydantic import SecretStr

from adapters.errors import NotFound, Refused
from adapters.images.repository import initialise
from adapters.nodes.base import Node
from adapters.nodes.local import LocalNode
from adapters.nodes.memory import MemoryNode
from adapters.nodes.vsphere import VsphereNode
from adapters.types import Base, Chap, Format
from adapters.vsphere.session import Session
from adapters.world import World
from deployments.lab.vcsim import Vcsim

CONTENT = b"image" * 1000 + bytes(3 * 2**20) + b"tail"


class Counterpart(Protocol):
    """A host's files."""

    node: Node
    datastore: str
    sees: bool  # whether it looks into mounted repositories
    form: Format  # of an image that it takes

    def image(self, folder: Path) -> Path:
        """An image, in a file of ours."""

    def photograph(self) -> object:
        """All that is in the datastore."""


class Files:
    sees = True
    form = Format.RAW

    def image(self, folder: Path) -> Path:
        image = folder / "image.raw"
        image.write_bytes(CONTENT)
        return image


class Memory(Files):
    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.sqlite")
        self.node = MemoryNode(self.world, uuid4())
        self.datastore = str(folder / "datastore")
        self.world.put("datastore", f"{self.datastore}/missing", {"total_mib": 0})

    def photograph(self) -> object:
        return self.world.everything()


class Local(Files):
    def __init__(self, folder: Path) -> None:
        self.node = LocalNode()
        self.folder = folder / "datastore"
        self.folder.mkdir()
        self.datastore = str(self.folder)

    def photograph(self) -> object:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


class Vsphere:
    sees = False
    form = Format.VMDK

    def __init__(self, vcsim: Vcsim) -> None:
        login = Chap(user=vcsim.user, password=SecretStr(vcsim.password))
        self.node = VsphereNode(Session(vcsim.address, lambda: login))
        name = str(uuid4())
        self.files = vcsim.files()
        (self.files / name).mkdir()
        self.datastore = f"[LocalDS_0] {name}"

    def image(self, folder: Path) -> Path:
        raw, image = folder / "image.raw", folder / "image.vmdk"
        raw.write_bytes(CONTENT)
        formats = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        subprocess.run(["qemu-img", "convert", *formats, "--", raw, image], check=True)
        return image

    def photograph(self) -> object:
        place = self.files / self.datastore.rpartition(" ")[2]
        machines = [*self.files.glob("upload-*")]
        return {path.name: path.stat().st_size for path in [*place.iterdir(), *machines]}


@pytest.fixture(
    params=[
        Memory,
        Local,
        pytest.param("vcenter", marks=pytest.mark.lab),
        pytest.param("esxi", marks=pytest.mark.lab),
    ]
)
def counterpart(request: pytest.FixtureRequest, tmp_path: Path) -> Counterpart:
    if isinstance(request.param, str):
        return Vsphere(request.getfixturevalue(request.param))
    return request.param(tmp_path)


@pytest.fixture
def node(counterpart: Counterpart) -> Node:
    return counterpart.node


@pytest.fixture
def source(counterpart: Counterpart, tmp_path: Path) -> str:
    return str(counterpart.image(tmp_path))


@pytest.fixture
def copy(counterpart: Counterpart, source: str) -> Base:
    return copy_of(Path(source).read_bytes(), counterpart)


def copy_of(content: bytes, counterpart: Counterpart) -> Base:
    digest, form = hashlib.sha256(content).hexdigest(), counterpart.form
    path = f"{counterpart.datastore}/base-{digest}.{form.extension}"
    return Base(path=path, format=form, digest=digest)


# --- both --------------------------------------------------------------------------------------


def test_a_repository_is_seen_by_its_marker(counterpart, node, tmp_path):
    repository = tmp_path / "library"
    marker = initialise(repository)
    assert node.sees(str(repository), marker) == counterpart.sees
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
    other = copy_of(b"another image", counterpart)
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
    before = Path(source).read_bytes()
    with pytest.raises(Refused):
        node.ensure_copy(source, library)
    with pytest.raises(Refused):
        node.delete_copy(library)
    assert Path(source).read_bytes() == before


def test_lists_the_copies_of_an_installation_only(counterpart, node, source):
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    form = Format.VPC if counterpart.form is Format.RAW else counterpart.form
    ours, theirs = uuid4(), uuid4()
    mine, another = (
        Base.copied_to(counterpart.datastore, digest, form, each) for each in (ours, theirs)
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
    several = counterpart.photograph()
    node.delete_copy(copy)
    node.ensure_copy(source, copy)
    assert len(counterpart.photograph()) == len(several)


# --- this machine's ----------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


@pytest.mark.parametrize(
    "content", [CONTENT, b"", bytes(2**21), b"x" * (2**20 + 1)], ids=["mixed", "none", "0", "odd"]
)
def test_a_copy_has_every_byte(local, tmp_path, content):
    (tmp_path / "image").write_bytes(content)
    copy = copy_of(content, local)
    local.node.ensure_copy(str(tmp_path / "image"), copy)
    assert Path(copy.path).read_bytes() == content


@pytest.mark.lab
@pytest.mark.parametrize("options", [["-O", "vmdk"], ["-O", "raw"], ["-O", "qcow2"]])
def test_a_host_is_sent_nothing_but_streams(vcenter, tmp_path, options):
    vsphere = Vsphere(vcenter)
    image, sparse = vsphere.image(tmp_path), tmp_path / "other.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", *options, image, sparse], check=True)
    before = vsphere.photograph()
    with pytest.raises(Refused):
        vsphere.node.ensure_copy(str(sparse), copy_of(sparse.read_bytes(), vsphere))
    assert vsphere.photograph() == before


@pytest.mark.lab
def test_what_several_lanes_want_is_sent_once(vcenter, tmp_path):
    vsphere = Vsphere(vcenter)
    image = vsphere.image(tmp_path)
    copy = copy_of(image.read_bytes(), vsphere)
    sent = uploads(vcenter)
    nodes = [VsphereNode(vsphere.node._session) for _ in range(4)]  # as flows have them
    lanes = [threading.Thread(target=x.ensure_copy, args=(str(image), copy)) for x in nodes]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert (uploads(vcenter), vsphere.node.has_copy(copy)) == (sent + 1, True)


def uploads(vcsim: Vcsim) -> int:
    return (vcsim.folder / "vcsim.log").read_text().count("nfc POST")


@pytest.mark.lab
def test_a_copy_on_a_datastore_is_the_image(vcenter, tmp_path):
    vsphere = Vsphere(vcenter)
    image = vsphere.image(tmp_path)
    copy = copy_of(image.read_bytes(), vsphere)
    vsphere.node.ensure_copy(str(image), copy)
    there = vsphere.files / copy.path.rpartition(" ")[2]
    formats = ["-f", "vmdk", "-F", "vmdk"]
    subprocess.run(["qemu-img", "compare", "-q", *formats, "--", there, image], check=True)


def test_holes_stay_holes(local, tmp_path):
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 64 * 2**20)
    copy = copy_of(bytes(64 * 2**20), local)
    local.node.ensure_copy(str(image), copy)
    assert Path(copy.path).stat().st_blocks * 512 < 2**20


def test_what_a_killed_attempt_left_is_overwritten(local, tmp_path):
    source = str(local.image(tmp_path))
    copy = copy_of(CONTENT, local)
    Path(f"{copy.path}.part").write_bytes(b"half a copy, and longer than the image" * 2**17)
    assert not local.node.has_copy(copy)
    local.node.ensure_copy(source, copy)
    assert local.photograph() == {Path(copy.path).name: CONTENT}


def test_what_a_killed_attempt_left_is_deleted(local):
    copy = copy_of(CONTENT, local)
    Path(f"{copy.path}.part").write_bytes(b"half a copy")
    local.node.delete_copy(copy)
    assert local.photograph() == {}
