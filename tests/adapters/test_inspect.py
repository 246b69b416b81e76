"""Hostile images are refused, each with a code of its own; ordinary ones are accepted."""

import gzip
import os
import random
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from adapters.errors import BadImage, NotFound
from adapters.images.inspect import inspect
from adapters.images.qemu_img import QemuImg
from adapters.types import Format

pytestmark = pytest.mark.lab  # the samples are qemu-img's

SIZE_BYTES = 5 * 2**20 + 3 * 512  # no multiple of any cluster, grain or block
MAX_MIB = 1024 * 1024


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def look(path, declared, max_virtual_mib=MAX_MIB):
    return QemuImg().inspect(path, declared, max_virtual_mib=max_virtual_mib)


def refusal(path, declared, *, by=look, **options):
    with pytest.raises(BadImage) as refused:
        by(path, declared, **options)
    return refused.value.code


def only_ours(path, declared):
    """Without qemu-img's second opinion: it must not even be asked."""
    return inspect(path, declared, max_virtual_mib=MAX_MIB)


@pytest.fixture
def raw(tmp_path) -> Path:
    """A disk with an MBR, one partition, and data here and there, in its last sector too."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for offset in (8192, 2**20, 3 * 2**20, SIZE_BYTES - 1024):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(1024))
        partition = struct.pack("<B3xB3xII", 0x80, 0x83, 16, SIZE_BYTES // 512 - 16)
        file.seek(446)
        file.write(partition + bytes(48) + b"\x55\xaa")
    return path


@pytest.fixture
def make(raw, tmp_path):
    def convert(format_, options="", name=""):
        path = tmp_path / (name or f"image.{format_.extension}")
        extra = ["-o", options] if options else []
        qemu_img("convert", "-f", "raw", "-O", format_, *extra, raw, path)
        return path

    return convert


def patch(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def text_of(path):
    """A descriptor up to the zeros that qemu fills it up with."""
    return path.read_text().partition("\0")[0]


def cut(path, by_bytes):
    os.truncate(path, path.stat().st_size - by_bytes)


# --- ordinary ones -------------------------------------------------------------------------------

ORDINARY = [
    (Format.QCOW2, "", ""),
    (Format.QCOW2, "compat=0.10", ""),
    (Format.QCOW2, "cluster_size=512", ""),
    (Format.QCOW2, "compression_type=zstd", ""),
    (Format.QCOW2, "preallocation=full,lazy_refcounts=on", ""),
    (Format.VMDK, "subformat=monolithicSparse", "monolithicSparse"),
    (Format.VMDK, "subformat=streamOptimized", "streamOptimized"),
    (Format.VMDK, "subformat=monolithicFlat", "monolithicFlat"),
    (Format.VMDK, "subformat=twoGbMaxExtentFlat", "twoGbMaxExtentFlat"),
    (Format.VMDK, "subformat=twoGbMaxExtentSparse", "twoGbMaxExtentSparse"),
    (Format.VPC, "subformat=dynamic,force_size=on", "dynamic"),
    (Format.VPC, "subformat=fixed,force_size=on", "fixed"),
    (Format.VHDX, "", ""),
    (Format.VHDX, "subformat=fixed,block_size=1M", ""),
    (Format.VDI, "", ""),
    (Format.VDI, "static=on", ""),
]


@pytest.mark.parametrize(("format_", "options", "subformat"), ORDINARY)
def test_what_qemu_makes_is_accepted(make, format_, options, subformat):
    path = make(format_, options)
    info = look(path, format_)
    assert (info.format, info.virtual_size_bytes) == (format_, SIZE_BYTES)
    assert info.subformat == subformat
    parts = [path, *(path.with_name(name) for name in info.extents)]
    assert info.file_size_bytes == sum(part.stat().st_size for part in parts)
    assert sorted(parts) == sorted(path.parent.glob("image*"))


@pytest.mark.parametrize("subformat", ["fixed", "dynamic"])
def test_a_vhd_of_cylinders_has_the_size_that_qemu_sees(make, subformat):
    info = look(make(Format.VPC, f"subformat={subformat}"), Format.VPC)
    assert info.virtual_size_bytes > SIZE_BYTES


@pytest.mark.parametrize("kind", ["Flat", "Sparse"])
def test_a_disk_of_several_extents(tmp_path, kind):
    qemu_img("create", "-f", "vmdk", "-o", f"subformat=twoGbMaxExtent{kind}", tmp_path / "d", "5G")
    info = look(tmp_path / "d", Format.VMDK)
    assert len(info.extents) == 3
    assert info.virtual_size_bytes == 5 * 2**30


def test_what_qemu_leaves_behind_a_descriptor_is_not_read(make):
    """When a new checksum is a digit shorter, the end of the old text stays."""
    path = make(Format.VMDK, "subformat=monolithicFlat")
    path.write_text(text_of(path) + '\0RW 1 FLAT "/etc/passwd" 0\n')
    assert look(path, Format.VMDK).extents == ("image-flat.vmdk",)


def test_an_mbr_disk_is_raw(raw):
    info = look(raw, Format.RAW)
    assert (info.format, info.virtual_size_bytes) == (Format.RAW, SIZE_BYTES)


def gpt(path, size_bytes):
    """A protective MBR and a GPT whose backup is the last sector."""
    last = size_bytes // 512 - 1
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(446)
        file.write(struct.pack("<BBBBB3sII", 0, 0, 2, 0, 0xEE, b"\xff" * 3, 1, last) + bytes(48))
        file.write(b"\x55\xaa")
        file.write(struct.pack("<8sIIIIQQ", b"EFI PART", 0x10000, 92, 0, 0, 1, last))
    return path


def test_a_gpt_disk_is_raw(tmp_path):
    path = gpt(tmp_path / "disk", SIZE_BYTES)
    assert look(path, Format.RAW).virtual_size_bytes == SIZE_BYTES
    cut(path, 512)
    assert refusal(path, Format.RAW) == "image-truncated"


def test_a_disk_without_partitions_is_raw(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(2**20 + 17))
    assert look(path, Format.RAW).virtual_size_bytes == 2**20 + 17


def test_a_cd_image_that_is_a_disk_too_is_raw_if_declared_so(raw):
    patch(raw, 32768, b"\x01CD001\x01")
    assert look(raw, Format.RAW).format is Format.RAW
    assert refusal(raw, Format.QCOW2) == "image-format-mismatch"
    patch(raw, 510, b"\0\0")  # a CD only: no machine boots it from a disk
    assert refusal(raw, Format.RAW) == "image-unknown-format"


# --- the hostile list ----------------------------------------------------------------------------


def test_a_qcow2_with_a_backing_file(tmp_path):
    path = tmp_path / "evil.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", path, "1M")
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-backing-file"


def test_a_qcow2_with_a_data_file(tmp_path):
    path, data = tmp_path / "evil.qcow2", tmp_path / "data"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "1M")
    patch(path, path.read_bytes().index(str(data).encode()), b"/etc/passwd\0")
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-data-file"


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/b", "nbd:localhost:1", "json:{}", "", "..", "a\\b", "fat:rw:/etc"],
)
@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_descriptor_with_a_foreign_extent(make, kind, name):
    path = make(Format.VMDK, f"subformat={kind}")
    own = look(path, Format.VMDK).extents[0]
    path.write_text(text_of(path).replace(own, name))
    assert refusal(path, Format.VMDK, by=only_ours) == "image-foreign-extent"


def test_an_extent_that_is_a_link(make):
    path = make(Format.VMDK, "subformat=monolithicFlat")
    extent = path.with_name("image-flat.vmdk")
    extent.unlink()
    extent.symlink_to("/etc/passwd")
    assert refusal(path, Format.VMDK, by=only_ours) == "image-foreign-extent"


def test_a_gzip_bomb_in_disguise(tmp_path):
    path = tmp_path / "bomb.qcow2"
    path.write_bytes(gzip.compress(bytes(2**24)))
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-unknown-format"
    assert refusal(path, Format.RAW, by=only_ours) == "image-unknown-format"


def test_a_pebibyte(tmp_path):
    path = tmp_path / "large.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1P")
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-too-large"


@pytest.mark.parametrize("format_", Format)
def test_one_byte_over_the_limit(make, format_):
    path = make(format_, "force_size=on" if format_ is Format.VPC else "")
    assert look(path, format_, max_virtual_mib=6).virtual_size_mib == 6
    assert refusal(path, format_, max_virtual_mib=5) == "image-too-large"


@pytest.mark.parametrize("by_bytes", [1, 1024, 60000, 200_000])
@pytest.mark.parametrize(
    ("format_", "options"),
    [
        (Format.RAW, ""),
        (Format.QCOW2, ""),
        (Format.QCOW2, "compat=0.10"),
        (Format.VMDK, "subformat=monolithicSparse"),
        (Format.VPC, "subformat=dynamic,force_size=on"),
        (Format.VHDX, ""),
        (Format.VDI, ""),
    ],
)
def test_a_truncated_file(make, format_, options, by_bytes):
    path = make(format_, options)
    cut(path, by_bytes)
    assert refusal(path, format_, by=only_ours) == "image-truncated"


def test_a_truncated_stream(make):
    path = make(Format.VMDK, "subformat=streamOptimized")
    cut(path, 65536)
    assert refusal(path, Format.VMDK, by=only_ours) == "image-truncated"


def test_a_qcow2_that_lacks_whole_clusters(make):
    """Its tables are whole, and it ends with a cluster: qemu-img's check finds what is missing."""
    path = make(Format.QCOW2)
    cut(path, 65536)
    assert only_ours(path, Format.QCOW2)
    assert refusal(path, Format.QCOW2) == "image-truncated"


