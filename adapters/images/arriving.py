"""Images on their way in, written down piece by piece: a file, or a descriptor and its extents.

What comes in one go is whole, or goes again; what comes in several waits for the next.
"""

import fcntl
import hashlib
import os
import stat
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from adapters.errors import BadImage, InUse, NotFound
from adapters.images.repository import extents_of, speaking_directory
from adapters.images.vmdk import digest_of


class ArrivingFile:
    """A new file; its bytes are safe once it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        with speaking_directory(path):
            self._file = path.open("xb")

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        with speaking_directory(self.path):
            self._digest.update(piece)
            self._file.write(piece)

    def finish(self) -> str:
        """Nothing more comes; answers the SHA-256."""
        with speaking_directory(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Let go of it, finished or not."""
        with speaking_directory(self.path):
            self._file.close()


class Summed(NamedTuple):
    """How much of a file somebody has seen, and the SHA-256 of that so far."""

    size: int
    digest: "hashlib._Hash"


class GrowingFile:
    """A file that comes in several goes, by one sender at a time; what has come stays.

    Its digest is taken along where all of it was `seen`, else read at the end: who goes on in
    another process has not seen what came before.
    """

    def __init__(self, path: Path, seen: Summed | None = None) -> None:
        """Raises `NotFound`, and `InUse` while somebody else sends."""
        self.path = path
        self._busy = Lock()  # nobody closes it under a write that has outlived its request
        with speaking_directory(path):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags), "r+b", buffering=0)
        try:
            with speaking_directory(path):
                _lock(self._file.fileno())
                self.size = self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._file.close()
            raise
        self.seen = seen if seen and seen.size == self.size else None
        if self.size == 0:
            self.seen = Summed(0, hashlib.sha256())

    @staticmethod
    def begin(path: Path) -> None:
        """Let there be such a file."""
        with speaking_directory(path):
            path.touch(0o644, exist_ok=False)

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        rest = memoryview(piece)
        with self._busy, speaking_directory(self.path):
            while rest:
                written = self._file.write(rest) or 0
                self.size += written
                if self.seen:
                    self.seen.digest.update(rest[:written])
                    self.seen = Summed(self.size, self.seen.digest)
                rest = rest[written:]

    def finish(self) -> str:
        """Nothing more comes; answers the SHA-256. Raises `NotFound` if it was removed."""
        with self._busy, speaking_directory(self.path):
            if not os.path.samestat(os.fstat(self._file.fileno()), self.path.lstat()):
                raise NotFound(f"{self.path.name} was removed")
            os.fsync(self._file.fileno())
            if self.seen:
                return self.seen.digest.hexdigest()
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").hexdigest()

    def close(self) -> None:
        """Let the next one send."""
        with self._busy, speaking_directory(self.path):
            self._file.close()


def _lock(descriptor: int) -> None:
    """Have a file alone, until it is closed or this process ends."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise NotFound("it is no file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse("somebody sends it already") from error


class ArrivingSet:
    """An image in a new folder: its file, and the extents that it names if it is a descriptor.

    Only those names are ever written, each once: no name that a sender chooses leads elsewhere.
    """

    def __init__(self, folder: Path, first: str) -> None:
        with speaking_directory(folder):
            folder.mkdir()
        self._first = folder / first
        self._extents: tuple[str, ...] = ()
        self._digests: dict[str, str] = {}
        self._file: ArrivingFile | None = None

    def begin(self, name: str) -> None:
        """Expect a file; the first one is given a name here. Raises `BadImage`."""
        if self._digests and (name not in self._extents or name in self._digests):
            text = (
                f"{name[:80]!r} came, but no descriptor before it names that file, or it had come"
            )
            raise BadImage(text, code="image-surplus-file")
        self._file = ArrivingFile(self._first.with_name(name) if self._digests else self._first)

    def write(self, piece: bytes) -> None:
        """Add a piece to the file that is expected."""
        if self._file is not None:
            self._file.write(piece)

    def end(self) -> None:
        """That file is there. Raises `BadImage` when it is a descriptor that reaches outside."""
        if self._file is not None:
            self._digests[self._file.path.name] = self._file.finish()
            self._file = None
            self._extents = self._extents or extents_of(self._first)

    def finish(self) -> str:
        """Nothing more comes; answers the SHA-256. Raises `BadImage` where a file is missing."""
        names = (self._first.name, *self._extents)
        if missing := [name for name in names if name not in self._digests]:
            text = f"{len(missing)} files did not come: {', '.join(missing[:3])}"
            raise BadImage(text, code="image-truncated")
        return digest_of([self._digests[name] for name in names])

    def close(self) -> None:
        """Let go of what has not ended."""
        if self._file is not None:
            self._file.close()
