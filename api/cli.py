"""`cloudloom`: the command line. It runs the services, and is a client of their API.

What is heavy is imported where it is needed: `--help` answers at once.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape

from api import (
    cli_people,
    composition_verbs,
    hardware_verbs,
    infrastructure_verbs,
    label_verbs,
    library_verbs,
    limit_verbs,
    nic_verbs,
    persistence_verbs,
    planned_verbs,
    template_verbs,
    vm_verbs,
    volume_verbs,
)
from api.command_line import Force, NoWait, Verbs, complaints, console, session_file
from api.command_line import client as _client
from api.command_line import find as _find
from api.command_line import finish as _finish
from api.command_line import keep_token as _keep_token
from api.command_line import show as _show
from api.command_line import show_report as _show_report

app = typer.Typer(
    cls=Verbs,
    help="A private cloud of virtual appliances.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(limit_verbs.verbs, name="limits")
app.add_typer(label_verbs.verbs, name="labels")
Reason = Annotated[str | None, typer.Option(help="Why; it is kept with the operation.")]


# --- services ----------------------------------------------------------------------------------


@app.command()
def serve() -> None:
    """Run everything here: Prefect, a worker and the API, until Ctrl-C."""
    from adapters.settings import settings
    from api.serve import serve as run
    from flows.prefect_env import environment

    def announce(token: str | None) -> None:
        if token:
            _keep_token(token, settings().home / "token")
            if console.is_terminal:  # what is not read by somebody now is a log
                console.print(f"token: {token}", soft_wrap=True)
                console.print("  shown this once")
            console.print(f"a token for this user is kept in {settings().home / 'token'}")
        console.print(f"API: {settings().api_url}/docs")
        console.print(f"Prefect: {settings().prefect_ui}", soft_wrap=True)
        auth = Path(environment(settings())["PREFECT_HOME"], "auth")
        console.print(f"  it asks for what is in {auth}", soft_wrap=True)

    run(settings(), announce)


@app.command()
def worker(
    *,
    datacenter: Annotated[
        str | None, typer.Option(help="Whose work it takes.", show_default="the settings'")
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            help="Only from this queue: maintenance, deploy, storage, images. May be repeated."
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Flow runs at once.")] = None,
) -> None:
    """Run a worker alone, until it is told to stop: it takes the work of a datacenter."""
    from adapters.settings import settings
    from adapters.types import Role
    from flows.prefect_env import environment

    wanted = {"DATACENTER": datacenter, "QUEUES": ",".join(queue or []), "SLOTS": slots}
    given = {f"CLOUDLOOM_{name}": str(value) for name, value in wanted.items() if value}
    if unknown := set(queue or []) - set(Role):
        raise typer.BadParameter(f"no queue {', '.join(unknown)}; there are {', '.join(Role)}")
    program = [sys.executable, "-m", "flows.worker"]
    os.execve(sys.executable, program, {**os.environ, **environment(settings()), **given})  # noqa: S606


@app.command()
def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C.")] = False,
    pretended: Annotated[
        bool, typer.Option("--pretended", help="Pretend host and storage: nothing real is used.")
    ] = False,
) -> None:
    """Turn an image into a running appliance on a private host, and take it away again."""
    if find_spec("deployments") is None:
        complaints.print("the demo needs Cloudloom's checkout: `make demo` there")
        raise typer.Exit(1)
    raise typer.Exit(import_module("deployments.demo").main(keep=keep, pretended=pretended))


@app.command()
def doctor() -> None:
    """Say what is missing on this machine, and how to get it; 1 where Cloudloom cannot run."""
    from adapters.settings import settings
    from api.doctor import State, examine

    signs = {State.WELL: "[green]✓[/green]", State.LIMITED: "[yellow]![/yellow]"}
    found = list(examine(settings()))
    for each in found:
        sign = signs.get(each.state, "[red]✗[/red]")
        console.print(f"{sign} {each.what}: {escape(each.detail)}", soft_wrap=True)
        if each.remedy:
            console.print(f"    {escape(each.remedy)}", soft_wrap=True)
    raise typer.Exit(int(any(each.state is State.ILL for each in found)))


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Encrypt all passwords anew with a new key, while everything runs; may be repeated."""
    from getpass import getuser

    from cryptography.fernet import Fernet

    from adapters.database.events import acting
    from adapters.database.rotation import rotate
    from adapters.database.secrets import Keyring
    from adapters.database.session import Database
    from adapters.errors import AdapterError, problem_of
    from adapters.settings import settings
    from api.client import Refusal

    try:
        keys = Keyring(settings())
        with acting(getuser()):
            done = rotate(Database(settings().database), keys)
    except AdapterError as error:
        raise Refusal(problem_of(error)) from error
    console.print(f"{done.secrets} secrets, {done.anew} of them encrypted anew")
    if keys.file:
        console.print(f"{done.dropped} old keys dropped; keep a copy of {keys.file} elsewhere")
    elif len(keys.keys) > 1:
        console.print("none needs any but the first of CLOUDLOOM_SECRET_KEYS: drop the others,")
        console.print("and restart every process; before the next time, put a new key first")
    else:
        console.print("CLOUDLOOM_SECRET_KEYS has one key: put a new one before it, such as")
        console.print(f"  {Fernet.generate_key().decode()}", soft_wrap=True)
        console.print("restart every process with both, and run this again")


