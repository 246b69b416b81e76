"""Downloads: what lies on somebody else's server becomes an import's own, or nothing is left.

Each attempt has a folder of its own, which begins with what another one had; a rename makes it
what an upload would be.
"""

import json
import time
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid5

from pydantic import SecretStr

from adapters.amounts import Force
from adapters.database.records import NewTemplate
from adapters.errors import Refused, Unsupported
from adapters.forms import Form
from adapters.images.base import Peek
from adapters.images.ova import leading_descriptor
from adapters.images.ovf import DESCRIPTOR_MAX_BYTES
from adapters.images.ovf import read as read_descriptor
from adapters.images.repository import extents_of
from adapters.images.vmdk import DESCRIPTOR_MAX_BYTES as VMDK_MAX_BYTES
from adapters.images.vmdk import Descriptor
from adapters.packages import PACKAGE, Package
from adapters.types import Chap, Format, ImageInfo, Source, Value
from flows.charges import charge
from flows.cloud import cloud
from flows.fetching import (
    MIB,
    OVF,
    Fetching,
    Wanted,
    beside,
    named_in_a_descriptor,
    set_of,
)
from flows.planning import planning
from flows.steps import Effect, step
from flows.unpacking import foresee_disk
from flows.uploads import SIZE_MIB

_DESCRIBED_BYTES = {  # how much may have to be read of what names files; of others nothing
    OVF: DESCRIPTOR_MAX_BYTES + 1,
    PACKAGE: DESCRIPTOR_MAX_BYTES + 2**14,  # headers come first
    Format.VMDK: VMDK_MAX_BYTES + 1,
}
_LOOK_S = 30.0
SET = "set"  # of VMDK files, as the first one of them says


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


class FoundSet(Value):
    """A set of VMDK files, of which the descriptor has been read."""

    described: Descriptor
    digest: str  # of the descriptor: all that it says may make a difference

    @property
    def info(self) -> ImageInfo:
        """The disk that it is; how much of it is there, others say."""
        size_bytes = self.described.virtual_size_bytes
        return ImageInfo(format=Format.VMDK, virtual_size_bytes=size_bytes, file_size_bytes=0)

    @property
    def form(self) -> Form | None:
        """The form that it has, if it is one that is made here."""
        return Form.of(Format.VMDK, self.described.create_type)


class Sight(Value):
    """What a look at an address has told."""

    size_bytes: int
    package: Package | None = None
    set: FoundSet | None = None

    @property
    def foreseen(self) -> dict[str, object]:
        """The same, as plans are told it."""
        return {SIZE_MIB: -(-self.size_bytes // MIB), PACKAGE: self.package, SET: self.set}


def look_at(source: Source, kind: str) -> Sight:
    """Ask how much there is to fetch, and read what names more; nothing of it is kept."""
    until = time.monotonic() + _LOOK_S

    def check() -> None:
        if time.monotonic() > until:
            raise Refused(f"a look at it takes longer than {_LOOK_S} s", code="source-too-slow")

    def peek(there: Source, most_bytes: int = 0) -> Peek:
        return cloud.downloads.peek(there, most_bytes, check)

    def size_of(name: str) -> int:
        with named_in_a_descriptor(name):
            return _told(peek(beside(source, name)))

    seen = peek(source, _DESCRIBED_BYTES.get(kind, 0))
    described = set_of(seen.beginning) if kind == Format.VMDK else None
    if kind == OVF:
        package = read_descriptor(seen.beginning)
        sizes = (x.size_bytes or size_of(x.name) for x in package.files)
        sight = Sight(size_bytes=len(seen.beginning) + sum(sizes), package=package)
    elif kind == PACKAGE:
        package = read_descriptor(leading_descriptor(seen.beginning))
        sight = Sight(size_bytes=_told(seen), package=package)
    elif described:
        sizes = (size_of(extent.name) for extent in described.extents)
        found = FoundSet(described=described, digest=sha256(seen.beginning).hexdigest())
        sight = Sight(size_bytes=len(seen.beginning) + sum(sizes), set=found)
    else:
        sight = Sight(size_bytes=_told(seen))
    if sight.size_bytes > cloud.settings.max_upload_mib * MIB:
        raise Refused(f"it is {sight.size_bytes} bytes", code="source-too-large")
    return sight


def _told(seen: Peek) -> int:
    if seen.size_bytes is None:
        raise Unsupported("nobody says how large it is", code="source-unsized")
    return seen.size_bytes


def taken_source(source: UUID) -> UUID:
    """The secret that a source becomes once its operation has taken it."""
    return uuid5(source, "taken")


@step("download-source", Effect.TEMPORARY)
def download_source(template: NewTemplate, wanted: Wanted, force: Force | None) -> Downloaded:
    """Fetch it, with what an earlier attempt has; charge it before it grows."""
    repository, taken = cloud.repository(template.datacenter_id), f"import-{template.id}"
    if repository.find_scratch(taken) is None:
        source = source_of(taken_source(wanted.source), wanted.login)
        whole = Fetching(template, force, _name(template.id)).all_of(wanted, source)
        repository.rename_scratch(whole.name, taken)
    repository.clear(_name(template.id))
    path = (repository.find_scratch(taken) or Path()) / wanted.file
    files = [path, *(path.with_name(name) for name in extents_of(path))]
    size_bytes = sum(each.stat().st_size for each in files)
    charge([cloud.ledger.of_template(template, -(-size_bytes // MIB))], force)
    return Downloaded(digest=repository.digest(path), size_bytes=size_bytes)


@download_source.plan
def _(template: NewTemplate, wanted: Wanted, force: Force | None) -> Downloaded:
    """What its server has said that it is."""
    size_mib: int = planning().foreseen(SIZE_MIB)
    planning().copy(f"download:{template.id}", size_mib * MIB)
    planning().charge([cloud.ledger.of_template(template, size_mib)], force)
    found: FoundSet | None = planning().foreseen(SET)
    if found:
        foresee_disk(template.datacenter_id, wanted.file, found.info, found.form)
        planning().notice(
            "the disk",
            form=found.described.create_type,
            bytes=found.info.virtual_size_bytes,
            files=len(found.described.extents),
            descriptor=found.digest,
        )
    return Downloaded(digest="", size_bytes=size_mib * MIB)


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
