"""VMware's disks: one sparse file, or a text that names the files beside it.

Stricter than qemu, which looks for keys anywhere in the text, follows absolute paths and
protocols, and believes an extent that is itself a descriptor: what it might read in another
way than we do is refused.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import BadImage, NotFound
from adapters.images.untrusted import UntrustedFile, corrupt, require_size
from adapters.types import Format, ImageInfo

SECTOR = 512
_MAGIC = b"KDMV"
_HEADER = "<4sIIQQQQIQQQB4sH"
_AT_END = 2**64 - 1  # the grain directory is where the footer says
_COMPRESSED = 1 << 16
DESCRIPTOR_MAX_BYTES = 2**20
MAX_FILES = 500  # below 512, where a text of so many digests could be a raw disk: see `digest_of`
_SINGLE = {"monolithicsparse", "streamoptimized"}
_KINDS = {  # of the extents that a text may name
    "monolithicflat": "FLAT",
    "twogbmaxextentflat": "FLAT",
    "twogbmaxextentsparse": "SPARSE",
    "vmfs": "VMFS",
}
_EXTENT = re.compile(r'RW (\d{1,15}) ([A-Z]+) "([^"]*)"(?: (\d{1,15}))?')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .()+@=,-]{0,200}")
_KEY = re.compile(r'(?:ddb\.)?[A-Za-z0-9_.]+ ?= ?("[^"]*"|[^"]*)')
_SECRET_PARENT = "parentfilenamehint"  # noqa: S105 - no password; qemu finds it even in a comment
_NO_PARENT = "ffffffff"


@dataclass(frozen=True)
class Extent:
    """A file that holds a part of the disk."""

    name: str
    kind: str
    sectors: int
    offset: int = 0  # in sectors, of that part in the file


@dataclass(frozen=True)
class Descriptor:
    """What the text says."""

    create_type: str
    extents: tuple[Extent, ...]

    @property
    def virtual_size_bytes(self) -> int:
        """How large its guest sees the disk."""
        return sum(extent.sectors for extent in self.extents) * SECTOR

    def require_fit(self, max_virtual_mib: int) -> None:
        """Refuse what is no set of files, by the text alone. Raises `BadImage`."""
        kind = _KINDS.get(self.create_type.lower())
        if kind is None:
            text = f"{self.create_type} is no kind of VMDK that is known here"
            raise BadImage(text, code="image-unknown-format")
        require_size(self.virtual_size_bytes, max_virtual_mib)
        if any(extent.kind != kind for extent in self.extents):
            raise corrupt(f"{self.create_type} has only {kind} extents")


@dataclass(frozen=True)
class _Sparse:
    """The header of a sparse file."""

    capacity: int
    descriptor: tuple[int, int]  # sectors: offset, length


def inspect_vmdk(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """Look at a disk and all files it consists of. Raises `BadImage`."""
    if file.head(4) == _MAGIC:
        return _inspect_single(file, max_virtual_mib)
    descriptor = _parse_outer(file.head(DESCRIPTOR_MAX_BYTES + 1), file.path.name)
    descriptor.require_fit(max_virtual_mib)
    parts = [_check(each, file.path, max_virtual_mib) for each in descriptor.extents]
    return ImageInfo(
        format=Format.VMDK,
        virtual_size_bytes=descriptor.virtual_size_bytes,
        file_size_bytes=file.size + sum(parts),
        subformat=descriptor.create_type,
        extents=tuple(extent.name for extent in descriptor.extents),
    )


def extent_names(path: Path) -> tuple[str, ...]:
    """The files beside a descriptor that belong to it; none for any other file."""
    with UntrustedFile.open(path) as file:
        described = described_by(file.head(DESCRIPTOR_MAX_BYTES + 1), path.name)
        return tuple(extent.name for extent in described.extents) if described else ()


def described_by(beginning: bytes, own: str) -> Descriptor | None:
    """What a file says that begins so, and is called so, of those beside it; None of an image.

    Names are those of other files beside it, each once. Raises `BadImage`.
    """
    return _parse_outer(beginning, own) if is_descriptor(beginning) else None


def digest_of(digests: Sequence[str]) -> str:
    """An image's SHA-256, from those of its files: the descriptor's, then the extents' as named.

    Of one file it is that file's; of a set what `sha256sum FILES | cut -c-64 | sha256sum` says.
    """
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins so is a descriptor, be it a bad one.

    It ends at the first zero: qemu fills it up, and leaves what a longer one had there before.
    """
    is_text = not re.search(rb"[^\0\t\r\n\x20-\x7e]", head)
    return is_text and b"createtype" in head.partition(b"\0")[0].lower()


def parse(text: str) -> Descriptor:
    """Read a descriptor, refusing every line that is not understood."""
    lowered = text.lower()
    if _SECRET_PARENT in lowered:
        raise BadImage("the disk is a difference to another", code="image-backing-file")
    if lowered.count("createtype") != 1:
        raise corrupt("the descriptor says not exactly once what it describes")
    create_type = ""
    extents: list[Extent] = []
    for line in (line.strip() for line in text.split("\n")):
        if line.startswith("RW "):
            extents.append(_extent(line))
        elif not _KEY.fullmatch(line) and line and not line.startswith("#"):
            raise corrupt(f"the descriptor has a line that makes no sense: {line[:80]!r}")
        key, _, value = (part.strip().strip('"') for part in line.partition("="))
        if key.lower() == "createtype":
            create_type = value
        elif key.lower() == "parentcid" and value.lower() != _NO_PARENT:
            raise BadImage("the disk is a difference to another", code="image-backing-file")
    if len({extent.name.lower() for extent in extents}) != len(extents) or not extents:
        raise corrupt("the descriptor names no extent, or one twice")
    return Descriptor(create_type, tuple(extents))


