"""Links that outlive a reboot as Debian has it: a file for each in `/etc/network/interfaces.d`.

What it says are the very commands that made the link, so that neither `bridge-utils` nor `vlan`
has to be installed, and ifupdown2 reads it as well. `source` of the distribution's own file comes
before the operator's interfaces: a tagged one of his is brought up where it is needed.
"""

import os
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

from adapters.lan import Link
from adapters.nodes.interfaces import Way, added, device_of, mark, marked, recipe
from adapters.nodes.local import speaking_files


class Ifupdown:
    """Files of links in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, link: Link, way: Way | None, guards: Path) -> bool:
        """Whether the link is written down as it is."""
        path = self._path(link)
        with speaking_files(path):
            return path.is_file() and path.read_text() == text_of(link, way, guards)

    def write(self, link: Link, way: Way | None, guards: Path) -> None:
        """Write it down, whole or not at all."""
        publish(self._path(link), text_of(link, way, guards))

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


def text_of(link: Link, way: Way | None, guards: Path) -> str:
    """The stanza of a link."""
    lines = "\n".join(f"    {line}" for line in _lines(link, way, guards))
    return (
        f"# {mark(link)}\n# Written by Cloudloom, and removed by it.\n"
        f"auto {link.name}\niface {link.name} inet manual\n{lines}\n"
    )


def _lines(link: Link, way: Way | None, guards: Path) -> Iterator[str]:
    file = shlex.quote(str(guards))
    yield f"pre-up [ ! -e {file} ] || nft -f {file}"
    if way:
        outside = shlex.quote(device_of(link) if way.is_made else way.device)
        shown = f"ip link show dev {outside} >/dev/null 2>&1"
        yield f"pre-up {shown} || ifup {outside}"
        yield f"pre-up ip link set dev {outside} up"
    for arguments in recipe(link, way):
        command = shlex.join(["ip", *arguments])
        if device := added(arguments):
            command = f"ip link show dev {shlex.quote(device)} >/dev/null 2>&1 || {command}"
        yield f"pre-up {command}"
    if way and way.is_made:
        yield f"post-down ip link delete dev {way.device} || true"
    yield f"post-down ip link delete dev {link.name} || true"
