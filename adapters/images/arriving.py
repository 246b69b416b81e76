"""Images on their way in, written down piece by piece: a file, or a descriptor and its extents.

What comes in one go is whole, or goes again; what comes in several waits for the next.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from adapters.errors import BadImage, InUse, NotFound
from adapters.images.repository import extents_of, speaking_directory
from adapters.images.vmdk import MAX_FILES, digest_of


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


class SummedSet(NamedTuple):
    """Of a set: the digests of files that are whole, and what was seen of the one that comes."""

    size: int
    digests: dict[int, str]
    at: int
    last: Summed | None


class GrowingSet:
    """A descriptor, then the extents that it names, which come as one: each begins as one ends.

    How much of each will come is said before; so their sizes are all there is to know of it.
    """

    MOST_FILES = MAX_FILES

    def __init__(
        self, folder: Path, first: str, sizes: Sequence[int], seen: SummedSet | None = None
    ) -> None:
        """Raises `NotFound`, `BadImage`, and `InUse` while somebody else sends."""
        self.path = folder
        self._sizes = sizes
        self._names = [first]
        self._seen = seen
        self._digests = dict(seen.digests) if seen else {}
        self._at = 0
        self._first = self._file = GrowingFile(folder / first, self._summed(0))
        try:
            self._go_on()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def begin(folder: Path, first: str) -> None:
        """Let there be such a set."""
        with speaking_directory(folder):
            folder.mkdir()
        GrowingFile.begin(folder / first)

    @property
    def size(self) -> int:
        """How much has come of all of it."""
        return sum(self._sizes[: self._at]) + self._file.size

    @property
    def seen(self) -> SummedSet:
        """What another one of these need not read again."""
        return SummedSet(self.size, self._digests, self._at, self._file.seen)

    def write(self, piece: bytes) -> None:
        """Add a piece; raises `BadImage` when a descriptor has come that does not fit."""
        rest = memoryview(piece)
        while rest:
            room = self._sizes[self._at] - self._file.size
            if not room:
                raise BadImage("more has come than was said", code="image-surplus-file")
            self._file.write(bytes(rest[:room]))
            rest = rest[room:]
            self._go_on()

    def finish(self) -> str:
        """Nothing more comes; answers the SHA-256 of the set. Raises `NotFound`."""
        digests = [self._digest(position) for position in range(len(self._sizes))]
        return digest_of(digests)

    def close(self) -> None:
        """Let the next one send."""
        for each in (self._file, self._first):
            each.close()
        with suppress(FileNotFoundError):
            os.utime(self.path)  # it is no older than its files

    def _go_on(self) -> None:
        """Begin with the next file once one is whole."""
        while self._file.size == self._sizes[self._at] and self._at + 1 < len(self._sizes):
            if self._at == 0:
                self._require_named()
            if self._file.seen and self._at not in self._digests:
                self._digests[self._at] = self._file.finish()
            if self._file is not self._first:
                self._file.close()
            self._at += 1
            place = self.path / self._names[self._at]
            with speaking_directory(self.path), suppress(FileExistsError):
                place.touch(0o644, exist_ok=False)
            self._file = GrowingFile(place, self._summed(self._at))

    def _require_named(self) -> None:
        """Look at the descriptor: only the names in it are ever written."""
        self._names += extents_of(self._first.path)
        if len(self._names) != len(self._sizes):
            more = len(self._sizes) > len(self._names)
            text = f"the descriptor names {len(self._names) - 1} files, not {len(self._sizes) - 1}"
            raise BadImage(text, code="image-surplus-file" if more else "image-truncated")

    def _summed(self, position: int) -> Summed | None:
        return self._seen.last if self._seen and self._seen.at == position else None

    def _digest(self, position: int) -> str:
        if position not in self._digests:
            mine = {0: self._first, self._at: self._file}
            file = mine.get(position) or GrowingFile(self.path / self._names[position])
            self._digests[position] = file.finish()
            if position not in mine:
                file.close()
        return self._digests[position]


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