def test_a_qcow2_whose_tables_end_early_is_whole(tmp_path):
    """Only data must fill its cluster: a snapshot's table, at the end, does not."""
    path = tmp_path / "disk"
    qemu_img("create", "-f", "qcow2", path, "1G")
    qemu_img("snapshot", "-c", "one", path)
    assert path.stat().st_size % 65536
    assert look(path, Format.QCOW2).virtual_size_bytes == 2**30


def test_a_truncated_fixed_vhd_is_no_vhd_any_more(make):
    path = make(Format.VPC, "subformat=fixed,force_size=on")
    cut(path, 512)
    assert refusal(path, Format.VPC, by=only_ours) == "image-format-mismatch"


@pytest.mark.parametrize("kind", ["twoGbMaxExtentFlat", "twoGbMaxExtentSparse"])
@pytest.mark.parametrize("how", ["short", "missing"])
def test_a_truncated_extent(make, kind, how):
    path = make(Format.VMDK, f"subformat={kind}")
    extent = path.with_name(look(path, Format.VMDK).extents[0])
    if how == "short":
        cut(extent, 512)
    else:
        extent.unlink()
    assert refusal(path, Format.VMDK, by=only_ours) == "image-truncated"


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty", Format.RAW) == "image-truncated"


IMAGES = [
    (Format.RAW, ""),
    (Format.QCOW2, ""),
    (Format.VMDK, "subformat=streamOptimized"),
    (Format.VMDK, "subformat=monolithicFlat"),
    (Format.VPC, "subformat=dynamic"),
    (Format.VPC, "subformat=fixed"),
    (Format.VHDX, ""),
    (Format.VDI, ""),
]


