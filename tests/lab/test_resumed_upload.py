"""A large upload survives what networks and servers do, and no process grows by it."""

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from adapters.types import TemplateState
from api import tokens
from api.client import Client
from api.sending import send
from deployments.lab.process import free_port, wait_for
from flows import prefect_env
from flows.catalog import FLOWS
from flows.cloud import cloud
from tests import worlds
from tests.cutting import CuttingProxy

pytestmark = pytest.mark.lab
MIB = 2**20
GROWTH_MIB = 24  # 9 to 12 were measured, whatever the size: modules, connections, buffers


@dataclass
class Server:
    """The API in a process of its own, ended the hard way."""

    port: int = field(default_factory=free_port)
    peaks_mib: list[float] = field(default_factory=list)  # each process's, above where it began
    process: subprocess.Popen[bytes] | None = None
    began_mib: float = 0.0

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app"]
        ours = prefect_env.environment(cloud.settings) | cloud.settings.variables()
        self.process = subprocess.Popen(
            [*command, "--log-level", "warning", "--port", str(self.port)],
            env={**os.environ, **ours},
        )
        wait_for(self._answers, 120, "the API", every_s=0.1)
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # its peak is what it has
        self.began_mib = self._peak_mib()

    def kill(self) -> None:
        if self.process:
            self.peaks_mib.append(self._peak_mib() - self.began_mib)
            self.process.kill()
            self.process.wait()
            self.process = None

    def _peak_mib(self) -> float:
        assert self.process
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health/live", timeout=1).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    away = {"prefect_url": f"http://127.0.0.1:{free_port()}/api", "image_tool": "qemu-img"}
    worlds.build(tmp_path / "home", **away)
    made = Server()
    made.start()
    yield made
    made.kill()
    cloud.database.engine.dispose()


def disk(path: Path, size_mib: int) -> str:
    """A sparse raw disk with something to be found all over it; answers its digest."""
    some = random.Random(size_mib)
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)
        for at in range(0, size_mib, 4):
            file.seek(at * MIB + some.randrange(2**10) * 2**10)
            file.write(some.randbytes(4096))
        file.seek(510)
        file.write(b"\x55\xaa")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(
    "size_mib", [64, pytest.param(2048, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_an_upload_survives_cuts_and_a_restart(
    server: Server, size_mib: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "disk.raw"
    digest = disk(image, size_mib)
    token = tokens.first_token(cloud.database)
    assert token
    datacenter = cloud.inventory.datacenter_called("main")
    assert datacenter
    repository = cloud.repository(datacenter)
    incoming = repository.root / "incoming"

    def come_mib() -> float:
        return sum(each.stat().st_size for each in incoming.iterdir()) / MIB

    over = threading.Event()

    def restart() -> None:
        while come_mib() < size_mib * 0.8 and not over.wait(0.002):
            pass
        server.kill()
        server.start()

    fifth = size_mib * MIB // 5
    positions: list[int] = []
    wishes = {"name": "large", "format": "raw", "datacenter": "main"}
    killer = threading.Thread(target=restart)
    began = time.monotonic()
    with (
        CuttingProxy(server.port, [fifth, 2 * fifth, 3 * fifth]) as proxy,
        Client(proxy.url, token) as client,
    ):
        killer.start()
        try:
            operation = send(client, image, wishes, positions.append)
        finally:
            over.set()
            killer.join()
    took_s = time.monotonic() - began
    server.kill()
    assert proxy.cuts == []
    assert len(server.peaks_mib) == 2
    went_back = sum(b < a for a, b in pairwise(positions))
    assert went_back >= 3, "it was not broken off"
    with capsys.disabled():
        peaks = ", ".join(f"{each:.1f}" for each in server.peaks_mib)
        sys.stdout.write(f"\n{size_mib} MiB in {took_s:.1f} s; the API grew by {peaks} MiB\n")
    assert max(server.peaks_mib) < GROWTH_MIB
    ended = FLOWS["import_image"](UUID(str(operation.id)))
    assert ended.error is None
    assert ended.arguments["digest"] == digest
    template = UUID(ended.arguments["template"]["id"])
    assert cloud.library.template_state(template) is TemplateState.AVAILABLE
    (found,) = cloud.library.images(template)
    assert repository.digest(repository.path(found.path)) == digest
    assert list(incoming.iterdir()) == []
