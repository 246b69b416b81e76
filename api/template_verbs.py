"""`cloudloom templates ...`: what the library has, in lists or as a tree; what is said of it."""

from base64 import b64encode
from pathlib import Path
from typing import Annotated, Any

import typer

from api.command_line import NoWait, Verbs, client, console, find, show
from api.hardware_verbs import Finish

Category = Annotated[str | None, typer.Option(help="What it is filed under.")]
Text = Annotated[str | None, typer.Option(help="What is said of it.")]
Version = Annotated[str | None, typer.Option(help="The version of what is in it.")]
Licence = Annotated[str | None, typer.Option(help="The licence of what is in it.")]
_TEMPLATE = ("id", "name", "state", "category", "shared", "own", "cpu", "ram_mib")
_SAID = ("description", "version", "licence")


def add_to(app: typer.Typer, finish: Finish) -> None:
    """Give the command line this noun; `finish` waits for an operation's end."""
    verbs = typer.Typer(cls=Verbs, help="Templates.", no_args_is_help=True)
    app.add_typer(verbs, name="templates")

    @verbs.command("list")
    def list_(*, category: Category = None) -> None:
        """List the templates: the enterprise's, and those that others share."""
        with client() as api:
            wanted = {"category": category} if category else {}
            show(api.all("/v1/templates", **wanted), *_TEMPLATE)

    @verbs.command("tree")
    def tree() -> None:
        """Show the templates by their categories, each with its instances below it."""
        with client() as api:
            _draw(list(api.all("/v1/templates")))

    @verbs.command("show")
    def show_(template: str) -> None:
        """Show a template, and its disks."""
        with client() as api:
            found = api.get(_path(api, template))
        show([found], *_TEMPLATE)
        if said := {name: text for name, text in (found["about"] or {}).items() if text}:
            show([said], *said)
        show(found["disks"], "position", "format", "virtual_size_mib", "size_bytes", "digest")

    @verbs.command("set")
    def set_(
        template: str,
        *,
        name: Annotated[str | None, typer.Option(help="Its name from now on.")] = None,
        category: Category = None,
        icon: Annotated[
            Path | None, typer.Option(exists=True, dir_okay=False, help="A small PNG.")
        ] = None,
        no_icon: Annotated[bool, typer.Option("--no-icon", help="It has no picture.")] = False,
        shared: Annotated[
            bool | None,
            typer.Option("--shared/--not-shared", help="Whether every enterprise sees it."),
        ] = None,
        description: Text = None,
        version: Version = None,
        licence: Licence = None,
        cpu: Annotated[int | None, typer.Option(help="The CPUs of VMs to come.")] = None,
        ram_mib: Annotated[int | None, typer.Option(help="Their memory.")] = None,
        firmware: Annotated[str | None, typer.Option(help="bios or efi.")] = None,
        bus: Annotated[str | None, typer.Option(help="Of their disks and volumes.")] = None,
    ) -> None:
        """Change what is said of a template; an empty category is none."""
        about = {"description": description, "version": version, "licence": licence}
        wanted: dict[str, Any] = {
            "name": name,
            "category": category,
            "shared": shared,
            "cpu": cpu,
            "ram_mib": ram_mib,
            "firmware": firmware,
            "bus": bus,
            "about": _given(about) or None,
            "icon": b64encode(icon.read_bytes()).decode() if icon else None,
        }
        change = _given(wanted)
        if no_icon:
            change["icon"] = None
        if category == "":
            change["category"] = None
        with client() as api:
            show([api.patch(_path(api, template), change)], *_TEMPLATE)

    @verbs.command("delete")
    def delete(template: str, *, no_wait: NoWait = False) -> None:
        """Delete a template that nothing is made of."""
        with client() as api:
            begun = api.start(_path(api, template), method="DELETE")
            finish(api, begun, wait=not no_wait)


def _draw(templates: list[Any]) -> None:
    from rich.markup import escape
    from rich.tree import Tree

    below: dict[str | None, list[Any]] = {}
    for each in templates:
        below.setdefault(each["master_id"], []).append(each)

    def grow(branch: Tree, master: str) -> None:
        for each in below.get(master, ()):
            grow(branch.add(line(each)), each["id"])

    def line(template: Any) -> str:
        version = (template["about"] or {}).get("version", "")
        marks = [
            version,
            template["state"] if template["state"] != "AVAILABLE" else "",
            "shared" if template["shared"] else "",
            "" if template["own"] else "another's",
        ]
        return escape(" ".join([template["name"], *(f"({x})" for x in marks if x)]))

    root = Tree("templates")
    for category in sorted({each["category"] or "" for each in below.get(None, ())}):
        branch = root.add(f"[bold]{escape(category)}[/bold]") if category else root
        for each in below.get(None, ()):
            if (each["category"] or "") == category:
                grow(branch.add(line(each)), each["id"])
    console.print(root)


def _given(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _path(api: Any, which: str) -> str:
    return f"/v1/templates/{find(api, 'templates', which)}"
