"""Programs on a host that work on its network: this machine's own, or a namespace of it."""

import re

from adapters import programs
from adapters.errors import AdapterError, NotAllowed, Transient
from adapters.programs import ProgramFailed

_TIMEOUT_S = 60.0


class Commands:
    """The one place where commands for a host's network are run."""

    def __init__(self, namespace: str = "") -> None:
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
        """Why it fails in a network that is empty, and gone afterwards; nothing: it does not."""
        try:
            programs.run(
                "unshare", "--net", "--", program, *arguments, stdin=stdin, timeout_s=_TIMEOUT_S
            )
        except AdapterError as error:
            return str(error)
        return ""


def sorted_out(error: ProgramFailed) -> AdapterError:
    """What a program's failure means."""
    if re.search(r"not permitted|permission denied", error.stderr, re.IGNORECASE):
        return NotAllowed(str(error))
    return Transient(str(error))
