"""`cloudloom labels`: what is written on things."""

from typing import TYPE_CHECKING, Annotated

import typer

from api import command_line

if TYPE_CHECKING:
    from api.client import Client

verbs = typer.Typer(cls=command_line.Verbs, no_args_is_help=True, help="Labels: on anything.")
# What has labels, as the API calls it.
KINDS = (
    *("enterprises", "users", "roles", "datacenters", "racks", "hosts", "storage-devices"),
    *("storage-pools", "tiers", "templates", "virtual-datacenters", "appliances", "vms"),
    *("volumes", "template-repositories", "networks", "dhcp-servers"),
)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise typer.BadParameter(f"one of {', '.join(KINDS)}")
    return kind


Kind = Annotated[str, typer.Argument(callback=_known, help="vms, volumes, hosts, ...")]
Which = Annotated[str, typer.Argument(help="A name, or an id.")]


@verbs.command("show")
def show(kind: Kind, which: Which) -> None:
    """Show a thing's labels."""
    with command_line.client() as client:
        _tell(client.get(_path(client, kind, which)))


@verbs.command("set")
def set_(
    kind: Kind,
    which: Which,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...")],
) -> None:
    """Write labels on a thing; its others stay."""
    if bare := [each for each in labels if "=" not in each]:
        raise typer.BadParameter(f"{bare[0]} is not KEY=VALUE")
    with command_line.client() as client:
        path = _path(client, kind, which)
        said = dict(each.partition("=")[::2] for each in labels)
        _tell(client.put(path, {**client.get(path), **said}))


@verbs.command("remove")
def remove(kind: Kind, which: Which, keys: list[str]) -> None:
    """Take labels off a thing, by their keys."""
    with command_line.client() as client:
        path = _path(client, kind, which)
        kept = {key: value for key, value in client.get(path).items() if key not in keys}
        _tell(client.put(path, kept))


def _path(client: "Client", kind: str, which: str) -> str:
    return f"/v1/{kind}/{command_line.find(client, kind, which)}/labels"


def _tell(labels: dict[str, str]) -> None:
    rows = [{"key": key, "value": value} for key, value in labels.items()]
    command_line.show(rows, "key", "value")
