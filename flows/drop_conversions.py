"""Conversions that no disk needs any more go, once they are as old as the operator has set."""

import time
from datetime import timedelta
from uuid import UUID

from adapters.database.records import Image
from adapters.errors import InUse
from flows.cloud import cloud
from flows.running import running
from flows.steps import Effect, step


@step("survey-conversions")
def survey_conversions(datacenter: UUID) -> list[Image]:
    """Those that no disk claims, and that were made long enough ago; none unless so set."""
    days, repository = cloud.settings.conversion_days, cloud.repository(datacenter)
    if not days:
        return []
    before_ns = time.time_ns() - int(timedelta(days=days).total_seconds() * 1e9)
    return [
        image
        for image in cloud.library.conversions(datacenter)
        if image.identity.modified_ns < before_ns
        and not cloud.claims.holders(f"file:{repository.path(image.path)}")
    ]


@step("drop-conversion", Effect.REMOVES)
def drop_conversion(image: Image, datacenter: UUID) -> None:
    """Remove row and file, unless a disk has claimed it meanwhile."""
    repository = cloud.repository(datacenter)
    file = f"file:{repository.path(image.path)}"
    try:
        cloud.claims.begin_removal(file, running())
    except InUse:
        return
    cloud.library.forget_conversion(image.id)
    repository.delete(image.path)
    cloud.claims.removed(file, running())


@drop_conversion.look
def _(image: Image, datacenter: UUID) -> bool:
    """Whether it is there although nobody needs it."""
    repository = cloud.repository(datacenter)
    claimed = cloud.claims.holders(f"file:{repository.path(image.path)}")
    return repository.has(image.path) and not claimed
