"""What can be seen before it is done: `--dry-run` shows a plan, `--plan` has it carried out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from api import command_line
from api.command_line import Force, NoWait, console

if TYPE_CHECKING:
    from api.client import Client

DryRun = Annotated[bool, typer.Option("--dry-run", help="Do nothing, but show what it would do.")]
Plan = Annotated[
    UUID | None, typer.Option(help="Do what this plan has shown, or refuse if that has changed.")
]
Vm = Annotated[bool, typer.Option("--vm", help="It is one VM, not an appliance.")]


def deploy(
    what: Annotated[
        str, typer.Argument(help="A blueprint's file, or an appliance's name; or a VM's.")
    ],
    *,
    vm: Vm = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show each VM and step.")] = False,
    on_failure: Annotated[
        str | None,
        typer.Option(help="When a VM fails: undo all, or keep those that came up."),
    ] = None,
    wait_for: Annotated[
        str | None,
        typer.Option(
            help="lease: until each guest has been told its address. nothing: not for that."
        ),
    ] = None,
    force: Force = None,
    dry_run: DryRun = False,
    plan: Plan = None,
    no_wait: NoWait = False,
) -> None:
    """Describe an appliance, and deploy it. Ctrl-C leaves the operation running."""
    how: dict[str, Any] = {"force": bool(force), "force_reason": force or None}
    if on_failure:
        how["on_failure"] = on_failure
    if wait_for:
        how["wait_for"] = wait_for
    with command_line.client() as client:
        if Path(what).is_file():
            text = Path(what).read_text(encoding="utf-8")
            found = client.post_yaml("/v1/appliances", text)["id"]
        else:
            found = command_line.find(client, _noun(vm), what)
        ask(
            client,
            f"/v1/{_noun(vm)}/{found}/deploy",
            how,
            dry_run=dry_run,
            plan=plan,
            wait=watch or not no_wait,
            quiet=not watch,
        )


def undeploy(
    what: Annotated[str, typer.Argument(metavar="APPLIANCE", help="Or a VM.")],
    *,
    vm: Vm = False,
    dry_run: DryRun = False,
    plan: Plan = None,
    no_wait: NoWait = False,
) -> None:
    """Take an appliance off its hosts; its volumes stay."""
    with command_line.client() as client:
        path = f"/v1/{_noun(vm)}/{command_line.find(client, _noun(vm), what)}/undeploy"
        ask(client, path, dry_run=dry_run, plan=plan, wait=not no_wait)


def persist(
    vm: str,
    *,
    volume: Annotated[str | None, typer.Option(help="What the volume will be called.")] = None,
    tier: Annotated[str, typer.Option(help="Of which storage it is to be.")] = "default",
    force: Force = None,
    dry_run: DryRun = False,
    plan: Plan = None,
    no_wait: NoWait = False,
) -> None:
    """Move the boot disk of a VM that is off onto a volume that outlives its deployment."""
    how = {"volume": volume, "tier": tier, "force": bool(force), "force_reason": force or None}
    with command_line.client() as client:
        path = f"/v1/vms/{command_line.find(client, 'vms', vm)}/persist"
        ask(client, path, how, dry_run=dry_run, plan=plan, wait=not no_wait)


def capture(
    vm: str,
    name: Annotated[str, typer.Argument(help="What the template will be called.")],
    *,
    disk: Annotated[
        list[UUID] | None,
        typer.Option(help="A disk or volume of it; else what it boots from. May be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All its disks and volumes.")] = False,
    force: Force = None,
    dry_run: DryRun = False,
    plan: Plan = None,
    no_wait: NoWait = False,
) -> None:
    """Make a template of a deployed VM, on or off, which stays as it is."""
    if every and disk:
        raise typer.BadParameter("either --disk, or --all")
    with command_line.client() as client:
        path = f"/v1/vms/{command_line.find(client, 'vms', vm)}"
        has = client.get(path) if every else {"disks": [], "volumes": []}
        local = [each["id"] for each in has["disks"] if each["volume_id"] is None]
        disks = [*map(str, disk or ()), *local, *(each["id"] for each in has["volumes"])]
        how = {"name": name, "disks": disks, "force": bool(force), "force_reason": force or None}
        started = ask(client, f"{path}/capture", how, dry_run=dry_run, plan=plan, wait=not no_wait)
        if started and not no_wait:
            command_line.show_report(client.operation(started))


VERBS = (deploy, undeploy, persist, capture)


def ask(
    client: "Client",
    path: str,
    body: Any = None,
    *,
    dry_run: bool,
    plan: UUID | None,
    wait: bool,
    quiet: bool = False,
    method: str = "POST",
) -> UUID | None:
    """Have an action done, and answer the operation; or show what it would do."""
    if dry_run:
        show(client.ask(method, f"{path}?dry_run=true", json=body).json())
        return None
    started = client.start(f"{path}?plan={plan}" if plan else path, body, method=method)
    command_line.finish(client, started, wait=wait, quiet=quiet)
    return started.id


def show(plan: dict[str, Any]) -> None:
    """Show a plan: what would be done, where VMs would go, and how limits would stand."""
    from rich.markup import escape

    from api.progress import limits_after, placement_table, planned_table

    what = plan["target"]
    console.print(f"{plan['kind'].replace('_', '-')} {escape(what['name'])}, if it were done now:")
    console.print(planned_table(plan))
    for each in (placement_table(plan), limits_after(plan)):
        if each.row_count:
            console.print(each)
    for each in plan["disks"]:
        becomes = ", ".join(f"{form} on {family}" for family, form in each["becomes"].items())
        size = f"{each['virtual_size_mib']:,} MiB"
        told = f"{escape(each['file'])}: {each['format']}, {size}"
        console.print(f"{told}; {becomes}" if becomes else told)
    if plan["copies"]:
        console.print(f"{plan['bytes_to_copy']:,} bytes to copy or convert")
    if plan["needs_approval"]:
        console.print("it will wait until somebody approves")
    until = plan["valid_until"][:19].replace("T", " ")
    console.print(f"until {until} UTC, the same with --plan {plan['id']} does just that")


def _noun(vm: bool) -> str:  # noqa: FBT001 - an option
    return "vms" if vm else "appliances"
