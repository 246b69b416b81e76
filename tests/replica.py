"""`python -m tests.replica PORT`: a replica of the API that carries out what it accepts."""

import sys
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from adapters.database.operations import Operation
from api.app import create_app
from api.dependencies import sender
from flows.catalog import FLOWS

AT_ONCE = 16


def main(port: int) -> None:
    runners = ThreadPoolExecutor(AT_ONCE)

    def send(operation: Operation) -> None:
        runners.submit(FLOWS[operation.kind], operation.id)

    app = create_app()
    app.dependency_overrides[sender] = lambda: send
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
