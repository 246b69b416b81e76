"""An image repository: a directory, such as an NFS mount, that a marker file proves."""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

from adapters.errors import Conflict, NotAllowed, NotFound, OutOfSpace, Refused, Transient
from adapters.images.vmdk import digest_of, extent_names
from adapters.types import Capacity, Identity

MARKER = ".cloudloom-repository"
INCOMING = "incoming"
INBOX = "inbox"
MARKS = ".cloudloom-marks"
_ENTRIES = ("templates/*", "conversions/*/*", "packages/*", f"{INCOMING}/*")
_PATIENCE_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")  # of something under `incoming/`
_MIB = 2**20


def initialise(root: Path) -> UUID:
    """Make a directory a repository; one that is already keeps its marker."""
    with speaking_directory(root):
        for folder in (INCOMING, INBOX):
            (root / folder).mkdir(parents=True, exist_ok=True)
        if (root / MARKER).exists():
            return UUID((root / MARKER).read_text().strip())
        marker = uuid4()
        temporary = root / INCOMING / f"marker-{marker}"
        temporary.write_text(f"{marker}\n")
        _move(temporary, root / MARKER)
    return marker


@contextmanager
def speaking_directory(path: Path) -> Iterator[None]:
    """Sort what the file system says."""
    try:
        yield
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpace(text) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise NotAllowed(text) from error
        if error.errno == errno.ENOENT:
            raise NotFound(text) from error
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}:
            raise Refused(text) from error
        raise Transient(text) from error


def extents_of(path: Path) -> tuple[str, ...]:
    """The files that belong to a VMDK; a raw disk whose guest wrote a descriptor has none."""
    return extent_names(path) if ".vmdk" in path.suffixes else ()


