"""`python -m flows.prefect_server PORT`: the embedded Prefect server, safe to use on SQLite.

On PostgreSQL there may be several, all alike: Redis divides their background work among them.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvicorn
from prefect.server.api.server import create_app
from sqlalchemy import make_url

from adapters.settings import settings
from flows import logs
from flows.prefect_private import take_lock_at_begin

_STARTING = 0x636C6F75646C6F6F  # a number of our own among PostgreSQL's advisory locks


class Server(uvicorn.Server):
    """Starts while no other one of its database does: migrations know nothing of each other."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for its turn, then start."""
        async with alone(os.environ["PREFECT_API_DATABASE_CONNECTION_URL"]):
            await super().startup(sockets)


@asynccontextmanager
async def alone(database: str) -> AsyncIterator[None]:
    """Hold what only one server of a PostgreSQL can; SQLite is one server's own anyway."""
    url = make_url(database)
    if url.get_backend_name() != "postgresql":
        yield
        return
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _STARTING)
        yield
    finally:
        await connection.close()


if __name__ == "__main__":
    take_lock_at_begin()
    app = create_app(final=True)
    logs.install(settings())
    config = uvicorn.Config(
        app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", log_config=None
    )
    Server(config).run()
