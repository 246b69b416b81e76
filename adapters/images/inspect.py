"""Looking at an untrusted disk image before any tool opens it.

The detection and the safety checks are oslo.utils'. What it does not know is added here: a
partitioned disk (or a CD image that is one, too) is raw; a fixed VHD shows itself at its end
only; VMDKs of several files, differences and parents; and files that end too early.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from oslo_utils.imageutils.format_inspector import (
    ALL_FORMATS,
    FileInspector,
    ImageFormatError,
    SafetyCheckFailed,
)

from adapters.errors import BadImage
from adapters.images.untrusted import UntrustedFile, corrupt, require_size
from adapters.images.vhdx import inspect_vhdx
from adapters.images.vmdk import SECTOR, inspect_vmdk, is_descriptor
from adapters.types import Format, ImageInfo

_HEAD_BYTES = 2**20 + SECTOR  # as far as any header or descriptor reaches
_TAIL_BYTES = 3 * SECTOR  # VMDK's footer between its markers
_FORMATS = {
    "qcow2": Format.QCOW2,
    "vmdk": Format.VMDK,
    "vhd": Format.VPC,
    "vhdx": Format.VHDX,
    "vdi": Format.VDI,
    "gpt": Format.RAW,
}
_OF_RAW = {"gpt", "iso"}  # what may be found in a raw disk
_PACKED = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\3\4": "zip",
}
_STUMBLES = (ImageFormatError, struct.error, ValueError, LookupError, AttributeError, TypeError)
_QCOW2_OFFSET = (1 << 56) - (1 << 9)
_QCOW2_COPIED = 1 << 63
_CODES = {"backing_file": "image-backing-file", "data_file": "image-data-file"}


def inspect(path: Path, declared: Format, *, max_virtual_mib: int) -> ImageInfo:
    """Say what the file is. Raises `BadImage` unless it is a whole, safe image as declared."""
    with UntrustedFile.open(path) as file:
        if not file.size:
            raise BadImage(f"{path.name} is empty", code="image-truncated")
        found = _recognise(file)
        _require_declared(file, set(found), declared)
        info = _READERS[declared](file, max_virtual_mib)
        if declared in {Format.QCOW2, Format.VMDK} and not info.extents:
            _require_safe(found[declared])  # of the others oslo checks nothing
        return info


def _recognise(file: UntrustedFile) -> dict[str, FileInspector]:
    """Every format that the file shows, by oslo's names."""
    head = file.head(_HEAD_BYTES)
    tail = file.tail(_TAIL_BYTES) if file.size > len(head) + _TAIL_BYTES else b""
    inspectors = {name: kind() for name, kind in ALL_FORMATS.items() if name != "raw"}
    found = {name: each for name, each in inspectors.items() if _matches(each, head, tail)}
    if is_descriptor(head):
        found.setdefault("vmdk", inspectors["vmdk"])
    if _has_footer(file):
        found.setdefault("vhd", inspectors["vhd"])
    return found


def _matches(inspector: FileInspector, head: bytes, tail: bytes) -> bool:
    """Whether it is that format, be it a broken one."""
    try:
        inspector.eat_chunk(head)
        if tail and inspector.NAME == "vmdk":  # the one that looks at the end
            inspector.eat_chunk(tail)
    except _STUMBLES:
        pass  # not that format, or a broken one: its signature tells
    inspector.finish()
    try:
        return inspector.format_match
    except _STUMBLES:
        return False


def _require_declared(file: UntrustedFile, found: set[str], declared: Format) -> None:
    """Refuse everything that is not exactly what it was declared to be."""
    telling = found - _OF_RAW
    if len(telling) > 1 or (telling and found & _OF_RAW and not _has_footer(file)):
        names = ", ".join(sorted(found))
        raise BadImage(
            f"the file is several things at once: {names}", code="image-format-mismatch"
        )
    name = telling.pop() if telling else "gpt" if "gpt" in found else ""
    if name and name not in _FORMATS:
        raise BadImage(f"{name} is not supported", code="image-unknown-format")
    if name and _FORMATS[name] is not declared:
        text = f"the file was declared as {declared}, but is {_FORMATS[name]}"
        raise BadImage(text, code="image-format-mismatch")
    if name:
        return
    if "iso" in found:
        raise BadImage("the file is a CD image without partitions", code="image-unknown-format")
    packed = next((how for magic, how in _PACKED.items() if file.head(6).startswith(magic)), None)
    if packed or declared is not Format.RAW:
        text = f"the file was declared as {declared}, but is {packed or 'nothing known'}"
        raise BadImage(text, code="image-unknown-format")


