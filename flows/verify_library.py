"""Read the library again, a piece a day: what is not what it was is used no more."""

from datetime import timedelta
from uuid import UUID

from adapters.database.operations import Operation
from adapters.database.records import Kept
from adapters.errors import InUse, Refused
from adapters.types import Finding, TemplateState
from flows.cloud import cloud
from flows.operation import operation
from flows.running import running
from flows.steps import Effect, step
from flows.upkeep import publish_report

OK = "ok"


@operation("datacenter", every=timedelta(days=1))
def verify_library(request: Operation) -> None:
    """Compare the digests of templates and conversions; condemn what is broken or gone."""
    datacenter = request.datacenter_id
    found = [(kept, verify_image(kept, datacenter)) for kept in survey_library(datacenter)]
    for kept, finding in found:
        if finding.state != OK:
            condemn_image(kept, datacenter)
    publish_report(request.kind, datacenter, [finding for _, finding in found])


@step("survey-library")
def survey_library(datacenter: UUID) -> list[Kept]:
    """As much as a day may read, after what was read the last time, in a circle."""
    before = cloud.history.last_answer("verify_library", datacenter, survey_library.name)
    last = survey_library.recorded(before or [])
    every = cloud.library.kept(datacenter)
    after = next((n + 1 for n, kept in enumerate(every) if last and kept.id == last[-1].id), 0)
    left_bytes = cloud.settings.verify_mib * 2**20
    piece: list[Kept] = []
    for kept in [*every[after:], *every[:after]]:
        if piece and kept.image.identity.size_bytes > left_bytes:
            break
        left_bytes -= kept.image.identity.size_bytes
        piece.append(kept)
    return piece


@step("verify-image")
def verify_image(kept: Kept, datacenter: UUID) -> Finding:
    """Read it whole. One that is well again, such as from a backup, is offered again."""
    repository = cloud.repository(datacenter)
    what, path = "conversion" if kept.is_conversion else "template", kept.image.path
    try:
        if not _is_whole(kept, datacenter):
            return Finding(what=what, name=path, state="broken", detail=_users(kept, datacenter))
        identity = repository.identity(path)
    except Refused as error:
        return Finding(what=what, name=path, state="gone", detail=str(error))
    cloud.library.vouch(kept, identity, offered=not _is_beside_damage(kept, datacenter))
    return Finding(what=what, name=path, state=OK)


@step("condemn-image", Effect.REMOVES)
def condemn_image(kept: Kept, datacenter: UUID) -> None:
    """No VM starts from it any more; a conversion goes, to be made anew, unless disks need it."""
    cloud.library.condemn(kept)
    if kept.is_conversion:
        file = _file(kept, datacenter)
        try:
            cloud.claims.begin_removal(file, running())
        except InUse:
            return
        cloud.repository(datacenter).delete(kept.image.path)
        cloud.claims.removed(file, running())


@condemn_image.look
def _(kept: Kept, datacenter: UUID) -> bool:
    """Whether it is offered, or, as a broken conversion, still there although nobody needs it."""
    removable = kept.is_conversion and not cloud.claims.holders(_file(kept, datacenter))
    there = removable and cloud.repository(datacenter).has(kept.image.path)
    return there or cloud.library.is_offered(kept)


def _is_whole(kept: Kept, datacenter: UUID) -> bool:
    """Whether it has its digest. Raises `Refused` when it is not there."""
    repository = cloud.repository(datacenter)
    return repository.digest(repository.path(kept.image.path)) == kept.image.digest


def _is_beside_damage(kept: Kept, datacenter: UUID) -> bool:
    """Whether another disk of a template in ERROR is broken, too: all of them are read then."""
    if cloud.library.template_state(kept.owner) is not TemplateState.ERROR:
        return False
    for each in cloud.library.kept(datacenter):
        if each.owner == kept.owner and each.id != kept.id:
            try:
                if not _is_whole(each, datacenter):
                    return True
            except Refused:
                return True
    return False


def _file(kept: Kept, datacenter: UUID) -> str:
    return f"file:{cloud.repository(datacenter).path(kept.image.path)}"


def _users(kept: Kept, datacenter: UUID) -> str:
    users = len(cloud.claims.holders(_file(kept, datacenter)))
    return f"{users} disks are overlays of it" if users else "no disk needs it"
