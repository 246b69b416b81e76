"""Links that outlive a reboot: a file for each, with the commands that make it.

What a file says are the very commands that made the link, so that nothing else has to be
installed, and what comes back is what was there.
"""

import os
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from adapters.lan import Link
from adapters.nodes.interfaces import Way, added, device_of, mark, marked, recipe
from adapters.nodes.local import speaking_files

Form = Callable[[Link, Way | None, Path], str]  # the last is the file of the installation's guards


class Written:
    """Files of links in one folder, in one form."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder = folder
        self._form = form

    def cannot(self) -> str:
        """Why links do not last; nothing: they do."""
        return "" if self.folder.is_dir() else f"there is no {self.folder}"

    def has(self, link: Link, way: Way | None, guards: Path) -> bool:
        """Whether the link is written down as it is."""
        path = self._path(link)
        with speaking_files(path):
            return path.is_file() and path.read_text() == self._form(link, way, guards)

    def write(self, link: Link, way: Way | None, guards: Path) -> None:
        """Write it down, whole or not at all."""
        publish(self._path(link), self._form(link, way, guards))

    def delete(self, link: Link) -> None:
        """Forget it."""
        path = self._path(link)
        with speaking_files(path):
            path.unlink(missing_ok=True)

    def links(self) -> list[Link]:
        """All that are written down."""
        with speaking_files(self.folder):
            texts = [path.read_text() for path in sorted(self.folder.glob("cloudloom-*"))]
        return [link for text in texts if (link := marked(text))]

    def _path(self, link: Link) -> Path:
        return self.folder / f"cloudloom-{link.name}"


def publish(path: Path, text: str) -> None:
    """Let a file have this text at once, as its readers see it."""
    unseen = f".{path.name}.{threading.get_native_id()}"  # by a shell's `*`
    hidden = path.with_name(unseen)
    with speaking_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with hidden.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(path)


def head(link: Link) -> str:
    """What a file says of itself, by which it is found again."""
    return f"# {mark(link)}\n# Written by Cloudloom, and removed by it.\n"


def commands(link: Link, way: Way | None, guards: Path) -> Iterator[str]:
    """What brings a link up, line by line for a shell, also where some of it is there already."""
    file = shlex.quote(str(guards))
    yield f"[ ! -e {file} ] || nft -f {file}"
    if way:
        yield f"ip link set dev {outside(link, way)} up"
    for arguments in recipe(link, way):
        command = shlex.join(["ip", *arguments])
        if device := added(arguments):
            command = f"ip link show dev {shlex.quote(device)} >/dev/null 2>&1 || {command}"
        yield command


def outside(link: Link, way: Way) -> str:
    """What has to be there before: the operator's interface that the link goes out by."""
    return shlex.quote(device_of(link) if way.is_made else way.device)
