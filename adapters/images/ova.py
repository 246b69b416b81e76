"""Reading an OVA: a tar archive of a descriptor, a manifest, and disks, that somebody else made.

All headers are looked at before anything is written; only disks are, under names of our own. What
a tar can hold beside plain files (links, devices, folders, sparse maps) is refused.
"""

import hashlib
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from adapters.images import manifest, ovf
from adapters.images.base import ImageTool
from adapters.images.repository import speaking_directory
from adapters.images.untrusted import UntrustedFile, require_size
from adapters.packages import BadPackage, Package, PackagedDisk
from adapters.types import ImageInfo

_BLOCK = 512
_PAX_MAX_BYTES = 2**16
_PIECE_BYTES = 2**20
_PADDING_MAX_BYTES = 2**20  # of zeros, behind the archive's end
_PAX, _PAX_OF_ALL, _LONG_NAME = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME
_PLAIN = {tarfile.REGTYPE, tarfile.AREGTYPE}


class Member(NamedTuple):
    """A file of the package: a part of the archive, or whole in a folder."""

    name: str
    offset: int
    size: int
    file: UntrustedFile


class Contents(NamedTuple):
    """What a package had in it; its disks' images are in the folder, named as a template's."""

    package: Package
    images: list[ImageInfo]


def take_apart(
    path: Path,
    folder: Path,
    tool: ImageTool,
    *,
    max_virtual_mib: int,
    trusted: Sequence[x509.Certificate] = (),
) -> Contents:
    """Unpack an archive into a new folder, and inspect its disks; a refusal leaves no folder.

    A folder with a package's files is taken for the archive of these files.
    """
    with ExitStack() as opened:
        ova = Ova(_members_of(path, opened), trusted)
        ova.require_sizes(max_virtual_mib)
        try:
            images = [
                _inspected(disk, image, tool, max_virtual_mib)
                for disk, image in zip(ova.package.disks, ova.unpack(folder), strict=True)
            ]
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Contents(ova.package, images)