@pytest.mark.parametrize("declared", Format)
@pytest.mark.parametrize(("format_", "options"), IMAGES)
def test_a_guest_image_declared_as_another_format(make, format_, options, declared):
    path = make(format_, options)
    if declared is format_:
        assert only_ours(path, declared).format is format_
    else:
        assert refusal(path, declared, by=only_ours) == "image-format-mismatch"


# --- beyond the list -----------------------------------------------------------------------------


def test_two_formats_in_one_file(make):
    path = make(Format.QCOW2)
    patch(path, 32769, b"CD001")
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-format-mismatch"


@pytest.mark.parametrize("declared", [Format.QCOW2, Format.VDI])
def test_a_file_that_is_one_thing_or_another(make, declared):
    path = make(Format.QCOW2)
    patch(path, 64, struct.pack("<I", 0xBEDA107F))
    assert refusal(path, declared, by=only_ours) == "image-format-mismatch"


def test_a_descriptor_that_qemu_reads_otherwise_after_all(make):
    """An empty line before an extent makes it read that extent twice."""
    path = make(Format.VMDK, "subformat=monolithicFlat")
    path.write_text(text_of(path).replace("RW ", "\nRW "))
    assert only_ours(path, Format.VMDK).virtual_size_bytes == SIZE_BYTES
    assert refusal(path, Format.VMDK) == "image-corrupt"