def _require_safe(inspector: FileInspector) -> None:
    """Let oslo's checks pass it."""
    try:
        inspector.safety_check()
    except SafetyCheckFailed as error:
        failures = set(error.failures)
        code = next((_CODES[name] for name in _CODES if name in failures), "image-corrupt")
        raise BadImage(f"the image is not safe: {', '.join(failures)}", code=code) from error
    except ImageFormatError as error:
        raise corrupt(f"the image cannot be checked: {error}") from error


def _inspect_raw(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """A raw disk is as large as its file, and its partitions must be in it."""
    require_size(file.size, max_virtual_mib)
    head = file.head(2 * SECTOR).ljust(2 * SECTOR, b"\0")
    table = [struct.unpack_from("<B3xB3xII", head, 446 + 16 * n) for n in range(4)]
    is_mbr = head[510:512] == b"\x55\xaa" and {boot for boot, *_ in table} <= {0, 0x80}
    if head[SECTOR:].startswith(b"EFI PART"):
        (backup,) = struct.unpack_from("<Q", head, SECTOR + 32)
        file.require((backup + 1) * SECTOR, "its partition table")
    elif is_mbr and file.head(32774)[32769:] != b"CD001":  # a CD image's partition is rounded up
        for _, kind, start, sectors in table:
            file.require((start + sectors) * SECTOR if kind else 0, "its partition table")
    return ImageInfo(format=Format.RAW, virtual_size_bytes=file.size, file_size_bytes=file.size)


def _inspect_qcow2(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """Only the tables: what they point to is for `qemu-img check`, which also sees overlaps."""
    header = file.unpack(">4sIQIIQIIQQII", 0)
    _, version, _, _, cluster_bits, size, encrypted, l1_entries, l1, refcounts, *_ = header
    if version not in {2, 3} or encrypted:
        text = f"qcow2 of version {version}{', encrypted,' if encrypted else ''} is not supported"
        raise BadImage(text, code="image-unknown-format")
    if cluster_bits not in range(9, 22):
        raise corrupt("the clusters have a size that makes no sense")
    require_size(size, max_virtual_mib)
    file.require(l1 + 8 * l1_entries, "its table of clusters")
    file.require(refcounts + 8, "its table of reference counts")
    places = {place & _QCOW2_OFFSET for place in file.numbers(">Q", l1, l1_entries)} - {0}
    _require_clusters(file, places, 1 << cluster_bits)
    return ImageInfo(format=Format.QCOW2, virtual_size_bytes=size, file_size_bytes=file.size)


def _require_clusters(file: UntrustedFile, tables: set[int], cluster_bytes: int) -> None:
    """Refuse a file that ends within a table or a cluster of data.

    The check leaves that to us, for other clusters may end early; whole ones it misses itself.
    Tables that lay upon each other would be more to read than there is of the file.
    """
    if any(place % cluster_bytes for place in tables):
        raise corrupt(f"{file.path.name} has a table that is no cluster")
    file.require(max(tables, default=0) + cluster_bytes, "its table of clusters")
    beginning = file.size - file.size % cluster_bytes
    if beginning == file.size:
        return
    wanted = struct.pack(">Q", beginning), struct.pack(">Q", beginning | _QCOW2_COPIED)
    for table in tables:
        entries = file.read(table, cluster_bytes)
        if any(entries[at : at + 8] in wanted for at in _places(entries, wanted[0][1:])):
            file.require(beginning + cluster_bytes, "its last cluster")


def _places(entries: bytes, ending: bytes) -> Iterator[int]:
    """Where entries that end so begin."""
    at = -1
    while (at := entries.find(ending, at + 1)) >= 0:
        if at % 8 == 1:
            yield at - 1


def _inspect_vdi(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    (kind,) = file.unpack("<I", 76)
    block_map, data = file.unpack("<II", 340)
    size, block_bytes, extra, blocks, allocated = file.unpack("<QIIII", 368)
    require_size(size, max_virtual_mib)
    if kind not in {1, 2}:  # 3 and 4 are differences
        raise BadImage("the image is a difference to another", code="image-backing-file")
    if blocks * block_bytes < size or allocated > blocks or extra:
        raise corrupt("the blocks do not make up the disk")
    file.require(block_map + 4 * blocks, "its table of blocks")
    file.require(data + allocated * block_bytes, "its blocks")
    return ImageInfo(format=Format.VDI, virtual_size_bytes=size, file_size_bytes=file.size)


_FOOTER = ">8sIIQI4sIIQQHBBII"  # up to the checksum
_EXACT_CREATORS = {b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"}
_MAX_GEOMETRY = (65535, 16, 255)
_FIXED, _DYNAMIC, _DIFFERENCE = 2, 3, 4
_NO_BLOCK = 2**32 - 1


def _has_footer(file: UntrustedFile) -> bool:
    """Whether the file ends as a VHD does."""
    footer = file.tail(SECTOR)
    if len(footer) < SECTOR or not footer.startswith(b"conectix"):
        return False
    (checksum,) = struct.unpack_from(">I", footer, 64)
    return bool(checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF)


def _inspect_vhd(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """The size is what qemu takes for it: creators disagree on what the footer means."""
    at = file.size - SECTOR if _has_footer(file) else 0
    _, _, _, table, _, creator, _, _, _, current, *geometry, kind, _ = file.unpack(_FOOTER, at)
    cylinders, heads, sectors = geometry
    exact = creator in _EXACT_CREATORS or tuple(geometry) == _MAX_GEOMETRY
    size = current if exact else cylinders * heads * sectors * SECTOR
    require_size(size, max_virtual_mib)
    if kind == _DIFFERENCE:
        raise BadImage("the image is a difference to another", code="image-backing-file")
    if kind not in {_FIXED, _DYNAMIC}:
        raise corrupt("the footer has a disk type that makes no sense")
    if not _has_footer(file):
        raise BadImage("the footer is missing", code="image-truncated")
    if kind == _FIXED:
        file.require(max(size, current) + SECTOR, "its footer")
    else:
        _require_blocks(file, table)
    return ImageInfo(
        format=Format.VPC,
        virtual_size_bytes=size,
        file_size_bytes=file.size,
        subformat="fixed" if kind == _FIXED else "dynamic",
    )


def _require_blocks(file: UntrustedFile, header: int) -> None:
    """Refuse a dynamic VHD whose blocks are not all between its header and its footer."""
    magic, table, _, entries, block_bytes = file.unpack(">8s8xQIII", header)
    if magic != b"cxsparse" or not 2**9 <= block_bytes <= 2**28 or block_bytes & (block_bytes - 1):
        raise corrupt("the dynamic header makes no sense")
    file.require(table + 4 * entries, "its table of blocks")
    places = file.numbers(">I", table, entries)
    last = max((place for place in places if place != _NO_BLOCK), default=0)
    bitmap_bytes = -(-block_bytes // SECTOR // 8 // SECTOR) * SECTOR
    if last:
        file.require(last * SECTOR + bitmap_bytes + block_bytes + SECTOR, "its last block")


_READERS: dict[Format, Callable[[UntrustedFile, int], ImageInfo]] = {
    Format.RAW: _inspect_raw,
    Format.QCOW2: _inspect_qcow2,
    Format.VMDK: inspect_vmdk,
    Format.VPC: _inspect_vhd,
    Format.VHDX: inspect_vhdx,
    Format.VDI: _inspect_vdi,
}
