"""People on the command line: logging in; users, roles, tokens and enterprises.

Passwords are asked for, and never an argument: those are in everybody's list of processes.
"""

import json
from typing import Annotated, Any
from uuid import UUID

import typer

from api.command_line import (
    Verbs,
    address,
    authority,
    client,
    complaints,
    console,
    find,
    keep_token,
    session_file,
    show,
)

users = typer.Typer(cls=Verbs, name="users", no_args_is_help=True, help="Users.")
roles = typer.Typer(cls=Verbs, name="roles", no_args_is_help=True, help="Roles.")
tokens = typer.Typer(cls=Verbs, name="tokens", no_args_is_help=True, help="API tokens.")
enterprises = typer.Typer(cls=Verbs, name="enterprises", no_args_is_help=True, help="Enterprises.")
_USER = ("id", "name", "full_name", "email", "active", "virtual_datacenters")
_ROLE = ("id", "name", "blocked", "privileges")
_TOKEN = ("id", "name", "scopes", "read_only", "expires_at", "last_used_at", "revoked_at")
Enterprise = Annotated[str | None, typer.Option(help="Of which enterprise.")]
_Within = Annotated[
    list[str] | None,
    typer.Option("--vdc", help="Only this virtual datacenter. May be repeated."),
]


# --- coming and going --------------------------------------------------------------------------


def login(
    user: Annotated[str, typer.Option(prompt=True, help="Your name.")],
    *,
    enterprise: Enterprise = None,
) -> None:
    """Log in: asks for your password, and keeps a session's token for this user."""
    from api.client import Client

    password = typer.prompt("Password", hide_input=True)
    said = {"enterprise": enterprise, "name": user, "password": password}
    with Client(address(), "none", ca=authority()) as asked:
        made = asked.post("/v1/sessions", said)
    keep_token(json.dumps({"url": address(), "token": made["token"]}), session_file())
    console.print(f"logged in until {made['expires_at']}")


def logout() -> None:
    """End your session."""
    kept = session_file()
    try:
        with client() as asked:
            asked.delete("/v1/sessions/current")
    finally:
        kept.unlink(missing_ok=True)


def whoami() -> None:
    """Show who you are, and what you may."""
    with client() as asked:
        told = asked.get("/v1/me")
    show([told], "enterprise", "name", "role", "scopes", "virtual_datacenters")
    console.print(", ".join(told["privileges"]))


# --- users -------------------------------------------------------------------------------------


@users.command("list")
def list_users(*, enterprise: Enterprise = None) -> None:
    """List the users of an enterprise."""
    with client() as asked:
        where = {"enterprise_id": find(asked, "enterprises", enterprise)} if enterprise else {}
        show(asked.all("/v1/users", **where), *_USER)


@users.command("add")
def add_user(
    name: str,
    *,
    role: Annotated[str, typer.Option(help="CLOUD_ADMIN, ENTERPRISE_ADMIN, USER, ...")] = "USER",
    enterprise: Enterprise = None,
    full_name: str = "",
    email: str = "",
    vdc: _Within = None,
) -> None:
    """Make a user; asks for his password."""
    password = _new_password()
    with client() as asked:
        within = [find(asked, "virtual-datacenters", each) for each in vdc or []]
        body = {
            "name": name,
            "password": password,
            "role": role,
            "enterprise": enterprise,
            "full_name": full_name,
            "email": email,
            "virtual_datacenters": within,
        }
        show([asked.post("/v1/users", body)], *_USER)


@users.command("change")
def change_user(
    name: str,
    *,
    role: str | None = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive")] = None,
    password: Annotated[bool, typer.Option("--password", help="Asks for a new one.")] = False,
) -> None:
    """Give a user another role or password, or let him in no more."""
    wanted = {"role": role, "active": active, "password": _new_password() if password else None}
    with client() as asked:
        found = find(asked, "users", name)
        body = {field: value for field, value in wanted.items() if value is not None}
        show([asked.patch(f"/v1/users/{found}", body)], *_USER)


@users.command("delete")
def delete_user(name: str) -> None:
    """Delete a user, with his tokens."""
    with client() as asked:
        asked.delete(f"/v1/users/{find(asked, 'users', name)}")


# --- roles, tokens, enterprises ------------------------------------------------------------------


@roles.command("list")
def list_roles() -> None:
    """List the stock roles, and your enterprise's."""
    with client() as asked:
        show(asked.all("/v1/roles"), *_ROLE)


@roles.command("add")
def add_role(name: str, privilege: list[str]) -> None:
    """Make a role of privileges that you have: see `whoami`."""
    with client() as asked:
        show([asked.post("/v1/roles", {"name": name, "privileges": privilege})], *_ROLE)


@roles.command("delete")
def delete_role(name: str) -> None:
    """Delete a role that no user has."""
    with client() as asked:
        asked.delete(f"/v1/roles/{find(asked, 'roles', name)}")


@tokens.command("list")
def list_tokens() -> None:
    """List your tokens, and, if you manage users, everybody's."""
    with client() as asked:
        show(asked.all("/v1/api-tokens"), *_TOKEN)


@tokens.command("revoke")
def revoke_token(token: UUID) -> None:
    """Let a token open nothing from now on."""
    with client() as asked:
        asked.delete(f"/v1/api-tokens/{token}")


@enterprises.command("list")
def list_enterprises() -> None:
    """List your enterprise, or all of them."""
    with client() as asked:
        show(asked.all("/v1/enterprises"), "id", "name", "approval")


@enterprises.command("add")
def add_enterprise(name: str) -> None:
    """Make an enterprise; it has no users yet."""
    with client() as asked:
        show([asked.post("/v1/enterprises", {"name": name})], "id", "name", "approval")


@enterprises.command("delete")
def delete_enterprise(name: str) -> None:
    """Delete an enterprise that has nothing any more."""
    with client() as asked:
        asked.delete(f"/v1/enterprises/{find(asked, 'enterprises', name)}")


def _new_password() -> Any:
    complaints.print("[dim]ten characters or more[/dim]")
    return typer.prompt("Password", hide_input=True, confirmation_prompt=True)
