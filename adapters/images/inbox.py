"""The inbox of a repository: what people put there by hand, in a folder for each enterprise.

Whoever takes something over borrows it first: a link to the same bytes under a name of one's own,
or a copy where there are no links, or somebody else may write to those bytes once they have been
looked at. So it stays where it was put until it is a template, whatever dies in between.
"""

import os
import shutil
import stat
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path

from adapters.errors import BadImage, Refused
from adapters.images.base import ImageRepository
from adapters.images.repository import INBOX, INCOMING, speaking_directory
from adapters.images.untrusted import UntrustedFile
from adapters.images.vmdk import DESCRIPTOR_MAX_BYTES, described_by
from adapters.placed import Placed, Shape
from adapters.types import Format, Identity

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MOST = 200  # things that one look takes in, and files in one of them


def placed_in(repository: ImageRepository, owner: str | None = None) -> list[Placed]:
    """What lies in every folder of the inbox, or in that of one; hidden names are passed over.

    Where there is more than one look takes in, each folder has its turn: none holds others up.
    Ages are by the clock of the file system, which a look has just written to.
    """
    repository.verify()
    root = repository.path(INBOX)
    now_s = (repository.root / INCOMING).stat().st_mtime
    with speaking_directory(root):
        whose = [folder for folder in _entries(root) if owner in {None, folder.name}]
        found = [[(entry, each.name) for entry in _within(each)] for each in whose]
        in_turn = (each for turn in zip_longest(*found) for each in turn if each)
        some = islice(in_turn, MOST)
        return [_placed(repository, entry, name, now_s) for entry, name in some]


def identity_of(repository: ImageRepository, path: str) -> Identity:
    """How it is now. Raises `NotFound`."""
    place = repository.path(path)
    with speaking_directory(place):
        return _identity(place)[1]


def borrow(repository: ImageRepository, path: str, scratch: Path) -> None:
    """Have its bytes, plain files only, under a scratch name where there is nothing yet.

    Raises `Refused` for anything else, and `NotFound`.
    """
    source = repository.path(path)
    with speaking_directory(source):
        if not source.is_dir():
            _borrow(source, scratch)
            return
        scratch.mkdir()
        for each in _entries(source):
            _borrow(Path(each.path), scratch / each.name)


def as_set(folder: Path) -> Path:
    """Call a VMDK's descriptor as an upload of it is; answers it.

    It is the one file that names all others there, and no more. Raises `BadImage`.
    """
    files = {path.name: path for path in folder.iterdir()}
    named = {name: _named_by(path) for name, path in files.items()}
    whole = [name for name in files if named[name] == files.keys() - {name}]
    if len(whole) == 1:
        return files[whole[0]].rename(folder / Format.VMDK.disk_file)
    text = f"not exactly one of {len(files)} files names all others, and no more"
    missing = set[str]().union(*named.values()) - files.keys()
    raise BadImage(text, code="image-truncated" if missing else "image-surplus-file")


def _named_by(path: Path) -> set[str]:
    """The files that one names, if it is a descriptor."""
    with UntrustedFile.open(path) as file:
        described = described_by(file.head(DESCRIPTOR_MAX_BYTES + 1), Format.VMDK.disk_file)
    return {extent.name for extent in described.extents} if described else set()


def take_away(repository: ImageRepository, path: str, identity: Identity) -> None:
    """Remove it, if it is still what it was; absent is success."""
    source = repository.path(path)
    with speaking_directory(source):
        if not os.path.lexists(source) or _identity(source)[1] != identity:
            return
        if not source.is_dir():
            source.unlink()
            return
        for each in _entries(source):
            Path(each.path).unlink(missing_ok=True)
        with suppress(OSError):  # somebody's hidden files are his
            source.rmdir()


def _within(entry: "os.DirEntry[str]") -> list["os.DirEntry[str]"]:
    """What is in a folder; of anything else, that itself."""
    return _entries(entry) if entry.is_dir(follow_symlinks=False) else [entry]


def _entries(folder: "Path | os.DirEntry[str]") -> list["os.DirEntry[str]"]:
    """What is in a folder, in order, but what is hidden; not more than anybody could want."""
    with os.scandir(folder) as entries:
        seen = [each for each, _ in zip(entries, range(10 * MOST), strict=False)]
    return sorted((x for x in seen if not x.name.startswith(".")), key=lambda x: x.name)[:MOST]


def _placed(
    repository: ImageRepository, entry: "os.DirEntry[str]", owner: str, now_s: float
) -> Placed:
    path = Path(entry.path)
    shape, identity = _identity(path)
    told = str(path.relative_to(repository.root)).encode("utf-8", "backslashreplace").decode()
    if told != str(path.relative_to(repository.root)):
        shape = Shape.OTHER
    return Placed(
        path=told,
        owner=owner.encode("utf-8", "backslashreplace").decode(),
        shape=shape,
        identity=identity,
        age_s=now_s - identity.modified_ns / 1e9,
    )


def _identity(path: Path) -> tuple[Shape, Identity]:
    """Of a folder: the sizes of its files, and its newest change.

    Without inodes: a share may number its files anew.
    """
    here = path.lstat()
    if stat.S_ISREG(here.st_mode):
        shape, states = Shape.FILE, [here]
    elif stat.S_ISDIR(here.st_mode):
        files = _entries(path)
        endings = {each.name.rpartition(".")[2].lower() for each in files}
        shape = Shape.SET if endings == {Format.VMDK.extension} else Shape.FOLDER
        states = [here, *(each.stat(follow_symlinks=False) for each in files)]
    else:
        shape, states = Shape.OTHER, [here]
    sizes = (each.st_size for each in states if stat.S_ISREG(each.st_mode))
    newest = max(each.st_mtime_ns for each in states)
    return shape, Identity(size_bytes=sum(sizes), modified_ns=newest, inode=0)


def _borrow(source: Path, target: Path) -> None:
    """Link, or copy; what is then there cannot become anything else any more."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # across mounts, of another user, on a share without links
        _copy(source, target)
        return
    linked = target.lstat()
    if not stat.S_ISREG(linked.st_mode):
        target.unlink()
        raise _no_file(source)
    if linked.st_uid != os.geteuid() or linked.st_mode & _BY_OTHERS:
        target.unlink()
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    if not stat.S_ISREG(source.lstat().st_mode):
        raise _no_file(source)
    opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(opened, "rb") as file, target.open("xb") as out:  # noqa: PTH123 - by its descriptor
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise _no_file(source)
        shutil.copyfileobj(file, out, 2**20)
        out.flush()
        os.fsync(out.fileno())


def _no_file(path: Path) -> Refused:
    return Refused(f"{path.name} is no plain file", code="package-not-a-file")