# --- verbs -------------------------------------------------------------------------------------


@app.command("import")
def import_(
    what: Annotated[str, typer.Argument(help="A file, or an address of http or https.")],
    *,
    name: Annotated[str, typer.Option(help="What the template will be called.")],
    format: Annotated[  # noqa: A002
        str,
        typer.Option(help="raw, qcow2, vmdk, vpc, vhdx or vdi; unless said, .ova is a package."),
    ] = "",
    datacenter: Annotated[str, typer.Option(help="Whose library it enters.")] = "main",
    cpu: Annotated[
        int | None, typer.Option(help="Its VMs' CPUs, unless said otherwise: a package's, or 1.")
    ] = None,
    ram_mib: Annotated[int | None, typer.Option(help="Their memory: a package's, or 128.")] = None,
    firmware: Annotated[
        str | None, typer.Option(help="bios or efi: a package's, or bios.")
    ] = None,
    bus: Annotated[
        str | None, typer.Option(help="Of its disks: virtio, sata, ide, scsi, lsisas, pvscsi.")
    ] = None,
    category: template_verbs.Category = None,
    description: template_verbs.Text = None,
    version: template_verbs.Version = None,
    licence: template_verbs.Licence = None,
    shared: Annotated[bool, typer.Option("--shared", help="Every enterprise sees it.")] = False,
    master: Annotated[
        str | None, typer.Option(help="The template that it is an instance of.")
    ] = None,
    checksum: Annotated[
        str, typer.Option(help="sha256:... or sha512:..., of what lies at an address.")
    ] = "",
    file_checksum: library_verbs.FileChecksums = None,
    user: Annotated[
        str, typer.Option(help="As whom it is asked there; the password is asked for.")
    ] = "",
    force: Force = None,
    dry_run: planned_verbs.DryRun = False,
    plan: planned_verbs.Plan = None,
    no_wait: NoWait = False,
) -> None:
    """Send an image or an OVA into a library, or have it downloaded: it becomes a template.

    What breaks off goes on by itself; what was ended goes on with the same command. A VMDK's
    extents are sent along. At an address, what a VMDK or an OVF names comes too, from beside it.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from api import sending

    said = {
        "name": name,
        "datacenter": datacenter,
        "cpu": cpu,
        "ram_mib": ram_mib,
        "firmware": firmware,
        "bus": bus,
        "category": category,
        "description": description,
        "version": version,
        "licence": licence,
        "master": master,
    }
    if library_verbs.is_address(what):
        wish = said | {"format": format or None, "checksum": checksum, "shared": shared}
        wish |= {"force": bool(force), "force_reason": force or None}
        body = {name: each for name, each in wish.items() if each is not None}
        body |= library_verbs.checksums_of(file_checksum)
        with _client() as client:
            body |= library_verbs.address(what, user)
            path = "/v1/templates/import"
            planned_verbs.ask(client, path, body, dry_run=dry_run, plan=plan, wait=not no_wait)
        return
    file = Path(what)
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {what}")
    asked = said | {
        "format": format or _format_of(file),
        "shared": "true" if shared else None,
        "force": "true" if force else None,
        "force_reason": force or None,
        "plan": str(plan) if plan else None,
    }
    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn())
    with _client() as client:
        if dry_run:
            planned_verbs.show(sending.plan(client, file, asked))
            return
        with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
            size = sum(each.stat().st_size for each in sending.files_of(file, asked["format"]))
            bar = progress.add_task(f"upload {file.name}", total=size)
            notes = session_file().with_name("uploads")
            operation = sending.send(
                client, file, asked, lambda sent: progress.update(bar, completed=sent), notes
            )
        _finish(client, operation, wait=not no_wait)


def _format_of(file: Path) -> str:
    """Of a package its name tells; of a disk only who knows it does."""
    if file.suffix.lower() != ".ova":
        raise typer.BadParameter("--format has to be said: raw, qcow2, vmdk, vpc, vhdx or vdi")
    return "ova"


@app.command()
def convert(
    template: str,
    format: Annotated[str | None, typer.Argument()] = None,  # noqa: A002
    *,
    subformat: Annotated[str, typer.Option(help="Such as streamOptimized, or fixed.")] = "",
    family: Annotated[
        str | None, typer.Option("--for", help="Instead of a format: hypervisors to boot it.")
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Convert a template's images; what has been done is not done again."""
    with _client() as client:
        found = _find(client, "templates", template)
        wanted = {"format": format, "subformat": subformat, "family": family}
        started = client.start(f"/v1/templates/{found}/conversions", wanted)
        _finish(client, started, wait=not no_wait)


