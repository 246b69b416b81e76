"""The beginning of a file that is being fetched, and a note of what it is the beginning of.

The note says how much has reached the disk: what a power failure leaves behind that is no reason
to believe. Of what has no strong mark (RFC 9110, 8.8.1) nothing is gone on with.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

from adapters.images.repository import speaking_directory
from adapters.types import Value

_KEPT_EVERY_S = 5.0
_COPIED_BYTES = 2**24


class Mark(Value):
    """What tells one content of an address from another."""

    tag: str = ""  # a strong `ETag`, or a `Last-Modified` that is as good
    total_bytes: int | None = None  # None: nobody said

    @classmethod
    def of(cls, headers: dict[str, str], total_bytes: int | None) -> Self:
        """What an answer says; a weak mark is none."""
        tag, changed = headers.get("etag", ""), headers.get("last-modified", "")
        if tag.startswith('"'):
            return cls(tag=tag, total_bytes=total_bytes)
        with suppress(ValueError, TypeError):
            age = parsedate_to_datetime(headers["date"]) - parsedate_to_datetime(changed)
            if not tag and total_bytes is not None and age.total_seconds() >= 1:
                return cls(tag=changed, total_bytes=total_bytes)
        return cls(total_bytes=total_bytes)


class Partial:
    """A file that grows, with its note beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = Mark()
        self.is_whole = False
        self.size = 0
        self.note = path.with_name(f"{path.name}.note")
        self.kept_at = 0.0

    @classmethod
    def found(cls, path: Path) -> Self:
        """What there is of the file: nothing, where its note does not say of what."""
        part = cls(path)
        with speaking_directory(path):
            try:
                note: dict[str, Any] = json.loads(part.note.read_text())
                size = min(note["safe_bytes"], path.stat().st_size)
                part.mark, part.is_whole = Mark(**note["mark"]), note["whole"]
            except (FileNotFoundError, ValueError, LookupError):
                return part
            if part.mark.tag or part.is_whole:
                part.size = size
        return part

    def adopt(self, begun: Path, check: Callable[[], None]) -> None:
        """Begin with a copy of what another attempt has; it may go on writing to its own."""
        other = self.found(begun)
        if not other.size:
            return
        with speaking_directory(self.path):
            with begun.open("rb", 0) as source, self.path.open("wb", 0) as target:
                while self.size < other.size:
                    check()
                    self.size += _copied(
                        source, target, min(_COPIED_BYTES, other.size - self.size)
                    )
            self.mark, self.is_whole = other.mark, other.is_whole
            self.keep()

    def restart(self, mark: Mark) -> None:
        """Begin anew, with this content."""
        with speaking_directory(self.path):
            self.note.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self.path.touch(mode=0o600)
            self.mark, self.size, self.is_whole = mark, 0, False
            self.keep()

    def writing(self) -> "Pen":
        """Go on writing where it ends."""
        return Pen(self)

    def keep(self) -> None:
        """Write down how much of it is safe, once it is."""
        _sync(self.path)
        note = {"mark": self.mark.model_dump(), "safe_bytes": self.size, "whole": self.is_whole}
        fresh = self.note.with_name(f"{self.note.name}.new")
        fresh.write_text(json.dumps(note))
        _sync(fresh)
        fresh.replace(self.note)
        self.kept_at = time.monotonic()


class Pen:
    """Adds to a partial file; when it is put down, what was written is kept."""

    def __init__(self, part: Partial) -> None:
        self._part = part
        with speaking_directory(part.path):
            self._file = part.path.open("r+b", buffering=2**20)
            self._file.truncate(part.size)
            self._file.seek(part.size)

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        part = self._part
        with speaking_directory(part.path):
            self._file.write(piece)
            part.size += len(piece)
            if time.monotonic() > part.kept_at + _KEPT_EVERY_S:
                self._file.flush()
                part.keep()

    def finish(self) -> None:
        """Nothing more comes: it is whole."""
        self._part.is_whole = True

    def __exit__(self, *_raised: object) -> None:
        """Put it down, whatever has happened."""
        with speaking_directory(self._part.path):
            self._file.close()
            self._part.keep()


def _copied(source: Any, target: Any, count: int) -> int:
    """Copy a part; where the file system shares what is equal, nothing is copied."""
    try:
        done = os.copy_file_range(source.fileno(), target.fileno(), count)
    except OSError:
        done = target.write(source.read(count))
    if not done:
        raise OSError(f"{source.name} has become shorter")
    return int(done)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
