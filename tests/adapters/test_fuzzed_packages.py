"""Packages and descriptors as nobody would write them: refused or read, never anything else."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from adapters.errors import AdapterError
from adapters.images import manifest, ovf, vmdk
from adapters.images.ova import leading_descriptor, take_apart
from tests.adapters.test_hostile_archives import descriptor, good, member, qcow2, sparse_vmdk, tar
from tests.adapters.test_packages import MEMBERS, VIRTUALBOX, archive, manifest_of, vmware
from tests.refusing import MAX_VIRTUAL_MIB, OURS

LONG_S = 150  # for each of four
SHORT = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONG = settings(SHORT, max_examples=500)

PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\0" * 512, b"../", b"<", b"&", b"9" * 30, b"\xff" * 12, b"ovf:", b'"']),
)


@st.composite
def spoilt(draw: Callable[[Any], Any], originals: list[bytes]) -> bytes:
    """Something good, in which pieces are exchanged, inserted, doubled, or left out."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        until = min(len(data), at + draw(st.sampled_from([0, 1, 3, 12, 100, 512, 3000])))
        piece = draw(PIECES) + data[at:until] * draw(st.sampled_from([0, 0, 1, 2]))
        data = data[:at] + piece + data[until:]
    return bytes(data)


NAMES = st.one_of(
    st.sampled_from(
        ["shop.ovf", "shop.mf", "shop.cert", "disk1.qcow2", "../x", "/tmp/x", "", "."]
    ),
    st.text(max_size=120),
)
KINDS = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"L", b"x", b"g"])
CONTENTS = st.one_of(
    st.sampled_from([descriptor(), qcow2(), b""]), st.binary(max_size=700), spoilt([descriptor()])
)


@st.composite
def composed(draw: Callable[[Any], Any]) -> bytes:
    """An archive of members of any name and kind."""
    members = draw(st.lists(st.tuples(NAMES, KINDS, CONTENTS), max_size=6))
    form = draw(st.sampled_from([1, 2]))
    try:
        return tar(
            *((member(name, type=kind), content) for name, kind, content in members), form=form
        )
    except (ValueError, UnicodeError):
        return b""


def full(folder: Path) -> bytes:
    listed = ("shop.mf", manifest_of(MEMBERS))
    return archive(folder / "full", [MEMBERS[0], listed, *MEMBERS[1:]]).read_bytes()


LINES = st.sampled_from(
    [
        'createType="monolithicSparse"',
        'createType="monolithicFlat"',
        "CREATETYPE=vmfs",
        'RW 2048 FLAT "disk-1.raw" 0',
        'RW 2048 SPARSE "/etc/passwd"',
        'RW 99999999999999 FLAT "../../x" 99999999999999',
        'RW 1 VMFS "nbd://127.0.0.1/x"',
        "parentCID=1",
        'parentFileNameHint="x"',
        "# a comment",
        "version=1",
        "\0",
    ]
)
DESCRIPTORS = st.one_of(
    st.lists(st.one_of(LINES, st.text(max_size=60)), max_size=8).map("\n".join),
    st.text(max_size=300),
)


def refused_or_read(read: Callable[[], object]) -> None:
    try:
        read()
    except AdapterError as error:
        assert error.code  # noqa: PT017 - any refusal will do
        str(error).encode()


def try_archive(folder: Path, data: bytes) -> None:
    path = folder / "upload"
    path.write_bytes(data)
    before = set(folder.parent.rglob("*"))

    def read() -> None:
        contents = take_apart(path, folder / "out", OURS, max_virtual_mib=MAX_VIRTUAL_MIB)
        contents.package.model_dump_json()
        made = set(folder.parent.rglob("*")) - before
        names = [
            each.format.disk_name(position) for position, each in enumerate(contents.package.disks)
        ]
        assert made == {folder / "out", *(folder / "out" / name for name in names)}
        for each in sorted(made, reverse=True):
            each.rmdir() if each.is_dir() else each.unlink()

    refused_or_read(read)
    refused_or_read(lambda: ovf.read(leading_descriptor(data)))
    assert set(folder.parent.rglob("*")) == before


def try_descriptor(_: Path, text: bytes) -> None:
    refused_or_read(lambda: ovf.read(text).model_dump_json())
    refused_or_read(lambda: manifest.read(text))
    refused_or_read(lambda: manifest.require_signed(text, "shop.mf", b""))


def try_vmdk(folder: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    path = folder / "disk.vmdk"
    path.write_bytes(data)
    refused_or_read(lambda: OURS.inspect(path, "vmdk", max_virtual_mib=MAX_VIRTUAL_MIB))
    refused_or_read(lambda: vmdk.extent_names(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    return tmp_path / "library"


def wanted(kind: str, folder: Path) -> tuple[Any, Callable[[Path, Any], None]]:
    if kind == "archives":
        return st.one_of(spoilt([good(), full(folder)]), composed()), try_archive
    if kind == "descriptors":
        originals = [vmware(), VIRTUALBOX.encode(), manifest_of(MEMBERS)]
        return st.one_of(spoilt(originals), st.binary(max_size=400)), try_descriptor
    if kind == "vmdk-texts":
        return DESCRIPTORS, try_vmdk
    return spoilt([sparse_vmdk()]), try_vmdk


KINDS_OF_FILES = ["archives", "descriptors", "vmdk-texts", "vmdks"]


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_nothing_breaks(kind: str, folder: Path) -> None:
    strategy, attempt = wanted(kind, folder)

    @SHORT
    @given(strategy)
    def every(data: Any) -> None:
        attempt(folder, data)

    every()


@pytest.mark.slow
@pytest.mark.timeout(LONG_S * 3)
@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_nothing_breaks_for_long(kind: str, folder: Path) -> None:
    """Ten minutes in all."""
    strategy, attempt = wanted(kind, folder)
    start = time.time()
    while (passed := time.time() - start) < LONG_S:

        @seed(int((start + passed) * 1000))
        @LONG
        @given(strategy)
        def every(data: Any) -> None:
            attempt(folder, data)

        every()
