"""`cloudloom export`, `packages`, `repositories`: what enters the library, and leaves it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.command_line import Force, NoWait, client, console, find, show
from api.hardware_verbs import Finish
from api.infrastructure_verbs import verbs_of
from api.planned_verbs import DryRun, Plan, ask

FileChecksums = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SHA256:...", help="Of a file that a descriptor names there. May be repeated."
    ),
]


def checksums_of(said: list[str] | None) -> dict[str, Any]:
    """Checksums of files, by name, as the API is told them."""
    if not said:
        return {}
    parts = [each.rpartition("=") for each in said]
    if any(not name for name, _, _ in parts):
        raise typer.BadParameter("--file-checksum is NAME=sha256:... or NAME=sha512:...")
    return {"checksums": {name: checksum for name, _, checksum in parts}}


def is_address(what: str) -> bool:
    """Whether this is no file, but where one is."""
    return what.lower().startswith(("http://", "https://"))


def address(url: str, user: str = "") -> dict[str, Any]:
    """An address as the API is told it; a password is asked for, and shown nowhere."""
    if not user:
        return {"url": url}
    password = typer.prompt(f"Password of {user}", hide_input=True)
    return {"url": url, "login": {"user": user, "password": password}}


def repository_verbs(finish: Finish) -> typer.Typer:
    """Remote repositories: what they list, and what of it is installed."""
    columns = ("id", "name", "url", "refreshed_at")
    path = "/v1/template-repositories"
    verbs = verbs_of("repositories", path, columns, client, show)

    @verbs.command("refresh", help="Read its index again.")
    def refresh(which: str, *, no_wait: NoWait = False) -> None:
        with client() as api:
            found = find(api, "template-repositories", which)
            finish(api, api.start(f"{path}/{found}/refresh"), wait=not no_wait)

    @verbs.command("packages", help="List what it has, as of its last refresh.")
    def packages(
        which: str,
        *,
        category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    ) -> None:
        with client() as api:
            found = find(api, "template-repositories", which)
            only = {"category": category} if category else {}
            rows = api.all(f"{path}/{found}/packages", **only)
            show(rows, "id", "name", "version", "vendor", "category", "size_mib")

    @verbs.command("install", help="Download one of its packages: it becomes a template.")
    def install(
        which: str,
        package: Annotated[str, typer.Argument(help="A name, or an id.")],
        *,
        name: Annotated[
            str | None, typer.Option(help="The template's; else the package's.")
        ] = None,
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        wish = {"name": name, "force": bool(force), "force_reason": force or None}
        with client() as api:
            found = f"template-repositories/{find(api, 'template-repositories', which)}/packages"
            where = f"/v1/{found}/{find(api, found, package)}/install"
            ask(api, where, wish, dry_run=dry_run, plan=plan, wait=not no_wait)

    return verbs


def add_to(app: typer.Typer, finish: Finish) -> None:
    """Give the command line these verbs; `finish` waits for an operation's end."""
    app.add_typer(repository_verbs(finish), name="repositories")

    @app.command()
    def export(
        what: Annotated[str, typer.Argument(help="A template, or a VM that is off.")],
        file: Annotated[
            Path | None, typer.Argument(help="Where the OVA is to be; else it waits.")
        ] = None,
        *,
        vm: Annotated[bool, typer.Option("--vm", help="It is a VM.")] = False,
        no_wait: NoWait = False,
    ) -> None:
        """Make an OVA of a template, or of a VM; with a file, fetch it."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        if file is not None and (no_wait or file.exists()):
            why = "cannot be fetched without waiting" if no_wait else "is there already"
            raise typer.BadParameter(f"{file} {why}")
        kind = "vms" if vm else "templates"
        with client() as api:
            started = api.start(f"/v1/{kind}/{find(api, kind, what)}/export")
            finish(api, started, wait=not no_wait)
            if file is None:
                return
            size = api.get(f"/v1/packages/{started.id}")["size_bytes"]
            columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn())
            with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
                bar = progress.add_task(f"download {file.name}", total=size)
                api.download(started.id, file, lambda count: progress.advance(bar, count))

    @app.command()
    def rescan(
        *,
        datacenter: Annotated[str, typer.Option(help="Whose repository.")] = "main",
        no_wait: NoWait = False,
    ) -> None:
        """Import what was put into the enterprise's folder of a repository's inbox.

        Shows what is being imported, and why the rest is left there.
        """
        with client() as api:
            started = api.start(f"/v1/datacenters/{find(api, 'datacenters', datacenter)}/rescan")
            finish(api, started, wait=not no_wait)
            if report := api.operation(started.id).report:
                show([each.model_dump() for each in report], "name", "state", "detail")

    @app.command()
    def adapt(template: str, name: str, *, no_wait: NoWait = False) -> None:
        """Make a template, called NAME, whose guest has drivers for KVM, by virt-v2v."""
        with client() as api:
            path = f"/v1/templates/{find(api, 'templates', template)}/adapt"
            finish(api, api.start(path, {"name": name}), wait=not no_wait)

    @app.command()
    def packages() -> None:
        """List the packages that wait to be fetched."""
        with client() as api:
            show(api.all("/v1/packages"), "id", "name", "size_bytes", "created_at")