def _inspected(
    disk: PackagedDisk, image: Path, tool: ImageTool, max_virtual_mib: int
) -> ImageInfo:
    """Refuse what is no safe image, and one that is not what the descriptor says."""
    info = tool.inspect(image, disk.format, max_virtual_mib=max_virtual_mib)
    if info.extents:
        text = f"{disk.file} is a disk of several files"
        raise BadPackage(text, code="package-unsupported")
    if info.virtual_size_mib != -(-disk.capacity_bytes // 2**20):
        text = f"{disk.file} has {info.virtual_size_bytes} bytes for its guest, "
        text += f"not {disk.capacity_bytes} as the descriptor says"
        raise BadPackage(text, code="package-capacity-differs")
    return info


def descriptor_of(path: Path) -> bytes:
    """What an archive says of itself. Raises `BadPackage`."""
    with UntrustedFile.open(path) as file:
        return Ova(file).descriptor


def leading_descriptor(beginning: bytes) -> bytes:
    """The descriptor of an archive of which only the beginning is here: it comes first.

    Raises `BadPackage`.
    """
    offset = 0
    while (at := offset + _BLOCK) <= len(beginning):
        try:
            header = tarfile.TarInfo.frombuf(beginning[offset:at], "utf-8", "replace")
        except (tarfile.HeaderError, ValueError) as error:
            raise BadPackage(f"the file is no package: {error}") from error
        if header.size < 0:
            break
        if header.type in _PLAIN:
            return beginning[at : at + header.size]
        offset = at + -(-header.size // _BLOCK) * _BLOCK
    raise BadPackage("the package does not begin with its descriptor")


class Ova:
    """An archive whose headers, descriptor and manifest have been looked at."""

    def __init__(
        self,
        package: UntrustedFile | dict[str, Member],
        trusted: Sequence[x509.Certificate] = (),
    ) -> None:
        """Look at an archive, or at the files of a folder."""
        self._members = package if isinstance(package, dict) else _members(package)
        own = self._one(".ovf")
        if own is None:
            raise BadPackage("the package has no descriptor", code="package-missing-file")
        stem = own.name[: -len(".ovf")]
        self._manifest: dict[str, manifest.Digest] = {}
        self._own = {own.name}
        self.descriptor = descriptor = self._text(own, ovf.DESCRIPTOR_MAX_BYTES)
        if listed := self._one(".mf", stem):
            self._own.add(listed.name)
            text = self._text(listed, manifest.MANIFEST_MAX_BYTES)
            self._require_signed(stem, listed.name, text, trusted)
            self._manifest = manifest.read(text)
            self._require(own.name, descriptor)
        elif trusted or self._one(".cert", stem):
            raise BadPackage("nothing is signed", code="package-signature-invalid")
        self.package = ovf.read(descriptor)
        self._require_named()

    def require_sizes(self, max_virtual_mib: int) -> None:
        """Refuse disks over the limit by what the descriptor says, before any is written."""
        for disk in self.package.disks:
            require_size(disk.capacity_bytes, max_virtual_mib)

    def unpack(self, folder: Path) -> list[Path]:
        """Write the disks into a new folder, in order, and check every file of the package.

        What a refusal leaves is for the caller to remove, with the folder.
        """
        paths = [folder / each.format.disk_name(n) for n, each in enumerate(self.package.disks)]
        places = dict(zip((disk.file for disk in self.package.disks), paths, strict=True))
        with speaking_directory(folder):
            folder.mkdir()
            for name, member in self._members.items():
                if name not in self._own:
                    self._copy(member, places.get(name))
        return paths

    def _copy(self, member: Member, path: Path | None) -> None:
        """Write a member down, or only look whether it is what the manifest says."""
        expected = self._manifest.get(member.name)
        if path is None and expected is None:
            return
        computed = hashlib.new(expected.algorithm if expected else "sha256")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path or os.devnull, flags if path else os.O_WRONLY, 0o600), "wb") as out:  # noqa: PTH123 - never over what is there
            for start in range(0, member.size, _PIECE_BYTES):
                piece = member.file.read(
                    member.offset + start, min(_PIECE_BYTES, member.size - start)
                )
                out.write(piece)
                computed.update(piece)
            if path:
                out.flush()
                os.fsync(out.fileno())
        if expected:
            expected.require(computed.hexdigest(), member.name)

    def _one(self, ending: str, stem: str | None = None) -> Member | None:
        """The member with this ending; of a manifest, it has to be called as the descriptor is."""
        found = [each for name, each in self._members.items() if name.lower().endswith(ending)]
        if len(found) > 1:
            text = f"the package has several files that end in {ending}"
            raise BadPackage(text, code="package-surplus-file")
        if found and stem is not None and found[0].name[: -len(ending)] != stem:
            text = f"{found[0].name} belongs to another descriptor"
            raise BadPackage(text, code="package-surplus-file")
        return found[0] if found else None

    def _text(self, member: Member, max_bytes: int) -> bytes:
        if member.size > max_bytes:
            raise BadPackage(f"{member.name} is too long", code="package-too-large")
        return member.file.read(member.offset, member.size)

    def _require_signed(
        self, stem: str, name: str, text: bytes, trusted: Sequence[x509.Certificate]
    ) -> None:
        if certificate := self._one(".cert", stem):
            self._own.add(certificate.name)
            signature = self._text(certificate, manifest.MANIFEST_MAX_BYTES)
            manifest.require_signed(signature, name, text, trusted)
        elif trusted:
            raise BadPackage("nobody has signed the package", code="package-signature-invalid")

    def _require(self, name: str, text: bytes) -> None:
        if expected := self._manifest.get(name):
            expected.require(hashlib.new(expected.algorithm, text).hexdigest(), name)

    def _require_named(self) -> None:
        """Refuse unless archive, descriptor and manifest name the same files."""
        named = {each.name: each for each in self.package.files}
        for name, member in self._members.items():
            if name in self._own:
                continue
            if name not in named:
                text = f"the descriptor does not name {name}"
                raise BadPackage(text, code="package-surplus-file")
            if named[name].size_bytes not in {None, member.size}:
                text = f"{name} has another size than the descriptor says"
                raise BadPackage(text, code="package-size-differs")
        if missing := sorted(named.keys() - self._members.keys()):
            text = f"the package does not have {missing[0]}"
            raise BadPackage(text, code="package-missing-file")
        if not self._manifest:
            return
        signed = {name for name in self._own if name.lower().endswith((".mf", ".cert"))}
        if self._manifest.keys() != self._members.keys() - signed:
            text = "the manifest does not name the files that the package has"
            raise BadPackage(text, code="package-surplus-file")


