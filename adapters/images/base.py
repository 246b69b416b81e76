"""The image ports: a tool that reads and converts disk images, and a repository of them.

Laws, held by `tests/contracts/test_images.py`:

1. Nothing opens an untrusted file before `inspect` has passed it; nothing probes a format.
2. A conversion is there whole or not at all: work happens under a name of the attempt's own,
   and only `publish`, a rename in the same file system, puts it in place.
3. Failures are `Transient`, or `Refused` with a code of their own (`BadImage`, `OutOfSpace`).
4. A repository without its marker file (a directory that should be a mount) is `Transient`.
5. Paths inside the repository are relative; one that leaves it is `Refused`.
6. What was downloaded is whole once `fetch` returns. A later call goes on where an earlier one
   ended, if the source has the same thing still, and begins anew if not.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

from adapters.forms import Form
from adapters.guests import Firmware
from adapters.packages import Adapted
from adapters.stills import Stills
from adapters.types import Capacity, Chap, Format, Identity, ImageInfo, Source, Target

Progress = Callable[[float], None]  # percent, 0 to 100


class ImageTool(Protocol):
    """Reads, checks, converts and compares disk images."""

    def inspect(self, path: Path, declared: Format, *, max_virtual_mib: int) -> ImageInfo:
        """Look at an untrusted file. Raises `BadImage` with a code that says what is wrong."""

    def convert(
        self,
        source: Path,
        source_format: Format,
        target: Path,
        form: Form,
        progress: Progress,
        way: str = "",
    ) -> None:
        """Write `target`, a new file. Its guest-visible size equals the source's.

        A form that is a set has its further files beside it, named after it. `way` is an answer
        of `fastest`; nothing is the plain one.
        """

    def convert_still(
        self, stills: Stills, disk: UUID, target: Path, form: Form, progress: Progress
    ) -> None:
        """Write `target`, a new file, of a disk as it was at one moment."""

    def fastest(self, folder: Path, has: Form, form: Form) -> str:
        """Measure in a folder which correct way from form to form is the fastest one there."""

    def fill_target(
        self,
        source: Path,
        source_format: Format,
        target: Target,
        initiator: str,
        chap: Chap,
        progress: Progress,
    ) -> None:
        """Write the image's content straight onto an exported volume, in raw, flushed."""

    def read_target(
        self,
        target: Target,
        initiator: str,
        chap: Chap,
        image: Path,
        form: Form,
        progress: Progress,
    ) -> None:
        """Write an exported volume's content to a new file, as large as the volume."""

    def equals_target(
        self, source: Path, source_format: Format, target: Target, initiator: str, chap: Chap
    ) -> bool:
        """Whether the volume's content equals the image's, the volume's surplus being zeros."""

    def equal(self, a: Path, a_format: Format, b: Path, b_format: Format) -> bool:
        """Whether two images have the same content."""

    def measure(self, source: Path, source_format: Format, form: Form) -> int:
        """Bytes that a conversion will need at most."""


class Wanted(NamedTuple):
    """What whoever wants a file says of it, and hears of it."""

    most_bytes: int  # it is not taken if it is larger
    admit: Callable[[int], None]  # told how large it is, or will be at least, before it becomes so
    progress: Progress
    check: Callable[[], None]  # asked every second; raises when it is wanted no more


class Peek(NamedTuple):
    """What a look at a file elsewhere has told."""

    size_bytes: int | None  # None: nobody said
    beginning: bytes


class Downloads(Protocol):
    """Fetches files from elsewhere, whoever has asked for them."""

    def peek(self, source: Source, most_bytes: int, check: Callable[[], None]) -> Peek:
        """How large it is, and its beginning, as much of it as is wanted."""

    def fetch(
        self, source: Source, target: Path, wanted: Wanted, begun: Path | None = None
    ) -> None:
        """Write the file, or what is missing of it; `begun` is what another attempt has of it.

        `begun` is copied, not written to: whoever has begun it may not know yet that he has ended.
        Beside the target is a note of what it is the beginning of.
        """


class GuestTool(Protocol):
    """Gives guests that came from other hypervisors what they need on KVM."""

    def require(self) -> None:
        """Raise `Unsupported` where it is not installed."""

    def adapt(
        self, disks: Sequence[tuple[Path, Format]], firmware: Firmware, folder: Path
    ) -> Adapted:
        """Write the guest's disks anew, into a new folder, as qcow2, named as a template's.

        The disks themselves are not changed. Raises `Unsupported`, `OutOfSpace`, and `BadImage`
        (`guest-not-adapted`) for a guest that it does not know.
        """


class ImageRepository(Protocol):
    """A directory of images, such as an NFS mount, proven by its marker file."""

    root: Path
    marker: UUID

    def verify(self) -> None:
        """Prove within 5 s that the repository is mounted and writable. Raises `Transient`."""

    def capacity(self) -> Capacity:
        """Its room."""

    def path(self, relative: str) -> Path:
        """The absolute path of something in the repository. Raises `Refused` if outside."""

    def scratch(self, name: str, needed_bytes: int) -> Path:
        """A fresh path under `incoming/` for an attempt's work. Raises `OutOfSpace`."""

    def publish(self, scratch: Path, relative: str) -> Identity:
        """Put a finished file (and `<name>` extents beside it) in place. Raises `Conflict`."""

    def has(self, relative: str) -> bool:
        """Whether the file is there."""

    def identity(self, relative: str) -> Identity:
        """Its cheap fingerprint. Raises `NotFound`."""

    def digest(self, path: Path) -> str:
        """SHA-256 of an image, hex: its file's, or made of those of a set's files."""

    def delete(self, relative: str) -> None:
        """Remove a file, and its directory when that is empty."""

    def entries(self) -> dict[str, int]:
        """What was put there by anybody, with its time of change in nanoseconds since 1970.

        A template's folder, a conversion's file, and a file or folder of somebody's work.
        """

    def discard(self, entry: str) -> None:
        """Remove one of `entries`, whole."""

    def leave_mark(self, installation: UUID, mark: str) -> None:
        """Write down that an installation was as far as this; marks sort by age."""

    def marks(self) -> dict[UUID, list[str]]:
        """The marks of every installation that has left some, the oldest first."""

    def forget_marks(self, installation: UUID, before: str) -> None:
        """Remove an installation's older marks."""

    def find_scratch(self, prefix: str) -> Path | None:
        """The first scratch file whose name starts so, if there is one."""

    def rename_scratch(self, name: str, new: str) -> None:
        """Rename a scratch file; done already is success. Raises `NotFound` without either."""

    def clear(self, prefix: str) -> None:
        """Remove what attempts whose scratch names start so have left."""
