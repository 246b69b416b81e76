"""Every form becomes every other, byte by byte the same for the guest; and where qemu trips."""

import random
import subprocess
from pathlib import Path

import pytest

from adapters.errors import BadImage, NotFound
from adapters.forms import Form
from adapters.images import qemu_img
from adapters.images.qemu_img import QemuImg
from adapters.types import Family, Format
from flows.policies.conversion import DIETS

pytestmark = pytest.mark.lab  # qemu-img's

SIZE_BYTES = 5 * 2**20 + 3 * 512  # no multiple of any cluster, grain, block or cylinder
tool = QemuImg()


def qemu(program, *arguments, check=True):
    told = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    assert told.returncode == 0 or not check, told.stderr.decode()
    return told


def become(source: Path, has: Form, form: Form, folder: Path) -> Path:
    folder.mkdir(parents=True)
    target = folder / form.format.disk_file
    tool.convert(source, has.format, target, form, lambda _percent: None)
    return target


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for offset in (0, 2**20 + 512, 3 * 2**20, SIZE_BYTES - 1024):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(1024))
    return path


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory) -> dict[Form, Path]:
    """The disk in every form."""
    folder = tmp_path_factory.mktemp("made")
    return {form: become(raw, Form.RAW, form, folder / form.name) for form in Form}


@pytest.mark.parametrize("has", Form, ids=lambda form: form.value)
def test_every_form_becomes_every_other(raw, made, tmp_path, has):
    """What comes out passes inspection as what it is, and equals the first of all sources."""
    for form in Form:
        target = become(made[has], has, form, tmp_path / form.name)
        info = tool.inspect(target, form.format, max_virtual_mib=6)
        assert Form.of(info.format, info.subformat) is form or not info.subformat
        assert info.virtual_size_bytes == SIZE_BYTES, form
        assert tool.equal(raw, Format.RAW, target, form.format), form
        files = {target.name, *info.extents}
        assert {path.name for path in target.parent.iterdir()} == files, form
        assert (len(files) > 1) == form.is_set


def test_a_vhd_is_not_rounded_up_to_cylinders(raw, made, tmp_path):
    """Which is what qemu does of itself: a guest would see a larger disk."""
    rounded = tmp_path / "rounded.vhd"
    qemu("qemu-img", "convert", "-f", "raw", "-O", "vpc", raw, rounded)
    assert tool.info(rounded, Format.VPC).virtual_size_bytes > SIZE_BYTES
    for form in (Form.VHD_DYNAMIC, Form.VHD_FIXED):
        assert tool.info(made[form], Format.VPC).virtual_size_bytes == SIZE_BYTES


def test_a_fixed_vhd_is_not_taken_for_a_raw_disk(made):
    """As qemu does when it may guess: its footer would be a part of the disk."""
    fixed = made[Form.VHD_FIXED]
    assert b'"format": "raw"' in qemu("qemu-img", "info", "--output=json", fixed).stdout
    assert tool.inspect(fixed, Format.VPC, max_virtual_mib=6).virtual_size_bytes == SIZE_BYTES
    with pytest.raises(BadImage) as refused:
        tool.inspect(fixed, Format.RAW, max_virtual_mib=6)
    assert refused.value.code == "image-format-mismatch"


def test_a_set_that_lost_a_file_is_found_out(made, tmp_path):
    for form in (form for form in Form if form.is_set):
        target = become(made[Form.RAW], Form.RAW, form, tmp_path / form.name)
        info = tool.inspect(target, Format.VMDK, max_virtual_mib=6)
        target.with_name(info.extents[-1]).unlink()
        with pytest.raises(BadImage) as refused:
            tool.inspect(target, Format.VMDK, max_virtual_mib=6)
        assert refused.value.code == "image-truncated"


def test_a_stream_is_read_only_and_so_no_host_writes_to_one(made, tmp_path):
    """Only those families boot it whose hosts make a disk of their own of it."""
    stream = become(made[Form.RAW], Form.RAW, Form.VMDK_STREAM, tmp_path / "stream")
    told = qemu("qemu-io", "-f", "vmdk", "-c", "write 0 64k", stream, check=False)
    assert b"Input/output error" in told.stdout + told.stderr
    takers = {family for family, diet in DIETS.items() if Form.VMDK_STREAM in diet.boots}
    assert takers == {Family.VSPHERE}


@pytest.mark.parametrize("form", [Form.QCOW2, Form.VMDK_STREAM, Form.VMDK_SPLIT_SPARSE])
def test_the_fastest_way_is_a_right_one(made, tmp_path, monkeypatch, form):
    """A set comes out the same however often: streams and sets are written in order."""
    monkeypatch.setattr(qemu_img, "_SAMPLE_MIB", 4)
    way = tool.fastest(tmp_path, Form.VHD_DYNAMIC, form)
    assert [*tmp_path.iterdir()] == []
    assert "-W" not in qemu_img._WAYS[way] or form is Form.QCOW2
    target = tmp_path / form.format.disk_file
    tool.convert(made[Form.RAW], Format.RAW, target, form, lambda _percent: None, way)
    assert tool.equal(made[Form.RAW], Format.RAW, target, form.format)


def test_a_way_that_fails_is_none_however_soon(tmp_path, monkeypatch):
    """As where a file system knows no direct I/O."""
    monkeypatch.setattr(qemu_img, "_SAMPLE_MIB", 2)
    monkeypatch.setattr(qemu_img, "_WAYS", {"": (), "failing": ("-T", "a way unknown to qemu")})
    assert tool.fastest(tmp_path, Form.RAW, Form.QCOW2) == ""
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("form", sorted(DIETS[Family.KVM].boots, key=str), ids=lambda x: x.value)
def test_what_kvm_boots_takes_an_overlay(made, tmp_path, form):
    overlay = tmp_path / "overlay.qcow2"
    base = ("-b", made[form], "-F", form.format)
    qemu("qemu-img", "create", "-f", "qcow2", *base, overlay)
    qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "-c", "read 2M 64k", overlay)


def test_what_went_wrong_is_told_also_where_nothing_can_be_cleared_up(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(2**20))
    with pytest.raises(NotFound):
        tool.convert(raw, Format.RAW, tmp_path / "lost" / "disk.qcow2", Form.QCOW2, print)
