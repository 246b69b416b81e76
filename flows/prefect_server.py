"""`python -m flows.prefect_server PORT`: the embedded Prefect server, safe to use on SQLite."""

import sys

import uvicorn
from prefect.server.api.server import create_app

from flows.prefect_private import take_lock_at_begin

if __name__ == "__main__":
    take_lock_at_begin()
    uvicorn.run(
        create_app(final=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning"
    )