def _members_of(path: Path, opened: ExitStack) -> dict[str, Member]:
    """The files of an archive, or of a folder."""
    if not path.is_dir():
        return _members(opened.enter_context(UntrustedFile.open(path)))
    paths = [each for each, _ in zip(path.iterdir(), range(ovf.MAX_FILES + 1), strict=False)]
    if len(paths) > ovf.MAX_FILES:
        raise BadPackage("the package has too many files", code="package-too-large")
    files = [opened.enter_context(UntrustedFile.open(each)) for each in sorted(paths)]
    known = {unicodedata.normalize("NFC", x.path.name).casefold() for x in files}
    if len(known) < len(files):
        raise BadPackage("the package has a file twice", code="package-duplicate-file")
    return {x.path.name: Member(ovf.fit_name(x.path.name), 0, x.size, x) for x in files}


def _members(file: UntrustedFile) -> dict[str, Member]:
    """Walk the headers; the archive has to end where the file does."""
    members: dict[str, Member] = {}
    known: set[str] = set()
    offset, said = 0, dict[str, str]()
    for _ in range(4 * ovf.MAX_FILES):
        header = _header(file, offset)
        offset += _BLOCK
        if header is None:
            _require_ended(file, offset)
            return members
        is_about_next = header.type in {_PAX, _PAX_OF_ALL, _LONG_NAME}
        size = _size(said["size"]) if "size" in said and not is_about_next else header.size
        _require_within(file, offset, size)
        if is_about_next:
            said |= _extended(file, header, offset)
        else:
            name = ovf.fit_name(said.get("path", header.name).removeprefix("./"))
            if header.type not in _PLAIN or any(key.startswith("GNU.sparse") for key in said):
                raise BadPackage(f"{name} is no plain file", code="package-not-a-file")
            key = unicodedata.normalize("NFC", name).casefold()
            if key in known:
                text = f"the package has {name} twice"
                raise BadPackage(text, code="package-duplicate-file")
            known.add(key)
            members[name] = Member(name, offset, size, file)
            said = {}
        offset += -(-size // _BLOCK) * _BLOCK
        if len(members) > ovf.MAX_FILES:
            break
    raise BadPackage("the package has too many files", code="package-too-large")


def _header(file: UntrustedFile, offset: int) -> tarfile.TarInfo | None:
    """The header there; None where the archive ends."""
    if offset + _BLOCK > file.size:
        text = "the package ends within" if offset else "the file is no package"
        raise BadPackage(text, code="package-truncated" if offset else "package-invalid")
    block = file.read(offset, _BLOCK)
    if not any(block):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.HeaderError, ValueError) as error:
        raise BadPackage(f"the file is no package: {error}") from error


def _extended(file: UntrustedFile, header: tarfile.TarInfo, offset: int) -> dict[str, str]:
    """What a header before another says of that."""
    if not 0 < header.size <= _PAX_MAX_BYTES:
        raise BadPackage("a header is too long", code="package-too-large")
    data = file.read(offset, header.size)
    if header.type == _LONG_NAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "replace")}
    said: dict[str, str] = {}
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not len(length) + 3 <= _size(length.decode()) <= len(data):
            raise BadPackage("a header makes no sense")
        record = rest[: _size(length.decode()) - len(length) - 1]
        key, separator, value = record.rstrip(b"\n").partition(b"=")
        if not separator or (header.type == _PAX_OF_ALL and key in {b"path", b"size"}):
            raise BadPackage("a header makes no sense")
        said[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        data = data[_size(length.decode()) :]
    return said if header.type == _PAX else {}


def _size(said: str) -> int:
    if not said.isascii() or not said.isdigit() or len(said) > 18:  # noqa: PLR2004 - digits
        raise BadPackage("a header makes no sense")
    return int(said)


def _require_within(file: UntrustedFile, offset: int, size: int) -> None:
    if size < 0:
        raise BadPackage("a file of the package has no size")
    if offset + size > file.size:
        text = "the package ends before what it declares"
        raise BadPackage(text, code="package-truncated")


def _require_ended(file: UntrustedFile, offset: int) -> None:
    """Refuse whatever stands behind the end but zeros."""
    rest = file.size - offset
    if rest > _PADDING_MAX_BYTES or any(file.tail(max(rest, 0))):
        text = "the package goes on behind its end"
        raise BadPackage(text, code="package-trailing-data")
