"""Downloads: what lies on somebody else's server becomes an import's own, or nothing is left.

Each attempt has a folder of its own, which begins with what another one had; a rename makes it
what an upload would be.
"""

import hashlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

from pydantic import SecretStr

from adapters.amounts import Force
from adapters.database.records import NewTemplate
from adapters.errors import BadImage, NotAllowed, NotFound, OutOfSpace, Refused, Unsupported
from adapters.images.base import ImageRepository, Peek
from adapters.images.base import Wanted as Watched
from adapters.images.manifest import MANIFEST_MAX_BYTES
from adapters.images.ova import leading_descriptor
from adapters.images.ovf import DESCRIPTOR_MAX_BYTES, fit_name
from adapters.images.ovf import read as read_descriptor
from adapters.images.packing import bundle
from adapters.packages import PACKAGE, Package
from adapters.types import Chap, Format, Source, Value
from flows.charges import charge
from flows.cloud import cloud
from flows.planning import planning
from flows.running import epoch, telling, this_saga
from flows.steps import Effect, step
from flows.uploads import SIZE_MIB

OVF = "ovf"
PACKAGES = (PACKAGE, OVF)  # what has several disks in it, or beside it
_ASIDE = (".mf", ".cert")  # what may lie beside a descriptor
_MIB = 2**20
_DESCRIBED_BYTES = DESCRIPTOR_MAX_BYTES + 2**14  # of a package; in an archive headers come first
_LOOK_S = 30.0


class Wanted(Value):
    """What is to be downloaded; the secret says from where."""

    source: UUID
    format: str
    checksum: str = ""  # `sha256:...` or `sha512:...`, of an OVF its descriptor's
    login: UUID | None = None  # a secret that stays: as whom it is asked, unless that one says


class Downloaded(Value):
    """What came."""

    digest: str
    size_bytes: int


def kept(source: Source) -> Chap:
    """A source as a secret."""
    login = source.login
    password = login.password.get_secret_value() if login else None
    said = json.dumps([source.url.get_secret_value(), password])
    return Chap(user=login.user if login else "", password=SecretStr(said))


def source_of(secret: UUID, login_of: UUID | None = None) -> Source:
    """The source in a secret; its login may be in one of its own."""
    chap = cloud.secrets.read(secret)
    url, password = json.loads(chap.password.get_secret_value())
    login = None if password is None else Chap(user=chap.user, password=SecretStr(password))
    return as_who(Source(url=SecretStr(url), login=login), login_of)


def as_who(source: Source, login_of: UUID | None) -> Source:
    """The same, asked as whom a secret says, unless it says that itself."""
    if source.login is None and login_of and cloud.secrets.has(login_of):
        return source.model_copy(update={"login": cloud.secrets.read(login_of)})
    return source


class Sight(Value):
    """What a look at an address has told."""

    size_bytes: int
    package: Package | None = None


def look_at(source: Source, kind: str) -> Sight:
    """Ask how much there is to fetch, and of a package what is in it; nothing of it is kept."""
    until = time.monotonic() + _LOOK_S

    def check() -> None:
        if time.monotonic() > until:
            raise Refused(f"a look at it takes longer than {_LOOK_S} s", code="source-too-slow")

    def peek(there: Source, most_bytes: int = 0) -> Peek:
        return cloud.downloads.peek(there, most_bytes, check)

    seen = peek(source, _DESCRIBED_BYTES if kind in PACKAGES else 0)
    if kind == OVF:
        package = read_descriptor(seen.beginning)
        sizes = (x.size_bytes or _told(peek(_beside(source, x.name))) for x in package.files)
        sight = Sight(size_bytes=len(seen.beginning) + sum(sizes), package=package)
    elif kind == PACKAGE:
        package = read_descriptor(leading_descriptor(seen.beginning))
        sight = Sight(size_bytes=_told(seen), package=package)
    else:
        sight = Sight(size_bytes=_told(seen))
    if sight.size_bytes > cloud.settings.max_upload_mib * _MIB:
        raise Refused(f"it is {sight.size_bytes} bytes", code="source-too-large")
    return sight


def _told(seen: Peek) -> int:
    if seen.size_bytes is None:
        raise Unsupported("nobody says how large it is", code="source-unsized")
    return seen.size_bytes


def _beside(source: Source, name: str) -> Source:
    """Where a file lies that a descriptor names."""
    url = urlsplit(source.url.get_secret_value())
    path = url.path.rpartition("/")[0] + "/" + quote(name)
    return source.beside(url._replace(path=path).geturl())


def taken_source(source: UUID) -> UUID:
    """The secret that a source becomes once its operation has taken it."""
    return uuid5(source, "taken")


