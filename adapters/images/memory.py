"""Pretended images and a repository of them: the reference twins.

An image is a small text: its format, the size the guest sees, and some content. The repository
is a real one in a real directory, whose answers obey the world's fates. Volumes are filled in
the world, where the memory storage keeps them; what can be downloaded is in the world, too.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.errors import BadImage, NotAllowed, NotFound, Refused, Transient
from adapters.forms import Form
from adapters.guests import Bus, Firmware
from adapters.images.base import Peek, Progress, Wanted
from adapters.images.partial import Mark, Partial
from adapters.images.repository import INCOMING, DirectoryRepository, extents_of
from adapters.images.untrusted import UntrustedFile, require_size
from adapters.packages import Adapted
from adapters.stills import Stills
from adapters.types import Capacity, Chap, Format, Identity, ImageInfo, Source, Target
from adapters.world import World

_MAX_BYTES = 2**20
_SURPLUS_BYTES = 2**20  # by which an image is measured too large
_WAYS = ("", "quick")


def write_image(path: Path, format_: Format, virtual_size_bytes: int, content: str) -> None:
    """Make an image as `MemoryImageTool` reads it."""
    image = {"format": format_, "virtual_size_bytes": virtual_size_bytes, "content": content}
    path.write_text(json.dumps(image))


class MemoryImageTool:
    """The image tool for pretended images."""

    def __init__(self, world: World) -> None:
        self.world = world

    def inspect(self, path: Path, declared: Format, *, max_virtual_mib: int) -> ImageInfo:
        def effect() -> ImageInfo:
            size = _read(path, declared)["virtual_size_bytes"]
            extents = extents_of(path)
            files = [path, *(path.with_name(name) for name in extents)]
            return ImageInfo(
                format=declared,
                virtual_size_bytes=require_size(size, max_virtual_mib),
                file_size_bytes=sum(each.stat().st_size for each in files),
                extents=extents,
            )

        lie = ImageInfo(format=declared, virtual_size_bytes=0, file_size_bytes=0)
        return self.world.call("images.inspect", path.name, effect, lie)

    def convert(
        self,
        source: Path,
        source_format: Format,
        target: Path,
        form: Form,
        progress: Progress,
        way: str = "",
    ) -> None:
        def effect() -> None:
            image = _read(source, source_format)
            progress(0.0)
            progress(100.0)  # whoever refuses to hear it gets no image
            if way not in _WAYS:
                raise Refused(f"nothing is converted in the way {way}")
            write_image(target, form.format, image["virtual_size_bytes"], image["content"])

        self.world.call("images.convert", target.name, effect, None)

    def convert_still(
        self, stills: Stills, disk: UUID, target: Path, form: Form, progress: Progress
    ) -> None:
        def effect() -> None:
            still = self.world.find("still", disk)
            if still is None:
                raise Transient(f"nothing answers at {stills.socket}")
            progress(0.0)
            progress(100.0)
            write_image(target, form.format, still["virtual_size_bytes"], still["content"])

        self.world.call("images.convert_still", disk, effect, None)

    def fastest(self, folder: Path, has: Form, form: Form) -> str:
        def effect() -> str:
            if not folder.is_dir():
                raise NotFound(f"there is no folder {folder}")
            return _WAYS[-1]

        return self.world.call("images.fastest", f"{has.value}>{form.value}", effect, "")

    def fill_target(
        self,
        source: Path,
        source_format: Format,
        target: Target,
        initiator: str,
        chap: Chap,
        progress: Progress,
    ) -> None:
        def effect() -> None:
            image = _read(source, source_format)
            key, volume = self._volume(target, initiator, chap)
            if image["virtual_size_bytes"] > volume["size_mib"] * 2**20:
                raise Refused(f"the image is larger than volume {key}")
            progress(0.0)
            self.world.put("volume", key, {**volume, "content": image["content"]})
            progress(100.0)

        self.world.call("images.fill_target", target.iqn, effect, None)

    def read_target(
        self,
        target: Target,
        initiator: str,
        chap: Chap,
        image: Path,
        form: Form,
        progress: Progress,
    ) -> None:
        def effect() -> None:
            _, volume = self._volume(target, initiator, chap)
            progress(0.0)
            progress(100.0)
            size_bytes = volume["size_mib"] * 2**20
            write_image(image, form.format, size_bytes, volume["content"] or "")

        self.world.call("images.read_target", target.iqn, effect, None)

    def equals_target(
        self, source: Path, source_format: Format, target: Target, initiator: str, chap: Chap
    ) -> bool:
        def effect() -> bool:
            _, volume = self._volume(target, initiator, chap)
            content = volume["content"] or ""
            return bool(content == _read(source, source_format)["content"])

        return self.world.call("images.equals_target", target.iqn, effect, lie=True)

    def equal(self, a: Path, a_format: Format, b: Path, b_format: Format) -> bool:
        def effect() -> bool:
            return bool(_read(a, a_format)["content"] == _read(b, b_format)["content"])

        return self.world.call("images.equal", a.name, effect, lie=True)

    def measure(self, source: Path, source_format: Format, form: Form) -> int:  # noqa: ARG002 - as the port
        def effect() -> int:
            return len(json.dumps(_read(source, source_format))) + _SURPLUS_BYTES

        return self.world.call("images.measure", source.name, effect, 0)

    def _volume(self, target: Target, initiator: str, chap: Chap) -> tuple[str, dict[str, Any]]:
        """The volume behind an export, by its id."""
        exports = self.world.all("export").items()
        for key, export in exports:
            if export["iqn"] == target.iqn:
                if (export["initiator"], UUID(key).hex) != (initiator, chap.user):
                    raise NotAllowed(f"{initiator} may not use {target.iqn}")
                if volume := self.world.find("volume", export["volume"]):
                    return export["volume"], volume
        raise Transient(f"nothing answers at {target.iqn}")


def publish_source(world: World, url: str, content: bytes) -> None:
    """Let something be downloaded from an address."""
    world.put("source", url, {"content": content.hex()})


class MemoryDownloads:
    """Downloads of what is in the world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def peek(self, source: Source, most_bytes: int, check: Callable[[], None]) -> Peek:
        content = self._content(source)
        check()
        return Peek(len(content), content[:most_bytes])

    def _content(self, source: Source) -> bytes:
        found = self.world.find("source", source.url.get_secret_value())
        if found is None:
            raise NotFound("that is not there", code="source-not-found")
        return bytes.fromhex(found["content"])

    def fetch(
        self, source: Source, target: Path, wanted: Wanted, begun: Path | None = None
    ) -> None:
        def effect() -> None:
            part = Partial.found(target)
            if begun is not None and not part.size:
                part.adopt(begun, wanted.check)
            if part.is_whole:
                return
            content = self._content(source)
            if len(content) > wanted.most_bytes:
                raise Refused("it is too large", code="source-too-large")
            wanted.check()
            wanted.admit(len(content))
            part.restart(Mark(total_bytes=len(content)))
            with part.writing() as pen:
                pen.write(content)
                pen.finish()
            wanted.progress(100.0)

        self.world.call("downloads.fetch", target.name, effect, None)


