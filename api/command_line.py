"""How the command line asks the API: with which token, and how it shows what is answered.

What is heavy is imported where it is needed: `--help` answers at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

if TYPE_CHECKING:
    from api.client import Client, Operation, Refusal

_INTERRUPTED = 130
Force = Annotated[
    str | None, typer.Option(metavar="REASON", help="Pass soft limits, for this reason.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")]
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
complaints = Console(stderr=True, highlight=False)


class Verbs(TyperGroup):
    """The commands; what the API refuses is said in a sentence, with its code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from api.client import Refusal

            if not isinstance(error, Refusal):
                raise
            complain(error)
            raise typer.Exit(1) from error


def address() -> str:
    """Where the API is."""
    if url := os.environ.get("CLOUDLOOM_URL"):
        return url
    from adapters.settings import settings

    return settings().api_url


def client() -> "Client":
    """The API, asked with the token of the environment, of a session, or of this home."""
    from api.client import Client, Refusal

    url, token = address(), os.environ.get("CLOUDLOOM_TOKEN") or session(address())
    if not token:
        from adapters.settings import settings

        kept = settings().home / "token"
        if not kept.exists():
            text = f"no token: log in, or set CLOUDLOOM_TOKEN, or CLOUDLOOM_HOME (for {kept})"
            raise Refusal({"code": "no-token", "detail": text})
        token = kept.read_text().strip()
    return Client(url, token, ca=authority())


def authority() -> Path | None:
    """Who has signed the API's certificate, where that is nobody whom everybody knows."""
    ca = os.environ.get("CLOUDLOOM_CA")
    return Path(ca) if ca else None


def session(url: str) -> str | None:
    """The token of who has logged in at this API."""
    kept = session_file()
    if not kept.exists():
        return None
    told: dict[str, str] = json.loads(kept.read_text())
    return told["token"] if told["url"] == url else None


def session_file() -> Path:
    """Where the token of a session is kept, for its user alone."""
    return Path(typer.get_app_dir("cloudloom"), "session")


def keep_token(token: str, kept: Path) -> None:
    """For the command line of this user, and for nobody else."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch(mode=0o600)
    kept.write_text(f"{token}\n")


def find(client_: "Client", kind: str, name: str) -> str:
    """The id of what is meant by an id or a name."""
    from api.client import Refusal

    named = [each for each in client_.all(f"/v1/{kind}") if name in (each["id"], each["name"])]
    own = [each for each in named if each.get("own", True)]  # before what others share
    found = [each["id"] for each in own or named]
    if len(found) == 1:
        return str(found[0])
    if found:
        text = f"{len(found)} {kind} are called {name}; say which by id: {', '.join(found)}"
        raise Refusal({"code": "ambiguous", "detail": text})
    raise Refusal({"code": "not-found", "detail": f"there is no {kind.removesuffix('s')} {name}"})


def finish(client_: "Client", operation: "Operation", *, wait: bool, quiet: bool = False) -> None:
    """Wait for the end of an operation, and say what became of it."""
    from api.progress import outcome, watch

    if operation.waits_until:
        until = f"{operation.waits_until:%Y-%m-%d %H:%M} UTC"
        console.print(f"it waits for approval until {until}: cloudloom approve {operation.id}")
    if not wait:
        console.print(f"operation {operation.id} is {operation.state}")
        return
    try:
        if quiet:
            ended = client_.wait(operation.id)
            console.print(outcome(ended))
        else:
            ended = watch(client_, operation, console)
    except KeyboardInterrupt as interrupt:
        console.print(f"operation {operation.id} goes on: cloudloom operations {operation.id}")
        raise typer.Exit(_INTERRUPTED) from interrupt
    if ended.state != "succeeded":
        raise typer.Exit(1)


def complain(refusal: "Refusal") -> None:
    """Say what the API refused, and why."""
    told = f"[red]{escape(str(refusal))}[/red] [dim]({escape(refusal.code)})[/dim]"
    complaints.print(told, soft_wrap=True)
    places = ("hosts", "pools", "vms", "rack")
    for name in (*places, "users", "used", "changed", "errors", "operation"):
        if more := refusal.problem.get(name):
            complaints.print(f"  {name}: {escape(str(more))}", soft_wrap=True)


def show(rows: list[dict[str, Any]], *fields: str) -> None:
    """Show these fields of what was answered, a line each."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for field in fields:
        table.add_column(field, overflow="fold")
    for row in rows:
        table.add_row(*("" if row[field] is None else _said(row[field]) for field in fields))
    console.print(table)


def show_report(operation: "Operation") -> None:
    """Show what an operation has found."""
    if operation.report:
        rows = [finding.model_dump() for finding in operation.report]
        show(rows, "what", "name", "state", "detail")


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