@step("download-source", Effect.TEMPORARY)
def download_source(template: NewTemplate, wanted: Wanted, force: Force | None) -> Downloaded:
    """Fetch it, with what an earlier attempt has; charge it before it grows."""
    repository, taken = cloud.repository(template.datacenter_id), f"import-{template.id}"
    if repository.find_scratch(taken) is None:
        folder = _folder(repository, template.id)
        _Fetching(template, force, folder).all_of(wanted)
        repository.rename_scratch(folder.name, taken)
    repository.clear(_name(template.id))
    path = (repository.find_scratch(taken) or Path()) / _file_of(wanted)
    size_bytes = path.stat().st_size
    charge([cloud.ledger.of_template(template, -(-size_bytes // _MIB))], force)
    return Downloaded(digest=repository.digest(path), size_bytes=size_bytes)


@download_source.plan
def _(template: NewTemplate, wanted: Wanted, force: Force | None) -> Downloaded:
    """What its server has said that it is."""
    size_mib: int = planning().foreseen(SIZE_MIB)
    planning().copy(f"download:{template.id}", size_mib * _MIB)
    planning().charge([cloud.ledger.of_template(template, size_mib)], force)
    return Downloaded(digest="", size_bytes=size_mib * _MIB)


@download_source.undo
def _(template: NewTemplate, wanted: Wanted, force: Force | None) -> None:
    repository = cloud.repository(template.datacenter_id)
    repository.clear(_name(template.id))
    repository.clear(f"import-{template.id}")


@download_source.look
def _(template: NewTemplate, wanted: Wanted, force: Force | None) -> bool:
    repository = cloud.repository(template.datacenter_id)
    names = (_name(template.id), f"import-{template.id}")
    return any(repository.find_scratch(each) is not None for each in names)


def _name(template: UUID) -> str:
    return f"download-{template}"


def _folder(repository: ImageRepository, template: UUID) -> Path:
    """This attempt's own folder; it may have been here before."""
    name = f"{_name(template)}-{epoch():06d}"
    if (found := repository.find_scratch(name)) is None:
        found = repository.scratch(name, 0)
        found.mkdir()
    return found


def _file_of(wanted: Wanted) -> str:
    """What an upload of it is called."""
    if wanted.format in PACKAGES:
        return f"disk-0.{PACKAGE}"
    return Format(wanted.format).disk_file


class _Fetching:
    """One attempt at fetching the files of one import."""

    def __init__(self, template: NewTemplate, force: Force | None, folder: Path) -> None:
        self._template = template
        self._force = force
        self._folder = folder
        others = folder.parent.glob(f"{_name(template.id)}-*")
        self._older = sorted((each for each in others if each != folder), reverse=True)
        self._check = in_time()
        self._tell = telling()
        self._done_bytes = 0

    def all_of(self, wanted: Wanted) -> None:
        """Fetch what is wanted, and what belongs to it."""
        source, most = (
            source_of(taken_source(wanted.source), wanted.login),
            cloud.settings.max_upload_mib * _MIB,
        )
        if wanted.format == OVF:
            self._beside(source, wanted.checksum, most)
        else:
            path = self._file(source, _file_of(wanted), most)
            _require_digest(path, wanted.checksum)

    def _beside(self, source: Source, checksum: str, most: int) -> None:
        """Fetch a descriptor and what it names, and make the archive of them that they might be.

        Files have names of ours until they are in it.
        """
        url = urlsplit(source.url.get_secret_value())
        name = fit_name(unquote(url.path.rpartition("/")[2]))
        name = name if name.lower().endswith(f".{OVF}") else f"{name}.{OVF}"
        descriptor = self._file(source, "file", DESCRIPTOR_MAX_BYTES, (0, 100))
        _require_digest(descriptor, checksum)
        files = read_descriptor(descriptor.read_bytes()).files
        found = {name: descriptor}

        def fetch(name: str, most_bytes: int, whole: tuple[int, int]) -> None:
            try:
                found[name] = self._file(
                    _beside(source, name), f"file-{len(found)}", most_bytes, whole
                )
            except NotFound as error:
                text = f"{name} does not lie beside its descriptor"
                raise NotFound(text, code=error.code) from error

        for ending in _ASIDE:
            try:
                fetch(name[: -len(OVF) - 1] + ending, MANIFEST_MAX_BYTES, (0, 100))
            except (NotFound, NotAllowed) as error:
                if error.code not in {"source-not-found", "source-not-allowed"}:
                    raise
        for position, each in enumerate(files):
            fetch(each.name, most - self._done_bytes, (position, len(files)))
        unfinished = self._folder / "bundle"
        self._admit(0, 2 * self._done_bytes)
        bundle(found, unfinished)
        unfinished.rename(self._folder / f"disk-0.{PACKAGE}")

    def _file(
        self, source: Source, name: str, most_bytes: int, whole: tuple[int, int] = (0, 1)
    ) -> Path:
        """Fetch one file, the how-manieth of how many."""
        path, (position, count) = self._folder / name, whole
        older = (each / name for each in self._older if (each / f"{name}.note").exists())
        watched = Watched(
            most_bytes=most_bytes,
            admit=lambda size: self._admit(_size_of(path), self._done_bytes + size),
            progress=lambda percent: self._tell((100 * position + percent) / count),
            check=self._check,
        )
        cloud.downloads.fetch(source, path, watched, next(older, None))
        self._done_bytes += _size_of(path)
        return path

    def _admit(self, has_bytes: int, size_bytes: int) -> None:
        """Refuse what no limit, or the repository, has room for."""
        size_mib = max(1, -(-size_bytes // _MIB))
        charge([cloud.ledger.of_template(self._template, size_mib)], self._force)
        free_mib = cloud.repository(self._template.datacenter_id).capacity().free_mib
        if free_mib < -(-(size_bytes - has_bytes - self._done_bytes) // _MIB):
            text = f"{size_mib} MiB are needed in the repository, {free_mib} are free"
            raise OutOfSpace(text)


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
