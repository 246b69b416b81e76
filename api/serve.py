"""An embedded Cloudloom: Prefect server, worker and API, one process each, under one roof.

A process that ends is started again; all of them end with this one, however it ends.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import FrameType

import httpx

from adapters.database.schema import migrate
from adapters.database.session import Database
from adapters.settings import Settings
from flows import prefect_env, waking

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0


class Service:
    """One of the processes, and how to know that it is ready."""

    def __init__(
        self,
        name: str,
        module: list[str],
        env: dict[str, str],
        log: Path,
        ready: Callable[[int], bool],
        patience_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.command = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", "--"]
        self.command += [sys.executable, "-m", *module]
        self.env = env
        self.log = log
        self.ready = ready  # of its pid
        self.patience_s = patience_s
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output goes to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for us: they end in their order
            )

    def wait_ready(self, stop: Event) -> None:
        """Wait until it answers. Raises `SystemExit` when it does not, naming its log."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not stop.is_set() and self.process and not self.ready(self.process.pid):
            if not self.alive or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start; see {self.log}")
            stop.wait(0.1)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def hurry(self) -> None:
        """Tell it once more to stop: a worker then hands back what it has."""
        if self.alive and self.process:
            self.process.terminate()

    def end(self) -> None:
        """Stop it: politely, then by force."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def services(settings: Settings) -> list[Service]:
    """The processes of an embedded Cloudloom; each of them waits for those that it needs."""
    env = {**os.environ, **settings.variables(), **prefect_env.environment(settings)}
    logs = settings.home.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    bells = waking.bells(settings, settings.datacenter)
    api = ["uvicorn", "--factory", "api.app:served", "--host", settings.host]
    api += ["--port", str(settings.port), "--log-level", "warning"]
    api += ["--ws-max-size", str(2**20), "--timeout-graceful-shutdown"]
    scheme = "http"
    if settings.tls_certificate:
        scheme = "https"
        api[-1:-1] = ["--ssl-certfile", str(settings.tls_certificate.absolute())]
        if settings.tls_key:
            api[-1:-1] = ["--ssl-keyfile", str(settings.tls_key.absolute())]
    made = [
        Service(
            "worker",
            ["flows.worker"],
            env,
            logs / "worker.log",
            lambda pid: waking.ring(bells, str(pid)),
            settings.shutdown_s + STOP_TIMEOUT_S,
        ),
        Service(
            "api",
            [*api, "2"],
            env,
            logs / "api.log",
            _answers(f"{scheme}://{settings.host}:{settings.port}/health/live"),
        ),
    ]
    if not settings.prefect_url:
        port = settings.prefect_port
        ready = _answers(f"http://127.0.0.1:{port}/api/health")
        server = ["flows.prefect_server", str(port)]
        made.insert(0, Service("prefect", server, env, logs / "prefect.log", ready))
    return made


def serve(settings: Settings, announce: Callable[[str | None], None]) -> None:
    """Run everything until interrupted; `announce` gets the first token, once all is up."""
    from api.tokens import first_token

    database = Database(settings.database)
    migrate(database, settings.home)
    running = services(settings)
    stop = _told_to_stop(running)
    try:
        for service in running:
            service.start()
        for service in running:
            service.wait_ready(stop)
        if not stop.is_set():
            announce(first_token(database))
        while not stop.wait(0.5):
            for service in running:
                if not service.alive:
                    service.start()
    finally:
        for service in reversed(running):
            service.end()


def _told_to_stop(running: list[Service]) -> Event:
    """What Ctrl-C sets; told twice, the services are told again, and wait for nobody."""
    stop = Event()

    def told(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            for service in running:
                service.hurry()
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    return stop


def _answers(address: str) -> Callable[[int], bool]:
    def ready(_pid: int) -> bool:
        try:
            # Nothing is told it: whoever answers there, the certificate is for others' names.
            return httpx.get(address, timeout=1, verify=False).is_success  # noqa: S501
        except httpx.HTTPError:
            return False

    return ready
