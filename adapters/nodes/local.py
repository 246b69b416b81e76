"""This machine's own files."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import UUID

from adapters.errors import BadImage, NotAllowed, NotFound, OutOfSpace, Refused, Transient
from adapters.nodes.base import MARKER
from adapters.types import Base, Capacity

_MIB = 2**20
_CLONE = 0x40049409  # FICLONE: share the blocks, where the file system can
_NO_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_PATIENCE_S = 60.0  # for another lane that copies the same image
_POLL_S = 0.05


@contextmanager
def speaking_files(path: str | Path) -> Iterator[None]:
    """Sort what the file system says."""
    try:
        yield
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpace(text) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise NotAllowed(text) from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise NotFound(text) from error
        raise Transient(text) from error


class LocalNode:
    """The host that this process runs on."""

    def sees(self, repository: str, marker: UUID) -> bool:
        try:
            with speaking_files(repository):
                return Path(repository, MARKER).read_text().strip() == str(marker)
        except NotFound:
            return False

    def capacity(self, directory: str) -> Capacity:
        with speaking_files(directory):
            usage = shutil.disk_usage(directory)
        return Capacity(total_mib=usage.total // _MIB, free_mib=usage.free // _MIB)

    def ensure_copy(self, source: str, copy: Base) -> None:
        """Lanes that want the same copy at once wait for the one that makes it."""
        path = _path(copy)
        with speaking_files(path), _alone(_unfinished(path)) as file:
            if self.has_copy(copy):
                return
            with speaking_files(source), Path(source).open("rb") as image:
                needed = os.fstat(image.fileno()).st_size
                if needed > shutil.disk_usage(path.parent).free:
                    raise OutOfSpace(f"{path.parent} has no room for {needed} bytes")
                digest = _copy(image, file)
            if digest != copy.digest:
                raise BadImage(f"{source} is another image", code="image-digest-mismatch")
            os.fsync(file.fileno())
            _unfinished(path).rename(path)
            _flush_directory(path.parent)

    def has_copy(self, copy: Base) -> bool:
        with speaking_files(copy.path):
            return Path(copy.path).is_file()

    def copies(self, directory: str, installation: UUID) -> list[Base]:
        with speaking_files(directory):
            paths = sorted(str(path) for path in Path(directory).iterdir())
        return [copy for path in paths if (copy := Base.of_copy(path, installation))]

    def delete_copy(self, copy: Base) -> None:
        path = _path(copy)
        with speaking_files(path):
            path.unlink(missing_ok=True)
            _unfinished(path).unlink(missing_ok=True)


def _path(copy: Base) -> Path:
    if not copy.is_copy:
        raise Refused(f"{copy.path} is no copy of ours")
    return Path(copy.path)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """Open a file that nobody else writes, empty; it is gone afterwards unless renamed."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o444), "r+b") as file:
            if locked(file, end) and _is_still(path, file):
                try:
                    file.truncate(0)
                    yield file
                finally:
                    if _is_still(path, file):
                        path.unlink()
                return


def locked(file: IO[Any], end: float) -> bool:
    """Have a file for oneself, by then. Raises `Transient` where another still has it."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise Transient(f"{file.name} is being written by another") from error
            time.sleep(_POLL_S)
        else:
            return True


def _is_still(path: Path, file: BinaryIO) -> bool:
    """Whether the open file has kept its name: it loses it when finished, or deleted."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    return False


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy, holes staying holes; answer the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    cloned = _clone(source, target)
    while chunk := source.read(_MIB):
        digest.update(chunk)
        if cloned:
            continue
        if chunk.strip(b"\0"):
            os.pwrite(target.fileno(), chunk, source.tell() - len(chunk))
    target.truncate(source.tell())
    return digest.hexdigest()


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    try:
        fcntl.ioctl(target, _CLONE, source.fileno())
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
        return False
    return True


def _flush_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
