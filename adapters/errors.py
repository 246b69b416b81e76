"""Errors sorted by what to do next; the API alone turns them into words for people.

`Transient`: try again. `Refused` and its children: give up, and undo. The vendor's own
error travels along as the cause. `code` is stable, kebab-case, and part of the API.
"""

from collections.abc import Sequence
from typing import Any


class AdapterError(Exception):
    """Something outside the process did not do what it was asked."""

    code = "adapter-error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.details: dict[str, Any] = {}  # more that the API may say, as JSON


def problem_of(error: BaseException) -> dict[str, Any]:
    """An error as the database keeps it and the API shows it; of a defect, only its kind."""
    if not isinstance(error, AdapterError):
        return {"code": "internal-error", "detail": type(error).__name__}
    return {"code": error.code, "detail": str(error), **error.details}


class Transient(AdapterError):
    """It may work when tried again: time-outs, lost connections, busy backends."""

    code = "transient"


class Refused(AdapterError):
    """It will not work however often it is tried."""

    code = "refused"


class OutOfSpace(Refused):
    """A pool, datastore, repository or host has no room."""

    code = "out-of-space"


class InUse(Refused):
    """The thing has users; the details name them."""

    code = "in-use"

    def __init__(
        self, message: str, *, users: Sequence[str] = (), code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.users = tuple(users)
        self.details = {"users": list(users)}


class Unsupported(Refused):
    """The backend, or this image, cannot do that."""

    code = "unsupported"


class NotAllowed(Refused):
    """The backend's credentials or settings forbid it."""

    code = "not-allowed"


class Conflict(Refused):
    """There is something under that name that is not ours, or differs from what was asked."""

    code = "conflict"


class NotFound(Refused):
    """The thing that was named is not there."""

    code = "not-found"


class BadImage(Refused):
    """An image that must not be used; `code` says what is wrong with it.

    Codes: image-backing-file, image-data-file, image-foreign-extent, image-format-mismatch,
    image-surplus-file, image-too-large, image-truncated, image-unknown-format, image-corrupt,
    image-digest-mismatch. Of packages there are more: `adapters.packages.BadPackage`.
    """

    code = "image-corrupt"
