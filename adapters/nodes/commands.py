"""Programs on a host that work on its network: this machine's own, or a namespace of it."""

import re
import time

from adapters import programs
from adapters.errors import AdapterError, NotAllowed, Transient, Unsupported
from adapters.programs import ProgramFailed, Stopped

_NAMESPACE = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*)?")  # a file's name, and no path
_TIMEOUT_S = 60.0
_STILL_TRUE_S = 60.0  # what a machine can do changes with its packages
_attempted: dict[tuple[str, ...], tuple[float, str]] = {}  # when, and why it failed


class Commands:
    """The one place where commands for a host's network are run."""

    def __init__(self, namespace: str = "") -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise Unsupported(f"{namespace} is no network namespace", code="link-unsupported")
        self._namespace = namespace

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises `ProgramFailed`, and `Unsupported` where it is not installed."""
        if not self._namespace:
            return programs.run(program, *arguments, stdin=stdin, timeout_s=_TIMEOUT_S)
        place = f"--net=/run/netns/{self._namespace}"
        return programs.run(
            "nsenter", place, "--", program, *arguments, stdin=stdin, timeout_s=_TIMEOUT_S
        )

    def attempt(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Why it fails in a network that is empty, and gone afterwards; nothing: it does not.

        What failed or did not a moment ago is not tried again.
        """
        words = (program, *arguments)
        since, reason = _attempted.get((*words, stdin), (-_STILL_TRUE_S, ""))
        if time.monotonic() - since < _STILL_TRUE_S:
            return reason
        try:
            programs.run("unshare", "--net", "--", *words, stdin=stdin, timeout_s=_TIMEOUT_S)
            reason = ""
        except Stopped:  # the machine is busy, or the operation was stopped
            raise
        except AdapterError as error:
            reason = str(error)
        _attempted[*words, stdin] = (time.monotonic(), reason)
        return reason


def sorted_out(error: ProgramFailed) -> AdapterError:
    """What a program's failure means."""
    if re.search(r"not permitted|permission denied", error.stderr, re.IGNORECASE):
        return NotAllowed(str(error))
    return Transient(str(error))
