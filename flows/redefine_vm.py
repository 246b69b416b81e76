"""Set a deployed VM up otherwise: what it starts from, and what opens its screen.

The password is there before the operation begins, which has its secret's id: undoing forgets it,
even where nothing was begun.
"""

from uuid import UUID

from adapters.database.operations import Operation
from adapters.types import Settings
from flows.cloud import cloud
from flows.definitions import redefine
from flows.operation import operation
from flows.steps import Effect, step
from flows.survey import survey_vm


@operation("vm")
def redefine_vm(request: Operation) -> None:
    """Record the settings, and define the VM so; then forget the password it had."""
    vm = survey_vm(request.target_id)
    now = Settings.model_validate(request.arguments["settings"])
    former = Settings.model_validate(request.arguments["former"])
    if now == former:
        return
    set_up(vm.id, now, former)
    redefine(vm.model_copy(update={"settings": former}), vm.model_copy(update={"settings": now}))
    if former.screen and former.screen != now.screen:
        forget_screen(former.screen, vm.id)


@step("set-up")
def set_up(vm: UUID, settings: Settings, former: Settings) -> None:
    cloud.hardware.set_up(vm, settings)


@set_up.undo
def _(vm: UUID, settings: Settings, former: Settings) -> None:
    cloud.hardware.set_up(vm, former, settings.screen)


@set_up.look
def _(vm: UUID, settings: Settings, former: Settings) -> bool:
    """Whether it is recorded, or a new password kept."""
    fresh = settings.screen if settings.screen != former.screen else None
    kept = fresh is not None and cloud.secrets.has(fresh)
    return kept or cloud.hardware.settings(vm) == settings


@step("forget-screen", Effect.REMOVES)
def forget_screen(secret: UUID, vm: UUID) -> None:
    cloud.secrets.forget(secret)


@forget_screen.look
def _(secret: UUID, vm: UUID) -> bool:
    return cloud.secrets.has(secret)
