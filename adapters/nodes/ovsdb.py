"""An Open vSwitch, as its two programs tell and change it: its database, and its flows."""

import json
from collections.abc import Sequence
from typing import Any

from adapters.errors import Unsupported
from adapters.nodes.commands import Commands, sorted_out
from adapters.programs import ProgramFailed

_UNIX = "unix:"


class Ovsdb:
    """One host's, by its database (`unix:/path`; empty: where it is usually)."""

    def __init__(self, commands: Commands, database: str = "") -> None:
        self._commands = commands
        self._database = database

    def run(self, *words: str) -> str:
        """Ask or change the database, in one transaction."""
        return self._run(self.told(*words))

    def told(self, *words: str) -> list[str]:
        """The command that does so."""
        where = [f"--db={self._database}"] if self._database else []
        return ["ovs-vsctl", "--timeout=50", *where, *words]

    def table(self, name: str, columns: str) -> list[dict[str, Any]]:
        """These columns of all its rows."""
        said = json.loads(self.run("--format=json", f"--columns={columns}", "list", name))
        return [
            {heading: _plain(each) for heading, each in zip(said["headings"], row, strict=True)}
            for row in said["data"]
        ]

    def flows(self, bridge: str, which: str) -> str:
        """Flows of a bridge, a line for each."""
        return self._run(self._of_flows("dump-flows", "--no-stats", self._at(bridge), which))

    def change_flows(self, bridge: str, lines: Sequence[str]) -> None:
        """Add and delete flows, all at once."""
        self._run(self.changed_flows(bridge), stdin="".join(f"{line}\n" for line in lines))

    def changed_flows(self, bridge: str) -> list[str]:
        """The command that reads what to change of the flows."""
        return self._of_flows("--bundle", "add-flows", self._at(bridge), "-")

    def flows_cannot(self) -> str:
        """Why flows cannot be changed; nothing: they can."""
        if self._database and not self._database.startswith(_UNIX):
            return f"flows are changed by their bridge's own socket, not by {self._database}"
        reason = self._commands.attempt("ovs-ofctl", "--version")
        return f"the host has no ovs-ofctl: {reason}" if reason else ""

    def _of_flows(self, *words: str) -> list[str]:
        return ["ovs-ofctl", "--timeout=50", "--protocols=OpenFlow14", *words]

    def _at(self, bridge: str) -> str:
        """The bridge's own socket, which is beside that of the database."""
        folder = self._database.removeprefix(_UNIX).rpartition("/")[0]
        return f"{_UNIX}{folder}/{bridge}.mgmt" if self._database else bridge

    def _run(self, words: Sequence[str], stdin: str = "") -> str:
        try:
            return self._commands.run(*words, stdin=stdin)
        except ProgramFailed as error:
            if "version negotiation failed" in error.stderr:
                raise Unsupported(str(error), code="guard-unsupported") from error
            raise sorted_out(error) from error


def _plain(said: Any) -> Any:
    """A value of OVSDB's JSON: an empty set is nothing, a map is a dictionary."""
    match said:
        case ["map", content]:
            return dict(content)
        case ["set", content]:
            return [_plain(each) for each in content] or None
        case ["uuid", content]:
            return content
        case _:
            return said
