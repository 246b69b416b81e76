"""Fetching: what one attempt at a download writes down, file by file, until all of it is there.

It begins with what another attempt has; what belongs together is put together at the end.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from pydantic import Field

from adapters.amounts import Force
from adapters.database.records import NewTemplate
from adapters.errors import BadImage, NotAllowed, NotFound, OutOfSpace, Refused
from adapters.images.base import ImageRepository
from adapters.images.base import Wanted as Watched
from adapters.images.manifest import MANIFEST_MAX_BYTES
from adapters.images.ovf import DESCRIPTOR_MAX_BYTES, fit_name
from adapters.images.ovf import read as read_descriptor
from adapters.images.packing import bundle
from adapters.images.vmdk import DESCRIPTOR_MAX_BYTES as VMDK_MAX_BYTES
from adapters.images.vmdk import Descriptor, described_by
from adapters.packages import PACKAGE
from adapters.types import Format, Source, Value
from flows.charges import charge
from flows.cloud import cloud
from flows.running import epoch, telling, this_saga

OVF = "ovf"
PACKAGES = (PACKAGE, OVF)  # what has several disks in it, or beside it
MIB = 2**20
_ASIDE = (".mf", ".cert")  # what may lie beside a descriptor
_MOST_PERCENT = 99.0  # that are told: a first file may tell that there are more


class Wanted(Value):
    """What is to be downloaded; the secret says from where."""

    source: UUID
    format: str
    checksum: str = ""  # `sha256:...` or `sha512:...`; of what names others, its own
    checksums: dict[str, str] = Field(default_factory=dict)  # of those others, by name
    login: UUID | None = None  # a secret that stays: as whom it is asked, unless that one says

    @property
    def file(self) -> str:
        """What an upload of it is called."""
        if self.format in PACKAGES:
            return f"disk-0.{PACKAGE}"
        return Format(self.format).disk_file


def beside(source: Source, name: str) -> Source:
    """Where a file lies that a descriptor names: in the same folder."""
    url = urlsplit(source.url.get_secret_value())
    path = url.path.rpartition("/")[0] + "/" + quote(name)
    return source.beside(url._replace(path=path).geturl())


@contextmanager
def named_in_a_descriptor(name: str) -> Iterator[None]:
    """Say of a file that is not there which one it is: the rest of its address is a secret."""
    try:
        yield
    except NotFound as error:
        text = f"{name} does not lie beside its descriptor"
        raise NotFound(text, code=error.code) from error


def set_of(beginning: bytes) -> Descriptor | None:
    """What a VMDK that begins so says of files beside it; None of one that has none.

    Raises `BadImage`, before any of them is asked for.
    """
    described = described_by(beginning[: VMDK_MAX_BYTES + 1], Format.VMDK.disk_file)
    if described:
        described.require_fit(cloud.settings.max_virtual_mib)
    return described


def require_named(checksums: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse a checksum of what does not come: it would be taken for compared."""
    if unknown := sorted(checksums.keys() - {*names}):
        text = f"there is a checksum of {unknown[0][:80]!r}, which does not belong to it"
        raise BadImage(text, code="image-digest-mismatch")


