"""Forcing: a body that lets its request pass soft limits, and says why."""

from typing import Annotated, Self

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters.amounts import Force
from api.errors import Invalid
from api.tokens import Caller

_WHY = "Why; it is kept with the operation, and with what it charges."


class Forcing(BaseModel):
    """Whether soft limits are passed, and why."""

    model_config = ConfigDict(extra="forbid")

    force: bool = Field(default=False, description="Pass soft limits. Hard ones are never passed.")
    force_reason: str | None = Field(None, min_length=1, max_length=200, description=_WHY)

    @model_validator(mode="after")
    def _is_reasoned(self) -> Self:
        if self.force != (self.force_reason is not None):
            raise ValueError("force and force_reason come together")
        return self

    def by(self, caller: Caller) -> Force | None:
        """The force that the caller uses, if any."""
        return Force(by=caller.name, reason=self.force_reason) if self.force_reason else None


def _of_query(
    force: Annotated[bool, Query(description="Pass soft limits.")] = False,  # noqa: FBT002
    force_reason: Annotated[
        str | None, Query(min_length=1, max_length=200, description=_WHY)
    ] = None,
) -> Forcing:
    try:
        return Forcing(force=force, force_reason=force_reason)
    except ValidationError as error:
        raise Invalid(error.errors()) from error


ForcingQuery = Annotated[Forcing, Depends(_of_query)]
