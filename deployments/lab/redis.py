"""A private Redis on a port of the loopback; it keeps nothing."""

import socket
from pathlib import Path

from deployments.lab.process import Process, free_port, wait_for


class Redis:
    """A server that starts empty."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._process = Process(folder, "redis")
        self._port = 0

    def start(self) -> None:
        """Start it."""
        self._port = self._port or free_port()
        self._process.spawn(
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self._port)),
            *("--save", "", "--appendonly", "no", "--dir", self._folder),
        )
        wait_for(self._answers, 10, f"redis-server ({self._process.log})")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self._port}/0"

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"redis-server ended: {self._process.log.read_text()[-2000:]}")
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", self._port)):
                return False
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
