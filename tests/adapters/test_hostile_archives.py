"""Hostile archives and images: each is refused with its code, in little time and memory.

They are made here, byte by byte. Nothing of them is left, and nothing of them is anywhere else.
"""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.images import packing
from adapters.packages import PACKAGE, Package
from adapters.types import Format
from tests.adapters.test_packages import manifest_of
from tests.refusing import Refusing

CASES: dict[str, tuple[str, str, Callable[[Path], object]]] = {}
SIZE_BYTES = 2**20  # of the disks' guests


def case(code: str, form: str = PACKAGE) -> Callable[[Callable[[Path], object]], None]:
    """A file that is to be refused so: made at the path, or the bytes that are answered."""

    def enter(make: Callable[[Path], object]) -> None:
        CASES[make.__name__] = code, form, make

    return enter


@pytest.fixture(scope="module")
def refusing() -> Iterator[Refusing]:
    process = Refusing()
    yield process
    process.close()


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "precious").write_bytes(b"precious")
    return {"precious": b"precious"}


def test_there_are_enough() -> None:
    assert len(CASES) >= 40
    assert len({code for code, _, _ in CASES.values()}) >= 20


# --- how they are made -----------------------------------------------------------------------


def qcow2(**changes: int) -> bytes:
    """A small qcow2 without data: a header, a table of clusters, reference counts."""
    fields = {
        "version": 2,
        "backing": 0,
        "backing_length": 0,
        "cluster_bits": 16,
        "size": SIZE_BYTES,
        "encrypted": 0,
        "l1_entries": 1,
        "l1": 3 * 65536,
        "refcounts": 65536,
        "refcount_clusters": 1,
    } | changes
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", *fields.values(), 0, 0)
    counts = struct.pack(">Q", 2 * 65536)
    clusters = [header, counts, struct.pack(">4H", 1, 1, 1, 1), b""]
    return b"".join(cluster.ljust(65536, b"\0") for cluster in clusters)


def sparse_vmdk(text: str = "", **changes: int) -> bytes:
    """A streamOptimized or monolithicSparse VMDK without data."""
    text = text or (
        "# Disk DescriptorFile\nversion=1\nCID=123\nparentCID=ffffffff\n"
        'createType="monolithicSparse"\n'
        f'RW {SIZE_BYTES // 512} SPARSE "disk.vmdk"\nddb.adapterType = "ide"\n'
    )
    fields = {
        "version": 1,
        "flags": 3,
        "capacity": SIZE_BYTES // 512,
        "grain": 128,
        "at": 1,
        "length": 20,
        "entries": 512,
        "redundant": 0,
        "directory": 21,
        "overhead": 128,
    } | changes
    header = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", *fields.values(), 0, b"\n \r\n", 0)
    return (
        header.ljust(512, b"\0")
        + text.encode().ljust(20 * 512, b"\0")
        + struct.pack("<I", 22).ljust(512, b"\0")
        + bytes(512 * 4 + 512 * 128)
    )


def vhd(entries: int) -> bytes:
    """The beginning of a dynamic VHD: a footer, as it is at the end, too, and a header."""
    fields = 2, 0x10000, 512, 0, b"qem2", 0x50003, b"Wi2k", SIZE_BYTES, SIZE_BYTES
    footer = struct.pack(">8sIIQI4sI4sQQHBBII", b"conectix", *fields, 60, 2, 17, 3, 0).ljust(
        512, b"\0"
    )
    footer = footer[:64] + struct.pack(">I", ~sum(footer) & 0xFFFFFFFF) + footer[68:]
    header = struct.pack(">8sQQIII", b"cxsparse", 2**64 - 1, 1536, 0x10000, entries, 2**21)
    return footer + header.ljust(1024, b"\0") + b"\xff" * 512


def sparse(path: Path, beginning: bytes, size: int) -> None:
    """A file that is large, and takes no room."""
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(size)


def package(*names: str, capacity: int = SIZE_BYTES, form: Format = Format.QCOW2) -> Package:
    names = names or ("disk1.qcow2",)
    return Package(
        name="shop",
        disks=[{"file": each, "format": form, "capacity_bytes": capacity} for each in names],
        files=[{"name": each} for each in names],
    )


