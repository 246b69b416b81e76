"""VMs on the command line: what is changed of one at once."""

from api import command_line


def protect(vm: str) -> None:
    """Have what destroys a VM refused: undeploying, deleting and resetting it."""
    _change(vm, protected=True)


def unprotect(vm: str) -> None:
    """Let a VM be undeployed, deleted and reset again."""
    _change(vm, protected=False)


def _change(vm: str, **values: bool) -> None:
    with command_line.client() as client:
        found = command_line.find(client, "vms", vm)
        changed = client.patch(f"/v1/vms/{found}", values)
        command_line.show([changed], "id", "name", *values)