class Fetching:
    """One attempt at fetching the files of one import, in a folder of its own."""

    def __init__(self, template: NewTemplate, force: Force | None, prefix: str) -> None:
        self._template = template
        self._force = force
        self._prefix = prefix
        self._repository = cloud.repository(template.datacenter_id)
        self._folder = _folder(self._repository, f"{prefix}-{epoch():06d}")
        others = self._folder.parent.glob(f"{prefix}-*")
        self._older = sorted((each for each in others if each != self._folder), reverse=True)
        self._check = in_time()
        self._tell = telling()
        self._most = cloud.settings.max_upload_mib * MIB
        self._done_bytes = 0

    def all_of(self, wanted: Wanted, source: Source) -> Path:
        """Fetch what is wanted, and what belongs to it; answers the folder with it."""
        if wanted.format == OVF:
            return self._package(wanted, source)
        path = self._file(source, wanted.file, self._most)
        _require_digest(path, wanted.checksum)
        described = None
        if wanted.format == Format.VMDK:
            with path.open("rb") as file:
                described = set_of(file.read(VMDK_MAX_BYTES + 1))
        names = [extent.name for extent in described.extents] if described else []
        require_named(wanted.checksums, names)
        return self._set(wanted, source, path, names) if names else self._folder

    def _set(self, wanted: Wanted, source: Source, descriptor: Path, names: list[str]) -> Path:
        """Fetch a disk's files, and put them into a folder, where nothing else is.

        Until then they have names of ours: theirs might be those of our notes.
        """
        files = {descriptor.name: descriptor}
        for position, name in enumerate(names):
            path = self._named(source, name, f"file-{position}", (position, len(names)))
            _require_digest(path, wanted.checksums.get(name, ""))
            files[name] = path
        whole = self._repository.scratch(f"{self._prefix}.{epoch():06d}", 0)
        whole.mkdir()
        for name, path in files.items():
            path.rename(whole / name)
        return whole

    def _package(self, wanted: Wanted, source: Source) -> Path:
        """Fetch a descriptor and what it names, and make the archive of them that they might be.

        Files have names of ours until they are in it.
        """
        url = urlsplit(source.url.get_secret_value())
        name = fit_name(unquote(url.path.rpartition("/")[2]))
        name = name if name.lower().endswith(f".{OVF}") else f"{name}.{OVF}"
        descriptor = self._file(source, "file", DESCRIPTOR_MAX_BYTES, (0, 100))
        _require_digest(descriptor, wanted.checksum)
        names = [each.name for each in read_descriptor(descriptor.read_bytes()).files]
        require_named(wanted.checksums, names)
        found = {name: descriptor}
        for ending in _ASIDE:
            aside, ours = name[: -len(OVF) - 1] + ending, f"file{ending}"
            try:
                found[aside] = self._named(source, aside, ours, (0, 100), MANIFEST_MAX_BYTES)
            except (NotFound, NotAllowed) as error:
                if error.code not in {"source-not-found", "source-not-allowed"}:
                    raise
        for position, each in enumerate(names):
            path = self._named(source, each, f"file-{position}", (position, len(names)))
            _require_digest(path, wanted.checksums.get(each, ""))
            found[each] = path
        unfinished = self._folder / "bundle"
        self._require_room(self._done_bytes)
        bundle(found, unfinished)
        unfinished.rename(self._folder / wanted.file)
        return self._folder

    def _named(
        self,
        source: Source,
        name: str,
        ours: str,
        whole: tuple[int, int],
        most_bytes: int | None = None,
    ) -> Path:
        """Fetch a file that a descriptor names; all of them together are no larger than one."""
        left = self._most - self._done_bytes
        with named_in_a_descriptor(name):
            return self._file(beside(source, name), ours, most_bytes or left, whole)

    def _file(
        self, source: Source, name: str, most_bytes: int, whole: tuple[int, int] = (0, 1)
    ) -> Path:
        """Fetch one file, the how-manieth of how many."""
        path, (position, count) = self._folder / name, whole
        older = (each / name for each in self._older if (each / f"{name}.note").exists())
        watched = Watched(
            most_bytes=most_bytes,
            admit=lambda size: self._admit(_size_of(path), self._done_bytes + size),
            progress=lambda percent: self._tell(
                min((100 * position + percent) / count, _MOST_PERCENT)
            ),
            check=self._check,
        )
        cloud.downloads.fetch(source, path, watched, next(older, None))
        self._done_bytes += _size_of(path)
        return path

    def _admit(self, has_bytes: int, size_bytes: int) -> None:
        """Refuse what no limit, or the repository, has room for."""
        size_mib = max(1, -(-size_bytes // MIB))
        charge([cloud.ledger.of_template(self._template, size_mib)], self._force)
        self._require_room(size_bytes - has_bytes - self._done_bytes)

    def _require_room(self, more_bytes: int) -> None:
        more_mib, free_mib = -(-more_bytes // MIB), self._repository.capacity().free_mib
        if free_mib < more_mib:
            text = f"{more_mib} MiB more are needed in the repository, {free_mib} are free"
            raise OutOfSpace(text)


def _folder(repository: ImageRepository, name: str) -> Path:
    """This attempt's own folder; it may have been here before."""
    if (found := repository.find_scratch(name)) is None:
        found = repository.scratch(name, 0)
        found.mkdir()
    return found


def in_time() -> Callable[[], None]:
    """What raises where nobody wants the operation's downloads any more, or they take too long."""
    saga = this_saga()
    started = saga.operation.started_at or datetime.now(UTC)
    until = started + timedelta(seconds=cloud.settings.download_s)

    def check() -> None:
        saga.runner.check()
        if datetime.now(UTC) > until:
            text = f"it has taken longer than {cloud.settings.download_s:.0f} s"
            raise Refused(text, code="source-too-slow")

    return check


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_digest(path: Path, checksum: str) -> None:
    algorithm, _, wanted = checksum.partition(":")
    if not checksum:
        return
    with path.open("rb") as file:
        if hashlib.file_digest(file, algorithm).hexdigest() != wanted:
            raise BadImage("what came is not what was declared", code="image-digest-mismatch")
