"""Uploads that nobody has gone on with for long go."""

import time
from uuid import UUID

from adapters.errors import Transient
from flows.cloud import cloud
from flows.running import running
from flows.steps import Effect, step

_UPLOAD = "incoming/upload-"  # and its transfer's id


@step("survey-uploads")
def survey_uploads(datacenter: UUID) -> list[str]:
    """Those sent to us that have waited for as long as half-done work is left to its maker.

    What an import is to take is that import's. A repository that is away is asked next time.
    """
    try:
        entries = cloud.repository(datacenter).entries()
    except Transient:
        return []
    begun = {each.removeprefix(_UPLOAD) for each in entries if each.startswith(_UPLOAD)}
    taken = cloud.explanations.under_way(running())
    ours = sorted(each for each in cloud.explanations.sent_here(begun) if each not in taken)
    return [f"upload-{each}" for each in ours if entries[f"{_UPLOAD}{each}"] < _old_ns()]


@step("drop-upload", Effect.REMOVES)
def drop_upload(upload: str, datacenter: UUID) -> None:
    """Remove it, unless somebody has gone on with it meanwhile."""
    if is_old(upload, datacenter):
        cloud.repository(datacenter).clear(upload)


@drop_upload.look
def _(upload: str, datacenter: UUID) -> bool:
    return is_old(upload, datacenter)


def is_old(upload: str, datacenter: UUID) -> bool:
    """Whether it is there, and nothing more has come for long."""
    path = cloud.repository(datacenter).find_scratch(upload)
    return path is not None and path.stat().st_mtime_ns < _old_ns()


def _old_ns() -> int:
    return time.time_ns() - int(cloud.settings.scratch_hours * 3600e9)
