"""`cloudloom hosts list`, `racks add`, ...: the same verbs for all of the infrastructure.

A host's password is asked for, and never an argument: those are in everybody's list of processes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.command_line import finish

if TYPE_CHECKING:
    from api.client import Client

# What it is called in the API, and what a list shows of it.
_NOUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "datacenters": ("datacenters", ("id", "name", "repository", "repository_share", "relays")),
    "virtual-datacenters": ("virtual-datacenters", ("id", "name", "datacenter_id", "family")),
    "racks": ("racks", ("id", "name", "vlan_min", "vlan_max", "vlans_avoided", "vlans_usable")),
    "hosts": (
        "hosts",
        (
            *("id", "name", "family", "cpu", "cpu_reserved", "ram_mib", "ram_reserved_mib"),
            *("maintenance", "reserved_for_id"),
        ),
    ),
    "networks": ("networks", ("id", "name", "kind", "tag", "range", "gateway", "addresses")),
    "addresses": ("addresses", ("id", "address", "state", "mac", "vm_id")),
    "dhcp-servers": ("dhcp-servers", ("id", "name", "kind", "address")),
    "devices": ("storage-devices", ("id", "name", "technology", "host", "port")),
    "pools": ("storage-pools", ("id", "name", "tier", "total_mib")),
    "tiers": ("tiers", ("id", "name", "description", "enabled")),
    "rules": (
        "allocation-rules",
        (
            *("id", "kind", "datacenter_id", "rack_id", "host_id", "cpu_percent", "ram_percent"),
            *("policy", "enterprise_id", "other_enterprise_id"),
        ),
    ),
}

_ASKED_AS_SOMEBODY = ("hosts", "repositories", "dhcp-servers")
_OPERATIONS = ("networks",)  # that come and go by one

Connect = Callable[[], AbstractContextManager["Client"]]
Show = Callable[..., None]
Fields = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Values as in YAML.")
]


def add_to(app: typer.Typer, connect: Connect, show: Show) -> None:
    """Give the command line these nouns."""
    for noun, (route, columns) in _NOUNS.items():
        app.add_typer(verbs_of(noun, f"/v1/{route}", columns, connect, show), name=noun)
    app.add_typer(_datastores(connect, show), name="datastores")


def verbs_of(
    noun: str, path: str, columns: tuple[str, ...], connect: Connect, show: Show
) -> typer.Typer:
    """The verbs that every noun has."""
    verbs = typer.Typer(help=f"List, show, add, change and remove {noun}.", no_args_is_help=True)

    def told(thing: dict[str, Any]) -> None:
        show([{"field": name, "value": value} for name, value in thing.items()], "field", "value")

    @verbs.command("list", help=f"List {noun}; only those with such fields, as name=NAME.")
    def list_(fields: Fields = None) -> None:
        with connect() as client:
            show(client.all(path, **_texts(fields)), *columns)

    @verbs.command("show", help="Show one, by its name or id.")
    def show_(which: str) -> None:
        with connect() as client:
            told(_one(client, path, which))

    @verbs.command("add", help="Add one: its fields are the API's, as name=NAME.")
    def add(fields: Fields = None) -> None:
        with connect() as client:
            body = _with_password(noun, values(fields))
            for made in _ask(client, noun, "POST", path, body):
                told(made)

    @verbs.command("set", help="Change one's fields; with nothing behind the `=`, to nothing.")
    def set_(which: str, fields: Fields = None) -> None:
        with connect() as client:
            found = _one(client, path, which)
            said = _with_password(noun, values(fields))
            told(client.patch(f"{path}/{found['id']}", said))

    @verbs.command("delete", help="Remove one that nothing uses.")
    def delete(which: str) -> None:
        with connect() as client:
            one = f"{path}/{_one(client, path, which)['id']}"
            _ask(client, noun, "DELETE", one)

    if noun == "hosts":

        @verbs.command("refresh", help="Ask a host again what it has.")
        def refresh(which: str) -> None:
            with connect() as client:
                told(client.post(f"{path}/{_one(client, path, which)['id']}/refresh"))

    return verbs


def _ask(client: "Client", noun: str, method: str, path: str, body: Any = None) -> list[Any]:
    """Have it made, or removed; what there is to show, unless an operation has shown itself."""
    if noun in _OPERATIONS:
        finish(client, client.start(path, body, method=method), wait=True)
    elif method == "DELETE":
        client.delete(path)
    else:
        return [client.post(path, body)]
    return []


def _with_password(noun: str, values: dict[str, Any]) -> dict[str, Any]:
    """What is said with `login=USER`, and the password that is asked for."""
    if noun in _ASKED_AS_SOMEBODY and values.get("login"):
        password = typer.prompt("Password", hide_input=True)
        return {**values, "login": {"user": str(values["login"]), "password": password}}
    return values


def _datastores(connect: Connect, show: Show) -> typer.Typer:
    verbs = typer.Typer(help="A host's datastores, by directory or id.", no_args_is_help=True)
    columns = ("id", "directory", "uuid", "tier_id", "enabled")

    def of(client: "Client", host: str) -> tuple[str, list[dict[str, Any]]]:
        found = _one(client, "/v1/hosts", host)
        return f"/v1/hosts/{found['id']}/datastores", found["datastores"]

    def one(client: "Client", host: str, which: str) -> str:
        path, every = of(client, host)
        return f"{path}/{_the_one(every, path, which)['id']}"

    @verbs.command("list", help="List where a host keeps disks.")
    def list_(host: str) -> None:
        with connect() as client:
            show(of(client, host)[1], *columns)

    @verbs.command("add", help="Add one: directory=PATH, its tier; uuid= that of a shared one.")
    def add(host: str, fields: Fields = None) -> None:
        with connect() as client:
            show([client.post(of(client, host)[0], values(fields))], *columns)

    @verbs.command("set", help="Change one's tier, or whether it is enabled.")
    def set_(host: str, which: str, fields: Fields = None) -> None:
        with connect() as client:
            show([client.patch(one(client, host, which), values(fields))], *columns)

    @verbs.command("delete", help="Forget one that no VM has disks in.")
    def delete(host: str, which: str) -> None:
        with connect() as client:
            client.delete(one(client, host, which))

    return verbs


def _one(client: "Client", path: str, which: str) -> dict[str, Any]:
    """The one of this id or name. Raises `Refusal`."""
    return _the_one(client.all(path), path, which)


def _the_one(every: list[dict[str, Any]], path: str, which: str) -> dict[str, Any]:
    from api.client import Refusal

    names = ("id", "name", "directory", "address")
    found = [each for each in every if which in {each.get(name) for name in names}]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(each["id"] for each in found)
        text = f"{len(found)} are called {which}; say which by id: {ids}"
        raise Refusal({"code": "ambiguous", "detail": text})
    raise Refusal({"code": "not-found", "detail": f"there is no {which} at {path}"})


def _texts(fields: list[str] | None) -> dict[str, str]:
    texts = dict(each.partition("=")[::2] for each in fields or [])
    if bare := [each for each in fields or [] if "=" not in each]:
        raise typer.BadParameter(f"{bare[0]} is not FIELD=VALUE")
    return texts


def values(fields: list[str] | None) -> dict[str, Any]:
    """What FIELD=VALUE arguments say, each value as YAML has it."""
    import yaml

    try:
        return {name: yaml.safe_load(text) for name, text in _texts(fields).items()}
    except yaml.YAMLError as error:
        raise typer.BadParameter(str(error)) from error
