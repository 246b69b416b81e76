"""`cloudloom limits`: what is used, and of which limits; setting and lifting them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api import command_line

if TYPE_CHECKING:
    from api.client import Client

verbs = typer.Typer(help="Limits: of an enterprise, in a datacenter, of a virtual datacenter.")
_KINDS = {
    "enterprise": "enterprises",
    "datacenter": "datacenters",
    "virtual-datacenter": "virtual-datacenters",
}
Level = Annotated[str, typer.Argument(help=", ".join(_KINDS))]


@verbs.command("usage")
def usage() -> None:
    """List what is used at each level, where it is used or limited; 0 is no limit."""
    with command_line.client() as client:
        rows = [row for each in client.all("/v1/limits/usage") for row in _rows(each)]
        command_line.show(rows, "level", "name", "resource", "used", "soft", "hard")


@verbs.command("set")
def set_(
    level: Level,
    name: str,
    limits: Annotated[
        list[str], typer.Argument(help="Such as cpu=20, or cpu=16:20 (soft:hard); 0 is no limit.")
    ],
) -> None:
    """Limit resources of a level; those that are not named keep their limits."""
    with command_line.client() as client:
        path = _path(client, level, name)
        now = client.get(path)
        wanted = {"soft": now["soft"], "hard": now["hard"]}
        for each in limits:
            resource, _, amounts = each.partition("=")
            soft, _, hard = amounts.rpartition(":")
            wanted["soft"][resource], wanted["hard"][resource] = _number(soft), _number(hard)
        client.put(path, wanted)


@verbs.command("lift")
def lift(level: Level, name: str) -> None:
    """Limit nothing of a level any more."""
    with command_line.client() as client:
        client.delete(_path(client, level, name))


def _path(client: "Client", level: str, name: str) -> str:
    if level not in _KINDS:
        raise typer.BadParameter(f"no level {level}; there are {', '.join(_KINDS)}")
    return f"/v1/limits/{level}/{command_line.find(client, _KINDS[level], name)}"


def _number(text: str) -> int:
    if text and not text.isdecimal():
        raise typer.BadParameter(f"{text} is no number")
    return int(text or 0)


def _rows(usage: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "level": usage["level"],
            "name": usage["name"],
            "resource": resource,
            "used": used,
            "soft": usage["soft"][resource],
            "hard": usage["hard"][resource],
        }
        for resource, used in usage["used"].items()
        if used or usage["soft"][resource] or usage["hard"][resource]
    ]