def test_formats_that_nobody_here_can_use(tmp_path):
    qemu_img("create", "-f", "qed", tmp_path / "q", "1M")
    assert refusal(tmp_path / "q", Format.RAW, by=only_ours) == "image-unknown-format"


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "device"])
def test_only_regular_files_are_opened(tmp_path, raw, what):
    path = tmp_path / "odd"
    match what:
        case "link":
            path.symlink_to(raw)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
    assert refusal(path, Format.RAW, by=only_ours) == "image-unknown-format"


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound):
        look(tmp_path / "none", Format.RAW)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ("monolithicFlat", ("parentCID=ffffffff", "parentCID=12345678")),
        ("monolithicFlat", ("#DDB", '# parentFileNameHint="/etc/passwd"')),
        ("monolithicSparse", ("#DDB", 'parentFileNameHint="base.vmdk"')),
        ("streamOptimized", ("parentCID=ffffffff", "parentCID=12345678")),
    ],
)
def test_a_vmdk_with_a_parent(make, options, change):
    path = make(Format.VMDK, f"subformat={options}")
    data = path.read_bytes()
    old, new = (text.encode() for text in change)
    grown = len(new) - len(old)
    at = data.index(old)
    text, _, rest = data[at + len(old) :].partition(b"\0")
    path.write_bytes(data[:at] + new + text + b"\0" + rest[grown:])
    assert refusal(path, Format.VMDK, by=only_ours) == "image-backing-file"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('# createType="vmfs"', "image-corrupt"),  # qemu takes the first it finds
        ('RW 1 FLAT "image-flat.vmdk" 0', "image-corrupt"),  # the same file twice
        ('RW 1 FLAT "image-flat.vmdk"; 0', "image-corrupt"),
        ('RW 1 SPARSE "other.vmdk"', "image-corrupt"),  # not in this kind
        ('RDONLY 1 FLAT "other.vmdk" 0', "image-corrupt"),  # qemu would pass it over
        ("some words", "image-corrupt"),
        ("key=\x01", "image-unknown-format"),
        ('RW 1 FLAT "other.vmdk" 0', "image-truncated"),  # it is not there
    ],
)
def test_a_descriptor_that_can_be_read_in_two_ways(make, line, code):
    path = make(Format.VMDK, "subformat=monolithicFlat")
    path.write_text(text_of(path) + line + "\n")
    assert refusal(path, Format.VMDK, by=only_ours) == code


