"""VMs and volumes on the command line: listing them, and what is changed of one at once."""

from typing import Annotated

import typer

from api import command_line

Labelled = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Only with this label. May be repeated."),
]


def vms(*, label: Labelled = None) -> None:
    """List the VMs."""
    fields = ("id", "name", "state", "cpu", "ram_mib", "protected")
    with command_line.client() as client:
        command_line.show(client.all("/v1/vms", label=label or []), *fields)


def volumes(*, label: Labelled = None) -> None:
    """List the volumes."""
    fields = ("id", "name", "size_mib", "state", "vm_id")
    with command_line.client() as client:
        command_line.show(client.all("/v1/volumes", label=label or []), *fields)


def protect(vm: str) -> None:
    """Have what destroys a VM refused: undeploying, deleting and resetting it."""
    _change(vm, protected=True)


def unprotect(vm: str) -> None:
    """Let a VM be undeployed, deleted and reset again."""
    _change(vm, protected=False)


def user_data(
    vm: str,
    file: Annotated[
        typer.FileText | None, typer.Argument(help="What to do, such as cloud-config; -: stdin.")
    ] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Tell it nothing.")] = False,
) -> None:
    """Say what the guest of a VM that is not deployed is told when it boots first."""
    if (file is None) is not remove:
        raise typer.BadParameter("either a file, or --remove")
    with command_line.client() as client:
        found = command_line.find(client, "vms", vm)
        changed = client.patch(f"/v1/vms/{found}", {"user_data": file.read() if file else None})
        command_line.show([changed], "id", "name", "has_user_data")


def _change(vm: str, **values: bool) -> None:
    with command_line.client() as client:
        found = command_line.find(client, "vms", vm)
        changed = client.patch(f"/v1/vms/{found}", values)
        command_line.show([changed], "id", "name", *values)


VERBS = (vms, volumes, protect, unprotect, user_data)
