"""`cloudloom persist-template`, `capture-volume`, ...: from images to volumes, and back."""

from typing import Annotated, Any
from uuid import UUID

import typer

from api.command_line import Force, NoWait, client, find
from api.planned_verbs import DryRun, Plan, ask

Called = Annotated[str, typer.Argument(help="What the template will be called.")]


def add_to(app: typer.Typer) -> None:
    """Give the command line these verbs."""

    @app.command("persist-template")
    def persist_template(
        template: str,
        name: Annotated[str, typer.Argument(help="What it and its volume will be called.")],
        *,
        within: Annotated[str, typer.Option("--in", help="The virtual datacenter of its VMs.")],
        tier: Annotated[str, typer.Option(help="Of which storage it is to be.")] = "default",
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Make a persistent template of one: a volume that one VM at a time boots from."""
        what = {"name": name, "virtual_datacenter": within, "tier": tier}
        how = {**what, "force": bool(force), "force_reason": force or None}
        _ask("templates", template, "persist", how, dry_run=dry_run, plan=plan, wait=not no_wait)

    @app.command("capture-template")
    def capture_template(
        template: str,
        name: Called,
        *,
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Make an ordinary template of a persistent one, which stays; its VM, if any, is off."""
        how = {"name": name, "force": bool(force), "force_reason": force or None}
        _ask("templates", template, "capture", how, dry_run=dry_run, plan=plan, wait=not no_wait)

    @app.command("capture-volume")
    def capture_volume(
        volume: str,
        name: Called,
        *,
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Make a template of what a volume holds, which stays; its VM, if any, is off."""
        how = {"name": name, "force": bool(force), "force_reason": force or None}
        _ask("volumes", volume, "capture", how, dry_run=dry_run, plan=plan, wait=not no_wait)


def _ask(
    what: str,
    which: str,
    deed: str,
    how: dict[str, Any],
    *,
    dry_run: bool,
    plan: UUID | None,
    wait: bool,
) -> None:
    with client() as api:
        path = f"/v1/{what}/{find(api, what, which)}/{deed}"
        ask(api, path, how, dry_run=dry_run, plan=plan, wait=wait)
