"""`cloudloom attach-nic`, `detach-nic`, `nics`: the networks that a VM is in."""

from typing import Annotated

import typer

from api.command_line import NoWait, client, find, show
from api.planned_verbs import DryRun, Plan, ask


def add_to(app: typer.Typer) -> None:
    """Give the command line these verbs."""

    @app.command("attach-nic")
    def attach_nic(
        vm: str,
        network: str,
        *,
        address: Annotated[str | None, typer.Option(help="One of its; else the next.")] = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Attach a NIC in NETWORK to a VM; to one that is on, where its host can."""
        with client() as api:
            path = f"/v1/vms/{find(api, 'vms', vm)}/nics"
            body = {"network": network, "address": address}
            ask(api, path, body, dry_run=dry_run, plan=plan, wait=not no_wait)

    @app.command("detach-nic")
    def detach_nic(
        vm: str,
        nic: Annotated[str, typer.Argument(help="Its id, which `nics` shows.")],
        *,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Detach a NIC of a VM; a guest that is on has to release it. Its address goes."""
        with client() as api:
            path = f"/v1/vms/{find(api, 'vms', vm)}/nics/{nic}"
            how = "DELETE"
            ask(api, path, dry_run=dry_run, plan=plan, wait=not no_wait, method=how)

    @app.command()
    def nics(vm: str) -> None:
        """List a VM's NICs, with their addresses."""
        with client() as api:
            found = api.get(f"/v1/vms/{find(api, 'vms', vm)}")["nics"]
            show(found, "id", "position", "mac", "address", "is_default", "model")