def _extent(line: str) -> Extent:
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise corrupt(f"the descriptor has a line that makes no sense: {line[:80]!r}")
    sectors, kind, name, offset = match.groups()
    return Extent(name, kind, int(sectors), int(offset or 0))


def _parse_outer(beginning: bytes, own: str) -> Descriptor:
    """Read a descriptor that is a file of its own, whose names count."""
    descriptor = parse(_text(beginning))
    if len(descriptor.extents) >= MAX_FILES:
        text = f"the disk has more than {MAX_FILES} files"
        raise BadImage(text, code="image-too-large")
    for extent in descriptor.extents:
        if not _PLAIN_NAME.fullmatch(extent.name) or extent.name.lower() == own.lower():
            text = f"the extent {extent.name[:80]!r} is no other file beside {own}"
            raise BadImage(text, code="image-foreign-extent")
    return descriptor


def _text(data: bytes) -> str:
    """The descriptor's text; C's strings end at a zero, and so does what qemu sees."""
    if len(data) > DESCRIPTOR_MAX_BYTES:
        raise corrupt("the descriptor is too long")
    try:
        text = data.partition(b"\0")[0].decode("ascii").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise corrupt("the descriptor is no text") from error
    if re.search(r"[^\n\t\x20-\x7e]", text):
        raise corrupt("the descriptor is no text")
    return text


def _check(extent: Extent, descriptor: Path, max_virtual_mib: int) -> int:
    """Look at an extent's own file; answer its size."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(UntrustedFile.open(descriptor.with_name(extent.name)))
        except NotFound as error:
            text = f"the extent {extent.name} is missing"
            raise BadImage(text, code="image-truncated") from error
        except BadImage as error:
            raise BadImage(str(error), code="image-foreign-extent") from error
        if extent.kind == "SPARSE":
            sparse = _read_sparse(file, max_virtual_mib)
            if sparse.capacity != extent.sectors:
                raise corrupt(f"{extent.name} has another size than its descriptor says")
        else:
            file.require((extent.offset + extent.sectors) * SECTOR, "its descriptor")
        return file.size


def _inspect_single(file: UntrustedFile, max_virtual_mib: int) -> ImageInfo:
    """A disk that is one sparse file with its descriptor inside."""
    sparse = _read_sparse(file, max_virtual_mib)
    offset, length = sparse.descriptor
    descriptor = parse(_text(file.read(offset * SECTOR, length * SECTOR)))
    if descriptor.create_type.lower() not in _SINGLE or len(descriptor.extents) != 1:
        text = f"{descriptor.create_type} is no kind of VMDK that fits into one file"
        raise BadImage(text, code="image-unknown-format")
    return ImageInfo(
        format=Format.VMDK,
        virtual_size_bytes=sparse.capacity * SECTOR,
        file_size_bytes=file.size,
        subformat=descriptor.create_type,
    )


def _read_sparse(file: UntrustedFile, max_virtual_mib: int) -> _Sparse:
    """Read a sparse file's header and check that all its grains are in the file."""
    header = file.unpack(_HEADER, 0)
    if header[9] == _AT_END:
        file.require(4 * SECTOR, "its footer")
        header = file.unpack(_HEADER, file.size - 2 * SECTOR)
    magic, version, flags, capacity, grain, at, length, entries, _, directory, *_ = header
    if magic != _MAGIC:
        missing = file.unpack("<4s", 0)[0] == _MAGIC
        text = f"{file.path.name} {'has lost its footer' if missing else 'is no sparse extent'}"
        raise BadImage(text, code="image-truncated" if missing else "image-corrupt")
    require_size(capacity * SECTOR, max_virtual_mib)  # with 0, qemu takes it for a descriptor
    if version not in {1, 2, 3}:
        raise corrupt(f"{file.path.name} has a header that makes no sense")
    if not 1 <= grain <= 2**21 or not 1 <= entries <= SECTOR or length * SECTOR > 2**20:
        raise corrupt(f"{file.path.name} has a header that makes no sense")
    last = _last_grain(file, directory, -(-capacity // (grain * entries)), entries)
    if last > 1 and flags & _COMPRESSED:
        _, size = file.unpack("<QI", last * SECTOR)
        file.require(last * SECTOR + 12 + size, "its last grain")
    elif last > 1:  # 1 is a grain of zeros
        file.require((last + min(grain, capacity)) * SECTOR, "its last grain")
    return _Sparse(capacity, (at, length))


def _last_grain(file: UntrustedFile, directory: int, tables: int, entries: int) -> int:
    """The sector of the grain that is nearest to the file's end."""
    file.require(directory * SECTOR + 4 * tables, "its grain directory")
    places = file.numbers("<I", directory * SECTOR, tables)
    layout = f"<{entries}I"
    return max(
        (max(file.unpack(layout, place * SECTOR)) for place in set(places) if place), default=0
    )
