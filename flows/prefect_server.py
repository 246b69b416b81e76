"""`python -m flows.prefect_server PORT`: the embedded Prefect server, safe to use on SQLite.

Its write transactions begin DEFERRED and read first; if somebody wrote in between, SQLite refuses
at once ("database is locked") and clients wait seconds before they retry. Here they begin
IMMEDIATE, so that they wait for the lock instead.
"""

import sys

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration


def take_lock_at_begin() -> None:
    """Let every transaction of the server on SQLite take the write lock when it begins."""
    begin = AioSqliteConfiguration.begin_transaction
    AioSqliteConfiguration.begin_transaction = (  # type: ignore[method-assign]
        lambda self, session, with_for_update=False: begin(self, session, True)  # noqa: ARG005, FBT003
    )


if __name__ == "__main__":
    take_lock_at_begin()
    uvicorn.run(
        create_app(final=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning"
    )