@app.command("console")
def open_console(vm: str) -> None:
    """Be a VM's serial console: Ctrl-] leaves it."""
    from api.terminal import talk

    with _client() as client:
        found = _find(client, "vms", vm)
        url = client.post(f"/v1/vms/{found}/console", {"kind": "serial"})["url"]
    complaints.print(f"the serial console of {escape(vm)}; Ctrl-] leaves it")
    complaints.print(f"\n{talk(url)}")


@app.command()
def maintain(
    what: Annotated[str, typer.Argument(help="sweep-orphans, verify-library, trim-history, ...")],
    *,
    datacenter: Annotated[str, typer.Option(help="Where.")] = "main",
    dry_run: Annotated[bool, typer.Option(help="sync-dhcp, mend-links: only tell.")] = False,
    no_wait: NoWait = False,
) -> None:
    """Run a maintenance operation now, which runs by itself at times; shows its report."""
    with _client() as client:
        found = _find(client, "datacenters", datacenter)
        asked = {"kind": what.replace("-", "_"), **({"dry_run": True} if dry_run else {})}
        started = client.start(f"/v1/datacenters/{found}/maintenance", asked)
        _finish(client, started, wait=not no_wait)
        _show_report(client.operation(started.id))


@app.command()
def operations(operation: Annotated[UUID | None, typer.Argument()] = None) -> None:
    """List the latest operations; or show one, with its steps and its receipt."""
    from api.client import Operation
    from api.progress import operation_table, outcome, step_table

    with _client() as client:
        if operation is None:
            latest = client.get("/v1/operations", limit=20)
            console.print(operation_table([Operation.model_validate(each) for each in latest]))
            return
        found = client.operation(operation)
        console.print(outcome(found))
        console.print(step_table(found))
        _show_report(found)
        if found.flow_run_url:
            console.print(f"Prefect: {found.flow_run_url}", soft_wrap=True)
        _show_receipt(client.get(f"/v1/operations/{operation}/receipt"))


