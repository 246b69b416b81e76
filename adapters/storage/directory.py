"""A pool that is a directory: a volume is a sparse file, exported by tgtd.

Beside `vol-<uuid>.img` stands `vol-<uuid>.json`, its label: whose it is, its size, and whether it
is carved, being filled, or sealed. The label is written first and removed last, so that half a
volume is known as ours and its room stays promised.

A volume that no guest has written is one whose file was last modified in 1970: carving and sealing
set that time, and the first write, which tgtd passes to the kernel at once, changes it. There is
no moment between looking at a file and noting what was seen in which a write could hide.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from errno import EDQUOT, ENOSPC, ENXIO
from pathlib import Path
from uuid import UUID

from adapters.errors import Conflict, InUse, NotFound, OutOfSpace, Refused, Transient
from adapters.storage.tgt import Tgt
from adapters.types import Capacity, Chap, Export, Target, Value, Volume

_UNWRITTEN_NS = 0
_MIB = 2**20
_LABEL = re.compile(r"vol-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json")


class Fill(StrEnum):
    """Who may write to a volume without being a guest."""

    CARVED = "carved"
    FILLING = "filling"
    SEALED = "sealed"


class Label(Value):
    """What `vol-<uuid>.json` says."""

    installation: UUID
    size_mib: int
    state: Fill = Fill.CARVED


class DirectoryStorage:
    """Sparse files in one directory."""

    def __init__(self, directory: Path, tgt: Tgt, *, limit_mib: int | None = None) -> None:
        self.directory = directory.absolute()
        self.tgt = tgt
        self.limit_mib = limit_mib

    def capacity(self) -> Capacity:
        with speaking_files():
            labels = [_read(path) for path in self.directory.glob("vol-*.json")]
            used = sum(path.stat().st_blocks * 512 for path in self.directory.glob("vol-*.img"))
            total_mib = (shutil.disk_usage(self.directory).free + used) // _MIB
        if self.limit_mib is not None:
            total_mib = min(total_mib, self.limit_mib)
        promised_mib = sum(label.size_mib for label in labels)
        return Capacity(total_mib=total_mib, free_mib=max(0, total_mib - promised_mib))

    def volumes(self, installation: UUID) -> dict[UUID, Volume]:
        with speaking_files():
            named = ((_LABEL.fullmatch(path.name), path) for path in self.directory.iterdir())
            labels = {UUID(name[1]): _read(path) for name, path in named if name}
        return {
            volume: Volume(id=volume, size_mib=label.size_mib, installation=installation)
            for volume, label in labels.items()
            if label.installation == installation
        }

    def exports(self, installation: UUID) -> dict[UUID, tuple[Export, bool]]:
        found = self.tgt.exports(self.directory, installation)
        return {export.id: (export, in_use) for export, in_use in found}

    def ensure_volume(self, volume: Volume) -> None:
        if not self.has_volume(volume):
            if (free_mib := self.capacity().free_mib) < volume.size_mib:
                raise OutOfSpace(f"{volume.size_mib} MiB wanted, {free_mib} MiB free")
            label = Label(installation=volume.installation, size_mib=volume.size_mib)
            with speaking_files(), self._new(self._label_path(volume.id)) as file:
                os.write(file, label.model_dump_json().encode())
        if not self._image_path(volume.id).exists():
            with speaking_files(), self._new(self._image_path(volume.id)) as file:
                os.ftruncate(file, volume.size_mib * _MIB)
                os.utime(file, ns=(_UNWRITTEN_NS, _UNWRITTEN_NS))

    def has_volume(self, volume: Volume) -> bool:
        return self._label(volume) is not None

    def resize_volume(self, volume: Volume, size_mib: int) -> None:
        label = self._require(volume, size_mib)
        if (more := size_mib - label.size_mib) > 0:
            if (free_mib := self.capacity().free_mib) < more:
                raise OutOfSpace(f"{more} MiB more wanted, {free_mib} MiB free")
            self._relabel(volume, label, size_mib=size_mib)
        with speaking_files():
            _set_size(self._image_path(volume.id), size_mib * _MIB)
        if more < 0:
            self._relabel(volume, label, size_mib=size_mib)

    def delete_volume(self, volume: Volume) -> None:
        if self._label(volume) is None:
            return
        image = self._image_path(volume.id)
        if users := self.tgt.users(image):
            raise InUse(f"volume {volume.id} is exported", users=users)
        with speaking_files():
            image.unlink(missing_ok=True)
            for leftover in self.directory.glob(f".vol-{volume.id}.*"):
                leftover.unlink(missing_ok=True)
            self._sync()
            self._label_path(volume.id).unlink(missing_ok=True)

    def discard_volume(self, volume: Volume) -> None:
        if self.written(volume):
            raise InUse(f"a guest has written to volume {volume.id}")
        self.delete_volume(volume)

    def open_for_filling(self, volume: Volume) -> None:
        label = self._require(volume)
        if self.written(volume):
            raise InUse(f"a guest has written to volume {volume.id}")
        self._relabel(volume, label, state=Fill.FILLING)

    def seal(self, volume: Volume) -> None:
        label = self._require(volume)
        if label.state is not Fill.FILLING:
            return  # nobody may have filled it, so whatever has changed is a guest's
        with speaking_files():
            os.utime(self._image_path(volume.id), ns=(_UNWRITTEN_NS, _UNWRITTEN_NS))
        self._relabel(volume, label, state=Fill.SEALED)

    def written(self, volume: Volume) -> bool:
        label = self._label(volume)
        if label is None or label.state is Fill.FILLING:
            return False
        image = self._image_path(volume.id)
        with speaking_files():
            return image.exists() and image.stat().st_mtime_ns != _UNWRITTEN_NS

    def ensure_export(self, export: Export, chap: Chap) -> Target:
        return self.tgt.ensure(export, self._exported(export), chap)

    def has_export(self, export: Export) -> bool:
        return self.tgt.has(export, self._image_path(export.volume))

    def delete_export(self, export: Export) -> None:
        self.tgt.delete(export)

    def restore(self, exports: Iterable[tuple[Export, Chap]]) -> tuple[UUID, ...]:
        made: list[UUID] = []
        failures: list[Refused] = []
        targets = self.tgt.targets()
        for export, chap in exports:
            try:
                if self.tgt.complete(targets, export, self._exported(export), chap):
                    made.append(export.id)
            except Refused as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return tuple(made)

    def _exported(self, export: Export) -> Path:
        """Answer the file of an export's volume. Raises `NotFound`, `Conflict`."""
        label, image = self._label_path(export.volume), self._image_path(export.volume)
        with speaking_files():
            if not label.exists() or not image.exists():
                raise NotFound(f"there is no volume {export.volume}")
            if _read(label).installation != export.installation:
                raise Conflict(f"volume {export.volume} is another installation's")
        return image

    def _label(self, volume: Volume, or_mib: int = 0) -> Label | None:
        """Answer the volume's label, or None where nothing is. Raises `Conflict`.

        It may have the other size, too, where one is given.
        """
        path = self._label_path(volume.id)
        with speaking_files():
            label = _read(path) if path.exists() else None
            if label is None and self._image_path(volume.id).exists():
                raise Conflict(f"{self._image_path(volume.id)} is not ours")
        if label and (
            label.installation != volume.installation
            or label.size_mib not in (volume.size_mib, or_mib)
        ):
            raise Conflict(f"volume {volume.id} is another's, or has another size")
        return label

    def _require(self, volume: Volume, or_mib: int = 0) -> Label:
        label = self._label(volume, or_mib)
        if label is None:
            raise NotFound(f"there is no volume {volume.id}")
        return label

    def _relabel(self, volume: Volume, label: Label, **changes: Fill | int) -> None:
        path = self._label_path(volume.id)
        new = self._scratch(path)
        with speaking_files():
            new.write_text(label.model_copy(update=changes).model_dump_json())
            new.replace(path)
            self._sync()

    @contextmanager
    def _new(self, path: Path) -> Iterator[int]:
        """Open a file that appears whole, and never in the place of one that is there."""
        scratch = self._scratch(path)
        file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield file
            os.fsync(file)
            with suppress(FileExistsError):  # somebody was faster; theirs may be in use by now
                path.hardlink_to(scratch)
        finally:
            os.close(file)
            scratch.unlink()
        self._sync()

    def _scratch(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.{secrets.token_hex(4)}")

    def _sync(self) -> None:
        """Put the names on the disk, in the order in which they were made."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _image_path(self, volume: UUID) -> Path:
        return self.directory / f"vol-{volume}.img"

    def _label_path(self, volume: UUID) -> Path:
        return self.directory / f"vol-{volume}.json"


def _set_size(image: Path, size_bytes: int) -> None:
    """Stretch or cut a volume's file, which is written no later for it. Raises `InUse`."""
    with image.open("r+b") as file:
        now = os.fstat(file.fileno())
        if size_bytes < now.st_size and _has_data(file.fileno(), size_bytes):
            raise InUse(f"a guest has written beyond {size_bytes} bytes of {image.name}")
        if size_bytes != now.st_size:
            os.ftruncate(file.fileno(), size_bytes)
            os.utime(file.fileno(), ns=(now.st_atime_ns, now.st_mtime_ns))
            os.fsync(file.fileno())


def _has_data(file: int, start: int) -> bool:
    """Whether anything but a hole is in a file from there on."""
    try:
        os.lseek(file, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != ENXIO:
            raise
        return False
    return True


def _read(label: Path) -> Label:
    return Label.model_validate_json(label.read_bytes())


@contextmanager
def speaking_files() -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise OutOfSpace(str(error)) from error
        raise Transient(str(error)) from error
