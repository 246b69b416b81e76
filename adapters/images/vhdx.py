"""Microsoft's VHDX: regions of tables, found by their ids.

Read is what qemu reads: the first table of regions, and the header that was written last. An
image whose log was not replayed is refused: qemu would have to write to it first.
"""

import struct
from uuid import UUID

from adapters.errors import BadImage
from adapters.images.untrusted import UntrustedFile, corrupt, require_size
from adapters.types import Format, ImageInfo

_KIB, _MIB = 2**10, 2**20
_HEADERS = (64 * _KIB, 128 * _KIB)
_REGIONS = 192 * _KIB
_MAX_ENTRIES = 2047
_BLOCKS = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_SECTOR = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PARENT = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 2
_PRESENT, _PARTLY = 6, 7
_AT_ONCE = 2**16  # entries of the table of blocks


def inspect_vhdx(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """Look at a disk and its tables. Raises `BadImage`."""
    _require_clean(file)
    regions = _table(file, _REGIONS, "<4s4xI4x", b"regi", "<16sQI4x")
    for each in (_BLOCKS, _METADATA):
        if each not in regions:
            raise corrupt("a table that every VHDX has is not there")
        file.require(sum(regions[each]), "its tables")
    start, length = regions[_METADATA]
    items = _table(file, start, "<8s2xH20x", b"metadata", "<16sII8x")
    if _PARENT in items:
        raise BadImage("the image is a difference to another", code="image-backing-file")

    def item(name: UUID, layout: str) -> tuple[int, ...]:
        offset, size = items.get(name, (0, 0))
        if not offset or size != struct.calcsize(layout) or offset + size > length:
            raise corrupt("a property that every VHDX has is not there")
        return file.unpack(layout, start + offset)

    block_bytes, flags = item(_PARAMETERS, "<II")
    (size,), (sector,) = item(_SIZE, "<Q"), item(_SECTOR, "<I")
    if flags & _HAS_PARENT:
        raise BadImage("the image is a difference to another", code="image-backing-file")
    require_size(size, max_virtual_mib)
    is_power = block_bytes & (block_bytes - 1) == 0
    if not (is_power and _MIB <= block_bytes <= 256 * _MIB) or sector not in {512, 4096}:
        raise corrupt("the blocks or sectors have a size that makes no sense")
    _require_blocks(file, regions[_BLOCKS], -(-size // block_bytes), block_bytes, sector)
    return ImageInfo(format=Format.VHDX, virtual_size_bytes=size, file_size_bytes=file.size)


def _require_clean(file: UntrustedFile) -> None:
    """Refuse an image with changes that are only in its log."""
    headers = [file.unpack("<4s4xQ32x16s", at) for at in _HEADERS]
    written = [(number, log) for magic, number, log in headers if magic == b"head"]
    if not written:
        raise corrupt("there is no header")
    if any(log.strip(b"\0") for number, log in written if number == max(written)[0]):
        raise corrupt("the image was not closed: its log has changes that are nowhere else")


def _table(
    file: UntrustedFile, at: int, head: str, magic: bytes, entry: str
) -> dict[UUID, tuple[int, int]]:
    """Where things are, and how long, by their ids."""
    found, count = file.unpack(head, at)
    if found != magic or count > _MAX_ENTRIES:
        raise corrupt("a table makes no sense")
    start, step = at + struct.calcsize(head), struct.calcsize(entry)
    rows = [file.unpack(entry, start + step * n) for n in range(count)]
    if len({name for name, *_ in rows}) != count:
        raise corrupt("a table names a thing twice")
    return {UUID(bytes_le=name): (offset, length) for name, offset, length in rows}


def _require_blocks(
    file: UntrustedFile, table: tuple[int, int], blocks: int, block_bytes: int, sector: int
) -> None:
    """Refuse an image whose blocks are not all in its file; every so often comes a bitmap."""
    at, length = table
    between = 2**23 * sector // block_bytes
    entries = blocks + (blocks - 1) // between
    if 8 * entries > length:
        raise corrupt("the table of blocks does not make up the disk")
    for first in range(0, entries, _AT_ONCE):
        some = min(_AT_ONCE, entries - first)
        for n, each in enumerate(file.unpack(f"<{some}Q", at + 8 * first), first):
            if n % (between + 1) == between:
                continue
            if each & 7 == _PARTLY:
                raise BadImage("the image is a difference to another", code="image-backing-file")
            if each & 7 == _PRESENT:
                file.require((each >> 20) * _MIB + block_bytes, "its last block")
