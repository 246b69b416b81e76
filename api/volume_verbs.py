"""`cloudloom create-volume`, `attach`, ...: volumes come, go, grow, and are given to VMs."""

from collections.abc import Callable
from typing import Annotated

import typer

from api.command_line import Force, NoWait, client, find
from api.planned_verbs import DryRun, Plan, ask

Finish = Callable[..., None]


def add_to(app: typer.Typer, finish: Finish) -> None:
    """Give the command line these verbs; `finish` waits for an operation's end."""

    @app.command("create-volume")
    def create_volume(
        name: str,
        size_mib: Annotated[int, typer.Argument(min=1, help="MiB that it is to have.")],
        *,
        within: Annotated[str, typer.Option("--in", help="Its virtual datacenter.")],
        tier: Annotated[str, typer.Option(help="Of the pool that it is carved in.")] = "default",
        force: Force = None,
        no_wait: NoWait = False,
    ) -> None:
        """Carve a volume in the pool with the most room."""
        with client() as api:
            wanted = {"name": name, "size_mib": size_mib, "virtual_datacenter": within}
            how = {"tier": tier, "force": bool(force), "force_reason": force or None}
            finish(api, api.start("/v1/volumes", {**wanted, **how}), wait=not no_wait)

    @app.command("delete-volume")
    def delete_volume(volume: str, *, no_wait: NoWait = False) -> None:
        """Delete a volume that is detached, with its bytes."""
        with client() as api:
            path = f"/v1/volumes/{find(api, 'volumes', volume)}"
            finish(api, api.start(path, method="DELETE"), wait=not no_wait)

    @app.command()
    def attach(volume: str, vm: str, *, no_wait: NoWait = False) -> None:
        """Give a volume to a VM as a disk: at once while it is on, where its host can."""
        _plug("attach", volume, vm, wait=not no_wait)

    @app.command()
    def detach(volume: str, vm: str, *, no_wait: NoWait = False) -> None:
        """Take a volume from a VM; a guest that is on is asked to release it."""
        _plug("detach", volume, vm, wait=not no_wait)

    def _plug(deed: str, volume: str, vm: str, *, wait: bool) -> None:
        with client() as api:
            path = f"/v1/volumes/{find(api, 'volumes', volume)}/{deed}"
            finish(api, api.start(path, {"vm": str(find(api, "vms", vm))}), wait=wait)

    @app.command()
    def grow(
        volume: str,
        size_mib: Annotated[int, typer.Argument(min=1, help="MiB that it is to have.")],
        *,
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Let a volume grow, which is detached or whose VM is off."""
        with client() as api:
            path = f"/v1/volumes/{find(api, 'volumes', volume)}/resize"
            body = {"size_mib": size_mib, "force": bool(force), "force_reason": force or None}
            ask(api, path, body, dry_run=dry_run, plan=plan, wait=not no_wait)