class MemoryGuestTool:
    """A tool for pretended guests, which all are ready then."""

    def __init__(self, world: World) -> None:
        self.world = world

    def require(self) -> None:
        """It is."""

    def adapt(
        self, disks: Sequence[tuple[Path, Format]], firmware: Firmware, folder: Path
    ) -> Adapted:
        ready = Adapted(bus=Bus.VIRTIO, nic="virtio")

        def effect() -> Adapted:
            folder.mkdir()
            for position, (path, has) in enumerate(disks):
                image = _read(path, has)
                target = folder / Format.QCOW2.disk_name(position)
                size_bytes = image["virtual_size_bytes"]
                write_image(target, Format.QCOW2, size_bytes, f"{image['content']} on {firmware}")
            return ready

        return self.world.call("guests.adapt", folder.name, effect, ready)


class MemoryRepository:
    """A repository whose calls meet their fates."""

    def __init__(self, world: World, root: Path, marker: UUID) -> None:
        self.world = world
        self.root = root.absolute()
        self.marker = marker
        self._real = DirectoryRepository(root, marker)

    def verify(self) -> None:
        self.world.call("repository.verify", self.root, self._real.verify, None)

    def capacity(self) -> Capacity:
        lie = Capacity(total_mib=0, free_mib=0)
        return self.world.call("repository.capacity", self.root, self._real.capacity, lie)

    def path(self, relative: str) -> Path:
        return self._real.path(relative)

    def scratch(self, name: str, needed_bytes: int) -> Path:
        return self.world.call(
            "repository.scratch",
            name,
            lambda: self._real.scratch(name, needed_bytes),
            self.root / INCOMING / name,
        )

    def publish(self, scratch: Path, relative: str) -> Identity:
        return self.world.call(
            "repository.publish",
            relative,
            lambda: self._real.publish(scratch, relative),
            Identity(size_bytes=0, modified_ns=0, inode=0),
        )

    def has(self, relative: str) -> bool:
        return self.world.call(
            "repository.has", relative, lambda: self._real.has(relative), lie=False
        )

    def identity(self, relative: str) -> Identity:
        return self.world.call(
            "repository.identity",
            relative,
            lambda: self._real.identity(relative),
            Identity(size_bytes=0, modified_ns=0, inode=0),
        )

    def digest(self, path: Path) -> str:
        return self.world.call(
            "repository.digest", path.name, lambda: self._real.digest(path), "0" * 64
        )

    def delete(self, relative: str) -> None:
        self.world.call("repository.delete", relative, lambda: self._real.delete(relative), None)

    def entries(self) -> dict[str, int]:
        return self.world.call("repository.entries", self.root, self._real.entries, {})

    def discard(self, entry: str) -> None:
        self.world.call("repository.discard", entry, lambda: self._real.discard(entry), None)

    def leave_mark(self, installation: UUID, mark: str) -> None:
        def effect() -> None:
            self._real.leave_mark(installation, mark)

        self.world.call("repository.leave_mark", mark, effect, None)

    def marks(self) -> dict[UUID, list[str]]:
        return self.world.call("repository.marks", self.root, self._real.marks, {})

    def forget_marks(self, installation: UUID, before: str) -> None:
        def effect() -> None:
            self._real.forget_marks(installation, before)

        self.world.call("repository.forget_marks", before, effect, None)

    def find_scratch(self, prefix: str) -> Path | None:
        return self.world.call(
            "repository.find_scratch", prefix, lambda: self._real.find_scratch(prefix), None
        )

    def rename_scratch(self, name: str, new: str) -> None:
        self.world.call(
            "repository.rename_scratch", name, lambda: self._real.rename_scratch(name, new), None
        )

    def clear(self, prefix: str) -> None:
        self.world.call("repository.clear", prefix, lambda: self._real.clear(prefix), None)


def _read(path: Path, declared: Format) -> dict[str, Any]:
    """The image in a file, or in a set's extents, which have it in pieces.

    Raises `BadImage` unless it is what it was declared to be.
    """
    texts = []
    for name in extents_of(path) or (path.name,):
        with UntrustedFile.open(path.with_name(name)) as file:
            texts.append(file.head(_MAX_BYTES))
    head = b"".join(texts)
    try:
        image: dict[str, Any] = json.loads(head)
        found = Format(image["format"])
    except (ValueError, LookupError, TypeError) as error:
        raise BadImage(f"{path.name} is nothing known", code="image-unknown-format") from error
    if found is not declared:
        text = f"{path.name} was declared as {declared}, but is {found}"
        raise BadImage(text, code="image-format-mismatch")
    return image
