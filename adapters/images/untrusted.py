"""Reading files that somebody else made."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from adapters.errors import BadImage, NotFound, Transient

MAX_NUMBERS = 2**22  # in a table: what qemu takes of qcow2, and more than other disks need


class UntrustedFile:
    """A regular file, opened without following a link and never read past its end."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path
        self.size = os.fstat(descriptor).st_size

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open the file. Raises `NotFound`, and `BadImage` when it is anything but a file."""
        with speaking_files(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise BadImage(f"{path.name} is no regular file", code="image-unknown-format")
                yield cls(descriptor, path)
            finally:
                os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises `BadImage` (image-truncated) when the file ends before."""
        self.require(offset + length, "its header")
        return os.pread(self._descriptor, length, offset)

    def head(self, length: int) -> bytes:
        """The file's beginning, as much of it as there is."""
        return self.read(0, min(length, self.size))

    def tail(self, length: int) -> bytes:
        """The file's end, as much of it as there is."""
        length = min(length, self.size)
        return self.read(self.size - length, length)

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Numbers at a place."""
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))

    def numbers(self, layout: str, offset: int, count: int) -> Iterator[int]:
        """A table of numbers, one by one: a file may be all table, and take no room on a disk."""
        if count > MAX_NUMBERS:
            raise corrupt(f"{self.path.name} has a table of {count} numbers")
        table = self.read(offset, count * struct.calcsize(layout))
        return (number for (number,) in struct.iter_unpack(layout, table))

    def require(self, end: int, says: str) -> None:
        """Refuse a file that ends before what it declares."""
        if end > self.size:
            text = f"{self.path.name} has {self.size} bytes; {says} needs {end}"
            raise BadImage(text, code="image-truncated")


@contextmanager
def speaking_files(path: Path) -> Iterator[None]:
    """Sort what a file system says."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"{path.name} is not there") from error
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            text = f"{path.name} is no regular file"
            raise BadImage(text, code="image-unknown-format") from error
        raise Transient(f"{path.name} cannot be read: {error.strerror}") from error


def corrupt(text: str) -> BadImage:
    """What contradicts itself or its format."""
    return BadImage(text, code="image-corrupt")


def require_size(virtual_size_bytes: int, max_virtual_mib: int) -> int:
    """Refuse a disk over the limit; answer its size."""
    if virtual_size_bytes > max_virtual_mib * 2**20:
        text = (
            f"the disk has {virtual_size_bytes} bytes; at most {max_virtual_mib} MiB are allowed"
        )
        raise BadImage(text, code="image-too-large")
    if virtual_size_bytes <= 0:
        raise corrupt("the disk has no size")
    return virtual_size_bytes