class DirectoryRepository:
    """Images in a directory; everything about it is asked of the directory."""

    def __init__(self, root: Path, marker: UUID) -> None:
        self.root = root.absolute()
        self.marker = marker
        self._probe: threading.Thread | None = None

    def verify(self) -> None:
        """Touch the directory from another thread: a dead mount hangs who touches it."""
        if self._probe is not None and self._probe.is_alive():
            raise Transient(f"{self.root} has not answered for a while")
        outcome: SimpleQueue[Exception | None] = SimpleQueue()
        self._probe = threading.Thread(target=self._try_out, args=[outcome], daemon=True)
        self._probe.start()
        try:
            error = outcome.get(timeout=_PATIENCE_S)
        except Empty as empty:
            raise Transient(f"{self.root} does not answer within {_PATIENCE_S} s") from empty
        if error is not None:
            raise Transient(f"{self.root} is not usable: {error}") from error

    def capacity(self) -> Capacity:
        with self._mounted():
            usage = shutil.disk_usage(self.root)
        return Capacity(total_mib=usage.total // _MIB, free_mib=usage.free // _MIB)

    def path(self, relative: str) -> Path:
        """Also refuses what leads through a symbolic link."""
        parts = relative.split("/")
        if not relative or any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise Refused(f"{relative!r} is no path in the repository")
        place = self.root
        for part in parts:
            place /= part
            with speaking_directory(place):
                if place.is_symlink():
                    raise Refused(f"{relative!r} leads through a symbolic link")
        return place

    def scratch(self, name: str, needed_bytes: int) -> Path:
        with self._mounted():
            place = self._incoming(name)
            if (free := shutil.disk_usage(self.root).free) < needed_bytes:
                raise OutOfSpace(
                    f"{needed_bytes} bytes are needed in {self.root}, {free} are free"
                )
            place.parent.mkdir(exist_ok=True)
            _remove(place)
            return place

    def publish(self, scratch: Path, relative: str) -> Identity:
        """Also finishes what an interrupted attempt has begun, whose scratch file has moved.

        A set is put in place as a folder where there is none yet. Into one that is there, its
        descriptor moves under a hidden name first, then its extents, then it gets its name:
        half of a set is not seen by that name, but found by it.
        """
        with self._mounted():
            if not scratch.absolute().is_relative_to(self.root / INCOMING):
                raise Refused(f"{scratch} is no scratch file of this repository")
            target = self.path(relative)
            hidden = _hidden(target)
            if scratch.is_symlink() or (scratch.exists() and not scratch.is_file()):
                raise Refused(f"{scratch} is no regular file")
            if not scratch.exists() and not hidden.exists():
                return self.identity(relative)
            source = scratch if scratch.exists() else hidden
            extents = [
                (scratch.with_name(name), target.with_name(name)) for name in extents_of(source)
            ]
            for here, there in [(source, target), *extents]:  # before anything is touched
                self._require_equal(here, there)
            if extents and _place_whole([source, *(here for here, _ in extents)], target):
                return self.identity(relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            if extents and source != hidden:
                _move(source, hidden)
                source = hidden
            for here, there in [*extents, (source, target)]:
                _place(here, there)
            return self.identity(relative)

    def has(self, relative: str) -> bool:
        with self._mounted():
            return self.path(relative).is_file()

    def identity(self, relative: str) -> Identity:
        """Of a set: its size, its newest change, and its descriptor's inode."""
        with self._mounted():
            path = self.path(relative)
            names = (path.name, *extents_of(path))
            states = [path.with_name(name).lstat() for name in names]
            return Identity(
                size_bytes=sum(state.st_size for state in states),
                modified_ns=max(state.st_mtime_ns for state in states),
                inode=states[0].st_ino,
            )

    def digest(self, path: Path) -> str:
        with self._mounted():
            if not path.absolute().is_relative_to(self.root):
                raise Refused(f"{path} is not in the repository")
            if path.is_dir():  # of a package that is not packed
                return digest_of([self._digest(each) for each in sorted(path.iterdir())])
            files = [path, *(path.with_name(name) for name in extents_of(path))]
            return digest_of([self._digest(each) for each in files])

    def delete(self, relative: str) -> None:
        with self._mounted():
            target = self.path(relative)
            for path in (target, _hidden(target)):
                if path.exists():
                    for name in extents_of(path):
                        path.with_name(name).unlink(missing_ok=True)
                    path.unlink()
            folder = target.parent
            if folder != self.root and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def entries(self) -> dict[str, int]:
        with self._mounted():
            found = [each for pattern in _ENTRIES for each in self.root.glob(pattern)]
            return {str(x.relative_to(self.root)): x.lstat().st_mtime_ns for x in found}

    def discard(self, entry: str) -> None:
        with self._mounted():
            place = self.path(entry)
            if not any(PurePath(entry).match(pattern) for pattern in _ENTRIES):
                raise Refused(f"{entry!r} is no entry of the repository")
            if place.is_file():
                for name in extents_of(place):
                    place.with_name(name).unlink(missing_ok=True)
            _remove(place)

    def leave_mark(self, installation: UUID, mark: str) -> None:
        with self._mounted():
            place = self.path(f"{MARKS}/{installation}/{mark}")
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
                _sync(place.parent)

    def marks(self) -> dict[UUID, list[str]]:
        with self._mounted():
            folders = sorted((self.root / MARKS).glob("*"))
            return {UUID(x.name): sorted(each.name for each in x.iterdir()) for x in folders}

    def forget_marks(self, installation: UUID, before: str) -> None:
        for mark in self.marks().get(installation, []):
            if mark < before:
                self.path(f"{MARKS}/{installation}/{mark}").unlink(missing_ok=True)

    def find_scratch(self, prefix: str) -> Path | None:
        with self._mounted():
            return next(iter(self._left_by(prefix)), None)

    def rename_scratch(self, name: str, new: str) -> None:
        with self._mounted():
            source, target = self._incoming(name), self._incoming(new)
            if source.exists():
                _move(source, target)
            elif not target.exists():
                raise NotFound(f"there is no scratch file {name}")

    def clear(self, prefix: str) -> None:
        with self._mounted():
            for path in self._left_by(prefix):
                _remove(path)

    def _left_by(self, prefix: str) -> list[Path]:
        """What stands under names that start so, in order."""
        start = self._incoming(prefix)
        return sorted(start.parent.glob(f"{start.name}*"))

    @contextmanager
    def _mounted(self) -> Iterator[None]:
        """Refuse to take the directory below a lost mount for the repository."""
        with speaking_directory(self.root):
            try:
                found = (self.root / MARKER).read_text().strip()
            except FileNotFoundError as error:
                raise Transient(f"{self.root} has no marker; is it mounted?") from error
            if found != str(self.marker):
                raise Transient(f"{self.root} is another repository: {found[:40]}")
            yield

    def _try_out(self, outcome: "SimpleQueue[Exception | None]") -> None:
        try:
            with self._mounted():
                probe = self.root / INCOMING / f"probe-{uuid4()}"
                probe.parent.mkdir(exist_ok=True)
                try:
                    probe.write_text("writable")
                    _sync(probe)
                finally:
                    probe.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            outcome.put(error)
        else:
            outcome.put(None)

    def _incoming(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise Refused(f"{name!r} is no name for a scratch file")
        return self.path(f"{INCOMING}/{name}")

    def _digest(self, path: Path) -> str:
        with self.path(str(path.absolute().relative_to(self.root))).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _require_equal(self, here: Path, there: Path) -> None:
        """Refuse to replace a file by another."""
        if not here.exists() and not there.exists():
            raise NotFound(f"{here.name} is missing")
        if not here.exists() or not there.exists():
            return
        if there.is_symlink() or self._digest(here) != self._digest(there):
            raise Conflict(f"{there.relative_to(self.root)} is there, and another")


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.publishing")


def _place_whole(sources: list[Path], target: Path) -> bool:
    """Put a set in place by one rename, if it has a folder of its own, and its target has none."""
    folder, wanted = sources[0].parent, target.parent
    if sources[0].name != target.name or {*folder.iterdir()} != {*sources}:
        return False
    with suppress(OSError):
        wanted.rmdir()  # an empty one is what an interrupted removal has left
    if wanted.exists():
        return False
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for source in sources:
        _sync(source)
    _move(folder, wanted)
    return True


def _place(source: Path, target: Path) -> None:
    """Put a file where an equal one may be, which then stays; or nothing is left to put."""
    if target.exists():
        source.unlink(missing_ok=True)
    else:
        _move(source, target)


def _move(source: Path, target: Path) -> None:
    """Rename, after the bytes and before the names are safe."""
    _sync(source)
    source.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
