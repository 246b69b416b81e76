"""Images on their way in, written down piece by piece: a file, or a descriptor and its extents."""

import hashlib
import os
from pathlib import Path

from adapters.errors import BadImage
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
