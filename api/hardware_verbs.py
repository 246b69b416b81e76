"""`cloudloom resize`, ...: changes of what VMs are made of."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from api.client import Client

Connect = Callable[[], AbstractContextManager["Client"]]
Find = Callable[["Client", str, str], str]
Finish = Callable[..., None]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")]
Force = Annotated[
    str | None, typer.Option(metavar="REASON", help="Pass soft limits, for this reason.")
]


def add_to(app: typer.Typer, connect: Connect, find: Find, finish: Finish) -> None:
    """Give the command line these verbs."""

    @app.command()
    def resize(
        vm: str,
        *,
        cpu: Annotated[int | None, typer.Option(min=1, help="CPUs.")] = None,
        ram_mib: Annotated[int | None, typer.Option(min=1, help="MiB of memory.")] = None,
        force: Force = None,
        no_wait: NoWait = False,
    ) -> None:
        """Give a VM that is off more or less CPUs and memory."""
        wanted = {"cpu": cpu, "ram_mib": ram_mib}
        size = {name: each for name, each in wanted.items() if each is not None}
        with connect() as client:
            body = {**size, "force": bool(force), "force_reason": force or None}
            started = client.start(f"/v1/vms/{find(client, 'vms', vm)}/resize", body)
            finish(client, started, wait=not no_wait)