@app.command()
def events(
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what happens from now on, until Ctrl-C.")
    ] = False,
    kind: Annotated[str | None, typer.Option(help="operation.failed; or operation: all.")] = None,
    severity: Annotated[str | None, typer.Option(help="info, warning or error.")] = None,
    who: Annotated[str | None, typer.Option(help="By whom.")] = None,
    operation: Annotated[UUID | None, typer.Option(help="What became of it.")] = None,
    about: Annotated[UUID | None, typer.Option(help="An object's id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the latest.")] = 20,
) -> None:
    """Show who has changed what, the latest last; or follow what happens."""
    from api.progress import event_line

    asked = {
        "kind": kind,
        "severity": severity,
        "who": who,
        "operation_id": operation,
        "object_id": about,
    }
    wanted = {name: str(value) for name, value in asked.items() if value}
    with _client() as client:
        latest = [] if follow else client.get("/v1/events", limit=limit, **wanted)
        for each in client.events(**wanted) if follow else reversed(latest):
            console.print(event_line(each), soft_wrap=True)


@app.command()
def approve(operation: UUID, *, reason: Reason = None, no_wait: NoWait = False) -> None:
    """Let an operation that waits for approval begin."""
    with _client() as client:
        started = client.start(f"/v1/operations/{operation}/approve", {"reason": reason})
        _finish(client, started, wait=not no_wait)


@app.command()
def reject(operation: UUID, *, reason: Reason = None) -> None:
    """End an operation that waits for approval: nothing is done."""
    from api.progress import outcome

    with _client() as client:
        ended = client.start(f"/v1/operations/{operation}/reject", {"reason": reason})
        console.print(outcome(ended))


@app.command()
def enterprise(
    name: str,
    *,
    approval: Annotated[bool, typer.Option(help="Whether deployments wait for approval.")],
) -> None:
    """Let an enterprise's deployments wait until somebody approves, or begin at once."""
    with _client() as client:
        found = _find(client, "enterprises", name)
        _show([client.patch(f"/v1/enterprises/{found}", {"approval": approval})], "id", "approval")


@app.command()
def token(
    name: str,
    *,
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may: admin, approve. May be repeated.")
    ] = None,
) -> None:
    """Make a token for the API, with no more scopes than one's own; it is shown this once."""
    with _client() as client:
        made = client.post("/v1/api-tokens", {"name": name, "scopes": scope or []})
        console.print(made["token"], soft_wrap=True)


# --- how they do it ----------------------------------------------------------------------------


def _show_receipt(receipt: dict[str, Any]) -> None:
    asked = receipt["questions"]
    odd = [each for each in asked if not each["as_expected"]]
    provisional = ", provisional" if receipt["provisional"] else ""
    console.print(f"receipt: {len(asked)} questions, {len(odd)} answered otherwise{provisional}")
    for each in odd:
        console.print(f"  [red]{escape(each['key'])}[/red]: {escape(each['answer'])}")


infrastructure_verbs.add_to(app, _client, _show)
composition_verbs.add_to(app)
hardware_verbs.add_to(app, _finish)
nic_verbs.add_to(app)
volume_verbs.add_to(app, _finish)
library_verbs.add_to(app, _finish)
template_verbs.add_to(app, _finish)
persistence_verbs.add_to(app)
for noun in (cli_people.users, cli_people.roles, cli_people.tokens, cli_people.enterprises):
    app.add_typer(noun)
people = (cli_people.login, cli_people.logout, cli_people.whoami)
for verb in (*planned_verbs.VERBS, *people, *vm_verbs.VERBS):
    app.command()(verb)

if __name__ == "__main__":
    app()