def descriptor(*names: str, capacity: int = SIZE_BYTES, form: Format = Format.QCOW2) -> bytes:
    text = packing.describe(package(*names, capacity=capacity, form=form))
    return text.replace(b' ovf:size="None"', b"")


def tar(*members: tuple[str | tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = member.size or len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def with_disk(name: str | tarfile.TarInfo, content: bytes = b"", form: int = 1) -> bytes:
    """An archive whose descriptor is good, and whose disk is this member."""
    return tar(("shop.ovf", descriptor()), (name, content or qcow2()), form=form)


def with_text(text: bytes, disk: bytes = b"") -> bytes:
    return tar(("shop.ovf", text), ("disk1.qcow2", disk or qcow2()))


def member(name: str = "disk1.qcow2", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def good() -> bytes:
    return with_disk("disk1.qcow2")


def pax(records: dict[str, str]) -> bytes:
    return with_disk(member(pax_headers=records), form=tarfile.PAX_FORMAT)


def cut_at_header(data: bytes, n: int) -> int:
    """Where the n-th header of such an archive is."""
    at = 0
    for _ in range(n):
        size = int(data[at + 124 : at + 135], 8)
        at += 512 + -(-size // 512) * 512
    return at


def headed(data: bytes, n: int, at: int, new: bytes) -> bytes:
    """With another field in the n-th header, whose checksum fits again."""
    start = cut_at_header(data, n)
    header = bytearray(data[start : start + 512])
    header[at : at + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


# --- archives: names and kinds of members ------------------------------------------------------


@case("package-foreign-path")
def a_path_upwards(_):
    return with_disk("../precious")


@case("package-foreign-path")
def a_path_upwards_in_the_middle(_):
    return with_disk("disks/../../precious")


@case("package-foreign-path")
def an_absolute_path(_):
    return with_disk("/etc/passwd")


@case("package-foreign-path")
def a_folder_of_its_own(_):
    return with_disk("disks/disk1.qcow2")


@case("package-foreign-path")
def a_windows_path(_):
    return with_disk("..\\precious")


@case("package-foreign-path")
def a_hidden_file(_):
    return with_disk(".disk1.qcow2")


@case("package-foreign-path")
def a_name_with_a_line_break(_):
    return with_disk("disk\n1.qcow2")


@case("package-foreign-path")
def a_path_upwards_by_pax(_):
    return pax({"path": "../precious"})


@case("package-foreign-path")
def a_path_upwards_by_gnu(_):
    return with_disk("../" * 50 + "precious")


@case("package-foreign-path")
def an_endless_name(_):
    return with_disk("n" * 5000)


@case("package-foreign-path")
def a_reference_upwards(_):
    return with_text(descriptor("..%2Fprecious"))


@case("package-foreign-path")
def a_reference_to_the_network(_):
    return with_text(descriptor("http://127.0.0.1:22/disk1.qcow2"))


@case("package-foreign-path")
def a_reference_to_a_file_of_the_host(_):
    return with_text(descriptor("file:///etc/shadow"))


@case("package-not-a-file")
def a_symbolic_link(_):
    return tar(
        ("shop.ovf", descriptor()),
        (member(type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
    )


@case("package-not-a-file")
def a_hard_link(_):
    return tar(
        ("shop.ovf", descriptor()), (member(type=tarfile.LNKTYPE, linkname="shop.ovf"), b"")
    )


@case("package-not-a-file")
def a_disk_of_the_host(_):
    return tar(
        ("shop.ovf", descriptor()),
        (member(type=tarfile.BLKTYPE, devmajor=8, devminor=0), b""),
    )


@case("package-not-a-file")
def a_character_device(_):
    return tar(
        ("shop.ovf", descriptor()), (member(type=tarfile.CHRTYPE, devmajor=1, devminor=5), b"")
    )


@case("package-not-a-file")
def a_pipe(_):
    return tar(("shop.ovf", descriptor()), (member(type=tarfile.FIFOTYPE), b""))


@case("package-not-a-file")
def a_folder(_):
    return tar(("shop.ovf", descriptor()), (member(type=tarfile.DIRTYPE), b""))


@case("package-not-a-file")
def a_link_then_a_file_of_its_name(_):
    link = member("disk1.qcow2", type=tarfile.SYMTYPE, linkname="precious")
    return tar(("shop.ovf", descriptor()), (link, b""), ("disk1.qcow2", qcow2()))


@case("package-not-a-file")
def a_sparse_file_of_gnu(_):
    return headed(good(), 1, 156, tarfile.GNUTYPE_SPARSE)


@case("package-not-a-file")
def a_sparse_file_of_pax(_):
    return pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**60)})


@case("package-not-a-file")
def a_contiguous_file(_):
    return headed(good(), 1, 156, tarfile.CONTTYPE)


@case("package-duplicate-file")
def a_file_twice(_):
    return tar(("shop.ovf", descriptor()), ("disk1.qcow2", b"1"), ("disk1.qcow2", qcow2()))


@case("package-duplicate-file")
def a_file_twice_by_capitals(_):
    return tar(("shop.ovf", descriptor()), ("DISK1.qcow2", b"1"), ("disk1.qcow2", qcow2()))


@case("package-duplicate-file")
def a_file_twice_by_composed_letters(_):
    names = ("dísk1.qcow2", "di\u0301sk1.qcow2")
    return tar(("shop.ovf", descriptor()), *((name, b"1") for name in names))


@case("package-duplicate-file")
def a_reference_twice(_):
    return with_text(descriptor("disk1.qcow2", "DISK1.qcow2"))


@case("package-surplus-file")
def a_file_that_nobody_names(_):
    return tar(("shop.ovf", descriptor()), ("disk1.qcow2", qcow2()), ("more.sh", b"rm -r /"))


@case("package-surplus-file")
def two_descriptors(_):
    return tar(
        ("shop.ovf", descriptor()), ("disk1.qcow2", qcow2()), ("other.ovf", descriptor("x"))
    )


@case("package-surplus-file")
def a_manifest_of_something_else(_):
    return tar(("shop.ovf", descriptor()), ("other.mf", b""), ("disk1.qcow2", qcow2()))


@case("package-surplus-file")
def a_manifest_of_nothing(_):
    return tar(("shop.ovf", descriptor()), ("shop.mf", b"\n"), ("disk1.qcow2", qcow2()))


@case("package-unsupported")
def a_disk_that_nothing_describes(_):
    text = descriptor("disk1.qcow2", "disk2.qcow2")
    text = text.replace(b"ovf:/disk/disk1", b"ovf:/file/file1")
    return tar(("shop.ovf", text), ("disk1.qcow2", qcow2()), ("disk2.qcow2", qcow2()))


@case("package-surplus-file")
def a_disk_that_the_manifest_passes_over(_):
    text = descriptor()

    return tar(
        ("shop.ovf", text),
        ("shop.mf", manifest_of([("shop.ovf", text)])),
        ("disk1.qcow2", qcow2()),
    )


@case("package-missing-file")
def a_disk_that_is_not_there(_):
    return tar(("shop.ovf", descriptor()))


@case("package-missing-file")
def no_descriptor(_):
    return tar(("disk1.qcow2", qcow2()))


# --- archives: sizes ---------------------------------------------------------------------------


@case("package-too-large")
def ten_thousand_files(_):
    return tar(*((f"file{n}", b"") for n in range(10_000)))


@case("package-too-large")
def ten_thousand_headers_about_nothing(_):
    header = headed(good(), 0, 156, tarfile.XHDTYPE)[:512]
    record = b"10 a=bcde\n"
    one = headed(header, 0, 124, b"%011o" % len(record)) + record.ljust(512, b"\0")
    return one * 10_000


@case("package-too-large")
def a_header_of_a_gigabyte(path):
    header = headed(good(), 0, 156, tarfile.XHDTYPE)[:512]
    with path.open("wb") as file:
        file.write(headed(header, 0, 124, b"%011o" % 2**30))
        file.truncate(2**30 + 2**20)


@case("package-too-large")
def a_name_of_a_gigabyte(path):
    header = headed(good(), 0, 156, tarfile.GNUTYPE_LONGNAME)[:512]
    with path.open("wb") as file:
        file.write(headed(header, 0, 124, b"%011o" % 2**30))
        file.truncate(2**30 + 2**20)


@case("package-too-large")
def a_descriptor_of_a_gigabyte(path):
    header = headed(good(), 0, 124, b"%011o" % 2**30)[:512]
    with path.open("wb") as file:
        file.write(header)
        file.truncate(512 + 2**30 + 1024)


@case("package-too-large")
def a_manifest_of_many_megabytes(_):
    return tar(("shop.ovf", descriptor()), ("shop.mf", b"\n" * 2**23), ("disk1.qcow2", b"1"))


@case("package-truncated")
def a_file_larger_than_the_archive(_):
    return headed(good(), 1, 124, b"%011o" % 2**32)


@case("package-truncated")
def a_file_of_an_exabyte(_):
    return headed(good(), 1, 124, b"\x80" + struct.pack(">3xQ", 2**60))


@case("package-truncated")
def a_file_of_an_exabyte_by_pax(_):
    return pax({"size": str(2**59)})


@case("package-truncated")
def an_archive_without_its_end(_):
    data = good()
    return data[: cut_at_header(data, 2)]


@case("package-truncated")
def an_archive_cut_within_a_header(_):
    data = good()
    return data[: cut_at_header(data, 1) + 100]


@case("package-invalid")
def a_file_of_negative_size(_):
    return headed(good(), 1, 124, b"\xff" * 12)


@case("package-invalid")
def a_size_that_is_no_number(_):
    return pax({"size": "-1"})


@case("package-invalid")
def a_header_whose_checksum_is_wrong(_):
    data = bytearray(good())
    data[cut_at_header(bytes(data), 1)] ^= 1
    return bytes(data)


@case("package-invalid")
def pax_records_longer_than_their_header(_):
    header = headed(good(), 0, 156, tarfile.XHDTYPE)[:512]
    return headed(header, 0, 124, b"%011o" % 20) + b"99999999999 path=x\n".ljust(512, b"\0")


@case("package-trailing-data")
def a_second_archive_behind_the_end(_):
    return good() + good()


@case("package-trailing-data")
def gigabytes_behind_the_end(path):
    path.write_bytes(good())
    with path.open("r+b") as file:
        file.truncate(2**31)


@case("package-invalid")
def a_packed_archive(_):
    return gzip.compress(good())


@case("package-invalid")
def an_image_instead(_):
    return qcow2()


@case("package-invalid")
def nothing_at_all(_):
    return b" "


@case("image-unknown-format")
def the_archive_is_a_link(path):
    (path.parent / "real.ova").write_bytes(good())
    path.symlink_to("real.ova")


# --- archives: descriptors and manifests ---------------------------------------------------------


@case("package-entities")
def a_billion_laughs(_):
    entities = b'<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY %c "%s">' % (n, b"&%c;" % (n - 1) * 10) for n in range(ord("b"), ord("k"))
    )
    return with_text(b"<!DOCTYPE x [" + entities + b"]><Envelope>&j;</Envelope>")


@case("package-entities")
def an_entity_that_is_a_file_of_the_host(_):
    return with_text(
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Envelope>&e;</Envelope>'
    )


@case("package-entities")
def a_document_type_from_the_network(_):
    return with_text(b'<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd">' + descriptor()[38:])


@case("package-invalid")
def a_descriptor_that_ends_early(_):
    return with_text(descriptor()[:-20])


@case("package-invalid")
def a_descriptor_in_an_unknown_encoding(_):
    return with_text(descriptor().replace(b"UTF-8", b"nonsense"))


@case("package-invalid")
def a_descriptor_of_nested_elements(_):
    return with_text(b"<a>" * 200_000)


@case("package-invalid")
def a_descriptor_of_something_else(_):
    return with_text(b"<html/>")


@case("package-unsupported")
def an_older_standard(_):
    text = descriptor().replace(
        b"http://schemas.dmtf.org/ovf/envelope/1", b"http://www.vmware.com/schema/ovf/1/envelope"
    )
    return with_text(text)


@case("package-unsupported")
def a_compressed_disk(_):
    return with_text(descriptor().replace(b"ovf:href", b'ovf:compression="gzip" ovf:href'))


@case("package-unsupported")
def a_disk_in_pieces(_):
    return with_text(descriptor().replace(b"ovf:href", b'ovf:chunkSize="512" ovf:href'))


@case("package-unsupported")
def two_vms(_):
    text = descriptor()
    begin, end = text.index(b"<ovf:VirtualSystem "), text.index(b"</ovf:Envelope>")
    return with_text(text[:end] + text[begin:])


@case("package-invalid")
def a_number_without_end(_):
    return with_text(
        descriptor().replace(b'capacity="1048576"', b'capacity="%s"' % (b"9" * 10**5))
    )


@case("package-invalid")
def a_unit_without_end(_):
    return with_text(
        descriptor().replace(
            b'capacityAllocationUnits="byte"', b'capacityAllocationUnits="byte * 9^999999999"'
        )
    )


@case("image-backing-file")
def a_disk_on_top_of_another(_):
    return with_text(descriptor().replace(b"ovf:fileRef", b'ovf:parentRef="disk9" ovf:fileRef'))


@case("image-too-large")
def a_disk_of_an_exabyte(_):
    return with_text(descriptor(capacity=2**60))


@case("package-capacity-differs")
def a_disk_that_is_larger_than_was_said(_):
    return with_text(descriptor(), qcow2(size=2**30, l1_entries=2))


@case("package-capacity-differs")
def a_disk_that_is_smaller_than_was_said(_):
    return with_text(descriptor(capacity=2**30))


@case("package-size-differs")
def a_file_of_another_size_than_was_said(_):
    return with_text(descriptor().replace(b"ovf:href", b'ovf:size="5" ovf:href'))


@case("package-digest-mismatch")
def a_disk_that_was_exchanged(_):

    text = descriptor()
    listed = manifest_of([("shop.ovf", text), ("disk1.qcow2", qcow2())])
    return tar(("shop.ovf", text), ("shop.mf", listed), ("disk1.qcow2", qcow2(size=2**20 - 512)))


@case("package-invalid")
def a_manifest_that_is_no_text(_):
    return tar(("shop.ovf", descriptor()), ("shop.mf", b"\xff\xfe\0"), ("disk1.qcow2", qcow2()))


@case("package-invalid")
def a_manifest_with_digests_of_no_length(_):
    listed = b"SHA256(shop.ovf)= 00\nSHA256(disk1.qcow2)= 00\n"
    return tar(("shop.ovf", descriptor()), ("shop.mf", listed), ("disk1.qcow2", qcow2()))


@case("package-signature-invalid")
def a_signature_without_a_certificate(_):

    text = descriptor()
    listed = manifest_of([("shop.ovf", text), ("disk1.qcow2", qcow2())])
    return tar(
        ("shop.ovf", text),
        ("shop.mf", listed),
        ("shop.cert", b"SHA256(shop.mf)= 00"),
        ("disk1.qcow2", qcow2()),
    )


@case("package-signature-invalid")
def a_signature_on_nothing(_):
    return tar(("shop.ovf", descriptor()), ("shop.cert", b"x"), ("disk1.qcow2", qcow2()))


# --- images in archives, and alone --------------------------------------------------------------


@case("image-backing-file")
def a_packed_disk_on_top_of_a_file_of_the_host(_):
    disk = bytearray(qcow2(backing=512, backing_length=11))
    disk[512:523] = b"/etc/shadow"
    return with_text(descriptor(), bytes(disk))


@case("image-format-mismatch")
def a_packed_disk_in_another_format(_):
    return with_text(descriptor(form=Format.VMDK))


@case("image-foreign-extent")
def a_packed_disk_that_is_a_file_of_the_host(_):
    text = f'createType="monolithicFlat"\nRW {SIZE_BYTES // 512} FLAT "/etc/shadow" 0\n'
    return with_text(descriptor(form=Format.VMDK), text.encode())


@case("package-unsupported")
def a_packed_disk_that_names_its_neighbour(_):
    text = f'createType="monolithicFlat"\nRW {SIZE_BYTES // 512} FLAT "disk-1.raw" 0\n'
    described = descriptor("a.vmdk", "b.raw").replace(packing._FORMATS[Format.QCOW2].encode(), b"")
    return tar(("shop.ovf", described), ("a.vmdk", text.encode()), ("b.raw", bytes(SIZE_BYTES)))


@case("image-truncated")
def a_packed_disk_that_ends_early(_):
    return with_text(descriptor(), qcow2()[: 3 * 65536])


@case("image-truncated")
def a_packed_disk_that_is_empty(_):
    return tar(("shop.ovf", descriptor()), ("disk1.qcow2", b""))


@case("image-too-large", "qcow2")
def an_image_of_an_exabyte(_):
    return qcow2(size=2**60, l1_entries=2**20)


@case("image-truncated", "qcow2")
def an_image_with_four_billion_tables(_):
    return qcow2(l1_entries=2**32 - 1)


@case("image-corrupt", "qcow2")
def an_image_that_is_one_great_table(path):
    sparse(path, qcow2(l1_entries=2**29), 2**33)


@case("image-corrupt", "qcow2")
def an_image_whose_tables_lie_upon_each_other(path):
    """Each of them is read; a file of 64 MiB would have a hundred gigabytes of them."""
    count = 120_000
    places = struct.pack(f">{count}Q", *range(2**20, 2**20 + 512 * count, 512))
    sparse(path, qcow2(cluster_bits=20, l1_entries=count)[: 3 * 65536] + places, 2**26 + 512)


@case("image-corrupt", "qcow2")
def an_image_with_clusters_of_no_size(_):
    return qcow2(cluster_bits=63)


@case("image-unknown-format", "qcow2")
def an_encrypted_image(_):
    return qcow2(encrypted=1)


@case("image-unknown-format", "qcow2")
def an_image_of_a_version_to_come(_):
    return qcow2(version=9)


@case("image-too-large", "vmdk")
def a_vmdk_of_an_exabyte(_):
    return sparse_vmdk(capacity=2**50)


@case("image-corrupt", "vmdk")
def a_vmdk_of_grains_of_no_size(_):
    return sparse_vmdk(grain=0)


@case("image-corrupt", "vmdk")
def a_vmdk_that_is_one_great_directory(path):
    sparse(path, sparse_vmdk(capacity=2**31, grain=1, entries=1), 2**34)


@case("image-corrupt", "vpc")
def a_vhd_that_is_one_great_table(path):
    sparse(path, vhd(2**30), 2**33)
    with path.open("ab") as file:
        file.write(vhd(2**30)[:512])


@case("image-truncated", "vmdk")
def a_vmdk_whose_directory_is_nowhere(_):
    return sparse_vmdk(directory=2**40)


@case("image-backing-file", "vmdk")
def a_vmdk_on_top_of_another(_):
    return sparse_vmdk(
        'createType="monolithicSparse"\nparentCID=12345678\nparentFileNameHint="/etc/shadow"\n'
        'RW 2048 SPARSE "disk.vmdk"\n'
    )


@case("image-corrupt", "vmdk")
def a_vmdk_with_two_minds(_):
    return sparse_vmdk('createType="monolithicSparse"\ncreateType="vmfs"\nRW 1 SPARSE "x"\n')


@case("image-unknown-format", "raw")
def a_device_for_an_image(path):
    path.symlink_to("/dev/zero")


# --- they are refused ----------------------------------------------------------------------------


def test_the_pattern_of_them_all_is_good(tmp_path: Path, refusing: Refusing) -> None:
    """What is refused is refused for what is different."""
    (tmp_path / "good.ova").write_bytes(good())
    assert refusing.ask(tmp_path / "good.ova", PACKAGE, tmp_path / "out") == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["disk-0.qcow2"]
    images = (
        (Format.QCOW2, qcow2()),
        (Format.VMDK, sparse_vmdk()),
        (Format.VPC, vhd(1) + vhd(1)[:512]),
    )
    for form, image in images:
        (tmp_path / "good").write_bytes(image)
        assert refusing.ask(tmp_path / "good", form, tmp_path / "none") == ""


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, refusing: Refusing, outside: dict[str, bytes]
) -> None:
    code, form, make = CASES[name]
    folder = tmp_path / "library"
    folder.mkdir()
    path = folder / "upload"
    made = make(path)
    if isinstance(made, bytes):
        path.write_bytes(made)
    before = sorted(tmp_path.rglob("*"))
    assert refusing.ask(path, form, folder / "unpacked") == code
    assert sorted(tmp_path.rglob("*")) == before
    assert {each: (tmp_path / each).read_bytes() for each in outside} == outside
