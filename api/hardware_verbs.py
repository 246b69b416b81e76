"""`cloudloom power`, `reset`, `resize`, ...: what is done to VMs, and to what they are made of."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from api.command_line import Force, NoWait, client, find, show
from api.planned_verbs import DryRun, Plan, ask

Finish = Callable[..., None]


def add_to(app: typer.Typer, finish: Finish) -> None:
    """Give the command line these verbs; `finish` waits for an operation's end."""

    @app.command()
    def power(
        vm: str,
        wanted: Annotated[str, typer.Argument(metavar="on|off|paused")],
        *,
        no_wait: NoWait = False,
    ) -> None:
        """Switch a VM on or off, pause it, or let it go on."""
        with client() as api:
            started = api.start(f"/v1/vms/{find(api, 'vms', vm)}/power", {"power": wanted})
            finish(api, started, wait=not no_wait)

    @app.command()
    def reset(vm: str, *, no_wait: NoWait = False) -> None:
        """Start a VM anew at once: what its guest has not saved is lost."""
        with client() as api:
            started = api.start(f"/v1/vms/{find(api, 'vms', vm)}/reset")
            finish(api, started, wait=not no_wait)

    @app.command()
    def resize(
        vm: str,
        *,
        cpu: Annotated[int | None, typer.Option(min=1, help="CPUs.")] = None,
        ram_mib: Annotated[int | None, typer.Option(min=1, help="MiB of memory.")] = None,
        force: Force = None,
        dry_run: DryRun = False,
        plan: Plan = None,
        no_wait: NoWait = False,
    ) -> None:
        """Give a VM more or less CPUs and memory; while it is on, more, where its host can."""
        wanted = {"cpu": cpu, "ram_mib": ram_mib}
        size = {name: each for name, each in wanted.items() if each is not None}
        with client() as api:
            body = {**size, "force": bool(force), "force_reason": force or None}
            path = f"/v1/vms/{find(api, 'vms', vm)}/resize"
            ask(api, path, body, dry_run=dry_run, plan=plan, wait=not no_wait)

    @app.command("add-disk")
    def add_disk(
        vm: str,
        size_mib: Annotated[int, typer.Argument(min=1, help="MiB that it is to have.")],
        *,
        force: Force = None,
        no_wait: NoWait = False,
    ) -> None:
        """Add an empty disk to a VM that is off; it goes when the VM is undeployed."""
        with client() as api:
            path = f"/v1/vms/{find(api, 'vms', vm)}/disks"
            body = {"size_mib": size_mib, "force": bool(force), "force_reason": force or None}
            finish(api, api.start(path, body), wait=not no_wait)

    @app.command("delete-disk")
    def delete_disk(
        vm: str,
        disk: Annotated[str, typer.Argument(help="Its id, which `disks` shows.")],
        *,
        no_wait: NoWait = False,
    ) -> None:
        """Delete a disk that was added to a VM which is off, with its bytes."""
        with client() as api:
            path = f"/v1/vms/{find(api, 'vms', vm)}/disks/{disk}"
            finish(api, api.start(path, method="DELETE"), wait=not no_wait)

    @app.command()
    def disks(vm: str) -> None:
        """List a VM's disks; those without a `template_disk_id` were added."""
        with client() as api:
            found = api.get(f"/v1/vms/{find(api, 'vms', vm)}")["disks"]
            show(found, "id", "position", "size_mib", "template_disk_id", "volume_id")

    @app.command("boot-order")
    def boot_order(
        vm: str,
        devices: Annotated[list[str], typer.Argument(metavar="disk|network...")],
        *,
        no_wait: NoWait = False,
    ) -> None:
        """Say what a VM that is off starts from: the first of these that works."""
        _set_up(vm, {"boot": devices}, finish, wait=not no_wait)

    @app.command("vnc-password")
    def vnc_password(
        vm: str,
        *,
        none: Annotated[bool, typer.Option("--none", help="It asks for none any more.")] = False,
        no_wait: NoWait = False,
    ) -> None:
        """Have the screen of a VM that is off ask for a password, which is asked for here."""
        password = None if none else typer.prompt("VNC password", hide_input=True)
        _set_up(vm, {"vnc_password": password}, finish, wait=not no_wait)


def _set_up(vm: str, wish: dict[str, Any], finish: Finish, *, wait: bool) -> None:
    """Change a VM at once, or by an operation where it is deployed."""
    with client() as api:
        path = f"/v1/vms/{find(api, 'vms', vm)}"
        if api.get(path)["host"]:
            finish(api, api.start(f"{path}/redefine", wish), wait=wait)
        else:
            changed = api.patch(path, wish)
            show([changed], "id", "name", "boot", "has_vnc_password")
