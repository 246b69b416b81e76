"""`cloudloom appliances ...`: what there is, and changing what it is made of."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.command_line import Verbs, client, console, find, show
from api.infrastructure_verbs import values

if TYPE_CHECKING:
    from api.client import Client

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")]
Approval = Annotated[
    bool | None,
    typer.Option("--approval/--no-approval", help="Whether deployments wait for approval."),
]
To = Annotated[str | None, typer.Option(help="Another virtual datacenter.")]
Force = Annotated[
    str | None, typer.Option(metavar="REASON", help="Pass soft limits, for this reason.")
]
_APPLIANCE = ("id", "name", "state", "virtual_datacenter_id", "approval")
_VM = ("id", "name", "state", "cpu", "ram_mib", "depends_on", "leaving")


def add_to(app: typer.Typer) -> None:
    """Give the command line this noun."""
    app.add_typer(_appliances(), name="appliances")


def _appliances() -> typer.Typer:
    verbs = typer.Typer(cls=Verbs, help="Appliances.", no_args_is_help=True)

    @verbs.command("list")
    def list_() -> None:
        """List the appliances."""
        with client() as api:
            show(api.all("/v1/appliances"), *_APPLIANCE)

    @verbs.command("show")
    def show_(appliance: str) -> None:
        """Show an appliance, and its VMs."""
        with client() as api:
            told(api.get(_path(api, "appliances", appliance)))

    @verbs.command("set")
    def set_(
        appliance: str,
        *,
        name: Annotated[str | None, typer.Option(help="Its name from now on.")] = None,
        approval: Approval = None,
        wait_for: Annotated[
            str | None,
            typer.Option(help="Of deployments: lease; nothing; empty: nothing is said."),
        ] = None,
    ) -> None:
        """Change an appliance."""
        wanted: dict[str, Any] = {"name": name, "approval": approval}
        with client() as api:
            change = {key: value for key, value in wanted.items() if value is not None}
            change |= {} if wait_for is None else {"wait_for": wait_for or None}
            told(api.patch(_path(api, "appliances", appliance), change))

    @verbs.command("delete")
    def delete(appliance: str) -> None:
        """Delete an appliance that is not deployed; its volumes stay."""
        with client() as api:
            api.delete(_path(api, "appliances", appliance))

    @verbs.command("copy")
    def copy(appliance: str, name: str, *, to: To = None) -> None:
        """Describe an appliance once more, under another name; no bytes are copied."""
        with client() as api:
            wanted = {"name": name, "virtual_datacenter": to}
            told(api.post(f"{_path(api, 'appliances', appliance)}/copy", wanted))

    @verbs.command("move")
    def move(appliance: str, to: str, *, force: Force = None) -> None:
        """Move an appliance that is not deployed to another virtual datacenter."""
        wanted = {"virtual_datacenter": to, "force": bool(force), "force_reason": force}
        with client() as api:
            told(api.post(f"{_path(api, 'appliances', appliance)}/move", wanted))

    @verbs.command("add-vm")
    def add_vm(
        appliance: str,
        fields: Annotated[
            list[str], typer.Argument(metavar="FIELD=VALUE...", help="As in a blueprint.")
        ],
    ) -> None:
        """Add a VM to an appliance: it comes up when that is deployed again."""
        with client() as api:
            path = _path(api, "appliances", appliance)
            told(api.post(f"{path}/vms", values(fields)))

    @verbs.command("remove-vm")
    def remove_vm(vm: str) -> None:
        """Remove a VM; one that is deployed goes when its appliance is deployed again."""
        with client() as api:
            api.delete(_path(api, "vms", vm))

    @verbs.command("keep-vm")
    def keep_vm(vm: str) -> None:
        """Let a VM stay that was to leave its appliance."""
        with client() as api:
            show([api.post(f"{_path(api, 'vms', vm)}/keep")], *_VM)

    return verbs


def told(appliance: dict[str, Any]) -> None:
    """Show an appliance, and its VMs."""
    show([appliance], *_APPLIANCE)
    console.print()
    show(appliance["vms"], *_VM)


def _path(api: "Client", noun: str, which: str) -> str:
    return f"/v1/{noun}/{find(api, noun, which)}"