def test_an_extent_of_another_size_than_declared(make):
    path = make(Format.VMDK, "subformat=twoGbMaxExtentSparse")
    sectors = str(SIZE_BYTES // 512)
    path.write_text(text_of(path).replace(sectors, "17"))
    assert refusal(path, Format.VMDK, by=only_ours) == "image-corrupt"


def test_a_sparse_vmdk_that_is_a_descriptor_in_truth(make):
    """With a capacity of 0, qemu reads the text inside, which may name any file."""
    path = make(Format.VMDK, "subformat=monolithicSparse")
    patch(path, 12, bytes(8))
    assert refusal(path, Format.VMDK, by=only_ours) == "image-corrupt"
    path = make(Format.VMDK, "subformat=twoGbMaxExtentSparse", "two.vmdk")
    patch(path.with_name("two-s001.vmdk"), 12, bytes(8))
    assert refusal(path, Format.VMDK, by=only_ours) == "image-corrupt"


@pytest.fixture
def footed(make):
    """A sparse VMDK whose footer has the last word, as in a stream that was written in one go."""
    path = make(Format.VMDK, "subformat=monolithicSparse")
    header = path.read_bytes()[:512]
    patch(path, 56, b"\xff" * 8)

    def end(capacity=SIZE_BYTES // 512):
        with path.open("ab") as file:
            file.write(struct.pack("<QII496x", 1, 0, 3))
            file.write(header[:12] + struct.pack("<Q", capacity) + header[20:])
            file.write(bytes(512))
        return path

    return end


def test_a_footer_is_accepted(footed):
    assert look(footed(), Format.VMDK).virtual_size_bytes == SIZE_BYTES


@pytest.mark.parametrize(("capacity", "code"), [(2**41, "too-large"), (0, "corrupt")])
def test_a_footer_that_differs(footed, capacity, code):
    assert refusal(footed(capacity), Format.VMDK, by=only_ours) == f"image-{code}"


def test_a_stream_that_has_lost_its_footer(footed):
    path = footed()
    cut(path, 512)
    assert refusal(path, Format.VMDK, by=only_ours) == "image-truncated"


@pytest.mark.parametrize("subformat", ["fixed", "dynamic"])
def test_a_vhd_that_is_a_difference(make, subformat):
    path = make(Format.VPC, f"subformat={subformat}")
    footer = bytearray(path.read_bytes()[-512:])
    footer[60:68] = struct.pack(">II", 4, 0)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    patch(path, -512, bytes(footer))
    assert refusal(path, Format.VPC, by=only_ours) == "image-backing-file"


def test_a_vdi_that_is_a_difference(make):
    path = make(Format.VDI)
    patch(path, 76, struct.pack("<I", 4))
    assert refusal(path, Format.VDI, by=only_ours) == "image-backing-file"


def vhdx_item(path, name):
    """Where a property is in a VHDX that qemu has made."""
    whole = path.read_bytes()
    start, at = whole.index(b"metadata"), whole.index(UUID(name).bytes_le)
    return start + struct.unpack_from("<I", whole, at + 16)[0]


def test_a_vhdx_that_is_a_difference(make):
    path = make(Format.VHDX)
    whole = path.read_bytes()
    patch(path, vhdx_item(path, "caa16737-fa36-4d43-b3b6-33f0aa44e76b") + 4, b"\2")
    assert refusal(path, Format.VHDX, by=only_ours) == "image-backing-file"
    at = whole.index(UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le)
    path.write_bytes(whole)
    patch(path, at, UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le)
    assert refusal(path, Format.VHDX, by=only_ours) == "image-backing-file"


def test_a_vhdx_that_was_not_closed(make):
    """What is in its log only, qemu would have to write first."""
    path = make(Format.VHDX)
    for at in (65536, 131072):
        patch(path, at + 48, b"1" * 16)
    assert refusal(path, Format.VHDX, by=only_ours) == "image-corrupt"


def test_a_vhdx_whose_tables_lie(make):
    path = make(Format.VHDX)
    patch(path, vhdx_item(path, "2fa54224-cd1b-4876-b211-5dbed83bf4b8"), struct.pack("<Q", 2**50))
    assert refusal(path, Format.VHDX, by=only_ours) == "image-too-large"
    patch(path, vhdx_item(path, "2fa54224-cd1b-4876-b211-5dbed83bf4b8"), struct.pack("<Q", 2**40))
    assert refusal(path, Format.VHDX, by=only_ours) == "image-corrupt"


def test_an_encrypted_qcow2(make):
    path = make(Format.QCOW2)
    patch(path, 32, struct.pack(">I", 2))
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-unknown-format"


def test_a_qcow2_whose_tables_lie(make):
    path = make(Format.QCOW2)
    patch(path, 36, struct.pack(">I", 2**30))
    assert refusal(path, Format.QCOW2, by=only_ours) == "image-truncated"
    path = make(Format.QCOW2)
    (l1,) = struct.unpack(">Q", path.read_bytes()[40:48])
    patch(path, l1, struct.pack(">Q", 2**63 | 2**40))
    assert refusal(path, Format.QCOW2) == "image-truncated"
    patch(path, l1, struct.pack(">Q", 2**63 | 2**16))  # the reference counts' own table
    assert refusal(path, Format.QCOW2) == "image-corrupt"


def test_any_damage_is_refused_or_harmless(make):
    """Whatever a byte of a header becomes, no other exception comes out, and no hang."""
    chance = random.Random(7)
    for format_ in (Format.QCOW2, Format.VMDK, Format.VPC, Format.VDI, Format.VHDX):
        path = make(format_)
        whole = path.read_bytes()
        starts = [*range(65536, 3 * 2**20, 65536)] if format_ is Format.VHDX else [0]
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.choice(starts) + chance.randrange(1536)] = chance.choice(
                    (0, 1, 0x7F, 0x80, 0xFF)
                )
            path.write_bytes(damaged)
            try:
                assert only_ours(path, format_).virtual_size_bytes <= MAX_MIB * 2**20
            except BadImage as error:
                assert error.code.startswith("image-")  # noqa: PT017 - most are refused
