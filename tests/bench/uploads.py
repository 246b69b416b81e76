"""A row about uploads: `upload`, beside `curl` into nginx, on the same file system."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.bench.measuring import Row, in_turn, row, timed

_SIZE_MIB = 1024
_RUNS = 5
_NGINX = """
user root;
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/arriving;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    location / {{ dav_methods PUT; }}
  }}
}}
"""


def bench_upload(folder: Path) -> Iterator[Row]:
    """Send a file: by the command line's client, and by curl, each beside curl into nginx."""
    from api import tokens
    from api.client import Client
    from api.sending import send
    from deployments.lab.process import Process, free_port, wait_for
    from flows import prefect_env
    from flows.cloud import cloud
    from tests import worlds

    image = folder / "disk.raw"
    with image.open("wb") as file:
        for _ in range(_SIZE_MIB):
            file.write(os.urandom(2**20))
    nowhere = f"http://127.0.0.1:{free_port()}/api"  # nobody carries out what is accepted
    worlds.build(folder / "home", prefect_url=nowhere)
    ours, theirs = free_port(), free_port()
    (folder / "nginx" / "files").mkdir(parents=True)
    told = folder / "nginx" / "nginx.conf"
    told.write_text(_NGINX.format(folder=folder / "nginx", port=theirs))
    env = {**os.environ, **prefect_env.environment(cloud.settings), **cloud.settings.variables()}
    api, nginx = Process(folder, "api"), Process(folder, "nginx")
    served = ["uvicorn", "--factory", "api.app:served", "--log-level", "warning"]
    token = tokens.first_token(cloud.database) or ""
    incoming = folder / "home" / "repository" / "incoming"
    names = iter(range(10_000))
    wishes: dict[str, Any] = {"format": "raw", "datacenter": "main"}

    def clean() -> None:
        for each in incoming.iterdir():
            each.unlink()
        (folder / "nginx" / "files" / "disk").unlink(missing_ok=True)
        os.sync()  # nobody is kept waiting for what the one before has left to be written

    def by_client() -> float:
        clean()
        with Client(f"http://127.0.0.1:{ours}", token) as client:
            wish = {**wishes, "name": f"t{next(names)}"}
            return timed(lambda: send(client, image, wish))

    def by_curl() -> float:
        clean()
        asked = httpx.post(
            f"http://127.0.0.1:{ours}/v1/templates",
            params={**wishes, "name": f"t{next(names)}"},
            headers={"Authorization": f"Bearer {token}"},
        )
        where = f"http://127.0.0.1:{ours}{asked.headers['location']}"
        return timed(lambda: _curl(image, where))

    def into_nginx() -> float:
        clean()
        return timed(lambda: _curl(image, f"http://127.0.0.1:{theirs}/disk"))

    try:
        api.spawn(sys.executable, "-m", *served, "--port", str(ours), env=env)
        nginx.spawn("nginx", "-p", folder / "nginx", "-c", told)
        for port in (ours, theirs):
            wait_for(lambda port=port: _answers(port), 120, f"port {port}", every_s=0.1)
        client, curl, floor = in_turn(_RUNS, by_client, by_curl, into_nginx)
    finally:
        api.stop()
        nginx.stop()
    for what, mine in (("cloudloom import", client), ("curl", curl)):
        yield row("upload", _RUNS, mine, floor, "curl into nginx", filter=what, size=_SIZE_MIB)


def _curl(image: Path, where: str) -> None:
    subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", "-T", image, where], check=True)


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=1)
    except httpx.TransportError:
        return False
    return True
